//! How many sign-ins may be at the vault at once; after an outage, how fast that grows again.
//!
//! Must never lend more permits than configured now, however often that is changed, nor keep any for good; nor let whoever waits
//! for one wait for a straggler while the vault is down: then nobody needs one but the probe.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, watch};

/// The permits.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// One per sign-in at the vault.
    sign_ins: Semaphore,
    /// Renewals pass through this narrower gate first, so that half of the permits
    /// (of one: none) are always left to callers who wait.
    renewals: Semaphore,
    /// Whether the vault is down.
    down: watch::Sender<bool>,
}

/// The one place that knows how many there may be, and how many there are.
#[derive(Debug)]
struct State {
    /// As configured.
    most: usize,
    /// As far as has been built up again since the vault was last down.
    allowed: usize,
    /// In circulation: free in the semaphore, or lent. More than allowed only while more are lent.
    sign_ins: usize,
    renewals: usize,
    /// Of them, those lent.
    lent: usize,
}

/// The permission to sign in, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Arc<Gate>,
    sign_in: bool,
    renewal: bool,
}

impl Gate {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let state = State { most, allowed: most, sign_ins: most, renewals: narrower(most), lent: 0 };
        let (sign_ins, renewals) = (Semaphore::new(most), Semaphore::new(narrower(most)));
        Arc::new(Self { state: Mutex::new(state), sign_ins, renewals, down: watch::Sender::new(false) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how many permits there are. Those lent beyond that are retired as they come back.
    pub(super) fn resize(&self, most: usize) {
        let mut state = self.state();
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let all = state.allowed == state.most && !*self.down.borrow();
        (state.most, state.allowed) = (most, if all { most } else { state.allowed.min(most) });
        self.settle(&mut state);
    }

    /// Has as many in circulation as are allowed, as far as they are here.
    fn settle(&self, state: &mut State) {
        circulate(&self.sign_ins, &mut state.sign_ins, state.allowed);
        circulate(&self.renewals, &mut state.renewals, narrower(state.most));
    }

    /// Waits for a permit; a renewal through the narrower gate, until `urgent` tells that somebody waits for it. None while the
    /// vault is down: who then may sign in finds out whether it is back, and needs [`Gate::probe`].
    pub(super) async fn pass(self: &Arc<Self>, urgent: &Notify) -> Option<Permit> {
        let mut down = self.down.subscribe();
        let mut permit = Permit { gate: Arc::clone(self), sign_in: false, renewal: false };
        let passing = async {
            // Neither semaphore is ever closed.
            tokio::select! {
                biased;
                // Said once, it goes on being so, however often this is waited for.
                () = urgent.notified() => urgent.notify_one(),
                taken = self.renewals.acquire() => permit.renewal = taken.map(tokio::sync::SemaphorePermit::forget).is_ok(),
            }
            let taken = self.sign_ins.acquire().await;
            // Counted as lent before anybody else can look.
            let mut state = self.state();
            permit.sign_in = taken.map(tokio::sync::SemaphorePermit::forget).is_ok();
            state.lent += 1;
        };
        tokio::select! {
            biased;
            _ = down.wait_for(|down| *down) => return None,
            () = passing => {}
        }
        Some(permit)
    }

    /// A permit for a probe, which waits for nobody; none where as many sign-ins as may be are at the vault.
    pub(super) fn probe(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.state();
        (state.lent < state.most).then(|| {
            state.lent += 1;
            state.sign_ins += 1;
            Permit { gate: Arc::clone(self), sign_in: true, renewal: false }
        })
    }

    /// The vault answered: twice as many may be there as before, up to all.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        if state.allowed < state.most {
            state.allowed = state.allowed.saturating_mul(2).min(state.most);
            self.settle(&mut state);
        }
        self.down.send_if_modified(|down| std::mem::replace(down, false));
    }

    /// The vault is down: all who wait are let through to hear so, and it begins with one again.
    pub(super) fn down(&self) {
        let mut state = self.state();
        state.allowed = 1;
        self.settle(&mut state);
        self.down.send_if_modified(|down| !std::mem::replace(down, true));
    }

    /// Another vault, of which nothing is known.
    pub(super) fn reset(&self) {
        let mut state = self.state();
        state.allowed = state.most;
        self.settle(&mut state);
        self.down.send_if_modified(|down| std::mem::replace(down, false));
    }
}

/// Of so many permits, those that renewals may have.
fn narrower(most: usize) -> usize {
    (most / 2).max(1)
}

/// Puts permits into circulation, or takes free ones out.
fn circulate(free: &Semaphore, there: &mut usize, allowed: usize) {
    if *there < allowed {
        free.add_permits(allowed - *there);
        *there = allowed;
    } else {
        *there -= free.forget_permits(*there - allowed);
    }
}

