//! Connections of one thread that have more to be read than is read at a time: one of them goes on in each round of the thread.
//!
//! So however many there are, and however much they send, whoever has a call or two waits for one of them. Must never wait for one that
//! has ended, nor let one be forgotten.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use tokio::{sync::Notify, task::yield_now};

/// Who waits, the first that came first: at most one for each connection of the thread.
#[derive(Debug, Default)]
pub struct ReadTurns {
    waiting: Mutex<VecDeque<Arc<Entry>>>,
    some: Notify,
}

/// A connection's place in the queue. Dropped before its turn has come, it is passed over.
#[derive(Debug)]
pub(super) struct ReadTurn(Arc<Entry>);

#[derive(Debug)]
struct Entry {
    has_come: AtomicBool,
    waker: Mutex<Waker>,
}

impl ReadTurns {
    /// Waits for a turn, which `turn` keeps until it has come.
    pub(super) fn poll(&self, turn: &mut Option<ReadTurn>, cx: &Context<'_>) -> Poll<()> {
        ready!(turn.get_or_insert_with(|| self.wait(cx)).poll(cx));
        *turn = None;
        Poll::Ready(())
    }

    fn wait(&self, cx: &Context<'_>) -> ReadTurn {
        let entry = Arc::new(Entry { has_come: AtomicBool::new(false), waker: Mutex::new(cx.waker().clone()) });
        self.lock().push_back(Arc::clone(&entry));
        self.some.notify_one();
        ReadTurn(entry)
    }

    /// Gives turns, for ever.
    pub(super) async fn give(&self) {
        loop {
            if self.give_one() {
                // Until all that could go on has, and the system was asked what has come.
                yield_now().await;
            } else {
                self.some.notified().await;
            }
        }
    }

    /// Whether anybody waited for one.
    pub(super) fn give_one(&self) -> bool {
        loop {
            let Some(entry) = self.lock().pop_front() else { return false };
            // Else its connection has ended.
            if Arc::strong_count(&entry) > 1 {
                entry.has_come.store(true, Ordering::Release);
                entry.waker().wake_by_ref();
                return true;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Entry>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadTurn {
    /// Whether it has come.
    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.0.waker().clone_from(cx.waker());
        if self.0.has_come.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Entry {
    fn waker(&self) -> MutexGuard<'_, Waker> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::{
        runtime::Builder,
        task::{JoinSet, yield_now},
    };

    use super::*;

    /// Takes turns for ever.
    async fn greedy(turns: Arc<ReadTurns>, taken: Arc<AtomicUsize>) {
        loop {
            let mut turn = None;
            poll_fn(|cx| turns.poll(&mut turn, cx)).await;
            taken.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn in_a_round_one_of_many_goes_on_and_each_in_its_turn() {
        Builder::new_current_thread().build().expect("a runtime").block_on(async {
            let turns = Arc::new(ReadTurns::default());
            let taken: Vec<Arc<AtomicUsize>> = (0..50).map(|_| Arc::default()).collect();
            let mut tasks = JoinSet::new();
            taken.iter().for_each(|taken| drop(tasks.spawn(greedy(Arc::clone(&turns), Arc::clone(taken)))));
            let giving = Arc::clone(&turns);
            tasks.spawn(async move { giving.give().await });
            let each = || taken.iter().map(|taken| taken.load(Ordering::Relaxed));
            for _ in 0..500 {
                let before: usize = each().sum();
                yield_now().await;
                assert!(each().sum::<usize>() - before <= 1, "whoever has little waits for one of them at most");
            }
            assert!(each().sum::<usize>() > 200 && each().max() <= each().min().map(|least| least + 1), "{taken:?}");
        });
    }

    #[test]
    fn one_that_has_ended_keeps_no_turn_from_others() {
        let (turns, cx) = (ReadTurns::default(), Context::from_waker(Waker::noop()));
        let (mut ended, mut lives) = (None, None);
        assert!(turns.poll(&mut ended, &cx).is_pending() && turns.poll(&mut lives, &cx).is_pending());
        drop(ended);
        assert!(turns.poll(&mut lives, &cx).is_pending());
        assert!(turns.give_one(), "somebody waited");
        assert!(turns.poll(&mut lives, &cx).is_ready() && lives.is_none());
        assert!(!turns.give_one(), "nobody does any more");
    }
}
