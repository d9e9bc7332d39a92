//! What is told of a flight: metrics, log, audit trail, spans.
//!
//! Must never decide or note anything: a flight is settled before.

use std::{sync::Arc, time::Duration};

use tracing::{debug, field, info, warn};

use super::{
    obtain::{Obtained, Source, VaultAnswer},
    settle::{BreakerChange, Settled},
    shared::FlightContext,
};
use crate::{
    clock::Moment,
    telemetry::{audit::SignInResult, metrics::RenewalResult, traces::TraceId},
    tokens::{cached_token::CachedToken, token::TokenId},
    users::waiters::FlightOutcome,
    vault::{Failure, Scope},
};

/// Reports what was obtained, and what it came to.
pub(super) fn report(flight: &FlightContext, obtained: &Obtained, settled: &Settled) {
    match &obtained.source {
        Source::Vault(answer) => sign_in(flight, answer, &obtained.result, settled),
        Source::Shared(_) => taken(flight, &obtained.result, settled),
    }
    if flight.renewal {
        let in_time = || obtained.former.as_ref().is_some_and(|former| !former.left_at(settled.at).is_zero());
        flight.shared.parts.metrics.renewal(match &obtained.result {
            Ok(_) if in_time() => RenewalResult::Ahead,
            Ok(_) => RenewalResult::Late,
            Err(_) => RenewalResult::Failed,
        });
    }
}

/// Reports that the flight broke off; `sent`: with a sign-in that was not reported yet.
pub(super) fn report_broken(flight: &FlightContext, sent: bool) {
    if sent {
        let key = &flight.user.key;
        flight.shared.parts.metrics.sign_in(key.merchant.as_str(), Failure::Broken.kind(), Duration::ZERO);
        record(flight, flight.shared.parts.clock.now(), Err(&Failure::Broken), Duration::ZERO, None);
    }
    flight.span.end(Some(Failure::Broken.kind()));
}

/// Reports how the flight ended.
pub(super) fn report_end(flight: &FlightContext, outcome: &FlightOutcome) {
    flight.span.end(match outcome {
        FlightOutcome::Token(..) => None,
        FlightOutcome::Stopped(stop) => Some(stop.failure.kind()),
        FlightOutcome::Gone => Some("gone"),
        FlightOutcome::Void => Some("void"),
    });
}

/// Reports a token of another replica's. That told of the sign-in; whoever is answered with it has a line that says `shared`.
fn taken(flight: &FlightContext, result: &Result<Arc<CachedToken>, Arc<Failure>>, settled: &Settled) {
    if let Ok(cached) = result {
        let (key, token_id) = (&flight.user.key, cached.id());
        let lifetime_s = cached.left_at(settled.at).as_secs();
        debug!(merchant_id = %key.merchant, number = %key.number, %token_id, lifetime_s, "another replica signed in");
    }
}

/// Reports a sign-in.
fn sign_in(flight: &FlightContext, answer: &VaultAnswer, result: &Result<Arc<CachedToken>, Arc<Failure>>, settled: &Settled) {
    exchange(flight, answer, result.as_ref().err());
    let trace = flight.span.context().map(|context| context.trace);
    match result {
        Ok(cached) => token(flight, answer, cached, settled, trace),
        Err(failure) => failed(flight, answer, failure, settled, trace),
    }
    match (settled.breaker, result) {
        (Some(BreakerChange::Closed), _) => info!("the vault answers again"),
        (Some(BreakerChange::Opened), Err(failure)) => {
            warn!(%failure, "the vault is down: one sign-in at a time finds out when it is back");
        }
        (Some(BreakerChange::Opened), Ok(_)) | (None, _) => {}
    }
}

/// What the vault was asked and said.
fn exchange(flight: &FlightContext, answer: &VaultAnswer, failure: Option<&Arc<Failure>>) {
    let (merchant, span) = (flight.user.key.merchant.as_str(), &answer.span);
    flight.shared.parts.metrics.sign_in(merchant, answer.kind, answer.took);
    let failure = failure.filter(|failure| failure.kind() == answer.kind);
    if span.is_recorded() {
        span.set("token_broker.merchant_id", merchant.to_owned());
        if let Some(failure) = failure {
            span.set("token_broker.failure", failure.to_string());
        }
    }
    span.end(failure.map(|failure| failure.kind()));
}

fn token(flight: &FlightContext, answer: &VaultAnswer, cached: &CachedToken, settled: &Settled, trace: Option<TraceId>) {
    let (key, token_id) = (&flight.user.key, cached.id());
    info!(
        merchant_id = %key.merchant, number = %key.number, %token_id, lifetime_s = cached.left_at(settled.at).as_secs(),
        took_ms = millis(answer.took), trace_id = trace.map(field::display), "signed in"
    );
    record(flight, settled.at, Ok(token_id), answer.took, trace);
    if let Some(floor) = settled.doubled_floor {
        flight.shared.parts.metrics.floor_doublings.inc();
        warn!(
            merchant_id = %key.merchant, number = %key.number, floor_s = floor.as_secs(),
            "tokens are rejected soon after their issue, so sign-ins are slowed down: another replica or system that signs \
             this user in may be revoking them; set vault.renewal = \"at_expiry\", and see that nothing else does"
        );
    }
}

fn failed(flight: &FlightContext, answer: &VaultAnswer, failure: &Failure, settled: &Settled, trace: Option<TraceId>) {
    let key = &flight.user.key;
    let next = if let FlightOutcome::Stopped(stop) = &settled.outcome { stop.left_at(settled.at.mono) } else { Duration::ZERO };
    let whole_merchant = matches!(failure, Failure::Throttled { scope: Scope::Merchant, .. });
    warn!(
        merchant_id = %key.merchant, number = %key.number, %failure, took_ms = millis(answer.took),
        next_s = next.as_secs(), whole_merchant, trace_id = trace.map(field::display), "sign-in failed"
    );
    record(flight, settled.at, Err(failure), answer.took, trace);
}

/// Leaves a sign-in in the audit trail.
fn record(flight: &FlightContext, at: Moment, result: Result<TokenId, &Failure>, took: Duration, trace_id: Option<TraceId>) {
    let (user, result) = (Arc::clone(&flight.user.key), result.map_err(ToString::to_string));
    flight.shared.parts.audit.sign_in(SignInResult { at: at.wall, user, result, took, trace_id });
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
