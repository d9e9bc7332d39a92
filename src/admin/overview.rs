//! What the operator sees: one set of facts, gathered on demand, for `/metrics` and `/status` alike.
//!
//! Must never hold up a call: facts are gathered apart from the async workers, by one at a time, and again only when they have
//! been good for many times as long as that took.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Mutex, watch},
    task::spawn_blocking,
    time::Instant,
};

use crate::{
    broker::{Broker, MerchantStats, Stats},
    clock::{Clock, Moment},
    live::Live,
    reload::ReloadState,
    telemetry::metrics::gauges::{self, Gauges, Process},
};

/// Facts are good for so many times as long as it took to gather them: whoever asks without a pause costs a twentieth of a core.
const GOOD_FOR: u32 = 20;

/// How far the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not listening yet.
    Starting,
    /// Answering.
    Ready,
    /// About to end.
    Draining,
}

/// Where the facts come from.
#[derive(Debug)]
pub struct Sources {
    /// Counts users and flights.
    pub broker: Arc<Broker>,
    /// What is in force.
    pub live: Live,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// How far the process has come.
    pub phase: watch::Receiver<Phase>,
    /// What is in force, and what is wrong with what is not.
    pub reload: watch::Receiver<ReloadState>,
}

/// The facts at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// When they were gathered.
    pub at: Moment,
    /// Since the process began to answer.
    pub uptime: Duration,
    /// How far it has come.
    pub phase: Phase,
    /// What is in force, and what is wrong with what is not.
    pub configuration: ReloadState,
    /// How many `[[callers]]` there are.
    pub callers: usize,
    /// What certificates there are, and the first end of each kind.
    pub certificates: Vec<(&'static str, SystemTime)>,
    /// How the users are.
    pub stats: Stats,
    process: Option<Process>,
}

/// The last facts, and until when they are good.
type Last = Option<(Instant, Arc<View>)>;

/// Gathers the facts.
#[derive(Debug)]
pub struct Overview {
    sources: Arc<Sources>,
    began: Instant,
    /// Locked by whoever gathers the next.
    last: Arc<Mutex<Last>>,
}

impl Overview {
    /// Facts from `sources`.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        let began = sources.clock.now().mono;
        Self { sources: Arc::new(sources), began, last: Arc::default() }
    }

    /// How far the process has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.sources.phase.borrow()
    }

    /// The facts, as they are or were a moment ago; none if they could not be gathered, which is a fault of ours.
    pub async fn view(&self) -> Option<Arc<View>> {
        // Whoever comes while they are gathered waits for them.
        let mut last = Arc::clone(&self.last).lock_owned().await;
        let began = self.sources.clock.now().mono;
        // How far the process has come is never a moment old.
        if let Some((good_until, view)) = last.as_ref().filter(|(_, view)| view.phase == self.phase())
            && began < *good_until
        {
            return Some(Arc::clone(view));
        }
        let (sources, process_began) = (Arc::clone(&self.sources), self.began);
        // With the lock: whoever asks and goes away, again and again, must not have them gathered several times at once.
        let gathering = spawn_blocking(move || {
            let view = Arc::new(sources.gather(process_began));
            let ended = sources.clock.now().mono;
            *last = Some((ended + ended.saturating_duration_since(began) * GOOD_FOR, Arc::clone(&view)));
            view
        });
        gathering.await.ok()
    }
}

impl Sources {
    fn gather(&self, began: Instant) -> View {
        let at = self.clock.now();
        // Not kept: it holds the users.
        let snapshot = self.live.load();
        let serving = &snapshot.serving;
        View {
            at,
            uptime: at.mono.saturating_duration_since(began),
            phase: *self.phase.borrow(),
            configuration: self.reload.borrow().clone(),
            callers: serving.callers,
            certificates: serving.certificates.clone(),
            stats: self.broker.stats(),
            process: Process::now(),
        }
    }
}

impl View {
    /// As metrics have it.
    #[must_use]
    pub fn now(&self) -> Gauges {
        let Self { configuration, stats, .. } = self;
        Gauges {
            ready: self.phase == Phase::Ready,
            vault_up: !stats.vault_is_down,
            flights: stats.flights,
            waiting: stats.waiting,
            renewals_planned: stats.renewals_planned,
            renewals_overdue: stats.renewals_overdue,
            callers: self.callers,
            generation: configuration.generation,
            last_good: Some(configuration.last_good),
            faults: configuration.faults.len(),
            merchants: stats.merchants.iter().map(|(id, merchant)| merchant_now(id.as_str(), merchant)).collect(),
            certificates: self.certificates.clone(),
            process: self.process,
        }
    }
}

fn merchant_now(id: &str, merchant: &MerchantStats) -> gauges::Merchant {
    let counts = |stops: &std::collections::BTreeMap<&'static str, crate::broker::Stopped>| {
        stops.iter().map(|(reason, stopped)| (*reason, stopped.users)).collect()
    };
    gauges::Merchant {
        id: id.to_owned(),
        users: merchant.users,
        cached: merchant.cached,
        dry: merchant.dry,
        held: counts(&merchant.held),
        failing: counts(&merchant.failing),
        wait: merchant.whole.as_ref().map(|stopped| stopped.wait),
    }
}
