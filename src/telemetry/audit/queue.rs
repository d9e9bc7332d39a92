//! Records on their way to the audit trail's thread.
//!
//! Must never make whoever records something wait for that thread, wake it for each record, nor hold more than its bound: what finds
//! it full is lost, and counted.

use std::{
    fmt, mem,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::Record;

/// Records are kept in parts of so many (56 KiB): a queue that grows copies none of them.
const PART: usize = 256;
/// Empty parts that are kept to be filled again: what gathers in a busy broker; more only where nobody takes the lines.
const SPARE_MAX: usize = 16;
/// After the first record others may gather for so long. However many calls there are, no more than fifty of them a second wake the
/// thread; and a line is written this much later.
const GATHER: Duration = Duration::from_millis(20);

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Told of records, if the thread is asleep, and of orders.
    news: Condvar,
    /// Told when the thread has ended.
    over: Condvar,
    /// Recorded, and neither written nor lost yet. Grows under the lock only.
    waiting: AtomicUsize,
    lost: AtomicUsize,
    most: usize,
}

#[derive(Default)]
struct State {
    /// Full ones, oldest first.
    parts: Vec<Vec<Record>>,
    /// The one that is being filled.
    last: Vec<Record>,
    spare: Vec<Vec<Record>>,
    orders: Orders,
    asleep: bool,
    /// Nothing is taken any more.
    closed: bool,
    ended: bool,
}

/// What the thread is asked to do, after it wrote what was recorded before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Orders {
    /// Write what was only counted so far.
    pub(super) flush: bool,
    /// Look whether the sink's place is still the right one.
    pub(super) look: bool,
    /// End.
    pub(super) end: bool,
}

/// What the thread takes at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Records, oldest first; emptied by the thread.
    pub(super) parts: Vec<Vec<Record>>,
    pub(super) orders: Orders,
}

impl State {
    fn is_idle(&self) -> bool {
        self.parts.is_empty() && self.last.is_empty() && !self.orders.any()
    }

    fn add(&mut self, record: Record) {
        if self.last.len() == self.last.capacity() {
            self.next_part();
        }
        self.last.push(record);
    }

    fn next_part(&mut self) {
        let part = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(PART));
        let full = mem::replace(&mut self.last, part);
        if !full.is_empty() {
            self.parts.push(full);
        }
    }
}

impl Orders {
    fn any(self) -> bool {
        let Self { flush, look, end } = self;
        flush || look || end
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting).field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Queue {
    /// An empty queue that takes so many records.
    pub(super) fn new(most: usize) -> Self {
        Self {
            state: Mutex::default(),
            news: Condvar::new(),
            over: Condvar::new(),
            waiting: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            most,
        }
    }

    /// Adds a record, if there is room.
    pub(super) fn push(&self, record: Record) {
        let mut state = self.lock();
        if state.closed || self.waiting() >= self.most {
            drop(state);
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        state.add(record);
        let wake = mem::take(&mut state.asleep);
        drop(state);
        if wake {
            self.news.notify_one();
        }
    }

    /// Asks the thread for something.
    pub(super) fn order(&self, order: impl FnOnce(&mut Orders)) {
        order(&mut self.lock().orders);
        self.news.notify_one();
    }

    /// Asks the thread to write everything and end, and waits for that.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.orders.end = true;
        self.news.notify_one();
        drop(self.over.wait_while(state, |state| !state.ended));
    }

    /// How many records are neither written nor lost.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many are lost.
    pub(super) fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }

    /// For the thread: waits for records or orders, `within` that time if there is one, and moves them into `batch`, whose parts are
    /// empty.
    pub(super) fn next(&self, batch: &mut Batch, within: Option<Duration>) {
        let mut state = self.lock();
        state.spare.append(&mut batch.parts);
        state.spare.truncate(SPARE_MAX);
        if state.is_idle() {
            state.asleep = true;
            state = match within {
                None => self.news.wait_while(state, |state| state.is_idle()).unwrap_or_else(PoisonError::into_inner),
                Some(time) => self.sleep(state, time, State::is_idle),
            };
            state.asleep = false;
        }
        // Where the sink was slow enough has gathered.
        if self.waiting() < self.most / 2 {
            state = self.sleep(state, GATHER, |state| !state.orders.any());
        }
        state.next_part();
        mem::swap(&mut state.parts, &mut batch.parts);
        batch.orders = mem::take(&mut state.orders);
    }

    fn sleep<'q>(
        &'q self,
        state: MutexGuard<'q, State>,
        time: Duration,
        still: impl Fn(&State) -> bool,
    ) -> MutexGuard<'q, State> {
        self.news.wait_timeout_while(state, time, |state| still(state)).unwrap_or_else(PoisonError::into_inner).0
    }

    /// For the thread: so many records have become of what they become, and so many of them are lost.
    pub(super) fn done(&self, records: usize, lost: usize) {
        self.lost.fetch_add(lost, Ordering::Relaxed);
        self.waiting.fetch_sub(records, Ordering::Relaxed);
    }

    /// For the thread: it ends, and takes nothing any more. What it has not written by then (it panicked) is lost.
    pub(super) fn ended(&self) {
        let mut state = self.lock();
        (state.closed, state.ended) = (true, true);
        self.lost.fetch_add(self.waiting.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        self.over.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
