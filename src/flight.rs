//! One detached sign-in per user at a time, whoever waits for it.
//!
//! A flight belongs to nobody: callers come and go, it lands all the same, and what it brings is stored before anyone is
//! told. Must never sign in for a user who is stopped, nor twice at once for one user, nor leave waiters behind when it
//! breaks.

mod ticket;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::ticket::{Arrivals, Counted};
pub use self::ticket::{Boarding, Landing, NoLanding, Ticket, WAITERS_PER_FLIGHT_MAX, Want};
use crate::{
    cache::Cache,
    clock::{Clock, Moment},
    config::Renewal,
    expiry::HeldToken,
    model::{Token, TokenId},
    pacing::{Rules, Stop},
    renewal::Agenda,
    users::{Record, User},
    vault::{Failure, Grant, Scope, SignIn},
};

/// Most flights under way or queued: twice the ten thousand cold users of a bad morning; each costs about 2 KiB.
pub const FLIGHTS_MAX: usize = 20_000;
/// Most callers waiting in all; each costs its HTTP/2 stream, about 5 KiB.
pub const WAITERS_MAX: usize = 65_536;

/// What flights obey.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// When sign-ins may begin.
    pub rules: Rules,
    /// Whether tokens are renewed before they end.
    pub renewal: Renewal,
    /// Most sign-ins at the vault at once.
    pub max_concurrent_sign_ins: usize,
}

/// What flights are made with.
pub struct Parts {
    /// Signs in at the vault.
    pub sign_in: Arc<dyn SignIn>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Where tokens end up.
    pub cache: Cache,
    /// Where renewals are planned.
    pub agenda: Arc<Agenda>,
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
    settings: Settings,
    tasks: TaskTracker,
    /// One permit per sign-in at the vault.
    sign_ins: Arc<Semaphore>,
    /// Renewals pass through this narrower gate first, so that half of the permits are always left to callers who wait.
    renewals: Arc<Semaphore>,
    under_way: AtomicUsize,
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
        f.debug_struct("Shared").field("settings", &self.settings).field("under_way", &self.under_way).finish_non_exhaustive()
    }
}

