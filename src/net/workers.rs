//! The threads that serve callers' connections: each has a runtime of its own, and a connection stays on the one where it was placed.
//!
//! A call that finds its token is answered without a word to another thread, which a runtime shared by several threads can't do. Must
//! never run anything that lasts: a sign-in, a reload or the admin port would hold up the calls of its thread.

use std::{
    fmt, io, mem,
    num::NonZero,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::{spawn_blocking, yield_now},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::read_turns::ReadTurns;
use crate::clock::Clock;

/// A thread's load is counted in so many parts of its time; a connection that was placed on it lately is believed to take one of them.
const PARTS: u32 = 10;
/// What threads did is looked at this often at most: less says little, and connections may come by the thousand.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// At the end, what is left on a thread is dropped within this, or no more is waited for: it takes milliseconds.
const LAST_DROPS: Duration = Duration::from_secs(1);

/// At the end calls that have come and not begun are let begin, so that each is told of: tokio runs dozens whenever its thread's own task
/// yields, and a connection has 512 at most (`memory_budget::STREAMS_MAX`).
const LAST_TURNS: usize = 64;

/// All of them. Dropped, they end, with whatever is still on them.
#[derive(Debug)]
pub struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Where connections are placed.
#[derive(Clone, Debug)]
pub struct Placer(Arc<Shared>);

struct Shared {
    workers: Vec<Worker>,
    look: Mutex<Look>,
    clock: Arc<dyn Clock>,
    end: CancellationToken,
}

struct Worker {
    runtime: Handle,
    /// Connections that are on it.
    open: Arc<AtomicUsize>,
    turns: Arc<ReadTurns>,
}

/// What was seen of the threads at the last look.
struct Look {
    at: Instant,
    seen: Vec<Seen>,
}

/// What was seen of one thread.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// How long it had been busy in all.
    busy: Duration,
    /// Its load before that, in parts of its time.
    load: u32,
    /// Connections that it got since.
    placed: u32,
}

/// A connection's place on a thread; free again when dropped.
#[derive(Debug)]
pub struct Place {
    /// Where the connection is to run.
    pub runtime: Handle,
    /// Where it waits when it sends much.
    pub turns: Arc<ReadTurns>,
    open: Arc<AtomicUsize>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// As many as there are processors for this process; where a quota says how much of them it may use (cgroups), as many as can run all
/// the time within it: one more would use it up early, and then all wait for the next period. At least one.
#[must_use]
pub fn processors() -> NonZero<usize> {
    thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN)
}

impl Workers {
    /// Starts so many threads.
    ///
    /// # Errors
    /// Where the system has none to give.
    pub fn start(count: NonZero<usize>, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let end = CancellationToken::new();
        let (mut workers, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count.get() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let turns = Arc::<ReadTurns>::default();
            workers.push(Worker { runtime: runtime.handle().clone(), open: Arc::default(), turns: Arc::clone(&turns) });
            let until = end.clone();
            threads.push(thread::Builder::new().name(format!("calls-{number}")).spawn(move || run(runtime, &turns, &until))?);
        }
        let look = Look { at: clock.now().mono, seen: vec![Seen::default(); count.get()] };
        Ok(Self { shared: Arc::new(Shared { workers, look: Mutex::new(look), clock, end }), threads })
    }

    /// Places connections on them.
    #[must_use]
    pub fn placer(&self) -> Placer {
        Placer(Arc::clone(&self.shared))
    }

