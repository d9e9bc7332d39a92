//! The use case: a token for a user, and [`BrokerError`], every reason why there is none.
//!
//! Must never answer an expired token, make a caller with a valid one wait longer than a second, or let a hit depend on
//! anything but the snapshot and the cache.

mod admission;
mod broker_error;
mod failures;
mod request;
pub mod single_users;
mod stats;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    admission::{configured, denied},
    failures::error_of,
    request::answer_by,
    stats::idle_after,
};
pub use self::{
    broker_error::{BrokerError, FieldFault},
    request::{Answer, NoToken, Outcome, Request},
    stats::{MerchantStats, Stats, Stopped, UserStates},
};
use crate::{
    caller::CallerId,
    clock::{Clock, Moment},
    freshness::Freshness,
    live::{Configuration, Live, Snapshot},
    signin::{FlightHandle, FlightOutcome, Flights, Join, JoinRequest, Origin, Parts, Shed, WaitError},
    tokens::{cache::Cache, cached_token::CachedToken},
    user::UserKey,
    users::{Configured, KnownUser, holds::Stop, refresh_queue::RefreshQueue},
};

/// Inside its margin a token is not answered until the flight for the next has lasted this long: for the first who ask, not for
/// everybody while the vault hangs.
const MARGIN_WAIT: Duration = Duration::from_secs(1);
/// While the vault is down a caller without a token waits at most this long to learn it.
const DOWN_WAIT: Duration = Duration::from_millis(900);
/// And is told so.
const STILL_DOWN: &str = "it did not answer the last sign-ins, and the one that finds out whether it is back is under way";
/// What a caller is told where the configuration changed again while it signed in anew.
const REPLACED: &str = "the credential or the vault was replaced in the configuration while it was asked";
/// What a caller is told to wait when the broker is overloaded: long enough for a second's worth of sign-ins.
pub const OVERLOADED_WAIT: Duration = Duration::from_secs(1);
/// moka frees what has expired only when it is used; this often it is asked to.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// How many users a reload touched.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// New ones.
    pub added: usize,
    /// With another password or attempt, or back again.
    pub changed: usize,
    /// Configured no more.
    pub removed: usize,
}

/// The broker: what it knows, and what is under way.
#[derive(Debug)]
pub struct Broker {
    live: Live,
    cache: Cache,
    flights: Flights,
    refresh_queue: Arc<RefreshQueue>,
    clock: Arc<dyn Clock>,
    /// When this broker was made; seconds since are what users are touched with.
    epoch: Instant,
    /// Ends all waits: the process is about to end.
    closing: CancellationToken,
}

impl Broker {
    /// A broker that obeys what is in force in `live`.
    #[must_use]
    pub fn new(parts: Parts, live: Live, closing: CancellationToken) -> Self {
        let (cache, refresh_queue, clock) = (parts.cache.clone(), Arc::clone(&parts.refresh_queue), Arc::clone(&parts.clock));
        let (epoch, flights) = (clock.now().mono, Flights::new(parts, live.clone()));
        Self { live, cache, flights, refresh_queue, clock, epoch, closing }
    }

    /// A token for a user. Whether and of whom the caller may have one, `snapshot` says, which was in force when the call began; a
    /// token that comes only after a wait is judged by what is in force then. It is not kept over a wait: it holds all users. Where the
    /// policy denies it and that is on trial, `on_trial` is called, and the call goes on.
    ///
    /// # Errors
    /// See [`BrokerError`]. `InvalidRequest` is not among them: what can be malformed is parsed before.
    pub async fn get_token(
        &self,
        snapshot: Arc<Snapshot>,
        caller: &CallerId,
        request: &Request,
        on_trial: impl FnOnce(),
    ) -> Result<Answer, NoToken> {
        let (user, cached, freshness, now) = {
            // Before anything that depends on the user: a denial says nothing of who is configured.
            if snapshot.policy.decide(caller, &request.key).is_err() {
                denied(&snapshot, caller, &request.key, on_trial)?;
            }
            let Configured { user, credential } = configured(&snapshot, &request.key)?;
            let now = self.clock.now();
            user.touch(self.second(now.mono));
            let cached = user.token();
            if let Some(token) = cached.as_ref().map(|cached| cached.id()).filter(|id| request.rejects(*id)) {
                self.flights.rejected(user, token);
            }
            let cached = cached.filter(|cached| serves(cached, request, &snapshot, now));
            let freshness = cached.as_ref().map(|cached| cached.freshness(now, credential.version, snapshot.settings.renewal));
            if let (Some(cached), Some(Freshness::Fresh)) = (&cached, freshness) {
                let renew_in = cached.renew_in(now, credential.version, snapshot.settings.renewal, fastrand::f64());
                let (user, cached) = (Arc::clone(&user.key), Arc::clone(cached));
                return Ok(Answer { user, cached, outcome: Outcome::Hit, at: now, renew_in });
            }
            (Arc::clone(user), cached, freshness, now)
        };
        drop(snapshot);
        match cached {
            Some(cached) if freshness == Some(Freshness::Due) => {
                self.renew(&user, request, false);
                Ok(self.answered(&user.key, cached, Outcome::Due, now))
            }
            // Boxed, so that a hit has no room to make for waits. An expired token serves nobody, so it is not here.
            Some(cached) => Box::pin(self.at_the_margin(&user, cached, caller, request)).await,
            None => Box::pin(self.sign_in(&user, caller, request, true)).await,
        }
    }

