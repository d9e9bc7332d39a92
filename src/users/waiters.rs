//! A place on a flight: how a caller asks for one, waits on it, and how it ends.
//!
//! Must never keep a flight from landing: whoever waits holds nothing that the flight needs.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::holds::Stop;
use crate::{clock::Moment, telemetry::traces::Span, tokens::freshness::CachedToken};

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
    /// Meanwhile there is a token that serves.
    Landed(Arc<CachedToken>),
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

/// What a caller wants of a flight.
#[derive(Clone, Copy)]
pub struct Want<'a> {
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

impl fmt::Debug for Want<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Want").field("min_remaining", &self.min_remaining).field("urgent", &self.urgent).finish_non_exhaustive()
    }
}

/// A place on a flight.
#[derive(Clone, Debug)]
pub struct FlightHandle {
    pub(crate) arrivals: Arc<Waiters>,
    /// When the sign-in may begin.
    pub(crate) begins: Instant,
    /// Tells a queued renewal that somebody waits now.
    pub(crate) urgent: Arc<Notify>,
    /// The flight's, to which those who wait are linked.
    pub(crate) span: Span,
    waiting: Arc<AtomicUsize>,
}

/// Where a flight's waiters look. They are woken in the order in which they came, so that a simulation can be repeated.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// How it ended; `None` inside, where it broke.
    landing: OnceLock<Option<FlightOutcome>>,
    told: Notify,
}

/// Why a wait ended without a landing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// The deadline passed; the flight goes on.
    Deadline,
    /// The flight broke: a fault of ours.
    Broken,
    /// Too many wait already.
    Full,
}

impl FlightHandle {
    /// A ticket for a flight that may begin at `begins`.
    pub(crate) fn new(begins: Instant, span: Span) -> Self {
        Self { arrivals: Arc::default(), begins, urgent: Arc::default(), span, waiting: Arc::default() }
    }

    /// Tells the flight that somebody waits.
    pub(crate) fn hurry(&self) {
        self.urgent.notify_one();
    }

    /// Waits for the landing until `deadline`.
    pub(crate) async fn outcome(&self, deadline: Instant) -> Result<FlightOutcome, WaitError> {
        let _one = Counted::new(&self.waiting, WAITERS_PER_FLIGHT_MAX).ok_or(WaitError::Full)?;
        let Waiters { landing, told } = &*self.arrivals;
        // Listens before it looks, so that no landing falls between.
        let mut told = pin!(told.notified());
        told.as_mut().enable();
        if landing.get().is_none() {
            tokio::select! {
                // A landing counts even where the deadline passed as it came.
                biased;
                () = told => {}
                () = sleep_until(deadline) => return Err(WaitError::Deadline),
            }
        }
        landing.get().cloned().flatten().ok_or(WaitError::Broken)
    }
}

impl Waiters {
    /// Whether it has landed, or broken.
    pub(crate) fn is_over(&self) -> bool {
        self.landing.get().is_some()
    }

    /// Tells the waiters; only the first word counts.
    pub(crate) fn land(&self, landing: Option<FlightOutcome>) {
        if self.landing.set(landing).is_ok() {
            self.told.notify_waiters();
        }
    }
}

/// One of a bounded number, for as long as it lives.
pub(crate) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    pub(crate) fn new(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let counted = Self(count);
        // Given back by `counted`, also where there was no room.
        (count.fetch_add(1, Ordering::Relaxed) < most).then_some(counted)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
