//! Work that is done once for all who want its result: one leader does it, any number of followers wait.
//!
//! Must never leave a follower waiting: a leader that is dropped without a result, by a panic or by the end of its runtime, tells
//! them so. Must never hold anything that the leader needs: followers may come and go as they like.

use std::{
    fmt,
    pin::pin,
    sync::{Arc, OnceLock},
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// Why a wait ended without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// The deadline passed; the work goes on.
    Deadline,
    /// The leader ended without a result: a fault of ours, or the end of the process.
    BrokeOff,
}

struct Shared<T> {
    /// `None` inside, where the leader broke off.
    result: OnceLock<Option<T>>,
    /// Wakes the followers in the order in which they came, so that a simulation can be repeated.
    done: Notify,
}

/// Whoever does the work. Dropped without [`Leader::finish`], it has broken off.
pub struct Leader<T>(Arc<Shared<T>>);

/// Whoever may wait for the result.
pub struct Follower<T>(Arc<Shared<T>>);

impl<T> Leader<T> {
    /// Work for any number of followers; who bounds them is whoever hands [`Follower`]s out.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Shared { result: OnceLock::new(), done: Notify::new() }))
    }

    /// A follower; clone it for others.
    #[must_use]
    pub fn follower(&self) -> Follower<T> {
        Follower(Arc::clone(&self.0))
    }

    /// Whether this follower waits for this leader.
    #[must_use]
    pub fn leads(&self, follower: &Follower<T>) -> bool {
        Arc::ptr_eq(&self.0, &follower.0)
    }

    /// Whether the result is there.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.result.get().is_some()
    }

    /// Gives the result to all who wait, and to all who come later. The first one counts.
    pub fn finish(&self, result: T) {
        self.0.end(Some(result));
    }
}

impl<T> Shared<T> {
    fn end(&self, result: Option<T>) {
        if self.result.set(result).is_ok() {
            self.done.notify_waiters();
        }
    }
}

impl<T> Drop for Leader<T> {
    fn drop(&mut self) {
        self.0.end(None);
    }
}

impl<T> Default for Leader<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone> Follower<T> {
    /// Waits for the result.
    ///
    /// # Errors
    /// Where the leader broke off.
    pub async fn result(&self) -> Result<T, WaitError> {
        // Listens before it looks, so that no result falls in between.
        let mut done = pin!(self.0.done.notified());
        done.as_mut().enable();
        if !self.is_over() {
            done.await;
        }
        self.0.result.get().cloned().flatten().ok_or(WaitError::BrokeOff)
    }

    /// Waits for the result until `deadline`; one that comes in the same moment counts.
    ///
    /// # Errors
    /// Where there is none by then, or the leader broke off.
    pub async fn result_by(&self, deadline: Instant) -> Result<T, WaitError> {
        tokio::select! {
            biased;
            result = self.result() => result,
            () = sleep_until(deadline) => Err(WaitError::Deadline),
        }
    }
}

impl<T> Follower<T> {
    /// Whether there is nothing to wait for any more: the result is there, or the leader broke off.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.result.get().is_some()
    }
}

impl<T> Clone for Follower<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Leader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leader").field("is_over", &self.is_over()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Follower<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("is_over", &self.is_over()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Barrier, Mutex, PoisonError},
        thread,
        time::Duration,
    };

    use tokio::{runtime, task::JoinSet, time::timeout};

    use super::*;

    #[allow(clippy::disallowed_methods, reason = "time is paused")]
    fn now() -> Instant {
        Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn all_followers_get_the_one_result_in_the_order_in_which_they_came() {
        let leader = Leader::new();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut following = JoinSet::new();
        for n in 0..100 {
            let (follower, order) = (leader.follower(), Arc::clone(&order));
            following.spawn(async move {
                let result = follower.result().await;
                order.lock().unwrap_or_else(PoisonError::into_inner).push(n);
                result
            });
        }
        // Time stands still while somebody has something to do: by then all of them wait.
        sleep_until(now() + Duration::from_secs(1)).await;
        assert!(!leader.is_over());
        leader.finish(7);
        leader.finish(8);
        assert!(following.join_all().await.into_iter().all(|result| result == Ok(7)));
        assert_eq!(*order.lock().expect("no panic"), (0..100).collect::<Vec<_>>());
        assert_eq!(leader.follower().result().await, Ok(7), "who comes late gets it too");
    }

    #[allow(clippy::disallowed_methods, reason = "the test waits for both")]
    #[tokio::test(start_paused = true)]
    async fn a_leader_that_breaks_off_wakes_its_followers() {
        let leader = Leader::<u8>::new();
        let (follower, other) = (leader.follower(), Leader::<u8>::new());
        assert!(leader.leads(&follower) && !other.leads(&follower));
        let mut tasks = JoinSet::new();
        let waiter = follower.clone();
        tasks.spawn(async move { waiter.result().await });
        tokio::task::yield_now().await;
        tasks.spawn(async move {
            let _leader = leader;
            panic!("a fault of ours");
        });
        assert!(tasks.join_next().await.is_some_and(|panicked| panicked.is_err()));
        let waited = timeout(Duration::from_secs(1), tasks.join_next()).await.expect("is woken");
        assert_eq!(waited.expect("there is one").expect("no panic"), Err(WaitError::BrokeOff));
        assert!(follower.is_over());
        assert_eq!(follower.result().await, Err(WaitError::BrokeOff));
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_waits_until_its_deadline_and_the_work_goes_on() {
        let leader = Leader::new();
        let follower = leader.follower();
        let began = now();
        assert_eq!(follower.result_by(began + Duration::from_secs(2)).await, Err(WaitError::Deadline));
        assert_eq!(now() - began, Duration::from_secs(2));
        leader.finish(1);
        assert_eq!(follower.result_by(began).await, Ok(1), "what is there counts, however late it is");
    }

    /// On real threads: however a follower's first look and the result fall together, it is not forgotten.
    #[test]
    fn no_result_is_lost_between_a_look_and_the_wait() {
        for _ in 0..2_000 {
            let leader = Leader::new();
            let (follower, both) = (leader.follower(), Barrier::new(2));
            thread::scope(|scope| {
                scope.spawn(|| {
                    both.wait();
                    leader.finish(1);
                });
                let runtime = runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
                both.wait();
                let waiting = async { timeout(Duration::from_secs(10), follower.result()).await };
                assert_eq!(runtime.block_on(waiting), Ok(Ok(1)));
            });
        }
    }
}
