//! How many sign-ins may be at the vault at once; after an outage, how fast that grows again.
//!
//! Must never give more permits than configured now, however often that is changed, nor keep any for good; nor let whoever waits
//! for one wait for a straggler while the vault is down: then nobody needs one but the probe.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, watch};

use super::turns::{Turn, Turns};
use crate::caller::CallerName;

/// The permits to be at the vault.
#[derive(Debug)]
pub(super) struct ConcurrencyLimit {
    state: Mutex<State>,
    /// One per sign-in at the vault.
    sign_ins: Semaphore,
    /// Renewals need one of these as well, of which there are fewer, so that half of the permits
    /// (of one: none) are always left to callers who wait.
    renewals: Semaphore,
    /// Who may ask for one.
    turns: Arc<Turns>,
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
    /// There are so many: free in the semaphore, or in use. More than allowed only while more are in use.
    sign_ins: usize,
    renewals: usize,
    /// Of the sign-ins', those in use.
    in_use: usize,
}

/// The permission to be at the vault, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Permit {
    limit: Arc<ConcurrencyLimit>,
    sign_in: bool,
    renewal: bool,
    /// Of the caller that began the flight; given on once the permit is free.
    turn: Option<Turn>,
}

impl ConcurrencyLimit {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let state = State { most, allowed: most, sign_ins: most, renewals: renewals_max(most), in_use: 0 };
        let (sign_ins, renewals) = (Semaphore::new(most), Semaphore::new(renewals_max(most)));
        let turns = Turns::new(most);
        Arc::new(Self { state: Mutex::new(state), sign_ins, renewals, turns, down: watch::Sender::new(false) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how many permits there are. Those in use beyond that are retired as they come back.
    pub(super) fn resize(&self, most: usize) {
        let mut state = self.state();
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        self.turns.resize(most);
        let all = state.allowed == state.most && !*self.down.borrow();
        (state.most, state.allowed) = (most, if all { most } else { state.allowed.min(most) });
        self.adjust(&mut state);
    }

    /// Has as many of them as are allowed, as far as they are not in use.
    fn adjust(&self, state: &mut State) {
        adjust(&self.sign_ins, &mut state.sign_ins, state.allowed);
        adjust(&self.renewals, &mut state.renewals, renewals_max(state.most));
    }

    /// Waits for a permit; a renewal for one of the fewer first, until `urgent` tells that somebody waits for it. None while the
    /// vault is down: who then may sign in finds out whether it is back, and needs [`ConcurrencyLimit::probe`].
    /// `caller`: who began the flight, if anybody in particular.
    pub(super) async fn acquire(self: &Arc<Self>, urgent: &Notify, caller: Option<&CallerName>) -> Option<Permit> {
        let mut down = self.down.subscribe();
        let mut permit = Permit { limit: Arc::clone(self), sign_in: false, renewal: false, turn: None };
        let acquiring = async {
            // Neither semaphore is ever closed.
            tokio::select! {
                biased;
                // Said once, it goes on being so, however often this is waited for.
                () = urgent.notified() => urgent.notify_one(),
                taken = self.renewals.acquire() => permit.renewal = taken.map(tokio::sync::SemaphorePermit::forget).is_ok(),
            }
            if let Some(caller) = caller {
                permit.turn = self.turns.take(caller).await;
            }
            let taken = self.sign_ins.acquire().await;
            // Counted as in use before anybody else can look.
            let mut state = self.state();
            permit.sign_in = taken.map(tokio::sync::SemaphorePermit::forget).is_ok();
            state.in_use += 1;
        };
        tokio::select! {
            biased;
            _ = down.wait_for(|down| *down) => return None,
            () = acquiring => {}
        }
        Some(permit)
    }

    /// A permit for a probe, which waits for nobody; none where as many sign-ins as may be are at the vault.
    pub(super) fn probe(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.state();
        (state.in_use < state.most).then(|| {
            state.in_use += 1;
            state.sign_ins += 1;
            Permit { limit: Arc::clone(self), sign_in: true, renewal: false, turn: None }
        })
    }

    /// The vault answered: twice as many may be there as before, up to all.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        if state.allowed < state.most {
            state.allowed = state.allowed.saturating_mul(2).min(state.most);
            self.adjust(&mut state);
        }
        self.down.send_if_modified(|down| std::mem::replace(down, false));
    }

    /// The vault is down: all who wait are let through to hear so, and it begins with one again.
    pub(super) fn down(&self) {
        let mut state = self.state();
        state.allowed = 1;
        self.adjust(&mut state);
        self.down.send_if_modified(|down| !std::mem::replace(down, true));
    }

    /// Another vault, of which nothing is known.
    pub(super) fn reset(&self) {
        let mut state = self.state();
        state.allowed = state.most;
        self.adjust(&mut state);
        self.down.send_if_modified(|down| std::mem::replace(down, false));
    }
}

