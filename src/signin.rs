//! One detached sign-in per user at a time, whoever waits for it.
//!
//! A flight belongs to nobody: callers come and go, it ends all the same, and what it brings is stored before anyone is
//! told. Must never sign in for a user who is stopped, nor twice at once for one user, nor leave waiters behind when it
//! breaks.

mod caller_rates;
pub mod circuit_breaker;
mod concurrency_limit;
mod fleet;
mod flight;
mod held;
mod interventions;
mod news;
mod obtain;
mod refresh;
mod report;
mod settle;
mod shared;
mod sign_outs;
mod telling;
mod turns;
mod undocumented;
mod untold;
mod upstream_state;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    flight::Flight,
    refresh::valid_token,
    shared::{FlightContext, FlightPlaces, Shared, configured, stopped},
};
pub use self::{
    interventions::{Dropped, LiftedWaits},
    shared::{FLIGHTS_MAX, LastAnswers, Parts, WAITERS_MAX},
};
use crate::{
    caller::CallerId,
    clock::Moment,
    freshness::Freshness,
    live::{Live, Snapshot},
    telemetry::traces::SpanRole,
    tier::Condition,
    tokens::{cached_token::CachedToken, token::TokenId},
    users::{Changes, Configured, KnownUser, Record, shares::Place},
};
pub use crate::{
    single_flight::WaitError,
    users::{
        shares::Shed,
        waiters::{FlightHandle, FlightOutcome, Join, JoinRequest, Origin, WAITERS_PER_FLIGHT_MAX},
    },
};

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
        // Before the flight under way, if any: nobody has to wait for what is known.
        if let Some(gave) = gave_less(configured, &record, &request, &snapshot, now) {
            return Join::Unattainable(gave);
        }
        let rules = &snapshot.settings.rules;
        let too_late = |begins: Instant| request.begin_by.is_some_and(|by| begins > by.max(now.mono));
        if let Some(flight) = &record.flight {
            if too_late(flight.begins) {
                return Join::TooSoon(flight.begins.saturating_duration_since(now.mono));
            }
            flight.reject(request.rejected);
            if request.urgent {
                flight.hurry();
            }
            if let Some(waiter) = request.span.filter(|_| request.urgent) {
                flight.span.link(waiter);
                waiter.link(&flight.span);
            }
            return Join::Joined(FlightHandle::clone(flight));
        }
        let down = self.shared.upstream().stopped(snapshot.upstream(), now.mono);
        // Where others can be asked, the vault's being away is no reason not to.
        let signs_in = down.is_none() || self.shared.parts.tier.condition() != Some(Condition::Up);
        if let Some(stop) = stopped(user, &record, &snapshot, now.mono).or_else(|| down.filter(|_| signs_in)) {
            return Join::Stopped(stop);
        }
        let mut begins = now.mono;
        if let Some(last) = record.holds.within_floor(now.mono, rules) {
            begins = last.next();
            if too_late(begins) {
                return Join::TooSoon(begins.saturating_duration_since(now.mono));
            }
        }
        let places = match self.enter(user, &request, signs_in, &snapshot, now) {
            Ok(places) => places,
            Err((shed, wait)) => return Join::Shed(shed, wait),
        };
        let span = self.shared.parts.traces.within(request.span, "flight", SpanRole::Internal);
        let (leader, handle) = FlightHandle::new(begins, span);
        handle.reject(request.rejected);
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
            caller: request.caller.and_then(CallerId::name).cloned(),
            min_remaining: request.min_remaining,
            rejected: Arc::clone(&handle.rejected),
            was_told: Arc::clone(&handle.was_told),
            urgent: Arc::clone(&handle.urgent),
            span: handle.span.clone(),
        };
        // Nobody waits for its end but callers: the end of the process may break it off.
        self.shared.parts.runtime.spawn(Flight::new(context, places, leader).run());
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

    /// Takes the places for a flight that a call begins.
    fn enter(
        &self,
        user: &KnownUser,
        request: &JoinRequest<'_>,
        signs_in: bool,
        snapshot: &Snapshot,
        now: Moment,
    ) -> Result<FlightPlaces, (Shed, Option<Duration>)> {
        let places = self.shared.enter(!request.urgent, request.caller).map_err(|shed| (shed, None))?;
        // To ask other replicas costs nobody a sign-in.
        if let Some(caller) = request.caller.filter(|_| signs_in) {
            let (forced, limits) = (valid_token(user, snapshot, now).is_some(), &snapshot.settings.caller_limits);
            self.shared.caller_rates.take(caller, forced, limits, now.mono).map_err(|wait| (Shed::Rate, Some(wait)))?;
        }
        Ok(places)
    }

    /// The places of a call that waits for this flight: among all that wait, and among those for the same.
    ///
    /// # Errors
    /// Why there are none for it.
    pub fn place_to_wait(&self, flight: &FlightHandle, caller: &CallerId) -> Result<[Place; 2], Shed> {
        Ok([self.shared.waiters.take(Some(caller))?, flight.waiters.take(Some(caller))?])
    }

    /// Waits for a flight's end, until `deadline`, in these places.
    ///
    /// # Errors
    /// Where it has not ended by then, or broke.
    pub async fn wait(&self, flight: FlightHandle, _places: [Place; 2], deadline: Instant) -> Result<FlightOutcome, WaitError> {
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
        self.shared.listen_for_stopped(&snapshot);
        for user in changes.changed.iter().chain(&changes.removed) {
            let removed = self.shared.outdate(user, now);
            // It was given by the vault that counted until now.
            if let Some(cached) = removed.filter(|cached| is.sign_out && former.takes(cached)) {
                self.shared.sign_outs.put(&was.sign_in, &user.key, &cached.token.access_token);
            }
        }
    }

    /// Waits until what came of all sign-ins that were sent is settled, and told to other replicas.
    pub async fn sent_end(&self) {
        self.shared.sent.close();
        self.shared.sent.wait().await;
    }

    /// Hears of other replicas, if there is a tier that they share, until `closing`. To be spawned once.
    pub async fn hear_of_others(&self, closing: CancellationToken) {
        self.shared.hear(closing).await;
    }

    /// Ends tokens at the vault that are to be, until `closing`. To be spawned once.
    pub async fn end_tokens(&self, closing: CancellationToken) {
        self.shared.sign_outs.work_off(closing).await;
    }

    /// How the tier is that replicas share; none where there is none.
    #[must_use]
    pub fn tier(&self) -> Option<Condition> {
        self.shared.parts.tier.condition()
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
        self.shared.waiters.taken()
    }
}

/// What the last sign-in gave, where that is less than is wanted and its token is not due: until then another gives no more. What another
/// credential brought is due at once.
fn gave_less(
    Configured { user, credential }: &Configured,
    record: &Record,
    request: &JoinRequest<'_>,
    snapshot: &Snapshot,
    now: Moment,
) -> Option<Duration> {
    let gave = record.holds.gave_less(request.min_remaining)?;
    let freshness = |cached: &CachedToken| cached.freshness(now, credential.version, snapshot.settings.renewal);
    user.token().is_some_and(|cached| freshness(&cached) == Freshness::Fresh).then_some(gave)
}