impl Flights {
    /// Flights that obey `settings`.
    #[must_use]
    pub fn new(parts: Parts, settings: Settings) -> Self {
        let permits = settings.max_concurrent_sign_ins.clamp(1, Semaphore::MAX_PERMITS);
        let shared = Shared {
            settings,
            tasks: TaskTracker::new(),
            sign_ins: Arc::new(Semaphore::new(permits)),
            renewals: Arc::new(Semaphore::new(permits.div_ceil(2))),
            under_way: AtomicUsize::new(0),
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
        let too_late = |begins: Instant| want.begin_by.is_some_and(|by| begins > by.max(now.mono));
        if let Some(ticket) = &record.flight {
            if too_late(ticket.begins) {
                return Boarding::TooSoon(ticket.begins.saturating_duration_since(now.mono));
            }
            if want.urgent {
                ticket.hurry();
            }
            return Boarding::Joined(ticket.clone());
        }
        if let Some(stop) = stopped(user, &record, now.mono) {
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
        match self.start(user, &mut record, begins, want.urgent) {
            Some(ticket) => Boarding::Started(ticket),
            None => Boarding::Full,
        }
    }

    /// Notes that the vault's API refused the token now held.
    pub fn rejected(&self, user: &User, token: TokenId) {
        let now = self.shared.parts.clock.now().mono;
        user.record().pacing.rejected(token, now, &self.shared.settings.rules);
    }

    /// Waits for a flight to land, until `deadline`.
    ///
    /// # Errors
    /// Where it did not land by then, broke, or has too many waiters.
    pub async fn wait(&self, ticket: Ticket, deadline: Instant) -> Result<Landing, NoLanding> {
        let _all = Counted::new(&self.shared.waiting, WAITERS_MAX).ok_or(NoLanding::Full)?;
        ticket.landing(deadline).await
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

    fn start(&self, user: &Arc<User>, record: &mut Record, begins: Instant, urgent: bool) -> Option<Ticket> {
        let shared = Arc::clone(&self.shared);
        if shared.under_way.fetch_add(1, Ordering::Relaxed) >= FLIGHTS_MAX {
            shared.under_way.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let ticket = Ticket::new(begins);
        if urgent {
            ticket.hurry();
        }
        record.flight = Some(ticket.clone());
        let flight = Flight { shared, user: Arc::clone(user), arrivals: Arc::clone(&ticket.arrivals) };
        let urgent = Arc::clone(&ticket.urgent);
        self.shared.tasks.spawn_on(flight.fly(begins, urgent), &self.shared.parts.runtime);
        Some(ticket)
    }
}

/// Why the user may not sign in now, for reasons of its own or its merchant's; the longer wait counts.
fn stopped(user: &User, record: &Record, now: Instant) -> Option<Stop> {
    let own = record.pacing.stopped(now).cloned();
    let merchants = user.merchant.stopped(now);
    match (own, merchants) {
        (Some(own), Some(merchants)) => Some(if own.until >= merchants.until { own } else { merchants }),
        (own, merchants) => own.or(merchants),
    }
}

/// One sign-in, from the queue to the landing. Dropped without landing (a panic), it frees the user and the waiters.
struct Flight {
    shared: Arc<Shared>,
    user: Arc<User>,
    arrivals: Arc<Arrivals>,
}

impl Flight {
    async fn fly(self, begins: Instant, urgent: Arc<Notify>) {
        sleep_until(begins).await;
        let permits = self.queue(&urgent).await;
        // The queue may have been long: what was true at its end may not be now.
        let now = self.shared.parts.clock.now();
        let stop = stopped(&self.user, &self.user.record(), now.mono);
        if let Some(stop) = stop {
            self.user.record().flight = None;
            return self.land(Landing::Stopped(stop));
        }
        let result = self.shared.parts.sign_in.sign_in(&self.user.key, &self.user.credential.password).await;
        drop(permits);
        let landing = match result.and_then(|grant| self.token(grant, now)) {
            Ok(held) => self.succeeded(now, held),
            Err(failure) => self.failed(failure, now),
        };
        self.land(landing);
    }

    /// Waits for a permit; a renewal for two, until somebody waits for it.
    async fn queue(&self, urgent: &Notify) -> (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>) {
        // Neither semaphore is ever closed, so neither `ok()` loses a permit.
        let renewal = tokio::select! {
            biased;
            () = urgent.notified() => None,
            permit = Arc::clone(&self.shared.renewals).acquire_owned() => permit.ok(),
        };
        (renewal, Arc::clone(&self.shared.sign_ins).acquire_owned().await.ok())
    }

    /// The token that a grant gives, if any of its life is left.
    fn token(&self, grant: Grant, sent: Moment) -> Result<Arc<HeldToken>, Failure> {
        let now = self.shared.parts.clock.now();
        let token = Token {
            id: TokenId::of(grant.access_token.expose()),
            access_token: grant.access_token,
            scope: Arc::from(grant.scope),
            expires: sent.plus(grant.lifetime),
            lifetime: grant.lifetime,
        };
        let former = self.shared.parts.cache.get(&self.user.key);
        let bounded = grant.lifetime_is_bounded;
        let held = HeldToken::new(token, bounded, former.as_deref(), self.shared.settings.renewal, now, self.shared.random());
        if held.left_at(now).is_zero() {
            return Err(Failure::Invalid { cause: "its token had ended before the answer was here" });
        }
        Ok(Arc::new(held))
    }

    fn succeeded(&self, sent: Moment, held: Arc<HeldToken>) -> Landing {
        let now = self.shared.parts.clock.now();
        let left = held.left_at(now);
        let mut record = self.user.record();
        let rules = &self.shared.settings.rules;
        let doubled = record.pacing.succeeded(sent.mono, held.token.lifetime, left, rules);
        self.shared.parts.cache.put(&self.user.key, &held);
        self.plan(&mut record, held.due_in(now).map(|due| now.mono + due));
        record.flight = None;
        drop(record);

        let (key, token_id, took) = (&self.user.key, held.id(), now.mono.saturating_duration_since(sent.mono));
        info!(merchant_id = %key.merchant, number = %key.number, %token_id, lifetime_s = left.as_secs(), took_ms = millis(took), "signed in");
        if let Some(floor) = doubled {
            warn!(
                merchant_id = %key.merchant, number = %key.number, floor_s = floor.as_secs(),
                "tokens are rejected soon after their issue, so sign-ins are slowed down: another replica or system that signs \
                 this user in may be revoking them; set vault.renewal = \"at_expiry\""
            );
        }
        Landing::Token(held)
    }

    fn failed(&self, failure: Failure, sent: Moment) -> Landing {
        let now = self.shared.parts.clock.now();
        let merchants = matches!(failure, Failure::Throttled { scope: Scope::Merchant, .. });
        let definite = matches!(failure, Failure::Refused { .. });
        let mut record = self.user.record();
        let stop = record.pacing.failed(failure, now.mono, self.shared.random(), &self.shared.settings.rules);
        // The token held is still good: try again to renew it once the wait is over, unless nothing will change till then.
        let renews = self.shared.settings.renewal == Renewal::Ahead && !definite;
        let worth =
            renews && self.shared.parts.cache.get(&self.user.key).is_some_and(|held| held.left_at(now) > stop.left_at(now.mono));
        self.plan(&mut record, worth.then_some(stop.until));
        record.flight = None;
        drop(record);
        if merchants {
            self.user.merchant.stop(stop.clone());
        }

        let (key, took) = (&self.user.key, now.mono.saturating_duration_since(sent.mono));
        warn!(
            merchant_id = %key.merchant, number = %key.number, failure = %stop.failure, took_ms = millis(took),
            next_s = stop.left_at(now.mono).as_secs(), whole_merchant = merchants, "sign-in failed"
        );
        Landing::Stopped(stop)
    }

    /// Moves the user's renewal to `at`, or takes it off the agenda.
    fn plan(&self, record: &mut Record, at: Option<Instant>) {
        record.renewal = match (record.renewal.take(), at) {
            (former, Some(at)) => Some(self.shared.parts.agenda.put(former, at, &self.user.key)),
            (Some(former), None) => {
                self.shared.parts.agenda.remove(former);
                None
            }
            (None, None) => None,
        };
    }

    /// Tells the waiters. The flight has left the record before, together with whatever it learnt.
    fn land(&self, landing: Landing) {
        self.arrivals.land(Some(landing));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.under_way.fetch_sub(1, Ordering::Relaxed);
        if !self.arrivals.is_over() {
            let now = self.shared.parts.clock.now().mono;
            let mut record = self.user.record();
            // Paused like after any failure, lest a fault of ours hammers the vault.
            let broke = Failure::Invalid { cause: "the sign-in broke off inside the broker" };
            record.pacing.failed(broke, now, self.shared.random(), &self.shared.settings.rules);
            record.flight = None;
            drop(record);
            self.arrivals.land(None);
        }
    }
}

impl Shared {
    /// 0 to 1.
    fn random(&self) -> f64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).f64()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
