//! What a caller asks for, and what it gets.
//!
//! Must never hold what was not parsed.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::broker_error::BrokerError;
use crate::{
    clock::Moment,
    telemetry::{self, traces::Span},
    tokens::{cached_token::CachedToken, token::TokenId},
    user::UserKey,
};

/// The answer to a caller who waits leaves this long before its deadline, so that it is there in time …
const ANSWER_AHEAD: Duration = Duration::from_millis(20);
/// … but no more than this part of the time that it has.
const ANSWER_AHEAD_PART: u32 = 10;

/// What a caller asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose token.
    pub key: Arc<UserKey>,
    /// The token must live at least this long.
    pub min_remaining: Duration,
    /// The `token_id`s, in hex, of tokens that the vault's API refused; most name what other replicas have cached.
    pub rejected_token_ids: Vec<String>,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// The call's span, which a sign-in that it begins or joins is linked to.
    pub span: Span,
}

impl Request {
    /// Whether this id is among those that it complains of; hex of either case.
    pub(super) fn rejects(&self, id: TokenId) -> bool {
        self.rejected_token_ids.iter().any(|text| text.eq_ignore_ascii_case(id.as_str()))
    }
}

/// A token, and how it was come by.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Whose; shared with the user's record where there was no need to wait.
    pub user: Arc<UserKey>,
    /// The token.
    pub cached: Arc<CachedToken>,
    /// How it was come by.
    pub outcome: Outcome,
    /// When it was judged valid; `expires_in` and `renew_in` count from here.
    pub at: Moment,
    /// When a caller that keeps it should ask again: never more than is left of it.
    pub renew_in: Duration,
}

/// No token: why, and how far the call got.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{error}")]
pub struct NoToken {
    /// Why.
    pub error: BrokerError,
    /// How far it got.
    pub outcome: Outcome,
}

/// An error that says by itself how far the call got.
impl From<BrokerError> for NoToken {
    fn from(error: BrokerError) -> Self {
        Self { outcome: Outcome::of(&error), error }
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The token was cached, and fresh.
    Hit,
    /// It was cached; the next is being fetched.
    Due,
    /// A sign-in under way brought it.
    Joined,
    /// A sign-in that this call began brought it.
    SignedIn,
    /// With a token that another replica signed in for.
    Shared,
    /// It was cached, in its margin; no other came within a second.
    Kept,
    /// No token: a hold, a throttle or a back-off lasts, so no sign-in was tried.
    Held,
    /// No token: the sign-in that it waited for brought none.
    Failed,
    /// No token: what was asked for can't be had, by this caller or at all.
    TurnedAway,
    /// No token: the broker had no room or no time for it.
    Shed,
    /// No token by the caller's deadline.
    TimedOut,
    /// The caller went away before there was an answer.
    Cancelled,
    /// No token: a fault of ours.
    Broken,
}

impl Outcome {
    /// Its name in logs, metrics and traces.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => telemetry::HIT,
            Self::Due => "due",
            Self::Joined => "joined",
            Self::SignedIn => "signed_in",
            Self::Shared => "shared",
            Self::Kept => "kept",
            Self::Held => "held",
            Self::Failed => "failed",
            Self::TurnedAway => "turned_away",
            Self::Shed => "shed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Broken => "broken",
        }
    }

    fn of(error: &BrokerError) -> Self {
        match error {
            BrokerError::InvalidRequest(_)
            | BrokerError::MetadataTooLarge
            | BrokerError::Unauthenticated { .. }
            | BrokerError::IdentityUnavailable { .. }
            | BrokerError::NotAllowed { .. }
            | BrokerError::NotConfigured(_)
            | BrokerError::MinRemainingUnattainable { .. } => Self::TurnedAway,
            BrokerError::Refused { .. }
            | BrokerError::Throttled { .. }
            | BrokerError::VaultUnavailable { .. }
            | BrokerError::VaultResponseInvalid { .. } => Self::Failed,
            BrokerError::SignInTooSoon { .. } | BrokerError::Overloaded { .. } | BrokerError::ShuttingDown => Self::Shed,
            BrokerError::DeadlineExceeded => Self::TimedOut,
            BrokerError::Internal => Self::Broken,
        }
    }
}

/// A little before the deadline.
pub(super) fn answer_by(deadline: Instant, now: Instant) -> Instant {
    let left = deadline.saturating_duration_since(now);
    now + (left - ANSWER_AHEAD.min(left / ANSWER_AHEAD_PART))
}