    /// Renews tokens as they fall due, until the broker closes. To be spawned once.
    pub async fn renew_ahead(&self) {
        let mut tidy = tokio::time::interval(TIDY_EVERY);
        tidy.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return,
                _ = tidy.tick() => self.cache.tidy(),
                key = self.refresh_queue.next() => {
                    let Ok(user) = self.user(&key) else { continue };
                    let idle = self.second(self.clock.now().mono).saturating_sub(user.asked());
                    if idle < idle_after(&self.live.load()) {
                        self.renew_from_queue(&user);
                    }
                    // Many may be due at once, and others have something to do as well.
                    tokio::task::consume_budget().await;
                }
            }
        }
    }

    /// Hears of other replicas until the broker closes. To be spawned once.
    pub async fn hear_of_others(&self) {
        self.flights.hear_of_others(self.closing.clone()).await;
    }

    /// Ends tokens at the vault that are to be, until the broker closes. To be spawned once.
    pub async fn end_tokens(&self) {
        self.flights.end_tokens(self.closing.clone()).await;
    }

    /// Waits until no sign-in is under way at the vault, nor to be told of. For the end: others may begin meanwhile.
    pub async fn sign_ins_end(&self) {
        self.flights.sent_end().await;
    }

    /// Takes another configuration over, as one snapshot: a call sees the former or this one, and so does a sign-in.
    pub fn reconfigure(&self, configuration: Configuration) -> Counts {
        // Kept to the end: whoever drops it last frees all that is its alone, which should not be a call.
        let former = self.live.load_full();
        let (next, changes) = former.next(configuration, self.clock.now().mono);
        let counts = Counts { added: changes.added, changed: changes.changed.len(), removed: changes.removed.len() };
        self.live.store(Arc::new(next));
        self.flights.reconfigured(&former, changes);
        counts
    }

    /// How the users of `snapshot` are. Takes a microsecond or two a user.
    #[must_use]
    pub fn stats(&self, snapshot: &Snapshot) -> Stats {
        let judgement = self.judgement(snapshot);
        Stats::new(judgement.merchants(), &self.flights, &self.refresh_queue, judgement.now.mono)
    }

    /// What is in force now: what a call that begins now is judged by.
    #[must_use]
    pub fn in_force(&self) -> Arc<Snapshot> {
        self.live.load_full()
    }

    /// How many users are configured.
    #[must_use]
    pub fn users(&self) -> usize {
        self.live.load().users.len()
    }

    /// How many sign-ins are under way or queued.
    #[must_use]
    pub fn flights_under_way(&self) -> usize {
        self.flights.under_way()
    }

    /// How many callers wait for one.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.flights.waiting()
    }

    fn user(&self, key: &UserKey) -> Result<Arc<KnownUser>, BrokerError> {
        Ok(Arc::clone(&configured(&self.live.load(), key)?.user))
    }

    /// Whether a token that has turned up is what was asked for, by what is in force now.
    fn serves(&self, cached: &CachedToken, request: &Request, now: Moment) -> bool {
        serves(cached, request, &self.live.load(), now)
    }

    /// Whole seconds since the epoch, from 1, so that who was never asked for is told apart.
    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs().saturating_add(1)
    }

    /// Whether a user's token needs no renewal, by what is in force now.
    fn is_fresh(&self, user: &KnownUser, cached: &CachedToken, now: Moment) -> bool {
        let snapshot = self.live.load();
        let version = snapshot.user(&user.key).map(|configured| configured.credential.version);
        version.is_some_and(|version| cached.freshness(now, version, snapshot.settings.renewal) == Freshness::Fresh)
    }

    /// Sees to the next token of a user who is due; if it can't be now, then later.
    fn renew_from_queue(&self, user: &Arc<KnownUser>) {
        let serves = |cached: &CachedToken, now: Moment| self.is_fresh(user, cached, now);
        match self.flights.join(user, renewal(&serves, None)) {
            // A flight plans anew as it ends, and who is gone needs no token.
            Join::Joined(_) | Join::Started(_) | Join::Gone => {}
            // Not due after all, say since a clock was set.
            Join::Cached(_) => self.flights.renew_later(user, Duration::ZERO),
            Join::Stopped(stop) => self.flights.renew_later(user, stop.left_at(self.clock.now().mono)),
            // The floor is waited out by the flight, and nothing is asked of its token, so only too many flights are left.
            Join::TooSoon(_) | Join::Unattainable(_) | Join::Shed(..) => self.flights.renew_later(user, OVERLOADED_WAIT),
        }
    }

    /// Sees to the next token of a user whose token is good, if that can begin at once.
    fn renew(&self, user: &Arc<KnownUser>, request: &Request, urgent: bool) -> Option<FlightHandle> {
        let serves = |cached: &CachedToken, now: Moment| self.is_fresh(user, cached, now);
        let want = JoinRequest { urgent, span: Some(&request.span), ..renewal(&serves, Some(self.clock.now().mono)) };
        match self.flights.join(user, want) {
            Join::Joined(flight) | Join::Started(flight) => Some(flight),
            Join::Cached(_) | Join::Stopped(_) | Join::TooSoon(_) | Join::Unattainable(_) | Join::Shed(..) | Join::Gone => None,
        }
    }

    /// Waits briefly for the next token; whatever happens, `cached` is answered while it lives.
    async fn at_the_margin(
        &self,
        user: &Arc<KnownUser>,
        cached: Arc<CachedToken>,
        caller: &CallerId,
        request: &Request,
    ) -> Result<Answer, NoToken> {
        if let Some(flight) = self.renew(user, request, true) {
            let now = self.clock.now();
            // Not until it serves no more either: then there would be nothing to answer.
            let patience = cached.left_at(now).saturating_sub(request.min_remaining) / 2;
            let until = (now.mono + patience).min(flight.begins + MARGIN_WAIT).min(answer_by(request.deadline, now.mono));
            // Whatever ends the wait, the end of the process too, or if there is no place for it: the cached token is good.
            if let Ok(Ok(FlightOutcome::Token(next, _))) = self.wait(flight, caller, until).await {
                let now = self.clock.now();
                if next.id() != cached.id() && self.serves(&next, request, now) {
                    return Ok(self.answered(&user.key, next, Outcome::Joined, now));
                }
            }
        }
        let now = self.clock.now();
        if self.serves(&cached, request, now) {
            return Ok(self.answered(&user.key, cached, Outcome::Kept, now));
        }
        self.sign_in(user, caller, request, true).await
    }

    /// Waits for a sign-in, since no token serves. `first`: what says nothing of the credential that counts is tried again, once.
    async fn sign_in(&self, user: &Arc<KnownUser>, caller: &CallerId, request: &Request, first: bool) -> Result<Answer, NoToken> {
        let serves = |cached: &CachedToken, now: Moment| self.serves(cached, request, now);
        let want = JoinRequest {
            serves: &serves,
            begin_by: Some(request.deadline),
            min_remaining: request.min_remaining,
            rejected: &request.rejected_token_ids,
            urgent: true,
            span: Some(&request.span),
            caller: Some(caller),
        };
        let (flight, outcome) = match self.flights.join(user, want) {
            Join::Joined(flight) => (flight, Outcome::Joined),
            Join::Started(flight) => (flight, Outcome::SignedIn),
            // Looked at by what is in force at this moment.
            Join::Cached(cached) => return Ok(self.answer(cached, Outcome::Joined, request)?),
            Join::Stopped(stop) => return Err(NoToken { error: self.stopped(&stop), outcome: Outcome::Held }),
            Join::TooSoon(wait) => return Err(BrokerError::SignInTooSoon { wait }.into()),
            Join::Unattainable(longest) => return Err(BrokerError::MinRemainingUnattainable { longest }.into()),
            Join::Shed(why, wait) => {
                return Err(BrokerError::Overloaded { why, wait: wait.unwrap_or(OVERLOADED_WAIT) }.into());
            }
            Join::Gone => return Err(BrokerError::NotConfigured(UserKey::clone(&request.key)).into()),
        };
        let now = self.clock.now().mono;
        let by = answer_by(request.deadline, now);
        // While the vault is down, whoever finds out whether it is back is not kept waiting for it either.
        let down = self.flights.vault_is_down();
        let until = if down { by.min(now + DOWN_WAIT) } else { by };
        let error = match self.wait(flight, caller, until).await? {
            Ok(FlightOutcome::Token(cached, origin)) if self.live.load().takes(&cached) => {
                // Whoever began the flight tells what it was; the others only waited for it.
                let is_shared = outcome == Outcome::SignedIn && origin == Origin::Shared;
                return Ok(self.answer(cached, if is_shared { Outcome::Shared } else { outcome }, request)?);
            }
            Ok(FlightOutcome::Void | FlightOutcome::Token(..)) if first => {
                let user = self.user(&request.key)?;
                return Box::pin(self.sign_in(&user, caller, request, false)).await;
            }
            Ok(FlightOutcome::Void | FlightOutcome::Token(..)) => {
                BrokerError::VaultUnavailable { cause: REPLACED, wait: OVERLOADED_WAIT }
            }
            Ok(FlightOutcome::Stopped(stop)) => self.stopped(&stop),
            Ok(FlightOutcome::Gone) => BrokerError::NotConfigured(UserKey::clone(&request.key)),
            Err(WaitError::Deadline) if until < by => BrokerError::VaultUnavailable { cause: STILL_DOWN, wait: DOWN_WAIT },
            Err(WaitError::Deadline) => BrokerError::DeadlineExceeded,
            Err(WaitError::BrokeOff) => BrokerError::Internal,
        };
        Err(error.into())
    }

    /// A flight's end, unless there is no place to wait for it, or the process ends first.
    async fn wait(
        &self,
        flight: FlightHandle,
        caller: &CallerId,
        until: Instant,
    ) -> Result<Result<FlightOutcome, WaitError>, BrokerError> {
        let places = self.flights.place_to_wait(&flight, caller);
        let places = places.map_err(|why: Shed| BrokerError::Overloaded { why, wait: OVERLOADED_WAIT })?;
        tokio::select! {
            biased;
            outcome = self.flights.wait(flight, places, until) => Ok(outcome),
            () = self.closing.cancelled() => Err(BrokerError::ShuttingDown),
        }
    }

    /// The newest token there is: the vault's last word, even where it is the one that was complained of.
    fn answer(&self, cached: Arc<CachedToken>, outcome: Outcome, request: &Request) -> Result<Answer, BrokerError> {
        let now = self.clock.now();
        let left = cached.left_at(now);
        if left.is_zero() {
            // It lived for less than the way here took; the floor is half as short, so the next try is near.
            let cause = "its token ended before it could be handed out";
            return Err(BrokerError::VaultResponseInvalid { cause, wait: cached.token.lifetime / 2 });
        }
        if left < request.min_remaining {
            return Err(BrokerError::MinRemainingUnattainable { longest: left });
        }
        Ok(self.answered(&request.key, cached, outcome, now))
    }

    /// A token that is no hit: when to ask again is said by what is in force now.
    fn answered(&self, key: &Arc<UserKey>, cached: Arc<CachedToken>, outcome: Outcome, at: Moment) -> Answer {
        let snapshot = self.live.load();
        let version = snapshot.user(key).map_or(cached.version, |configured| configured.credential.version);
        let renew_in = cached.renew_in(at, version, snapshot.settings.renewal, fastrand::f64());
        Answer { user: Arc::clone(key), cached, outcome, at, renew_in }
    }

    /// What callers are told of a stop.
    #[must_use]
    pub fn stopped(&self, stop: &Stop) -> BrokerError {
        let now = self.clock.now();
        error_of(&stop.failure, stop.left_at(now.mono), now)
    }
}

/// Whether a token is what was asked for.
fn serves(cached: &CachedToken, request: &Request, snapshot: &Snapshot, now: Moment) -> bool {
    let left = cached.left_at(now);
    snapshot.takes(cached) && !left.is_zero() && left >= request.min_remaining && !request.rejects(cached.id())
}

/// What a renewal wants: any token that is not due. It yields to callers who wait.
fn renewal(serves: &(dyn Fn(&CachedToken, Moment) -> bool + Sync), begin_by: Option<Instant>) -> JoinRequest<'_> {
    JoinRequest { serves, begin_by, min_remaining: Duration::ZERO, rejected: &[], urgent: false, span: None, caller: None }
}
