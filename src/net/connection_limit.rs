//! How many connections a listener holds, which one is closed for the next when it is full, and how many calls may wait on all of them.
//!
//! Must never let connections that say nothing keep out those that have something to ask, nor one address all others; hold more than its
//! limit; nor close one whose client waits for an answer (but where all answers are made at once, as probes' are).

mod connection;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

pub use self::connection::{AwaitedAnswer, Connection, EndlessStream, OpenCall, Unsent, WaitKind};
use super::memory_budget::{PortLimits, STRANGERS_WAITING_OF_CONNECTION, UNSENT_MAX};

/// Slots kept free for the next, so that nobody waits until another is closed: an eighth, and this at most.
const SPARE_MAX: usize = 32;
/// Unproven connections (whose client has not sent its preface yet) of one address have an eighth of the slots, and never fewer than
/// this: behind one address may be a whole node of pods, which come at once after it was away.
const UNPROVEN_OF_ONE_MIN: usize = 16;
/// One address has this part of the slots at most, and of the calls that may wait before it is known who calls: what it does beyond that
/// keeps out itself alone.
const PART_OF_ONE: usize = 2;
/// A connection that was evicted is closed by then; it takes as long as `accept::GOAWAY_TIME`.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(1);

/// The connections of one listener.
#[derive(Debug)]
pub struct ConnectionLimit {
    limits: PortLimits,
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
    /// What waits on connections whose client is known …
    waiting: usize,
    /// … and on all others, by its kind.
    strangers_waiting: [usize; WaitKind::ALL],
    /// Connections whose client leaves something unsent, by when that began.
    unsent: BTreeMap<u64, Arc<Connection>>,
    /// How often that has begun.
    unsent_so_far: u64,
}

/// The connections of one address.
#[derive(Debug, Default)]
struct Address {
    /// By their arrival.
    connections: BTreeMap<u64, Arc<Connection>>,
    unproven: BTreeSet<u64>,
    /// How many of them were evicted and are not closed yet.
    closing: usize,
    strangers_waiting: [usize; WaitKind::ALL],
}

impl Address {
    /// Connections that were not evicted.
    fn staying(&self) -> usize {
        self.connections.len() - self.closing
    }
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
    /// With these limits.
    #[must_use]
    pub fn new(limits: PortLimits) -> Arc<Self> {
        let (state, freed, arrivals) = (Mutex::default(), Notify::new(), AtomicU64::default());
        let limits = PortLimits { connections: limits.connections.max(1), ..limits };
        Arc::new(Self { limits, state, freed, arrivals })
    }

    /// Most connections.
    #[must_use]
    pub fn most(&self) -> usize {
        self.limits.connections
    }

    /// How many were accepted so far.
    pub(super) fn arrivals(&self) -> u64 {
        self.arrivals.load(Ordering::Relaxed)
    }

