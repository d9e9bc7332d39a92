//! What is known of a user's flight to those outside: how it is asked for, joined and waited for, and how it ends.
//!
//! Must never keep a flight from its end: whoever waits holds nothing that the flight needs.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use super::holds::Stop;
use crate::{
    clock::Moment,
    single_flight::{Follower, Leader},
    telemetry::traces::Span,
    tokens::cached_token::CachedToken,
};

/// Most callers waiting for one flight: ten thousand replicas that report one dead token, and some more.
pub const WAITERS_PER_FLIGHT_MAX: usize = 16_384;

/// How a flight ended.
#[derive(Clone, Debug)]
pub enum FlightOutcome {
    /// With a token, stored already.
    Token(Arc<CachedToken>),
    /// Without one.
    Stopped(Stop),
    /// Without a sign-in: the user was removed from the configuration meanwhile.
    Gone,
    /// With what says nothing of the credential and the vault that count by now: those may be tried at once.
    Void,
}

/// What a caller who needs a sign-in gets.
#[derive(Debug)]
pub enum Join {
    /// A flight that was under way already.
    Joined(FlightHandle),
    /// A flight of its own.
    Started(FlightHandle),
    /// None is needed: meanwhile there is a token that serves.
    Cached(Arc<CachedToken>),
    /// No sign-in now.
    Stopped(Stop),
    /// The floor between sign-ins ends after the caller's deadline: so long is left.
    TooSoon(Duration),
    /// A sign-in whose floor still lasts gave less than was asked for: so much.
    Unattainable(Duration),
    /// Too many flights.
    Full,
    /// The user was removed from the configuration just now.
    Gone,
}

/// What whoever joins a flight wants of it.
#[derive(Clone, Copy)]
pub struct JoinRequest<'a> {
    /// A token that would do, should one turn up.
    pub serves: &'a (dyn Fn(&CachedToken, Moment) -> bool + Sync),
    /// The sign-in must begin by then, or the caller can't wait for it.
    pub begin_by: Option<Instant>,
    /// The least life wanted, where that is the reason for the flight.
    pub min_remaining: Duration,
    /// Whether somebody waits; renewals yield to those.
    pub urgent: bool,
    /// Of the call that wants it; none for a renewal.
    pub span: Option<&'a Span>,
}

impl fmt::Debug for JoinRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest")
            .field("min_remaining", &self.min_remaining)
            .field("urgent", &self.urgent)
            .finish_non_exhaustive()
    }
}

/// The user's flight, for whoever joins it.
#[derive(Clone, Debug)]
pub struct FlightHandle {
    /// Where its outcome is waited for.
    pub(crate) outcome: Follower<FlightOutcome>,
    /// When the sign-in may begin.
    pub(crate) begins: Instant,
    /// Tells a queued renewal that somebody waits now.
    pub(crate) urgent: Arc<Notify>,
    /// The flight's, to which those who wait are linked.
    pub(crate) span: Span,
}

impl FlightHandle {
    /// A flight that may begin at `begins`, and whoever is to end it.
    pub(crate) fn new(begins: Instant, span: Span) -> (Leader<FlightOutcome>, Self) {
        let leader = Leader::with_waiters_max(WAITERS_PER_FLIGHT_MAX);
        let outcome = leader.follower();
        (leader, Self { outcome, begins, urgent: Arc::default(), span })
    }

    /// Tells the flight that somebody waits.
    pub(crate) fn hurry(&self) {
        self.urgent.notify_one();
    }
}
