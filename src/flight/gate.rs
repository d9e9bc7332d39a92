//! How many sign-ins may be at the vault at once; after an outage, how fast that grows again.
//!
//! Must never lend more permits than configured, nor keep any for good: whatever is withheld comes back as the vault answers.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The permits.
#[derive(Debug)]
pub(super) struct Gate {
    /// One per sign-in at the vault.
    sign_ins: Arc<Semaphore>,
    /// Renewals pass through this narrower gate first, so that half of the permits
    /// (of one: none) are always left to callers who wait.
    renewals: Arc<Semaphore>,
    most: AtomicUsize,
    withheld: Mutex<Withheld>,
}

#[derive(Debug, Default)]
struct Withheld {
    permits: Vec<OwnedSemaphorePermit>,
    /// How many the next answer gives back; doubles with each.
    step: usize,
}

/// The permission to sign in, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Permit {
    sign_in: Option<OwnedSemaphorePermit>,
    _renewal: Option<OwnedSemaphorePermit>,
}

impl Gate {
    pub(super) fn new(most: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let (sign_ins, renewals) = (Arc::new(Semaphore::new(most)), Arc::new(Semaphore::new((most / 2).max(1))));
        Self { sign_ins, renewals, most: AtomicUsize::new(most), withheld: Mutex::default() }
    }

    /// Changes how many permits there are. What is lent already is waited for: until then there are no more than before. Of
    /// those withheld as many go as must: nobody else would ever give them back.
    pub(super) async fn resize(&self, most: usize) {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let former = self.most.swap(most, Ordering::Relaxed);
        let rest = {
            let mut withheld = self.withheld();
            let keep = withheld.permits.len().saturating_sub(former.saturating_sub(most));
            let gone = withheld.permits.split_off(keep);
            let rest = former - gone.len();
            gone.into_iter().for_each(OwnedSemaphorePermit::forget);
            rest
        };
        for (permits, from, to) in [(&self.sign_ins, rest, most), (&self.renewals, (former / 2).max(1), (most / 2).max(1))] {
            permits.add_permits(to.saturating_sub(from));
            // One at a time, since more than there are now may never be free at once.
            for _ in to..from {
                if let Ok(permit) = permits.acquire().await {
                    permit.forget();
                }
            }
        }
    }

    /// Waits for a permit; a renewal through the narrower gate, until `urgent` tells that somebody waits for it.
    pub(super) async fn pass(&self, urgent: &Notify) -> Permit {
        // Neither semaphore is ever closed, so neither `ok()` loses a permit.
        let renewal = tokio::select! {
            biased;
            () = urgent.notified() => None,
            permit = Arc::clone(&self.renewals).acquire_owned() => permit.ok(),
        };
        Permit { sign_in: Arc::clone(&self.sign_ins).acquire_owned().await.ok(), _renewal: renewal }
    }

    /// The vault answered: the permit goes back, and some of those withheld.
    pub(super) fn answered(&self, permit: Permit) {
        drop(permit);
        let mut withheld = self.withheld();
        let rest = withheld.permits.len().saturating_sub(withheld.step);
        withheld.permits.truncate(rest);
        withheld.step = withheld.step.saturating_mul(2);
    }

    /// The vault is down: the permit is withheld, with all that are free, until one is left for a probe.
    pub(super) fn down(&self, mut permit: Permit) {
        let mut withheld = self.withheld();
        withheld.step = 1;
        let free = std::iter::from_fn(|| Arc::clone(&self.sign_ins).try_acquire_owned().ok());
        let room = (self.most.load(Ordering::Relaxed) - 1).saturating_sub(withheld.permits.len());
        let taken: Vec<_> = permit.sign_in.take().into_iter().chain(free).take(room).collect();
        withheld.permits.extend(taken);
    }

    fn withheld(&self) -> std::sync::MutexGuard<'_, Withheld> {
        self.withheld.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(gate: &Gate) -> Permit {
        let urgent = Notify::new();
        urgent.notify_one();
        gate.pass(&urgent).await
    }

    #[tokio::test]
    async fn an_outage_leaves_one_permit_and_answers_give_the_rest_back_doubling() {
        let gate = Gate::new(16);
        let held: Vec<_> = [pass(&gate).await, pass(&gate).await].into();
        gate.down(pass(&gate).await);
        assert_eq!(gate.sign_ins.available_permits(), 0, "two are at the vault still");
        for permit in held {
            gate.down(permit);
        }
        assert_eq!(gate.sign_ins.available_permits(), 1);
        for free in [2, 4, 8, 16, 16] {
            gate.answered(pass(&gate).await);
            assert_eq!(gate.sign_ins.available_permits(), free);
        }
    }

    #[tokio::test]
    async fn a_gate_is_widened_at_once_and_narrowed_as_permits_come_back() {
        let gate = Gate::new(2);
        let lent = [pass(&gate).await, pass(&gate).await];
        gate.resize(5).await;
        assert_eq!(gate.sign_ins.available_permits(), 3);
        let narrowed = gate.resize(1);
        tokio::pin!(narrowed);
        assert!(futures_util::poll!(&mut narrowed).is_pending(), "two are lent");
        drop(lent);
        narrowed.await;
        assert_eq!((gate.sign_ins.available_permits(), gate.renewals.available_permits()), (1, 1));
    }

    #[tokio::test]
    async fn a_gate_narrowed_during_an_outage_still_lets_a_probe_pass() {
        let gate = Gate::new(16);
        gate.down(pass(&gate).await);
        gate.resize(4).await;
        assert_eq!(gate.sign_ins.available_permits(), 1);
        for free in [2, 4, 4] {
            gate.answered(pass(&gate).await);
            assert_eq!(gate.sign_ins.available_permits(), free);
        }
    }

    #[tokio::test]
    async fn renewals_leave_half_to_callers_who_wait() {
        let gate = Gate::new(4);
        let quiet = Notify::new();
        let _renewals = [gate.pass(&quiet).await, gate.pass(&quiet).await];
        tokio::select! {
            biased;
            _ = gate.pass(&quiet) => panic!("a third renewal passed"),
            () = tokio::task::yield_now() => {}
        }
        let urgent = pass(&gate).await;
        assert!(urgent._renewal.is_none() && urgent.sign_in.is_some());
        // Somebody waits for the third renewal now: it needs no place in the narrower gate any more.
        quiet.notify_one();
        assert!(gate.pass(&quiet).await.sign_in.is_some());
    }
}