/// Gives one back, unless there are too many.
fn give_back(free: &Semaphore, there: &mut usize, allowed: usize) {
    if *there > allowed {
        *there -= 1;
    } else {
        free.add_permits(1);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        let (allowed, most) = (state.allowed, state.most);
        if self.sign_in {
            state.lent -= 1;
            give_back(&self.gate.sign_ins, &mut state.sign_ins, allowed);
        }
        if self.renewal {
            give_back(&self.gate.renewals, &mut state.renewals, narrower(most));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(gate: &Arc<Gate>) -> Permit {
        let urgent = Notify::new();
        urgent.notify_one();
        gate.pass(&urgent).await.expect("the vault is not down")
    }

    fn free(gate: &Gate) -> usize {
        gate.sign_ins.available_permits()
    }

    #[tokio::test]
    async fn after_an_outage_answers_give_the_permits_back_doubling() {
        let gate = Gate::new(16);
        let lent = [pass(&gate).await, pass(&gate).await];
        gate.down();
        assert_eq!(free(&gate), 0, "two are at the vault still");
        assert!(gate.pass(&Notify::new()).await.is_none(), "nobody waits for those");
        let probe = gate.probe().expect("it has a way of its own");
        drop(lent);
        for free_then in [2, 4, 8, 16, 16] {
            gate.answered();
            assert_eq!(free(&gate) + 1, free_then);
        }
        drop(probe);
        assert_eq!(free(&gate), 16);
    }

    #[tokio::test]
    async fn whoever_waits_when_the_vault_goes_down_is_let_through() {
        let gate = Gate::new(1);
        let straggler = pass(&gate).await;
        let quiet = Notify::new();
        let waiting = gate.pass(&quiet);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        gate.down();
        assert!(waiting.await.is_none());
        assert!(gate.probe().is_none(), "as many as may be are there");
        drop(straggler);
        let probe = gate.probe().expect("it is the only one");
        assert!(gate.probe().is_none());
        drop(probe);
        gate.answered();
        assert_eq!((free(&gate), gate.renewals.available_permits()), (1, 1));
    }

    #[tokio::test]
    async fn however_often_it_is_resized_there_are_no_more_than_now() {
        let gate = Gate::new(8);
        let mut lent = Vec::new();
        for _ in 0..8 {
            lent.push(pass(&gate).await);
        }
        for _ in 0..3 {
            gate.resize(1);
            gate.resize(8);
        }
        assert_eq!(free(&gate), 0, "eight are lent");
        lent.pop();
        assert_eq!(free(&gate), 1);
        gate.resize(2);
        assert_eq!(free(&gate), 0);
        for _ in 0..5 {
            lent.pop();
            assert_eq!(free(&gate), 0, "there are two still");
        }
        lent.pop();
        assert_eq!(free(&gate), 1);
        lent.pop();
        gate.resize(20);
        assert_eq!((free(&gate), gate.renewals.available_permits()), (20, 10));
    }

    #[tokio::test]
    async fn a_gate_narrowed_during_an_outage_is_as_narrow_after_it() {
        let gate = Gate::new(16);
        gate.down();
        gate.resize(4);
        for free_then in [2, 4, 4] {
            drop(gate.probe().expect("there is room"));
            gate.answered();
            assert_eq!(free(&gate), free_then);
        }
        gate.down();
        gate.resize(1);
        gate.resize(64);
        gate.answered();
        assert_eq!(free(&gate), 2, "slowly, whatever it was in between");
        gate.reset();
        assert_eq!(free(&gate), 64);
    }

    #[tokio::test]
    async fn renewals_leave_half_to_callers_who_wait() {
        let gate = Gate::new(4);
        let quiet = Notify::new();
        let renewals = [gate.pass(&quiet).await, gate.pass(&quiet).await];
        tokio::select! {
            biased;
            _ = gate.pass(&quiet) => panic!("a third renewal passed"),
            () = tokio::task::yield_now() => {}
        }
        let urgent = pass(&gate).await;
        assert!(urgent.sign_in && !urgent.renewal);
        // Somebody waits for the third renewal now: it needs no place in the narrower gate any more.
        quiet.notify_one();
        let hurried = gate.pass(&quiet).await.expect("there is room");
        assert!(hurried.sign_in);
        drop(urgent);
        assert!(gate.pass(&quiet).await.is_some(), "nor the next time");
        drop((renewals, hurried));
        assert_eq!((free(&gate), gate.renewals.available_permits()), (4, 2));
    }
}
