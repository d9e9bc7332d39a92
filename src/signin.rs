//! One detached sign-in per user at a time, whoever waits for it.
//!
//! A flight belongs to nobody: callers come and go, it lands all the same, and what it brings is stored before anyone is
//! told. Must never sign in for a user who is stopped, nor twice at once for one user, nor leave waiters behind when it
//! breaks.

pub mod circuit_breaker;
mod concurrency_limit;
mod flight;
mod forgiven;
mod refresh;
mod upstream;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{runtime::Handle, sync::watch, time::Instant};
use tokio_util::task::TaskTracker;

use self::{concurrency_limit::Gate, flight::Flight, upstream::Outlook};
pub use crate::users::waiters::{FlightHandle, FlightOutcome, Join, WAITERS_PER_FLIGHT_MAX, WaitError, Want};
use crate::{
    clock::Clock,
    config::Renewal,
    live::{Live, Snapshot},
    telemetry::{
        audit::Audit,
        metrics::Metrics,
        traces::{Kind, Traces},
    },
    tokens::{cache::Cache, token::TokenId},
    users::{
        Changes, Configured, Record, User,
        holds::{Circumstances, Stop},
        refresh_queue::RefreshQueue,
        waiters::Counted,
    },
    vault::Failure,
};

/// Most flights under way or queued: twice the ten thousand cold users of a bad morning; each costs about 2 KiB.
pub const FLIGHTS_MAX: usize = 20_000;
/// Most callers waiting in all; each costs its HTTP/2 stream, about 5 KiB.
pub const WAITERS_MAX: usize = 65_536;

/// What was last heard of the vault: for people, no rule depends on it.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// When it last gave a token.
    pub granted: Option<SystemTime>,
    /// When a sign-in last failed, and how.
    pub failed: Option<(SystemTime, Arc<Failure>)>,
}

/// What flights are made with.
pub struct Parts {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Where tokens end up.
    pub cache: Cache,
    /// Where renewals are planned.
    pub refresh_queue: Arc<RefreshQueue>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where spans begin.
    pub traces: Traces,
    /// Where sign-ins are recorded.
    pub audit: Audit,
    /// Where flights are spawned, so that they outlive the call that began them.
    pub runtime: Handle,
    /// Feeds the jitter.
    pub seed: u64,
}

/// All flights of the process.
#[derive(Debug)]
pub struct Flights {
    shared: Arc<Shared>,
}

struct Shared {
    parts: Parts,
    live: Live,
    /// Told when another configuration is in force.
    changed: watch::Sender<()>,
    tasks: TaskTracker,
    gate: Arc<Gate>,
    /// What of it concerns the gate is done under its lock, so that both always say the same.
    outlook: Mutex<Outlook>,
    heard: Mutex<Heard>,
    /// How long the slowest sign-in of late took.
    slowest: Mutex<Duration>,
    under_way: AtomicUsize,
    /// Those of them that nobody waited for when they began.
    renewals: AtomicUsize,
    waiting: AtomicUsize,
    random: Mutex<fastrand::Rng>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("under_way", &self.under_way).finish_non_exhaustive()
    }
}

