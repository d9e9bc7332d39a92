//! Whose turn it is at the vault: of each caller no more flights stand before the permits than there are permits, however many it began;
//! its others wait behind those, in the order in which they came.
//!
//! So whoever has few flights waits behind a few of each other caller, and one that is alone has all permits all the time. Must never
//! keep a turn from the next when a flight that had it, or waited for it, is gone.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::oneshot;

use crate::caller::CallerName;

/// The turns of all callers that have flights.
pub(super) struct Turns {
    /// So many flights of one caller may have their turn at once.
    most: AtomicUsize,
    lines: Mutex<HashMap<CallerName, Line>>,
}

#[derive(Default)]
struct Line {
    /// How many have their turn.
    ahead: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// A flight's turn, for as long as it is kept.
pub(super) struct Turn {
    turns: Arc<Turns>,
    caller: CallerName,
    /// Whether it was given: what nobody took any more is not to be given back.
    given: bool,
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("most", &self.most).finish_non_exhaustive()
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl Turns {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: AtomicUsize::new(most), lines: Mutex::default() })
    }

    /// Changes how many flights of one caller may have their turn at once.
    pub(super) fn resize(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Waits for a turn of this caller's.
    pub(super) async fn take(self: &Arc<Self>, caller: &CallerName) -> Option<Turn> {
        let waiting = {
            let mut lines = self.lock();
            let line = lines.entry(caller.clone()).or_default();
            if line.ahead < self.most.load(Ordering::Relaxed) {
                line.ahead += 1;
                return Some(self.turn(caller));
            }
            let (given, waiting) = oneshot::channel();
            line.waiting.push_back(given);
            waiting
        };
        // Whoever has a turn gives it on.
        waiting.await.ok()
    }

    fn turn(self: &Arc<Self>, caller: &CallerName) -> Turn {
        Turn { turns: Arc::clone(self), caller: caller.clone(), given: true }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CallerName, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.given {
            return;
        }
        let mut lines = self.turns.lock();
        let Some(line) = lines.get_mut(&self.caller) else { return };
        line.ahead -= 1;
        while line.ahead < self.turns.most.load(Ordering::Relaxed)
            && let Some(next) = line.waiting.pop_front()
        {
            match next.send(self.turns.turn(&self.caller)) {
                Ok(()) => line.ahead += 1,
                Err(mut gone) => gone.given = false,
            }
        }
        if line.ahead == 0 && line.waiting.is_empty() {
            lines.remove(&self.caller);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn name(text: &str) -> CallerName {
        CallerName::parse(&format!("{text}.example.org")).expect("is a name")
    }

    #[tokio::test]
    async fn a_caller_has_as_many_as_may_and_the_others_in_their_order_as_those_end() {
        let turns = Turns::new(2);
        let (a, b) = (name("a"), name("b"));
        let mut ahead = VecDeque::from([turns.take(&a).await, turns.take(&a).await]);
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(turns.take(&a))).collect();
        assert!(waiting.iter_mut().all(|next| next.now_or_never().is_none()));
        let other = turns.take(&b).now_or_never().expect("another caller's are its own");
        drop(ahead.pop_front());
        let gone = waiting.remove(1);
        let first = waiting.remove(0).now_or_never().flatten().expect("its turn has come");
        assert!(waiting[0].as_mut().now_or_never().is_none());
        // Who went away while it waited is passed over.
        drop((gone, first));
        let last = waiting.remove(0).now_or_never().flatten().expect("its turn has come");
        drop((ahead, last, other));
        assert!(turns.lock().is_empty(), "nothing is kept of those who have no flight");
    }

    #[tokio::test]
    async fn a_turn_given_to_one_who_is_gone_before_it_takes_it_is_given_on() {
        let turns = Turns::new(1);
        let a = name("a");
        let first = turns.take(&a).await;
        let (mut gone, mut next) = (Box::pin(turns.take(&a)), Box::pin(turns.take(&a)));
        assert!(gone.as_mut().now_or_never().is_none() && next.as_mut().now_or_never().is_none());
        drop(first);
        drop(gone);
        assert!(next.now_or_never().flatten().is_some());
        assert!(turns.lock().is_empty());
    }

    #[tokio::test]
    async fn more_turns_are_given_as_soon_as_one_ends_and_fewer_as_all_beyond_have() {
        let turns = Turns::new(1);
        let a = name("a");
        let first = turns.take(&a).await;
        let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(turns.take(&a))).collect();
        assert!(waiting.iter_mut().all(|next| next.now_or_never().is_none()));
        turns.resize(3);
        drop(first);
        let mut ahead: Vec<_> = waiting.drain(..3).map(|next| next.now_or_never().flatten().expect("has its turn")).collect();
        turns.resize(1);
        let mut last = waiting.remove(0);
        for _ in 0..2 {
            drop(ahead.pop());
            assert!(last.as_mut().now_or_never().is_none());
        }
        drop(ahead.pop());
        assert!(last.now_or_never().flatten().is_some());
    }
}
