//! How many connections a listener holds, and which one is closed for the next when it is full.
//!
//! Must never let connections that say nothing keep out those that have something to ask, hold more than its limit, nor close one
//! whose client waits for an answer (but where all answers are made at once, as probes' are).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Slots kept free for the next, so that nobody waits until another is closed: an eighth, and this at most.
const SPARE_MAX: usize = 32;
/// Unproven connections (whose client has not sent its preface yet) of one address have an eighth of the slots, and never fewer than
/// this: behind one address may be a whole node of pods, which come at once after it was away.
const UNPROVEN_OF_ONE_MIN: usize = 16;
/// A connection that was evicted is closed by then; it takes as long as `accept::GOAWAY_TIME`.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(1);

/// The connections of one listener.
#[derive(Debug)]
pub struct ConnectionLimit {
    most: usize,
    evict_busy: bool,
    state: Mutex<State>,
    /// Notified whenever one is closed.
    freed: Notify,
    /// How many were accepted so far: the clock by which idleness is measured, since it costs a call nothing to read.
    arrivals: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    connections: HashMap<u64, Arc<Connection>>,
    /// Those whose client has not sent its preface, by their arrival.
    unproven: BTreeMap<u64, Arc<Connection>>,
    addresses: HashMap<IpAddr, Address>,
    /// How many of them were evicted and are not closed yet.
    closing: usize,
}

/// The connections of one address.
#[derive(Debug, Default)]
struct Address {
    connections: usize,
    unproven: BTreeSet<u64>,
}

/// What became of a new connection.
#[derive(Debug)]
pub struct Admission {
    /// None where all slots are taken by connections that can't be evicted.
    pub slot: Option<Slot>,
    /// How many were evicted for it.
    pub evicted: u64,
}

impl ConnectionLimit {
    /// A limit of `most` connections, at least one. With `evict_busy` even one that waits for an answer is evicted, if no other can be.
    #[must_use]
    pub fn new(most: usize, evict_busy: bool) -> Arc<Self> {
        let (state, freed, arrivals) = (Mutex::default(), Notify::new(), AtomicU64::default());
        Arc::new(Self { most: most.max(1), evict_busy, state, freed, arrivals })
    }

    /// The limit.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// Finds a slot for a connection from this address; another is evicted for it where that must be.
    pub async fn admit(self: &Arc<Self>, from: IpAddr) -> Admission {
        let spare = (self.most / 8).clamp(1, SPARE_MAX).min(self.most - 1);
        let unproven_of_one = (self.most / 8).max(UNPROVEN_OF_ONE_MIN);
        let mut evicted = 0;
        let mut first = true;
        loop {
            // Before the look, so that no closing is missed.
            let freed = self.freed.notified();
            {
                let mut state = self.state();
                if first {
                    evicted += u64::from(state.evict_unproven_of(from, unproven_of_one));
                    if state.connections.len() - state.closing >= self.most - spare {
                        evicted += u64::from(state.evict(self.evict_busy));
                    }
                    first = false;
                }
                if state.connections.len() < self.most {
                    return Admission { slot: Some(self.give(&mut state, from)), evicted };
                }
                if state.closing == 0 {
                    return Admission { slot: None, evicted };
                }
            }
            if timeout(CLOSING_TIMEOUT, freed).await.is_err() {
                return Admission { slot: None, evicted };
            }
        }
    }

    /// Evicts one, where descriptors run out in spite of the limit; whether there was one.
    pub fn make_room(&self) -> bool {
        self.state().evict(self.evict_busy)
    }

    fn give(self: &Arc<Self>, state: &mut State, from: IpAddr) -> Slot {
        let number = self.arrivals.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection {
            number,
            from,
            proven: AtomicBool::default(),
            served: AtomicBool::default(),
            open_calls: AtomicUsize::default(),
            unanswered: AtomicUsize::default(),
            awaited: AtomicUsize::default(),
            last: AtomicU64::new(number),
            close: CancellationToken::new(),
            limit: Arc::clone(self),
        });
        state.connections.insert(number, Arc::clone(&connection));
        state.unproven.insert(number, Arc::clone(&connection));
        let address = state.addresses.entry(from).or_default();
        address.connections += 1;
        address.unproven.insert(number);
        Slot(connection)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Evicts the oldest unproven connection of an address that has as many as one address may.
    fn evict_unproven_of(&mut self, from: IpAddr, most: usize) -> bool {
        let Some(address) = self.addresses.get(&from).filter(|address| address.unproven.len() >= most) else { return false };
        let oldest = address.unproven.first().and_then(|number| self.unproven.get(number)).cloned();
        oldest.is_some_and(|connection| self.tell_to_close(&connection))
    }

