//! One connection, as far as its limits need to know it: what is under way on it, what waits, and what its client leaves unread.
//!
//! Must never cost a call that waits for nothing more than a few counts of its connection's own.

use std::{
    future::poll_fn,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::ConnectionLimit;
use crate::net::memory_budget::ENDLESS_STREAMS_MAX;

/// A client that is there sends its preface within some milliseconds of CPU and two round trips; one that has not after this says nothing.
const SILENT_AFTER: Duration = Duration::from_secs(1);

/// One connection.
#[derive(Debug)]
pub struct Connection {
    pub(super) number: u64,
    pub(super) from: IpAddr,
    since: Instant,
    proven: AtomicBool,
    identified: AtomicBool,
    served: AtomicBool,
    /// Its calls that a drain waits for …
    open_calls: AtomicUsize,
    /// … and those of them whose answer is not made yet.
    unanswered: AtomicUsize,
    /// Those of them whose request was read whole: for these it is not evicted.
    awaited: AtomicUsize,
    /// Its answers that were made and are not taken yet: those of this period, and of the one before. Which is which, `period` says.
    unread: [AtomicUsize; 2],
    period: AtomicU8,
    /// What waits on it, by its kind. Changed under the limit's lock.
    pub(super) waiting: [AtomicUsize; WaitKind::ALL],
    endless_streams: AtomicUsize,
    /// How much its client leaves unsent, and since when, in the limit's order. Changed under its lock.
    pub(super) unsent: AtomicUsize,
    pub(super) unsent_since: AtomicU64,
    /// How many connections had been accepted when it last made a call.
    last: AtomicU64,
    pub(super) close: CancellationToken,
    limit: Arc<ConnectionLimit>,
}

impl Connection {
    pub(super) fn new(number: u64, from: IpAddr, since: Instant, limit: Arc<ConnectionLimit>) -> Self {
        Self {
            number,
            from,
            since,
            proven: AtomicBool::default(),
            identified: AtomicBool::default(),
            served: AtomicBool::default(),
            open_calls: AtomicUsize::default(),
            unanswered: AtomicUsize::default(),
            awaited: AtomicUsize::default(),
            unread: Default::default(),
            period: AtomicU8::default(),
            waiting: Default::default(),
            endless_streams: AtomicUsize::default(),
            unsent: AtomicUsize::default(),
            unsent_since: AtomicU64::default(),
            last: AtomicU64::new(number),
            close: CancellationToken::new(),
            limit,
        }
    }

    /// Where it comes from.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.from
    }

    /// Its client has sent the preface, as every client does at once.
    pub fn set_proven(&self) {
        if !self.proven.swap(true, Ordering::Relaxed) {
            self.limit.proven(self);
        }
    }

    /// Whether it has.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// Whether it hasn't for too long.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        !self.is_proven() && now.saturating_duration_since(self.since) >= SILENT_AFTER
    }

    /// How much it would be missed: one that never made a call the least, else the one that was idle for the longest.
    pub(super) fn worth(&self) -> (bool, u64) {
        (self.is_served(), self.last.load(Ordering::Relaxed))
    }

    /// It is known who its client is, or that doesn't matter.
    pub fn set_identified(&self) {
        // Looked at first, since each call says so.
        if !self.is_identified() {
            self.limit.identified(self, || self.identified.store(true, Ordering::Relaxed));
        }
    }

    /// Whether it is.
    #[must_use]
    pub fn is_identified(&self) -> bool {
        self.identified.load(Ordering::Relaxed)
    }

    /// Whether a call was made on it.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// A call on it begins.
    #[must_use]
    pub fn begin_call(self: &Arc<Self>) -> OpenCall {
        self.served.store(true, Ordering::Relaxed);
        self.open_calls.fetch_add(1, Ordering::Relaxed);
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        OpenCall { connection: Arc::clone(self), answered: None }
    }

    /// A request of its was read whole, and its client waits for the answer.
    #[must_use]
    pub fn await_answer(self: &Arc<Self>) -> AwaitedAnswer {
        self.awaited.fetch_add(1, Ordering::Relaxed);
        AwaitedAnswer(Arc::clone(self))
    }

    /// Does some work of this kind, which counts among what waits from when it has to; none where too much does.
    pub async fn counting<F: Future>(self: &Arc<Self>, kind: WaitKind, mut work: Pin<&mut F>) -> Option<F::Output> {
        let mut counted = None;
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            if counted.is_none() {
                counted = self.wait(kind);
            }
            if counted.is_some() { Poll::Pending } else { Poll::Ready(None) }
        })
        .await
    }

    /// Something of it has to wait; none where too much does.
    pub(super) fn wait(self: &Arc<Self>, kind: WaitKind) -> Option<Waiting> {
        self.limit.wait(self, kind).then(|| Waiting { connection: Arc::clone(self), kind })
    }

    /// Its client leaves something unsent, or unread.
    #[must_use]
    pub fn unsent(self: &Arc<Self>) -> Unsent {
        self.limit.unsent(self);
        Unsent(Arc::clone(self))
    }

    /// A stream without an end of its own begins on it; none where it has too many.
    #[must_use]
    pub fn begin_endless(self: &Arc<Self>) -> Option<EndlessStream> {
        let waiting = self.wait(WaitKind::Probe)?;
        let begun = self
            .endless_streams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < ENDLESS_STREAMS_MAX).then_some(open + 1));
        // Made only if it was counted: its end counts back.
        begun.is_ok().then(|| EndlessStream(waiting))
    }

    /// Whether its client waits for an answer.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) > 0
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

    /// Whether an answer of its is made and not taken yet.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        self.unread.iter().any(|unread| unread.load(Ordering::Relaxed) > 0)
    }

    /// Ends a period, unless an answer from before it is unread still; says whether one is.
    #[must_use]
    pub fn has_stale(&self) -> bool {
        let former = self.period.load(Ordering::Relaxed) ^ 1;
        let stale = self.unread_of(former).load(Ordering::Relaxed) > 0;
        if !stale {
            self.period.store(former, Ordering::Relaxed);
        }
        stale
    }

    fn unread_of(&self, period: u8) -> &AtomicUsize {
        let [even, odd] = &self.unread;
        if period == 0 { even } else { odd }
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
    /// In which period its answer was made.
    answered: Option<u8>,
}

