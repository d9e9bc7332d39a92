//! One detached sign-in per user at a time, whoever waits for it.
//!
//! A flight belongs to nobody: callers come and go, it ends all the same, and what it brings is stored before anyone is
//! told. Must never sign in for a user who is stopped, nor twice at once for one user, nor leave waiters behind when it
//! breaks.

pub mod circuit_breaker;
mod concurrency_limit;
mod flight;
mod obtain;
mod refresh;
mod report;
mod settle;
mod shared;
mod undocumented;
mod upstream_state;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

pub use self::shared::{FLIGHTS_MAX, LastAnswers, Parts};
use self::{
    flight::Flight,
    shared::{FlightContext, Shared, configured, stopped},
};
use crate::{
    live::{Live, Snapshot},
    single_flight::Waiter,
    telemetry::traces::SpanRole,
    tokens::token::TokenId,
    users::{Changes, KnownUser},
};
pub use crate::{
    single_flight::WaitError,
    users::waiters::{FlightHandle, FlightOutcome, Join, JoinRequest, WAITERS_PER_FLIGHT_MAX},
};

/// Most callers waiting in all; each costs its HTTP/2 stream, about 5 KiB.
pub const WAITERS_MAX: usize = 65_536;

/// All flights of the process.
#[derive(Debug)]
pub struct Flights {
    shared: Arc<Shared>,
}

impl Flights {
    /// Flights that obey whatever is in force.
    #[must_use]
    pub fn new(parts: Parts, live: Live) -> Self {
        Self { shared: Arc::new(Shared::new(parts, live)) }
    }

    /// Joins the user's flight, or starts one, if one is needed and may be.
    #[must_use]
    pub fn join(&self, user: &Arc<KnownUser>, request: JoinRequest<'_>) -> Join {
        let now = self.shared.parts.clock.now();
        let mut record = user.record();
        // A flight stores its token before it leaves the record: whoever finds no flight finds the token.
        if let Some(cached) = user.token().filter(|cached| (request.serves)(cached, now)) {
            return Join::Cached(cached);
        }
        // Looked at under the lock, so that who comes later sees what is in force later.
        let snapshot = self.shared.live.load();
        let Some(configured) = configured(user, &mut record, &snapshot, now.mono) else { return Join::Gone };
        if !Arc::ptr_eq(&configured.user, user) {
            // It was forgotten meanwhile, and has come back.
            let user = Arc::clone(&configured.user);
            drop((record, snapshot));
            return self.join(&user, request);
        }
        let rules = &snapshot.settings.rules;
        let too_late = |begins: Instant| request.begin_by.is_some_and(|by| begins > by.max(now.mono));
        if let Some(flight) = &record.flight {
            if too_late(flight.begins) {
                return Join::TooSoon(flight.begins.saturating_duration_since(now.mono));
            }
            if request.urgent {
                flight.hurry();
            }
            if let Some(waiter) = request.span.filter(|_| request.urgent) {
                flight.span.link(waiter);
                waiter.link(&flight.span);
            }
            return Join::Joined(FlightHandle::clone(flight));
        }
        let down = || self.shared.upstream().stopped(snapshot.upstream(), now.mono);
        if let Some(stop) = stopped(user, &record, &snapshot, now.mono).or_else(down) {
            return Join::Stopped(stop);
        }
        let mut begins = now.mono;
        if let Some(last) = record.holds.within_floor(now.mono, rules) {
            if last.gave < request.min_remaining {
                return Join::Unattainable(last.gave);
            }
            begins = last.next();
            if too_late(begins) {
                return Join::TooSoon(begins.saturating_duration_since(now.mono));
            }
        }
        if !self.shared.enter(!request.urgent) {
            return Join::Full;
        }
        let span = self.shared.parts.traces.within(request.span, "flight", SpanRole::Internal);
        let (leader, handle) = FlightHandle::new(begins, span);
        if request.urgent {
            handle.hurry();
        }
        record.flight = Some(Box::new(handle.clone()));
        // A runtime that is closing drops what is spawned on it at once, and the flight then wants the record.
        drop(record);
        let context = FlightContext {
            shared: Arc::clone(&self.shared),
            user: Arc::clone(user),
            renewal: !request.urgent,
            urgent: Arc::clone(&handle.urgent),
            span: handle.span.clone(),
        };
        // Nobody waits for its end but callers: the end of the process may break it off.
        self.shared.parts.runtime.spawn(Flight::new(context, leader).run());
        Join::Started(handle)
    }

    /// Notes that the vault's API refused the token now cached.
    pub fn rejected(&self, user: &KnownUser, token: TokenId) {
        let now = self.shared.parts.clock.now().mono;
        let mut record = user.record();
        // Under the lock: a flight that ended meanwhile brought another token, of which nobody complained.
        if user.token().is_some_and(|cached| cached.id() == token) {
            record.holds.rejected(token, now, &self.shared.live.load().settings.rules);
        }
    }

    /// Waits for a flight's end, until `deadline`.
    ///
    /// # Errors
    /// Where it has not ended by then, broke, or has too many waiters.
    pub async fn wait(&self, flight: FlightHandle, deadline: Instant) -> Result<FlightOutcome, WaitError> {
        let _waiter = Waiter::new(&self.shared.waiting, WAITERS_MAX).ok_or(WaitError::Full)?;
        flight.outcome.result_by(deadline).await
    }

    /// Puts a renewal that may not begin before `wait` is over back on the refresh queue, if its token outlasts that.
    pub fn renew_later(&self, user: &KnownUser, wait: Duration) {
        self.shared.renew_later(user, wait);
    }

    /// Sees to what follows from another configuration, which is in force already: nothing that a caller gets depends on this. Tokens
    /// that former credentials brought are due, those of users who were removed or of another vault go, and renewals are planned
    /// by the rules that count now.
    pub fn reconfigured(&self, former: &Snapshot, changes: Changes) {
        let now = self.shared.parts.clock.now();
        let snapshot = self.shared.live.load_full();
        self.shared.limit.resize(snapshot.settings.max_concurrent_sign_ins);
        drop(self.shared.follow(&snapshot));
        let (is, was) = (&snapshot.settings, &former.settings);
        let hold = is.rules.refusal_hold != was.rules.refusal_hold;
        if is.renewal != was.renewal || is.idle_after != was.idle_after || hold {
            snapshot.users.iter().for_each(|configured| self.shared.replan(&configured.user, &snapshot, now));
        }
        for user in changes.changed.iter().chain(&changes.removed) {
            self.shared.outdate(user, now);
        }
    }

    /// What the vault answered last.
    #[must_use]
    pub fn last_answers(&self) -> LastAnswers {
        self.shared.last_answers().clone()
    }

    /// Whether the vault counts as down.
    #[must_use]
    pub fn vault_is_down(&self) -> bool {
        self.shared.upstream().breaker.is_open()
    }

    /// How many flights are under way or queued.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.shared.under_way()
    }

    /// How many callers wait for one.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }
}
