//! What all flights share: what they are made with, what is known of the vault, and how many there are.
//!
//! Must never decide what becomes of a flight: its parts do.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use tokio::{runtime::Handle, sync::Notify, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    caller_rates::CallerRates, concurrency_limit::ConcurrencyLimit, sign_outs::SignOuts, untold::Untold,
    upstream_state::UpstreamState,
};
use crate::{
    caller::{CallerId, CallerName},
    clock::Clock,
    live::{Live, Snapshot},
    net::memory_budget::WAITING_MAX,
    telemetry::{
        audit::Audit,
        metrics::Metrics,
        traces::{Span, Traces},
    },
    tier::Tier,
    tokens::cache::Cache,
    users::{
        Configured, KnownUser, Record,
        hold_file::HoldFile,
        holds::{Circumstances, Stop},
        refresh_queue::RefreshQueue,
        shares::{Place, Shares, Shed},
    },
    vault::Failure,
};

/// Most flights under way or queued: twice the ten thousand cold users of a bad morning; each costs about 2 KiB.
pub const FLIGHTS_MAX: usize = 20_000;
/// Most calls waiting in all; each costs its HTTP/2 stream, about 5 KiB. Fewer than may wait on all connections, so that whoever is one
/// too many is told so by what knows whose share is used up.
pub const WAITERS_MAX: usize = 24_576;
const _: () = assert!(WAITERS_MAX < WAITING_MAX);

/// What the vault answered last: for people, no rule depends on it.
#[derive(Clone, Debug, Default)]
pub struct LastAnswers {
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
    /// Where holds outlive the process.
    pub hold_file: HoldFile,
    /// What other replicas know.
    pub tier: Tier,
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

/// What all flights share.
pub(super) struct Shared {
    pub(super) parts: Parts,
    pub(super) live: Live,
    pub(super) limit: Arc<ConcurrencyLimit>,
    /// What of it concerns the limit is done under its lock, so that both always say the same.
    upstream: Mutex<UpstreamState>,
    last_answers: Mutex<LastAnswers>,
    /// How long the slowest sign-in of late took.
    pub(super) slowest: Mutex<Duration>,
    /// The scope of the last token: most have the same, which is then in memory once.
    scope: Mutex<Arc<String>>,
    flights: Arc<Shares>,
    /// Places that flights which nobody waited for when they began need as well: half as many, so that the rest is left to callers.
    renewals: Arc<Shares>,
    /// The places of calls that wait.
    pub(super) waiters: Arc<Shares>,
    pub(super) caller_rates: CallerRates,
    pub(super) sign_outs: SignOuts,
    /// Sign-ins that were sent, until they are told of.
    pub(super) sent: TaskTracker,
    /// Of whom others are to hear yet.
    pub(super) untold: Untold,
    random: Mutex<fastrand::Rng>,
}

/// One flight, for all of its parts.
pub(super) struct FlightContext {
    pub(super) shared: Arc<Shared>,
    pub(super) user: Arc<KnownUser>,
    /// Nobody waited when it began.
    pub(super) renewal: bool,
    /// The least life that is wanted, where that is the reason for it.
    pub(super) min_remaining: Duration,
    /// Ids of tokens that are of no use to those who wait.
    pub(super) rejected: Arc<Mutex<Vec<String>>>,
    /// There was news of the user that it may not have seen.
    pub(super) was_told: Arc<AtomicBool>,
    /// Whose call began it, where that is known.
    pub(super) caller: Option<CallerName>,
    /// Says that somebody waits now.
    pub(super) urgent: Arc<Notify>,
    pub(super) span: Span,
}

/// The places that a flight holds.
#[derive(Debug)]
pub(super) struct FlightPlaces {
    _flight: Place,
    _renewal: Option<Place>,
}

/// The one sign-in that finds out whether the vault is back. Dropped before that is known, it lets another one do so.
pub(super) struct Probe {
    shared: Arc<Shared>,
    /// When it began, which is how it is known.
    pub(super) began: Instant,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("flights", &self.flights).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(parts: Parts, live: Live) -> Self {
        Self {
            limit: ConcurrencyLimit::new(live.load().settings.max_concurrent_sign_ins),
            live,
            upstream: Mutex::default(),
            last_answers: Mutex::default(),
            slowest: Mutex::default(),
            scope: Mutex::default(),
            flights: Shares::new(FLIGHTS_MAX),
            renewals: Shares::new(FLIGHTS_MAX / 2),
            waiters: Shares::new(WAITERS_MAX),
            caller_rates: CallerRates::default(),
            sign_outs: SignOuts::new(parts.audit.clone(), Arc::clone(&parts.clock)),
            sent: TaskTracker::new(),
            untold: Untold::default(),
            random: Mutex::new(fastrand::Rng::with_seed(parts.seed)),
            parts,
        }
    }

    pub(super) fn last_answers(&self) -> MutexGuard<'_, LastAnswers> {
        self.last_answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn upstream(&self) -> MutexGuard<'_, UpstreamState> {
        self.upstream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the vault that counts here; none where another one counts by now.
    pub(super) fn follow(&self, snapshot: &Snapshot) -> Option<MutexGuard<'_, UpstreamState>> {
        let mut upstream = self.upstream();
        if self.live.load().upstream() != snapshot.upstream() {
            return None;
        }
        if upstream.follow(snapshot.upstream()) {
            self.limit.reset();
        }
        Some(upstream)
    }

    /// What is true around a failure that is noted now.
    pub(super) fn circumstances(&self, now: Instant) -> Circumstances {
        Circumstances { now, jitter: self.random(), grants: self.upstream().undocumented.grants() }
    }

    /// Takes a place for a flight that a caller begins, or nobody in particular.
    pub(super) fn enter(&self, renewal: bool, caller: Option<&CallerId>) -> Result<FlightPlaces, Shed> {
        let _renewal = if renewal { Some(self.renewals.take(None)?) } else { None };
        Ok(FlightPlaces { _flight: self.flights.take(caller)?, _renewal })
    }

    /// A token's scope, shared with the last token's if that is the same.
    pub(super) fn scope(&self, scope: String) -> Arc<String> {
        let mut last = self.scope.lock().unwrap_or_else(PoisonError::into_inner);
        if **last != scope {
            *last = Arc::new(scope);
        }
        Arc::clone(&last)
    }

    pub(super) fn under_way(&self) -> usize {
        self.flights.taken()
    }

    /// 0 to 1.
    pub(super) fn random(&self) -> f64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).f64()
    }
}

impl Probe {
    pub(super) fn new(shared: &Arc<Shared>, began: Instant) -> Self {
        Self { shared: Arc::clone(shared), began }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.upstream().breaker.broke_off(self.began);
    }
}

/// The user as it is configured, which its record obeys from now on.
pub(super) fn configured<'a>(
    user: &KnownUser,
    record: &mut Record,
    snapshot: &'a Snapshot,
    now: Instant,
) -> Option<&'a Configured> {
    let configured = snapshot.user(&user.key)?;
    record.holds.follow(configured.credential.version, now, &snapshot.settings.rules);
    Some(configured)
}

/// Why the user may not sign in now, for reasons of its own or its merchant's; the longer wait counts.
pub(super) fn stopped(user: &KnownUser, record: &Record, snapshot: &Snapshot, now: Instant) -> Option<Stop> {
    let own = record.holds.stopped(now, &snapshot.settings.rules);
    let merchants = user.merchant().stopped(now, snapshot.upstream());
    match (own, merchants) {
        (Some(own), Some(merchants)) => Some(if own.until >= merchants.until { own } else { merchants }),
        (own, merchants) => own.or(merchants),
    }
}