    /// Finds a slot for a connection that comes from this address now; another is evicted for it where that must be.
    pub async fn admit(self: &Arc<Self>, from: IpAddr, now: Instant) -> Admission {
        let PortLimits { connections: most, evict_busy, .. } = self.limits;
        let unproven_of_one = (most / 8).max(UNPROVEN_OF_ONE_MIN);
        let mut evicted = 0;
        let mut first = true;
        loop {
            // Before the look, so that no closing is missed.
            let freed = self.freed.notified();
            {
                let mut state = self.state();
                if first {
                    let parted = state.evict_unproven_of(from, unproven_of_one);
                    if !parted && state.has_its_part(from, most) {
                        if !state.evict_of(from, evict_busy) {
                            return Admission { slot: None, evicted };
                        }
                        evicted += 1;
                    }
                    evicted += u64::from(parted);
                    if !self.has_room_in(&state) {
                        evicted += u64::from(state.evict(now, evict_busy));
                    }
                    first = false;
                }
                if state.connections.len() < most {
                    return Admission { slot: Some(self.give(&mut state, from, now)), evicted };
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

    /// Whether another connection finds a slot without one that is evicted for it.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.has_room_in(&self.state())
    }

    fn has_room_in(&self, state: &State) -> bool {
        let most = self.limits.connections;
        let spare = (most / 8).clamp(1, SPARE_MAX).min(most - 1);
        state.connections.len() - state.closing < most - spare
    }

    /// Evicts one, where descriptors run out in spite of the limit; whether there was one.
    pub fn make_room(&self, now: Instant) -> bool {
        self.state().evict(now, self.limits.evict_busy)
    }

    /// A connection's client has sent its preface.
    pub(super) fn proven(&self, connection: &Connection) {
        self.state().is_not_unproven(connection);
    }

    /// It becomes known who a connection's client is, as `set` notes: its calls that wait are no stranger's any more.
    pub(super) fn identified(&self, connection: &Connection, set: impl FnOnce()) {
        let mut state = self.state();
        if connection.is_identified() {
            return;
        }
        for kind in [WaitKind::Call, WaitKind::Probe] {
            let waiting = kind.of(&connection.waiting).load(Ordering::Relaxed);
            *kind.of_mut(&mut state.strangers_waiting) -= waiting;
            *kind.of_mut(&mut state.address(connection).strangers_waiting) -= waiting;
            state.waiting += waiting;
        }
        state.forget_if_gone(connection.from);
        set();
    }

    /// Something of a connection's is to wait; whether it may.
    pub(super) fn wait(&self, connection: &Connection, kind: WaitKind) -> bool {
        let PortLimits { waiting, strangers_waiting, .. } = &self.limits;
        let mut state = self.state();
        let own = kind.of(&connection.waiting);
        if connection.is_identified() {
            if state.waiting >= *waiting {
                return false;
            }
            state.waiting += 1;
        } else {
            let (most, all) = (*kind.of(strangers_waiting), *kind.of(&state.strangers_waiting));
            let address = kind.of_mut(&mut state.address(connection).strangers_waiting);
            let own_most = STRANGERS_WAITING_OF_CONNECTION;
            if all >= most || *address >= most / PART_OF_ONE || own.load(Ordering::Relaxed) >= own_most {
                state.forget_if_gone(connection.from);
                return false;
            }
            *address += 1;
            *kind.of_mut(&mut state.strangers_waiting) += 1;
        }
        own.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Something of a connection's waits no more.
    pub(super) fn waited(&self, connection: &Connection, kind: WaitKind) {
        let mut state = self.state();
        kind.of(&connection.waiting).fetch_sub(1, Ordering::Relaxed);
        if connection.is_identified() {
            state.waiting -= 1;
        } else {
            *kind.of_mut(&mut state.strangers_waiting) -= 1;
            *kind.of_mut(&mut state.address(connection).strangers_waiting) -= 1;
            state.forget_if_gone(connection.from);
        }
    }

    /// A connection's client leaves something unsent, or one thing more. Where too many do, the one that has for the longest is closed.
    pub(super) fn unsent(&self, connection: &Arc<Connection>) {
        let mut state = self.state();
        if connection.unsent.fetch_add(1, Ordering::Relaxed) > 0 {
            return;
        }
        connection.unsent_since.store(state.unsent_so_far, Ordering::Relaxed);
        let number = state.unsent_so_far;
        state.unsent.insert(number, Arc::clone(connection));
        state.unsent_so_far += 1;
        let staying = state.unsent.values().filter(|connection| !connection.close.is_cancelled());
        if staying.clone().count() > UNSENT_MAX
            && let Some(longest) = staying.clone().next().cloned()
        {
            state.tell_to_close(&longest);
        }
    }

    /// One thing less is left unsent.
    pub(super) fn sent(&self, connection: &Connection) {
        let mut state = self.state();
        if connection.unsent.fetch_sub(1, Ordering::Relaxed) == 1 {
            state.unsent.remove(&connection.unsent_since.load(Ordering::Relaxed));
        }
    }

    fn give(self: &Arc<Self>, state: &mut State, from: IpAddr, now: Instant) -> Slot {
        let number = self.arrivals.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(number, from, now, Arc::clone(self)));
        state.connections.insert(number, Arc::clone(&connection));
        state.unproven.insert(number, Arc::clone(&connection));
        let address = state.addresses.entry(from).or_default();
        address.connections.insert(number, Arc::clone(&connection));
        address.unproven.insert(number);
        Slot { connection, limit: Arc::clone(self) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether an address has as many connections as one may.
    fn has_its_part(&self, from: IpAddr, most: usize) -> bool {
        let part = (most / PART_OF_ONE).max(UNPROVEN_OF_ONE_MIN);
        self.addresses.get(&from).is_some_and(|address| address.staying() >= part)
    }

    /// What is known of a connection's address. Calls outlive their connection's slot for a moment.
    fn address(&mut self, connection: &Connection) -> &mut Address {
        self.addresses.entry(connection.from).or_default()
    }

    /// Forgets an address of which nothing is left.
    fn forget_if_gone(&mut self, from: IpAddr) {
        if self.addresses.get(&from).is_some_and(|address| address.connections.is_empty() && address.strangers_waiting == [0, 0])
        {
            self.addresses.remove(&from);
        }
    }

    /// Evicts the oldest unproven connection of an address that has as many as one address may.
    fn evict_unproven_of(&mut self, from: IpAddr, most: usize) -> bool {
        let Some(address) = self.addresses.get(&from).filter(|address| address.unproven.len() >= most) else { return false };
        let oldest = address.unproven.first().and_then(|number| self.unproven.get(number)).cloned();
        oldest.is_some_and(|connection| self.tell_to_close(&connection))
    }

    /// Evicts a connection, so that who takes the most gives way: one that has been unproven for long; else one of the address with the
    /// most; else, where all of those wait for answers, any that doesn't, the one that is idle for the longest.
    fn evict(&mut self, now: Instant, evict_busy: bool) -> bool {
        let silent =
            self.unproven.first_key_value().map(|(_, connection)| connection).filter(|first| first.is_silent(now)).cloned();
        let heaviest = || self.addresses.iter().max_by_key(|(_, address)| address.staying()).map(|(from, _)| *from);
        let connection = silent.or_else(|| self.least_of(heaviest()?, evict_busy)).or_else(|| {
            let staying = self.connections.values().filter(|connection| !connection.close.is_cancelled());
            staying.filter(|connection| !connection.is_awaited()).min_by_key(|connection| connection.worth()).cloned()
        });
        connection.is_some_and(|connection| self.tell_to_close(&connection))
    }

    /// Evicts a connection of this address.
    fn evict_of(&mut self, from: IpAddr, evict_busy: bool) -> bool {
        self.least_of(from, evict_busy).is_some_and(|connection| self.tell_to_close(&connection))
    }

    /// Of an address' connections the one that is missed the least: unproven; else one that never made a call; else the one that is idle
    /// for the longest.
    fn least_of(&self, from: IpAddr, evict_busy: bool) -> Option<Arc<Connection>> {
        let address = self.addresses.get(&from)?;
        let unproven = address.unproven.first().and_then(|number| self.unproven.get(number));
        let staying = || address.connections.values().filter(|connection| !connection.close.is_cancelled());
        let idle = || staying().filter(|connection| !connection.is_awaited());
        // Found at once, as a rule; to look through all takes a tenth of a millisecond.
        let never_served = || idle().find(|connection| !connection.is_served());
        let busy = || staying().filter(|_| evict_busy).min_by_key(|connection| connection.worth());
        let least = unproven.or_else(never_served).or_else(|| idle().min_by_key(|connection| connection.worth()));
        least.or_else(busy).cloned()
    }

    fn tell_to_close(&mut self, connection: &Connection) -> bool {
        self.is_not_unproven(connection);
        connection.close.cancel();
        self.closing += 1;
        self.address(connection).closing += 1;
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
pub struct Slot {
    connection: Arc<Connection>,
    limit: Arc<ConnectionLimit>,
}

impl Slot {
    /// Which has it.
    #[must_use]
    pub fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.connection)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let (connection, limit) = (&*self.connection, &*self.limit);
        let mut state = limit.state();
        state.is_not_unproven(connection);
        state.connections.remove(&connection.number);
        let closing = usize::from(connection.close.is_cancelled());
        state.closing -= closing;
        let address = state.address(connection);
        address.closing -= closing;
        address.connections.remove(&connection.number);
        state.forget_if_gone(connection.from);
        drop(state);
        limit.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
