//! One detached sign-in per user at a time, whoever waits for it.
//!
//! A flight belongs to nobody: callers come and go, it lands all the same, and what it brings is stored before anyone is
//! told. Must never sign in for a user who is stopped, nor twice at once for one user, nor leave waiters behind when it
//! breaks.

mod amnesty;
mod flying;
mod gate;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, time::Instant};
use tokio_util::task::TaskTracker;

use self::{amnesty::Amnesty, flying::Flight, gate::Gate};
pub use crate::ticket::{Boarding, Landing, NoLanding, Ticket, WAITERS_PER_FLIGHT_MAX, Want};
use crate::{
    cache::Cache,
    clock::Clock,
    config::Renewal,
    expiry::{HERD_JITTER, due_left},
    metrics::Metrics,
    model::{TokenId, UserKey},
    pacing::{Circumstances, Rules, Stop},
    reach::Reach,
    renewal::Agenda,
    ticket::Counted,
    traces::{Kind, Traces},
    users::{Changed, Changes, Record, User},
    vault::{Failure, SignIn},
};

/// Most flights under way or queued: twice the ten thousand cold users of a bad morning; each costs about 2 KiB.
pub const FLIGHTS_MAX: usize = 20_000;
/// Most callers waiting in all; each costs its HTTP/2 stream, about 5 KiB.
pub const WAITERS_MAX: usize = 65_536;
/// So many points to fall due at are drawn for each token, and the quietest taken …
const DRAWS: u32 = 4;
/// … and as many more, further apart, where even that has so many renewals in its second: a third of what the default of 64
/// sign-ins at once does in a second at the vault's slowest.
const HERD: u32 = 20;
/// A renewal that was put off is spread over this part of its token's remaining life …
const RENEW_LATER_PART: u32 = 4;
/// … and at most this long.
const RENEW_LATER_MAX: Duration = Duration::from_secs(15);

/// What flights obey, and whom they ask; replaced as a whole when the configuration is reloaded.
#[derive(Clone)]
pub struct Settings {
    /// Signs in at the vault.
    pub sign_in: Arc<dyn SignIn>,
    /// When sign-ins may begin.
    pub rules: Rules,
    /// Whether tokens are renewed before they end.
    pub renewal: Renewal,
    /// Most sign-ins at the vault at once.
    pub max_concurrent_sign_ins: usize,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("rules", &self.rules).field("renewal", &self.renewal).finish_non_exhaustive()
    }
}

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
    pub agenda: Arc<Agenda>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where spans begin.
    pub traces: Traces,
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
    settings: ArcSwap<Settings>,
    /// Held by whoever takes settings and a credential that must belong together; written while both are replaced, so never for
    /// long. A hit has no use for it.
    snapshot: RwLock<()>,
    tasks: TaskTracker,
    gate: Gate,
    reach: Mutex<Reach>,
    amnesty: Mutex<Amnesty>,
    heard: Mutex<Heard>,
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
        f.debug_struct("Shared")
            .field("settings", &self.settings.load())
            .field("under_way", &self.under_way)
            .finish_non_exhaustive()
    }
}