/// Of so many permits, those that renewals may have.
fn renewals_max(most: usize) -> usize {
    (most / 2).max(1)
}

/// Adds permits, or takes free ones away.
fn adjust(free: &Semaphore, there: &mut usize, allowed: usize) {
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
        let mut state = self.limit.state();
        let (allowed, most) = (state.allowed, state.most);
        if self.sign_in {
            state.in_use -= 1;
            give_back(&self.limit.sign_ins, &mut state.sign_ins, allowed);
        }
        if self.renewal {
            give_back(&self.limit.renewals, &mut state.renewals, renewals_max(most));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn permit(limit: &Arc<ConcurrencyLimit>) -> Permit {
        let urgent = Notify::new();
        urgent.notify_one();
        limit.acquire(&urgent, None).await.expect("the vault is not down")
    }

    fn free(limit: &ConcurrencyLimit) -> usize {
        limit.sign_ins.available_permits()
    }

    #[tokio::test]
    async fn after_an_outage_answers_give_the_permits_back_doubling() {
        let limit = ConcurrencyLimit::new(16);
        let permits = [permit(&limit).await, permit(&limit).await];
        limit.down();
        assert_eq!(free(&limit), 0, "two are at the vault still");
        assert!(limit.acquire(&Notify::new(), None).await.is_none(), "nobody waits for those");
        let probe = limit.probe().expect("it has a way of its own");
        drop(permits);
        for free_then in [2, 4, 8, 16, 16] {
            limit.answered();
            assert_eq!(free(&limit) + 1, free_then);
        }
        drop(probe);
        assert_eq!(free(&limit), 16);
    }

    #[tokio::test]
    async fn whoever_waits_when_the_vault_goes_down_is_let_through() {
        let limit = ConcurrencyLimit::new(1);
        let straggler = permit(&limit).await;
        let quiet = Notify::new();
        let waiting = limit.acquire(&quiet, None);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        limit.down();
        assert!(waiting.await.is_none());
        assert!(limit.probe().is_none(), "as many as may be are there");
        drop(straggler);
        let probe = limit.probe().expect("it is the only one");
        assert!(limit.probe().is_none());
        drop(probe);
        limit.answered();
        assert_eq!((free(&limit), limit.renewals.available_permits()), (1, 1));
    }

    #[tokio::test]
    async fn however_often_it_is_resized_there_are_no_more_than_now() {
        let limit = ConcurrencyLimit::new(8);
        let mut permits = Vec::new();
        for _ in 0..8 {
            permits.push(permit(&limit).await);
        }
        for _ in 0..3 {
            limit.resize(1);
            limit.resize(8);
        }
        assert_eq!(free(&limit), 0, "eight are in use");
        permits.pop();
        assert_eq!(free(&limit), 1);
        limit.resize(2);
        assert_eq!(free(&limit), 0);
        for _ in 0..5 {
            permits.pop();
            assert_eq!(free(&limit), 0, "there are two still");
        }
        permits.pop();
        assert_eq!(free(&limit), 1);
        permits.pop();
        limit.resize(20);
        assert_eq!((free(&limit), limit.renewals.available_permits()), (20, 10));
    }

    #[tokio::test]
    async fn a_limit_lowered_during_an_outage_is_as_low_after_it() {
        let limit = ConcurrencyLimit::new(16);
        limit.down();
        limit.resize(4);
        for free_then in [2, 4, 4] {
            drop(limit.probe().expect("there is room"));
            limit.answered();
            assert_eq!(free(&limit), free_then);
        }
        limit.down();
        limit.resize(1);
        limit.resize(64);
        limit.answered();
        assert_eq!(free(&limit), 2, "slowly, whatever it was in between");
        limit.reset();
        assert_eq!(free(&limit), 64);
    }

    #[tokio::test]
    async fn renewals_leave_half_to_callers_who_wait() {
        let limit = ConcurrencyLimit::new(4);
        let quiet = Notify::new();
        let renewals = [limit.acquire(&quiet, None).await, limit.acquire(&quiet, None).await];
        tokio::select! {
            biased;
            _ = limit.acquire(&quiet, None) => panic!("a third renewal passed"),
            () = tokio::task::yield_now() => {}
        }
        let urgent = permit(&limit).await;
        assert!(urgent.sign_in && !urgent.renewal);
        // Somebody waits for the third renewal now: it needs none of the fewer any more.
        quiet.notify_one();
        let hurried = limit.acquire(&quiet, None).await.expect("there is room");
        assert!(hurried.sign_in);
        drop(urgent);
        assert!(limit.acquire(&quiet, None).await.is_some(), "nor the next time");
        drop((renewals, hurried));
        assert_eq!((free(&limit), limit.renewals.available_permits()), (4, 2));
    }
}
