//! What is known of a user's flight to those outside: how it is asked for, joined and waited for, and how it ends.
//!
//! Must never keep a flight from its end: whoever waits holds nothing that the flight needs.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    holds::Stop,
    shares::{Shares, Shed},
};
use crate::{
    caller::CallerId,
    clock::Moment,
    single_flight::{Follower, Leader},
    telemetry::traces::Span,
    tokens::cached_token::CachedToken,
};

/// Most calls waiting for one flight: ten thousand replicas of one caller that report one dead token, and others beside it.
pub const WAITERS_PER_FLIGHT_MAX: usize = 16_384;

/// Most ids of tokens that a flight is told are of no use: those of a few callers, each with as many as it may name.
const REJECTED_MAX: usize = 64;

/// How a flight ended.
#[derive(Clone, Debug)]
pub enum FlightOutcome {
    /// With a token, stored already, and where it is from.
    Token(Arc<CachedToken>, Origin),
    /// Without one.
    Stopped(Stop),
    /// Without a sign-in: the user was removed from the configuration meanwhile.
    Gone,
    /// With what says nothing of the credential and the vault that count by now: those may be tried at once.
    Void,
}

/// Where a flight's token is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A sign-in of its own.
    Vault,
    /// One of another replica.
    Shared,
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
    /// The last sign-in gave less than was asked for, so much, and its token is not due yet.
    Unattainable(Duration),
    /// No flight more now, or none more of this caller's, and when to try again, where that is known.
    Shed(Shed, Option<Duration>),
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
    /// Ids of tokens that are of no use to whoever asks: none of them is taken from another replica.
    pub rejected: &'a [String],
    /// Whether somebody waits; renewals yield to those.
    pub urgent: bool,
    /// Of the call that wants it; none for a renewal.
    pub span: Option<&'a Span>,
    /// Who has no token that would do, and begins the flight at its own cost; none for a renewal, which is everybody's.
    pub caller: Option<&'a CallerId>,
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
    /// The places of those who wait.
    pub(crate) waiters: Arc<Shares>,
    /// Tells a queued renewal that somebody waits now.
    pub(crate) urgent: Arc<Notify>,
    /// The flight's, to which those who wait are linked.
    pub(crate) span: Span,
    /// Ids of tokens that are of no use to those who wait.
    pub(crate) rejected: Arc<Mutex<Vec<String>>>,
    /// There was news of the user that the flight may not have seen.
    pub(crate) was_told: Arc<AtomicBool>,
}

impl FlightHandle {
    /// A flight that may begin at `begins`, and whoever is to end it.
    pub(crate) fn new(begins: Instant, span: Span) -> (Leader<FlightOutcome>, Self) {
        let leader = Leader::new();
        let outcome = leader.follower();
        (
            leader,
            Self {
                outcome,
                begins,
                waiters: Shares::new(WAITERS_PER_FLIGHT_MAX),
                urgent: Arc::default(),
                span,
                rejected: Arc::default(),
                was_told: Arc::default(),
            },
        )
    }

    /// Tells the flight what is of no use to somebody who waits.
    pub(crate) fn reject(&self, rejected: &[String]) {
        if !rejected.is_empty() {
            let mut all = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
            let room = REJECTED_MAX.saturating_sub(all.len());
            let new: Vec<_> = rejected.iter().filter(|id| !all.contains(*id)).take(room).cloned().collect();
            all.extend(new);
        }
    }

    /// Tells the flight that somebody waits.
    pub(crate) fn hurry(&self) {
        self.urgent.notify_one();
    }
}