    /// Ends them, and waits until whatever was still on them is dropped.
    pub async fn end(&mut self) {
        self.shared.end.cancel();
        let threads = mem::take(&mut self.threads);
        // One that panicked has ended too.
        let ended = spawn_blocking(|| threads.into_iter().for_each(|thread| drop(thread.join())));
        if timeout(LAST_DROPS, ended).await.is_err() {
            warn!("a thread that served callers has not ended in time");
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.end.cancel();
    }
}

fn run(runtime: Runtime, turns: &ReadTurns, end: &CancellationToken) {
    // What is left after that is dropped with the runtime.
    runtime.block_on(async {
        tokio::select! {
            () = end.cancelled() => {}
            () = turns.give() => {}
        }
        for _ in 0..LAST_TURNS {
            turns.give_one();
            yield_now().await;
        }
    });
}

impl Placer {
    /// A place on the thread with the least load; of those with equal load, on the one with the fewest connections.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        let shared = &*self.0;
        let mut look = shared.lock();
        let now = shared.clock.now().mono;
        if now.saturating_duration_since(look.at) >= LOOK_EVERY {
            let busy = shared.workers.iter().map(|worker| worker.runtime.metrics().worker_total_busy_duration(0));
            look.again(now, busy);
        }
        let load = |(worker, seen): &(&Worker, &mut Seen)| (seen.load + seen.placed, worker.open.load(Ordering::Relaxed));
        let (worker, seen) = shared.workers.iter().zip(&mut look.seen).min_by_key(load)?;
        seen.placed += 1;
        worker.open.fetch_add(1, Ordering::Relaxed);
        Some(Place { runtime: worker.runtime.clone(), turns: Arc::clone(&worker.turns), open: Arc::clone(&worker.open) })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Look> {
        self.look.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Look {
    /// Looks again: each thread was busy for so long in all.
    fn again(&mut self, now: Instant, busy: impl Iterator<Item = Duration>) {
        let passed = now.saturating_duration_since(self.at);
        for (seen, busy) in self.seen.iter_mut().zip(busy) {
            // Whole parts: of what is next to nothing one thread has always a little less.
            let parts = busy.saturating_sub(seen.busy).as_nanos() * u128::from(PARTS) / passed.as_nanos().max(1);
            // Connections that came just before had no time to show what they take.
            let lately = if passed < 2 * LOOK_EVERY { seen.placed } else { 0 };
            *seen = Seen { busy, load: u32::try_from(parts).unwrap_or(PARTS).max(lately), placed: 0 };
        }
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::clock::{Moment, SystemClock};

    /// Moves when it is told to.
    #[derive(Debug)]
    struct Clocks(Mutex<Moment>);

    impl Clock for Clocks {
        fn now(&self) -> Moment {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    struct Bench {
        clock: Arc<Clocks>,
        workers: Workers,
    }

    impl Bench {
        fn new(count: usize) -> Self {
            let clock = Arc::new(Clocks(Mutex::new(SystemClock.now())));
            let count = NonZero::new(count).expect("not zero");
            Self { workers: Workers::start(count, clock.clone()).expect("there are threads"), clock }
        }

        /// The next connection's place, and its thread's number.
        fn place(&self) -> (Place, usize) {
            let place = self.workers.placer().place().expect("there is one");
            let on = |worker: &Worker| worker.runtime.id() == place.runtime.id();
            let number = self.workers.shared.workers.iter().position(on).expect("is one of them");
            (place, number)
        }

        fn pass(&self, time: Duration) {
            let mut now = self.clock.0.lock().unwrap_or_else(PoisonError::into_inner);
            *now = now.plus(time);
        }

        /// Looks again after this time, of which each thread was busy for so long more.
        fn saw(&self, time: Duration, busy: [Duration; 2]) {
            self.pass(time);
            let mut look = self.workers.shared.lock();
            let busy: Vec<_> = look.seen.iter().zip(busy).map(|(seen, more)| seen.busy + more).collect();
            look.again(self.clock.now().mono, busy.into_iter());
        }
    }

    #[test]
    fn connections_are_shared_out_evenly_and_one_that_ends_makes_room() {
        let bench = Bench::new(3);
        let mut places: Vec<_> = (0..6).map(|_| bench.place()).collect();
        let mut numbers: Vec<_> = places.iter().map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 0, 1, 1, 2, 2]);
        let (ended, number) = places.swap_remove(4);
        drop(ended);
        bench.pass(LOOK_EVERY);
        assert_eq!(bench.place().1, number);
    }

    #[test]
    fn two_busy_ones_never_share_a_thread_while_another_idles() {
        let bench = Bench::new(2);
        // Idle ones stay on one thread alone.
        let places: Vec<_> = (0..6).map(|_| bench.place()).collect();
        let idle: Vec<_> = places.into_iter().filter(|(_, number)| *number == 0).collect();
        bench.pass(LOOK_EVERY);
        let (_first, first) = bench.place();
        bench.pass(LOOK_EVERY);
        // A look that comes just after the first says nothing of it yet.
        let (_second, second) = bench.place();
        assert_eq!((idle.len(), first, second), (3, 1, 0));

        let bench = Bench::new(2);
        let (_first, first) = bench.place();
        bench.pass(LOOK_EVERY);
        let mut idle: Vec<_> = (0..6).map(|_| bench.place()).collect();
        idle.retain(|(_, number)| *number != first);
        let mut busy = [Duration::ZERO; 2];
        busy[first] = LOOK_EVERY / 2;
        bench.saw(2 * LOOK_EVERY, busy);
        assert_eq!((idle.len(), bench.place().1), (3, 1 - first), "it has more connections, and nothing to do");
    }

    #[test]
    fn what_a_thread_does_is_seen() {
        let bench = Bench::new(1);
        let runtime = &bench.workers.shared.workers[0].runtime;
        let busy = || runtime.metrics().worker_total_busy_duration(0);
        while busy().is_zero() {
            let (said, hears) = sync_channel(1);
            runtime.spawn(async move { said.send(()).ok() });
            hears.recv().expect("the thread runs");
        }
    }

    #[test]
    fn calls_that_have_not_begun_at_the_end_are_let_begin() {
        let begun = Arc::new(AtomicUsize::new(0));
        let Bench { mut workers, .. } = Bench::new(1);
        let place = workers.placer().place().expect("there is one");
        let (go, goes) = sync_channel(0);
        // Its thread is held up while they come.
        place.runtime.spawn(async move { goes.recv() });
        for _ in 0..2_048 {
            let begun = Arc::clone(&begun);
            place.runtime.spawn(async move {
                begun.fetch_add(1, Ordering::Relaxed);
                std::future::pending::<()>().await;
            });
        }
        workers.shared.end.cancel();
        go.send(()).expect("is waited for");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(workers.end());
        assert_eq!(begun.load(Ordering::Relaxed), 2_048);
    }

    #[test]
    fn a_calls_thread_has_a_name_and_what_is_left_on_it_is_dropped_at_the_end() {
        let held = Arc::new(());
        let (said, hears) = sync_channel(1);
        let Bench { mut workers, .. } = Bench::new(1);
        let holding = Arc::clone(&held);
        let place = workers.placer().place().expect("there is one");
        place.runtime.spawn(async move {
            let _holding = holding;
            said.send(thread::current().name().map(ToOwned::to_owned)).ok();
            std::future::pending::<()>().await;
        });
        assert_eq!(hears.recv().expect("it runs").as_deref(), Some("calls-0"));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(workers.end());
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
