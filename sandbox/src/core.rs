//! What the connections, the control interface and the test's handle share.
//!
//! Must never be locked across an await: every method takes the lock, does its work and is gone.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    clock,
    fault::Fault,
    options::Options,
    script::Script,
    seen::{MAX_SEEN, Seen, Stats},
    shapes::Answer,
    tls::Tls,
    vault::Vault,
};

/// Numbers that are counted one by one although no user has them. Beyond it, new ones count in the sum alone.
const MAX_STRANGERS: usize = 10_000;

pub(crate) struct State {
    pub(crate) vault: Vault,
    pub(crate) script: Script,
    pub(crate) delay: Duration,
    /// Sign-ins per number. Users are in it from the start, so that only strangers meet the limit.
    by_number: HashMap<String, u64>,
    strangers: usize,
    seen: VecDeque<Seen>,
}

impl State {
    /// Has the number's sign-ins counted without limit.
    pub(crate) fn know(&mut self, number: &str) {
        self.by_number.entry(number.to_owned()).or_default();
    }

    fn count(&mut self, number: &str) {
        if let Some(count) = self.by_number.get_mut(number) {
            *count += 1;
        } else if self.strangers < MAX_STRANGERS {
            self.strangers += 1;
            self.by_number.insert(number.to_owned(), 1);
        }
    }

    pub(crate) fn sign_ins_of(&self, number: &str) -> u64 {
        self.by_number.get(number).copied().unwrap_or_default()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.iter().cloned().collect()
    }
}

pub(crate) struct Core {
    state: Mutex<State>,
    /// What the port shows to those who connect; none: it speaks plaintext.
    pub(crate) tls: Option<Tls>,
    /// The counters, and the bell that rings whenever one changes.
    pub(crate) stats: watch::Sender<Stats>,
    /// Rings when all connections are to be closed.
    pub(crate) hang_up: watch::Sender<u64>,
    /// True once the sandbox is to end.
    pub(crate) stop: watch::Sender<bool>,
    /// True once it has ended: the port is free, the connections are gone.
    pub(crate) stopped: watch::Sender<bool>,
}

impl Core {
    pub(crate) fn new(options: Options) -> Self {
        let numbers: Vec<String> = options.users.iter().map(|user| user.number.clone()).collect();
        let (delay, tls) = (options.delay, options.tls.clone());
        let mut state = State {
            vault: Vault::new(options),
            script: Script::default(),
            delay,
            by_number: HashMap::new(),
            strangers: 0,
            seen: VecDeque::new(),
        };
        numbers.iter().for_each(|number| state.know(number));
        Self {
            state: Mutex::new(state),
            tls,
            stats: watch::Sender::default(),
            hang_up: watch::Sender::default(),
            stop: watch::Sender::default(),
            stopped: watch::Sender::default(),
        }
    }

    /// The state. A panic elsewhere while it was held leaves it usable: no method leaves it half changed.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Stats)) {
        self.stats.send_modify(change);
    }

    /// Takes down a sign-in that has been read, and says what is to happen to it: how long it takes, and the fault.
    pub(crate) fn begin(self: &Arc<Self>, seen: Seen) -> (InFlight, Duration, Option<Fault>) {
        let (delay, fault) = {
            let mut state = self.state();
            if let Some(number) = seen.field("number") {
                state.count(number);
            }
            let fault = state.script.next(seen.field("number"));
            if state.seen.len() >= MAX_SEEN {
                state.seen.pop_front();
            }
            state.seen.push_back(seen);
            (state.delay, fault)
        };
        self.count(|stats| {
            stats.sign_ins += 1;
            stats.at_once += 1;
            stats.most_at_once = stats.most_at_once.max(stats.at_once);
            stats.faults += u64::from(fault.is_some());
        });
        (InFlight { core: Arc::clone(self), over: false }, delay, fault)
    }

    /// The truth about a sign-in.
    pub(crate) fn judge(&self, request: &Seen) -> Answer {
        let verdict = self.state().vault.sign_in(request, clock::wall());
        self.count(|stats| if verdict.granted { stats.granted += 1 } else { stats.refused += 1 });
        verdict.answer
    }
}

/// A sign-in under way; dropped before [`InFlight::finish`], its caller is the one who ended it.
pub(crate) struct InFlight {
    core: Arc<Core>,
    over: bool,
}

impl InFlight {
    /// All that was meant for the caller is handed over.
    pub(crate) fn finish(mut self) {
        self.over = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let answered = self.over;
        self.core.count(|stats| {
            stats.at_once -= 1;
            if answered { stats.answered += 1 } else { stats.abandoned += 1 }
        });
    }
}

/// An open connection, counted.
pub(crate) struct Open(Arc<Core>);

impl Open {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        core.count(|stats| {
            stats.connections += 1;
            stats.connections_now += 1;
            stats.most_connections = stats.most_connections.max(stats.connections_now);
        });
        Self(core)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.count(|stats| stats.connections_now -= 1);
    }
}