    /// Evicts the oldest unproven connection; else, of those that wait for no answer, one that
    /// never began a call; else one of the address with the most connections, idle for the longest. It is looked for among all, which
    /// takes half a millisecond at the highest limit; whoever makes that happen has made a handshake for it.
    fn evict(&mut self, evict_busy: bool) -> bool {
        let connection = self.unproven.first_key_value().map(|(_, connection)| Arc::clone(connection)).or_else(|| {
            let staying = || self.connections.values().filter(|connection| !connection.close.is_cancelled());
            let neighbours =
                |connection: &Connection| self.addresses.get(&connection.from).map_or(0, |address| address.connections);
            let last = |connection: &Connection| {
                (
                    connection.served.load(Ordering::Relaxed),
                    usize::MAX - neighbours(connection),
                    connection.last.load(Ordering::Relaxed),
                )
            };
            let waits = |connection: &Connection| connection.awaited.load(Ordering::Relaxed) > 0;
            let idle = staying().filter(|connection| !waits(connection)).min_by_key(|connection| last(connection));
            let busy = || staying().filter(|_| evict_busy).min_by_key(|connection| last(connection));
            idle.or_else(busy).cloned()
        });
        connection.is_some_and(|connection| self.tell_to_close(&connection))
    }

    fn tell_to_close(&mut self, connection: &Connection) -> bool {
        self.is_not_unproven(connection);
        connection.close.cancel();
        self.closing += 1;
        true
    }

    fn is_not_unproven(&mut self, connection: &Connection) {
        self.unproven.remove(&connection.number);
        if let Some(address) = self.addresses.get_mut(&connection.from) {
            address.unproven.remove(&connection.number);
        }
    }
}

/// A slot that a connection has; free again when dropped.
#[derive(Debug)]
pub struct Slot(Arc<Connection>);

impl Slot {
    /// Which has it.
    #[must_use]
    pub fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.0)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let connection = &*self.0;
        let mut state = connection.limit.state();
        state.is_not_unproven(connection);
        state.connections.remove(&connection.number);
        if connection.close.is_cancelled() {
            state.closing -= 1;
        }
        if let Some(address) = state.addresses.get_mut(&connection.from) {
            address.connections -= 1;
            if address.connections == 0 {
                state.addresses.remove(&connection.from);
            }
        }
        drop(state);
        connection.limit.freed.notify_waiters();
    }
}

/// One connection, as far as the limit needs to know.
#[derive(Debug)]
pub struct Connection {
    number: u64,
    from: IpAddr,
    proven: AtomicBool,
    served: AtomicBool,
    /// Its calls that a drain waits for …
    open_calls: AtomicUsize,
    /// … and those of them whose answer is not made yet.
    unanswered: AtomicUsize,
    /// Those of them whose request was read whole: for these it is not evicted.
    awaited: AtomicUsize,
    /// How many connections had been accepted when it last made a call.
    last: AtomicU64,
    close: CancellationToken,
    limit: Arc<ConnectionLimit>,
}

impl Connection {
    /// Where it comes from.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.from
    }

    /// Its client has sent the preface, as every client does at once.
    pub fn set_proven(&self) {
        if !self.proven.swap(true, Ordering::Relaxed) {
            self.limit.state().is_not_unproven(self);
        }
    }

    /// Whether it has.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// A call on it begins.
    #[must_use]
    pub fn begin_call(self: &Arc<Self>) -> OpenCall {
        self.served.store(true, Ordering::Relaxed);
        self.open_calls.fetch_add(1, Ordering::Relaxed);
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        OpenCall { connection: Arc::clone(self), answered: false }
    }

    /// A request of its was read whole, and its client waits for the answer.
    #[must_use]
    pub fn await_answer(self: &Arc<Self>) -> AwaitedAnswer {
        self.awaited.fetch_add(1, Ordering::Relaxed);
        AwaitedAnswer(Arc::clone(self))
    }

    /// Whether it has no call under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open_calls.load(Ordering::Relaxed) == 0
    }

    /// Whether all its calls have their answers, read or not.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) == 0
    }

    /// Ends when it is to be closed for another.
    pub fn evicted(&self) -> WaitForCancellationFuture<'_> {
        self.close.cancelled()
    }
}

/// One call, from its headers until the last of its answer was taken.
#[derive(Debug)]
pub struct OpenCall {
    connection: Arc<Connection>,
    answered: bool,
}

impl OpenCall {
    /// Its answer is made, and only has to be read.
    pub fn answered(&mut self) {
        if !std::mem::replace(&mut self.answered, true) {
            self.connection.unanswered.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.answered();
        self.connection.last.store(self.connection.limit.arrivals.load(Ordering::Relaxed), Ordering::Relaxed);
        self.connection.open_calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One call that waits for its answer.
#[derive(Debug)]
pub struct AwaitedAnswer(Arc<Connection>);

impl Drop for AwaitedAnswer {
    fn drop(&mut self) {
        self.0.awaited.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