impl OpenCall {
    /// Its answer is made, and only has to be read.
    pub fn answered(&mut self) {
        if self.answered.is_none() {
            let period = self.connection.period.load(Ordering::Relaxed);
            self.connection.unread_of(period).fetch_add(1, Ordering::Relaxed);
            self.connection.unanswered.fetch_sub(1, Ordering::Relaxed);
            self.answered = Some(period);
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let connection = &self.connection;
        match self.answered {
            Some(period) => connection.unread_of(period).fetch_sub(1, Ordering::Relaxed),
            None => connection.unanswered.fetch_sub(1, Ordering::Relaxed),
        };
        connection.last.store(connection.limit.arrivals(), Ordering::Relaxed);
        connection.open_calls.fetch_sub(1, Ordering::Relaxed);
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

/// What waits before it is known who asks: one kind doesn't keep out the other.
#[derive(Clone, Copy, Debug)]
pub enum WaitKind {
    /// A call that is to say who asks.
    Call,
    /// A probe, or a stream without an end, which need not.
    Probe,
}

impl WaitKind {
    /// How many there are.
    pub(super) const ALL: usize = 2;

    /// Of two of something the one that is meant.
    pub(super) fn of<T>(self, [calls, probes]: &[T; Self::ALL]) -> &T {
        match self {
            Self::Call => calls,
            Self::Probe => probes,
        }
    }

    /// The same, to change it.
    pub(super) fn of_mut<T>(self, [calls, probes]: &mut [T; Self::ALL]) -> &mut T {
        match self {
            Self::Call => calls,
            Self::Probe => probes,
        }
    }
}

/// Something that waits, counted among all that does.
#[derive(Debug)]
pub(super) struct Waiting {
    connection: Arc<Connection>,
    kind: WaitKind,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.connection.limit.waited(&self.connection, self.kind);
    }
}

/// Something of a connection's that can't be sent, since its client doesn't read.
#[derive(Debug)]
pub struct Unsent(Arc<Connection>);

impl Drop for Unsent {
    fn drop(&mut self) {
        self.0.limit.sent(&self.0);
    }
}

/// A stream that lasts as long as its client likes, or its connection.
#[derive(Debug)]
pub struct EndlessStream(Waiting);

impl Drop for EndlessStream {
    fn drop(&mut self) {
        self.0.connection.endless_streams.fetch_sub(1, Ordering::Relaxed);
    }
}