impl Flights {
    /// Flights that obey whatever is in force.
    #[must_use]
    pub fn new(parts: Parts, live: Live) -> Self {
        let shared = Shared {
            gate: Gate::new(live.load().settings.max_concurrent_sign_ins),
            live,
            changed: watch::Sender::default(),
            tasks: TaskTracker::new(),
            outlook: Mutex::default(),
            heard: Mutex::default(),
            slowest: Mutex::default(),
            under_way: AtomicUsize::new(0),
            renewals: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            random: Mutex::new(fastrand::Rng::with_seed(parts.seed)),
            parts,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Joins the user's flight, or starts one, if one is needed and may be.
    #[must_use]
    pub fn join(&self, user: &Arc<User>, want: Want<'_>) -> Join {
        let now = self.shared.parts.clock.now();
        let mut record = user.record();
        // A flight stores its token before it leaves the record: whoever finds no flight finds the token.
        if let Some(held) = self.shared.parts.cache.get(&user.key).filter(|held| (want.serves)(held, now)) {
            return Join::Landed(held);
        }
        // Looked at under the lock, so that who comes later sees what is in force later.
        let snapshot = self.shared.live.load();
        let Some(configured) = configured(user, &mut record, &snapshot, now.mono) else { return Join::Gone };
        if !Arc::ptr_eq(&configured.user, user) {
            // It was forgotten meanwhile, and has come back.
            let user = Arc::clone(&configured.user);
            drop((record, snapshot));
            return self.join(&user, want);
        }
        let rules = &snapshot.settings.rules;
        let too_late = |begins: Instant| want.begin_by.is_some_and(|by| begins > by.max(now.mono));
        if let Some(ticket) = &record.flight {
            if too_late(ticket.begins) {
                return Join::TooSoon(ticket.begins.saturating_duration_since(now.mono));
            }
            if want.urgent {
                ticket.hurry();
            }
            if let Some(waiter) = want.span.filter(|_| want.urgent) {
                ticket.span.link(waiter);
                waiter.link(&ticket.span);
            }
            return Join::Joined(ticket.clone());
        }
        let closed = || self.shared.outlook().closed(snapshot.upstream(), now.mono);
        if let Some(stop) = stopped(user, &record, &snapshot, now.mono).or_else(closed) {
            return Join::Stopped(stop);
        }
        let mut begins = now.mono;
        if let Some(last) = record.holds.within_floor(now.mono, rules) {
            if last.gave < want.min_remaining {
                return Join::Unattainable(last.gave);
            }
            begins = last.next();
            if too_late(begins) {
                return Join::TooSoon(begins.saturating_duration_since(now.mono));
            }
        }
        if !self.shared.enter(!want.urgent) {
            return Join::Full;
        }
        let span = self.shared.parts.traces.within(want.span, "flight", Kind::Internal);
        let ticket = FlightHandle::new(begins, span);
        if want.urgent {
            ticket.hurry();
        }
        record.flight = Some(ticket.clone());
        // A runtime that is closing drops what is spawned on it at once, and the flight then wants the record.
        drop(record);
        let flight = Flight::new(Arc::clone(&self.shared), user, &ticket, !want.urgent);
        self.shared.tasks.spawn_on(flight.fly(ticket.clone()), &self.shared.parts.runtime);
        Join::Started(ticket)
    }

    /// Notes that the vault's API refused the token now held.
    pub fn rejected(&self, user: &User, token: TokenId) {
        let now = self.shared.parts.clock.now().mono;
        let mut record = user.record();
        // Under the lock: a flight that landed meanwhile brought another token, of which nobody complained.
        if self.shared.parts.cache.get(&user.key).is_some_and(|held| held.id() == token) {
            record.holds.rejected(token, now, &self.shared.live.load().settings.rules);
        }
    }

    /// Waits for a flight to land, until `deadline`.
    ///
    /// # Errors
    /// Where it did not land by then, broke, or has too many waiters.
    pub async fn wait(&self, ticket: FlightHandle, deadline: Instant) -> Result<FlightOutcome, WaitError> {
        let _all = Counted::new(&self.shared.waiting, WAITERS_MAX).ok_or(WaitError::Full)?;
        ticket.outcome(deadline).await
    }

    /// Puts a renewal that may not begin before `wait` is over back on the refresh queue, if its token outlasts that.
    pub fn renew_later(&self, user: &User, wait: Duration) {
        self.shared.renew_later(user, wait);
    }

    /// Sees to what follows from another configuration, which is in force already: nothing that a caller gets depends on this. Tokens
    /// that former credentials brought are due, those of users who were removed or of another vault go, and renewals are planned
    /// by the rules that count now.
    pub fn reconfigured(&self, former: &Snapshot, changes: Changes) {
        let now = self.shared.parts.clock.now();
        let snapshot = self.shared.live.load_full();
        self.shared.gate.resize(snapshot.settings.max_concurrent_sign_ins);
        drop(self.shared.follow(&snapshot));
        let (is, was) = (&snapshot.settings, &former.settings);
        let holds = is.rules.refusal_hold != was.rules.refusal_hold;
        if is.renewal != was.renewal || is.idle_after != was.idle_after || holds {
            snapshot.users.iter().for_each(|configured| self.shared.replan(&configured.user, &snapshot, now));
        }
        for user in changes.changed.iter().chain(&changes.removed) {
            self.shared.outdate(user, now);
        }
        // Those who wait for a floor to end have it judged anew.
        self.shared.changed.send_replace(());
    }

    /// Whether tokens are renewed before they end.
    #[must_use]
    pub fn renews_ahead(&self) -> bool {
        self.shared.live.load().settings.renewal == Renewal::Ahead
    }

    /// What the vault was last heard of.
    #[must_use]
    pub fn heard(&self) -> Heard {
        self.shared.heard().clone()
    }

    /// Whether the vault counts as down.
    #[must_use]
    pub fn vault_is_down(&self) -> bool {
        self.shared.outlook().is_down()
    }

    /// How many flights are under way or queued.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.shared.under_way.load(Ordering::Relaxed)
    }

    /// How many callers wait for one.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }
}

/// The user as it is configured, which its record obeys from now on.
fn configured<'a>(user: &User, record: &mut Record, snapshot: &'a Snapshot, now: Instant) -> Option<&'a Configured> {
    let configured = snapshot.user(&user.key)?;
    record.holds.follow(configured.credential.version, now, &snapshot.settings.rules);
    Some(configured)
}

/// Why the user may not sign in now, for reasons of its own or its merchant's; the longer wait counts.
fn stopped(user: &User, record: &Record, snapshot: &Snapshot, now: Instant) -> Option<Stop> {
    let own = record.holds.stopped(now, &snapshot.settings.rules);
    let merchants = user.merchant().stopped(now, snapshot.upstream());
    match (own, merchants) {
        (Some(own), Some(merchants)) => Some(if own.until >= merchants.until { own } else { merchants }),
        (own, merchants) => own.or(merchants),
    }
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outlook(&self) -> MutexGuard<'_, Outlook> {
        self.outlook.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the vault that counts here; none where another one counts by now.
    fn follow(&self, snapshot: &Snapshot) -> Option<MutexGuard<'_, Outlook>> {
        let mut outlook = self.outlook();
        if self.live.load().upstream() != snapshot.upstream() {
            return None;
        }
        if outlook.follow(snapshot.upstream()) {
            self.gate.reset();
        }
        Some(outlook)
    }

    /// What is true around a failure that is noted now.
    fn circumstances(&self, now: Instant) -> Circumstances {
        Circumstances { now, jitter: self.random(), grants: self.outlook().grants() }
    }

    /// Takes one of the places for flights, if there is one; renewals leave half of them to callers who wait.
    fn enter(&self, renewal: bool) -> bool {
        let renewals = if renewal { self.renewals.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let room = self.under_way.fetch_add(1, Ordering::Relaxed) < FLIGHTS_MAX && renewals < FLIGHTS_MAX / 2;
        if !room {
            self.leave(renewal);
        }
        room
    }

    /// Gives the place back.
    fn leave(&self, renewal: bool) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        if renewal {
            self.renewals.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// 0 to 1.
    fn random(&self) -> f64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).f64()
    }
}
