//! What the operator sees: one set of facts, gathered on demand, for `/metrics` and `/status` alike.
//!
//! Must never hold up a call: facts are gathered apart from the async workers, by one at a time, and again only when they have
//! been good for many times as long as that took.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task::spawn_blocking, time::Instant};

use crate::{
    broker::{Broker, MerchantStats, Stats},
    clock::{Clock, Moment},
    policy::Trials,
    reload::ReloadState,
    single_flight::{Follower, Leader},
    telemetry::metrics::gauges::{self, Gauges, Process},
    tier::Condition,
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
    /// How much of the policy is on trial.
    pub trials: Trials,
    /// What certificates there are, and the first end of each kind.
    pub certificates: Vec<(&'static str, SystemTime)>,
    /// How the users are.
    pub stats: Stats,
    process: Option<Process>,
}

/// The facts that there are, and those to come.
#[derive(Debug, Default)]
struct State {
    /// The last ones, and until when they are good.
    last: Option<(Instant, Arc<View>)>,
    gathering: Option<Follower<Arc<View>>>,
}

/// Gathers the facts.
#[derive(Debug)]
pub struct Overview {
    sources: Arc<Sources>,
    began: Instant,
    state: Arc<Mutex<State>>,
}

impl Overview {
    /// Facts from `sources`.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        let began = sources.clock.now().mono;
        Self { sources: Arc::new(sources), began, state: Arc::default() }
    }

    /// How far the process has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.sources.phase.borrow()
    }

    /// The facts, as they are or were a moment ago; none if they could not be gathered, which is a fault of ours.
    pub async fn view(&self) -> Option<Arc<View>> {
        loop {
            let (gathering, begun) = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let now = self.sources.clock.now().mono;
                // How far the process has come is never a moment old.
                let good = |(good_until, view): &&(Instant, Arc<View>)| now < *good_until && view.phase == self.phase();
                if let Some((_, view)) = state.last.as_ref().filter(good) {
                    return Some(Arc::clone(view));
                }
                match state.gathering.as_ref().filter(|gathering| !gathering.is_over()) {
                    Some(gathering) => (gathering.clone(), false),
                    None => (self.gather(&mut state, now), true),
                }
            };
            let view = gathering.result().await.ok()?;
            if begun || view.phase == self.phase() {
                return Some(view);
            }
        }
    }

    /// Has the facts gathered by a thread that goes on when whoever asked has gone.
    fn gather(&self, state: &mut State, began: Instant) -> Follower<Arc<View>> {
        let leader = Leader::new();
        let gathering = leader.follower();
        state.gathering = Some(gathering.clone());
        let (sources, process_began, state) = (Arc::clone(&self.sources), self.began, Arc::clone(&self.state));
        spawn_blocking(move || {
            let view = Arc::new(sources.gather(process_began));
            let ended = sources.clock.now().mono;
            let good_until = ended + ended.saturating_duration_since(began) * GOOD_FOR;
            state.lock().unwrap_or_else(PoisonError::into_inner).last = Some((good_until, Arc::clone(&view)));
            leader.finish(view);
        });
        gathering
    }
}

impl Sources {
    fn gather(&self, began: Instant) -> View {
        let at = self.clock.now();
        // One for all the facts; not kept, since it holds the users.
        let snapshot = self.broker.in_force();
        let serving = &snapshot.serving;
        View {
            at,
            uptime: at.mono.saturating_duration_since(began),
            phase: *self.phase.borrow(),
            configuration: self.reload.borrow().clone(),
            callers: serving.callers,
            trials: snapshot.policy.trials(),
            certificates: serving.certificates.clone(),
            stats: self.broker.stats(&snapshot),
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
            shared_up: stats.tier.map(|tier| tier == Condition::Up),
            flights: stats.flights,
            waiting: stats.waiting,
            renewals_planned: stats.renewals_planned,
            renewals_overdue: stats.renewals_overdue,
            callers: self.callers,
            policy_on_trial: self.trials.all,
            callers_on_trial: self.trials.entries,
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