impl Flights {
    /// Flights that obey `settings`.
    #[must_use]
    pub fn new(parts: Parts, settings: Settings) -> Self {
        let shared = Shared {
            gate: Gate::new(settings.max_concurrent_sign_ins),
            settings: ArcSwap::from_pointee(settings),
            snapshot: RwLock::default(),
            tasks: TaskTracker::new(),
            reach: Mutex::default(),
            amnesty: Mutex::default(),
            heard: Mutex::default(),
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
    pub fn board(&self, user: &Arc<User>, want: Want<'_>) -> Boarding {
        let now = self.shared.parts.clock.now();
        let mut record = user.record();
        // A flight stores its token before it leaves the record: whoever finds no flight finds the token.
        if let Some(held) = self.shared.parts.cache.get(&user.key).filter(|held| (want.serves)(held, now)) {
            return Boarding::Landed(held);
        }
        if record.credential().is_none() {
            return Boarding::Gone;
        }
        let too_late = |begins: Instant| want.begin_by.is_some_and(|by| begins > by.max(now.mono));
        if let Some(ticket) = &record.flight {
            if too_late(ticket.begins) {
                return Boarding::TooSoon(ticket.begins.saturating_duration_since(now.mono));
            }
            if want.urgent {
                ticket.hurry();
            }
            if let Some(waiter) = want.span.filter(|_| want.urgent) {
                ticket.span.link(waiter);
                waiter.link(&ticket.span);
            }
            return Boarding::Joined(ticket.clone());
        }
        if let Some(stop) = stopped(user, &record, now.mono).or_else(|| self.shared.reach().closed(now.mono)) {
            return Boarding::Stopped(stop);
        }
        let mut begins = now.mono;
        if let Some(last) = record.pacing.within_floor(now.mono) {
            if last.gave < want.min_remaining {
                return Boarding::Unattainable(last.gave);
            }
            begins = last.next();
            if too_late(begins) {
                return Boarding::TooSoon(begins.saturating_duration_since(now.mono));
            }
        }
        if !self.shared.enter(!want.urgent) {
            return Boarding::Full;
        }
        let span = self.shared.parts.traces.within(want.span, "flight", Kind::Internal);
        let ticket = Ticket::new(begins, span);
        if want.urgent {
            ticket.hurry();
        }
        record.flight = Some(ticket.clone());
        // A runtime that is closing drops what is spawned on it at once, and the flight then wants the record.
        drop(record);
        let flight = Flight::new(Arc::clone(&self.shared), user, &ticket, !want.urgent);
        self.shared.tasks.spawn_on(flight.fly(ticket.clone()), &self.shared.parts.runtime);
        Boarding::Started(ticket)
    }

    /// Notes that the vault's API refused the token now held.
    pub fn rejected(&self, user: &User, token: TokenId) {
        let now = self.shared.parts.clock.now().mono;
        let mut record = user.record();
        // Under the lock: a flight that landed meanwhile brought another token, of which nobody complained.
        if self.shared.parts.cache.get(&user.key).is_some_and(|held| held.id() == token) {
            record.pacing.rejected(token, now, &self.shared.settings.load().rules);
        }
    }

    /// Waits for a flight to land, until `deadline`.
    ///
    /// # Errors
    /// Where it did not land by then, broke, or has too many waiters.
    pub async fn wait(&self, ticket: Ticket, deadline: Instant) -> Result<Landing, NoLanding> {
        let _all = Counted::new(&self.shared.waiting, WAITERS_MAX).ok_or(NoLanding::Full)?;
        ticket.landing(deadline).await
    }

    /// Puts a renewal that may not begin before `wait` is over back on the agenda, if its token outlasts that.
    pub fn renew_later(&self, user: &User, wait: Duration) {
        self.shared.renew_later(user, wait);
    }

    /// Obeys other settings, and signs users in with other credentials, from one instant on: no credential goes where only
    /// another one was configured to go. What stood against former credentials is void, and tokens they brought are due; users
    /// who were removed are forgotten.
    pub fn reconfigure(&self, settings: Settings, changes: Changes) {
        let (most, now) = (settings.max_concurrent_sign_ins, self.shared.parts.clock.now().mono);
        let Changes { changed, removed, .. } = changes;
        let mut due = Vec::with_capacity(changed.len());
        {
            let _snapshot = self.shared.snapshot.write().unwrap_or_else(PoisonError::into_inner);
            self.shared.settings.store(Arc::new(settings));
            for Changed { user, credential } in changed {
                user.record().replace(credential, now);
                due.push(user);
            }
            removed.iter().for_each(|user| user.record().forget());
        }
        due.iter().for_each(|user| self.make_due(user));
        for user in removed {
            let mut record = user.record();
            self.shared.parts.cache.remove(&user.key);
            self.shared.plan(&mut record, &user.key, None);
        }
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn_on(async move { shared.gate.resize(most).await }, &self.shared.parts.runtime);
    }

    /// Marks the token held as due.
    fn make_due(&self, user: &User) {
        let now = self.shared.parts.clock.now();
        let mut record = user.record();
        if let Some(held) = self.shared.parts.cache.get(&user.key).filter(|held| !held.left_at(now).is_zero()) {
            self.shared.parts.cache.put(&user.key, &Arc::new(held.made_due()));
            self.shared.plan(&mut record, &user.key, Some(now.mono));
        }
    }

    /// Whether tokens are renewed before they end.
    #[must_use]
    pub fn renews_ahead(&self) -> bool {
        self.shared.settings.load().renewal == Renewal::Ahead
    }

    /// What the vault was last heard of.
    #[must_use]
    pub fn heard(&self) -> Heard {
        self.shared.heard().clone()
    }

    /// Whether the vault counts as down.
    #[must_use]
    pub fn vault_is_down(&self) -> bool {
        self.shared.reach().is_down()
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

/// Why the user may not sign in now, for reasons of its own or its merchant's; the longer wait counts.
fn stopped(user: &User, record: &Record, now: Instant) -> Option<Stop> {
    let own = record.pacing.stopped(now).cloned();
    let merchants = user.merchant().stopped(now);
    match (own, merchants) {
        (Some(own), Some(merchants)) => Some(if own.until >= merchants.until { own } else { merchants }),
        (own, merchants) => own.or(merchants),
    }
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn amnesty(&self) -> MutexGuard<'_, Amnesty> {
        self.amnesty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is true around a failure that is noted now.
    fn circumstances(&self, now: Instant) -> Circumstances {
        Circumstances { now, jitter: self.random(), grants: self.amnesty().grants() }
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

    /// Spread out, since others wait for the same.
    fn renew_later(&self, user: &User, wait: Duration) {
        let now = self.parts.clock.now();
        let Some(held) = self.parts.cache.get(&user.key) else { return };
        let Some(due) = held.due_in(now) else { return };
        let spread = (held.left_at(now) / RENEW_LATER_PART).min(RENEW_LATER_MAX).mul_f64(self.random());
        let wait = due.max(wait + spread);
        if held.left_at(now) > wait {
            self.plan(&mut user.record(), &user.key, Some(now.mono + wait));
        }
    }

    /// Moves a user's renewal to `at`, or takes it off the agenda.
    fn plan(&self, record: &mut Record, key: &Arc<UserKey>, at: Option<Instant>) {
        record.renewal = match (record.renewal.take(), at) {
            (former, Some(at)) => Some(self.parts.agenda.put(former, at, key)),
            (Some(former), None) => {
                self.parts.agenda.remove(former);
                None
            }
            (None, None) => None,
        };
    }

    /// The jitter, of a few that are drawn, with which a token falls due in the quietest second.
    fn quiet_jitter(&self, sent: Instant, lifetime: Duration) -> f64 {
        let mut quietest = (u32::MAX, 0.0);
        for draw in 0..2 * DRAWS {
            let jitter = match draw {
                0..DRAWS => self.random(),
                // No herd, so nothing is renewed earlier than usual.
                DRAWS.. if quietest.0 < HERD => break,
                DRAWS.. => self.random() * HERD_JITTER,
            };
            let crowd = self.parts.agenda.crowd(sent + lifetime.saturating_sub(due_left(lifetime, jitter)));
            if crowd < quietest.0 {
                quietest = (crowd, jitter);
            }
        }
        quietest.1
    }

    /// 0 to 1.
    fn random(&self) -> f64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).f64()
    }
}
