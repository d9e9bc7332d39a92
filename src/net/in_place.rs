//! The streams of one HTTP/2 connection, run by the connection's own task as far as they come without waiting.
//!
//! hyper would have each stream be a task of its own: made, queued and woken for a call that is answered at once. Must never let a stream
//! that waits hold up the others, nor one that panics end them; must never drop one that has not begun.

use std::{
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Context,
};

use hyper::rt::Executor;
use tokio::runtime::Handle;

/// So many streams of a connection are run in one turn of its task, about a quarter of a millisecond that others wait; what comes beyond
/// that at once is made tasks. It bounds the list too: a client may reset streams and open others faster than they are run.
const TURN: usize = 64;

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What hyper hands streams to. Clones belong to the same connection.
#[derive(Clone, Default)]
pub(super) struct InPlace(Arc<Mutex<Vec<Stream>>>);

/// Runs them. Dropped, it lets those that have not begun go on by themselves.
pub(super) struct Runner {
    streams: InPlace,
    /// Those of this turn: kept for its memory.
    turn: Vec<Stream>,
}

impl fmt::Debug for InPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InPlace").finish_non_exhaustive()
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for InPlace {
    fn execute(&self, stream: F) {
        let stream = Box::pin(stream);
        let mut streams = self.lock();
        if streams.len() < TURN {
            streams.push(stream);
        } else {
            drop(streams);
            spawn(stream);
        }
    }
}

impl InPlace {
    pub(super) fn runner(&self) -> Runner {
        Runner { streams: self.clone(), turn: Vec::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runner {
    /// Runs the streams that have come; one that has to wait becomes a task of its own.
    pub(super) fn run(&mut self, cx: &mut Context<'_>) {
        mem::swap(&mut *self.streams.lock(), &mut self.turn);
        for mut stream in self.turn.drain(..) {
            let run = || stream.as_mut().poll(cx).is_pending().then_some(stream);
            // One that panics is dropped like a task that does; the log has it.
            if let Ok(Some(waits)) = catch_unwind(AssertUnwindSafe(run)) {
                spawn(waits);
            }
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        mem::take(&mut *self.streams.lock()).into_iter().for_each(spawn);
    }
}

/// Makes a task of a stream, unless its runtime is gone, and with it all that the stream could wait for.
fn spawn(stream: Stream) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(stream);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering},
        task::Waker,
    };

    use tokio::{sync::Notify, task::yield_now};

    use super::*;

    /// Counts one more as it ends.
    fn counting(count: &Arc<AtomicUsize>) -> impl Future<Output = ()> + Send + 'static {
        let count = Arc::clone(count);
        async move {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counted(count: &AtomicUsize) -> usize {
        count.load(Ordering::Relaxed)
    }

    fn run(runner: &mut Runner) {
        runner.run(&mut Context::from_waker(Waker::noop()));
    }

    #[test]
    fn a_stream_that_need_not_wait_is_over_in_the_turn_in_which_it_came() {
        // Without a runtime: nothing is spawned.
        let (streams, ended) = (InPlace::default(), Arc::default());
        let mut runner = streams.runner();
        for n in 1..=3 {
            streams.execute(counting(&ended));
            streams.clone().execute(counting(&ended));
            assert_eq!(counted(&ended), 2 * n - 2, "not while hyper hands it over");
            run(&mut runner);
            assert_eq!(counted(&ended), 2 * n);
        }
    }

    #[tokio::test]
    async fn one_that_waits_goes_on_by_itself_and_the_others_end() {
        let (streams, ended, go) = (InPlace::default(), Arc::default(), Arc::new(Notify::new()));
        let mut runner = streams.runner();
        let (waited, end) = (Arc::clone(&go), counting(&ended));
        streams.execute(async move {
            waited.notified().await;
            end.await;
        });
        streams.execute(counting(&ended));
        run(&mut runner);
        assert_eq!(counted(&ended), 1);
        go.notify_one();
        while counted(&ended) < 2 {
            yield_now().await;
        }
    }

    #[test]
    fn one_that_panics_ends_alone_and_what_it_held_is_dropped() {
        let (streams, ended, held) = (InPlace::default(), Arc::default(), Arc::new(()));
        let mut runner = streams.runner();
        let holding = Arc::clone(&held);
        streams.execute(async move {
            let _holding = holding;
            panic!("a fault of ours");
        });
        streams.execute(counting(&ended));
        run(&mut runner);
        assert_eq!((counted(&ended), Arc::strong_count(&held)), (1, 1));
    }

    #[tokio::test]
    async fn what_comes_beyond_a_turn_goes_on_by_itself() {
        let (streams, ended) = (InPlace::default(), Arc::default());
        let mut runner = streams.runner();
        (0..3 * TURN).for_each(|_| streams.execute(counting(&ended)));
        assert_eq!((streams.lock().len(), counted(&ended)), (TURN, 0));
        while counted(&ended) < 2 * TURN {
            yield_now().await;
        }
        run(&mut runner);
        assert_eq!((streams.lock().len(), counted(&ended)), (0, 3 * TURN));
    }

    #[tokio::test]
    async fn those_that_have_not_begun_as_their_connection_ends_go_on() {
        let (streams, ended) = (InPlace::default(), Arc::default());
        let runner = streams.runner();
        streams.execute(counting(&ended));
        streams.execute(pending());
        drop(runner);
        while counted(&ended) < 1 {
            yield_now().await;
        }
    }
}
