//! The audit trail: who asked for whose token and what became of it, each sign-in, each change of what is in force.
//!
//! Every line is an event on a target of its own, whatever the log's level is; `telemetry` writes them, off the hot path. Must never
//! hold a token, a password or a number in clear.

use std::time::Duration;

use tracing::info;

use super::traces::TraceId;
use crate::{
    caller::CallerId,
    tokens::token::TokenId,
    user::{MerchantId, Number, UserKey},
    vault::Failure,
};

/// The target of every line, by which it is routed.
pub const TARGET: &str = "audit";

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A token was handed out.
    Allowed,
    /// The policy says no.
    Denied,
    /// Who called is not known.
    Unauthenticated,
    /// The caller might, but there was no token.
    Failed,
}

impl Verdict {
    /// Its name in the trail.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Unauthenticated => "unauthenticated",
            Self::Failed => "failed",
        }
    }
}

/// One call, and what became of it.
#[derive(Debug)]
pub struct Decision<'a> {
    /// Who asked; none where that is not known.
    pub caller: Option<&'a CallerId>,
    /// For whom; none where the request could not be read.
    pub user: Option<(&'a MerchantId, &'a Number)>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why not, as on the wire; empty where a token was handed out.
    pub reason: &'static str,
    /// How far the call got.
    pub outcome: &'static str,
    /// Which token.
    pub token_id: Option<TokenId>,
    /// The call's id, as in its error.
    pub request_id: &'a str,
    /// The trace that it is in, if it is in one.
    pub trace_id: Option<TraceId>,
}

/// Notes a call.
pub fn decision(call: &Decision<'_>) {
    info!(
        target: TARGET,
        event = "decision",
        caller = call.caller.map(tracing::field::display),
        merchant_id = call.user.map(|(merchant, _)| tracing::field::display(merchant)),
        number = call.user.map(|(_, number)| tracing::field::display(number)),
        verdict = call.verdict.as_str(),
        reason = call.reason,
        outcome = call.outcome,
        token_id = call.token_id.map(tracing::field::display),
        request_id = call.request_id,
        trace_id = call.trace_id.map(tracing::field::display),
    );
}

/// Notes a sign-in at the vault.
pub fn sign_in(user: &UserKey, result: Result<TokenId, &Failure>, took: Duration, trace: Option<TraceId>) {
    let (token_id, failure) = (result.ok(), result.err());
    info!(
        target: TARGET,
        event = "sign_in",
        merchant_id = %user.merchant,
        number = %user.number,
        verdict = if failure.is_none() { "granted" } else { "failed" },
        reason = failure.map(tracing::field::display),
        token_id = token_id.map(tracing::field::display),
        took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        trace_id = trace.map(tracing::field::display),
    );
}

/// Notes that another configuration is in force.
pub fn configuration(users: usize, added: usize, changed: usize, removed: usize, callers: usize) {
    info!(target: TARGET, event = "configuration", verdict = "in_force", users, added, changed, removed, callers);
}

/// Notes that a configuration, or some of its files, was not taken.
pub fn configuration_refused(faults: usize) {
    info!(target: TARGET, event = "configuration", verdict = "refused", faults);
}

/// Notes that another certificate of the broker's, or other CAs of callers, are in force.
pub fn certificate(not_after: Option<String>) {
    info!(target: TARGET, event = "certificate", verdict = "in_force", not_after);
}
