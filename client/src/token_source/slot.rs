//! One user's token and what keeps it good: at most one task, which calls the broker, sleeps until the token is to be renewed, and
//! calls again if somebody asked lately.
//!
//! Must never have two calls under way, tie one to whoever asked for it, or let one that failed, broke off or panicked stand in the
//! way of the next; nor displace a good token by anything but its successor or a complaint.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tonic::Status;

use super::{
    Outcome, Shared, Token, User,
    held_token::Held,
    now,
    rules::{self, REST},
};
use crate::{
    client::ClientError,
    proto::v1,
    single_flight::{Follower, Leader},
};

/// A user who was asked for within this time has the token renewed ahead of its end. Whoever asks more rarely waits for a call, or
/// has a token that is still good renewed behind the answer.
pub(super) const IDLE_AFTER: Duration = Duration::from_secs(10 * 60);
/// How exactly it is known when somebody asked last, in milliseconds: who asks all the time must not write all the time.
const ASKED_GRAIN: u64 = 1_000;
/// Most complaints that are remembered, and most ids of one call: the contract's.
const COMPLAINTS_MAX: usize = 16;
/// Longest id that a call may name, in characters: the contract's.
const TOKEN_ID_MAX: usize = 64;
/// Most calls of one flight: the second, where the answer was complained of while it came or took longer than the token lives.
const CALLS_MAX: u32 = 2;

/// A token that was complained of.
struct Complaint {
    id: String,
    /// When it would have ended.
    ends: Instant,
    /// Whether calls name it: until the broker has answered with it all the same.
    named: bool,
}

enum Minding {
    /// No task, or one that sleeps.
    Idle,
    /// A call; where that is over and this still stands, it broke off.
    Calling(Follower<Outcome>),
}

struct State {
    minding: Minding,
    /// The sleeper or the call, and what is left of the ones before.
    tasks: JoinSet<()>,
    /// Of the task that counts.
    serial: u64,
    complaints: VecDeque<Complaint>,
    /// No call before this, and why.
    stopped: Option<(Instant, ClientError)>,
    /// Failures in a row.
    failures: u32,
    /// After an answer, no call before this.
    rested: Instant,
}

pub(super) struct Slot {
    user: User,
    held: ArcSwapOption<Held>,
    /// When somebody asked last, and when a hit last looked after the renewal: in milliseconds of the source's life.
    asked: AtomicU64,
    nudged: AtomicU64,
    state: Mutex<State>,
}

/// What to do about a token that isn't there.
pub(super) enum Next {
    Now(Outcome),
    Wait(Follower<Outcome>),
}

/// Whether the pause after this failure is the back-off alone: neither did the broker name a wait, nor is no repeat of use.
fn is_our_own_pause(error: &ClientError) -> bool {
    error.retry_after().is_none() && !error.is_permanent()
}

fn ended() -> ClientError {
    let why = "the broker's answer holds a token that has ended: see that the vault's tokens live longer than a call takes";
    ClientError::Status(Box::new(Status::unavailable(why)))
}

impl Slot {
    /// Of a user who is asked for at this time, in milliseconds of the source's life.
    pub(super) fn new(user: User, asked: u64) -> Self {
        let state = State {
            minding: Minding::Idle,
            tasks: JoinSet::new(),
            serial: 0,
            complaints: VecDeque::new(),
            stopped: None,
            failures: 0,
            rested: now(),
        };
        let (asked, nudged) = (AtomicU64::new(asked), AtomicU64::new(0));
        Self { user, held: ArcSwapOption::empty(), asked, nudged, state: Mutex::new(state) }
    }

    #[cfg(test)]
    pub(super) fn user(&self) -> &User {
        &self.user
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token, if it is good; without a lock.
    pub(super) fn hit(&self, now: Instant) -> Option<Token> {
        let held = self.held.load();
        held.as_ref().filter(|held| now < held.life.ends).map(Token::of)
    }

    pub(super) fn asked_at(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn note_asked(&self, at: u64) {
        if at >= self.asked_at() + ASKED_GRAIN {
            self.asked.store(at, Ordering::Relaxed);
        }
    }

    /// Whether this hit is the one to look after a renewal that is due: one a second.
    pub(super) fn is_to_nudge(&self, at: u64) -> bool {
        let last = self.nudged.load(Ordering::Relaxed);
        at >= last + ASKED_GRAIN && self.nudged.compare_exchange(last, at, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Begins a renewal if nobody does it: nobody had asked when it fell due, or the task that would panicked.
    pub(super) fn nudge(self: &Arc<Self>, shared: &Arc<Shared>) {
        let mut state = self.state();
        if state.tasks_live() || state.is_stopped(now()) {
            return;
        }
        self.begin(&mut state, shared);
    }

    /// The token, why there is none, or what to wait for.
    pub(super) fn next(self: &Arc<Self>, shared: &Arc<Shared>) -> Next {
        let mut state = self.state();
        let now = now();
        if let Some(token) = self.hit(now) {
            return Next::Now(Ok(token));
        }
        if let Some(follower) = state.call() {
            return Next::Wait(follower);
        }
        match &state.stopped {
            Some((until, error)) if *until > now => Next::Now(Err(error.clone())),
            Some(_) | None => Next::Wait(self.begin(&mut state, shared)),
        }
    }

    /// Takes a complaint; whether it is news. Only the token that is held can be complained of: another has gone already.
    pub(super) fn rejected(self: &Arc<Self>, token: &Token, shared: &Arc<Shared>) -> bool {
        let mut state = self.state();
        let now = now();
        let is_held = self.held.load().as_ref().is_some_and(|held| Token::of(held).id() == token.id());
        state.complaints.retain(|one| one.ends > now);
        if !is_held || state.complaints.iter().any(|one| one.id == token.id()) {
            return false;
        }
        if state.complaints.len() == COMPLAINTS_MAX {
            state.complaints.pop_front();
        }
        // An id that a broker would refuse must not spoil the user's later calls.
        let named = (1..=TOKEN_ID_MAX).contains(&token.id().chars().count());
        state.complaints.push_back(Complaint { id: token.id().to_owned(), ends: token.life().ends, named });
        self.held.store(None);
        state.rested = now;
        // Made up when there was a good token: now somebody waits.
        state.stopped.take_if(|(_, error)| is_our_own_pause(error));
        if state.call().is_none() && !state.is_stopped(now) {
            self.begin(&mut state, shared);
        }
        true
    }

    /// Why there is no token, where it is known: the last failure, while its pause lasts.
    pub(super) fn stopped(&self) -> Option<ClientError> {
        let state = self.state();
        state.stopped.as_ref().filter(|(until, _)| *until > now()).map(|(_, error)| error.clone())
    }

    /// Whether a call is under way.
    pub(super) fn is_calling(&self) -> bool {
        self.state().call().is_some()
    }

    /// Whether what was held last was complained of, and nothing has come since.
    pub(super) fn is_rejected(&self) -> bool {
        let now = now();
        self.held.load().is_none() && self.state().complaints.iter().any(|one| one.ends > now)
    }

    fn begin(self: &Arc<Self>, state: &mut State, shared: &Arc<Shared>) -> Follower<Outcome> {
        let leader = Leader::new();
        let follower = leader.follower();
        state.serial += 1;
        state.minding = Minding::Calling(follower.clone());
        // At most a sleeper, which this one takes the place of.
        state.tasks.abort_all();
        while state.tasks.try_join_next().is_some() {}
        let task = mind(Arc::downgrade(self), Arc::clone(shared), leader, state.serial);
        state.tasks.spawn_on(task, &shared.runtime);
        follower
    }

    /// One flight: a call, or two where the first brought what does not count. What it brought, and when to go on, if at all.
    async fn fly(&self, shared: &Shared) -> (Outcome, Option<Instant>) {
        let rested = self.state().rested;
        if rested > now() {
            sleep_until(rested).await;
        }
        let mut calls = 0;
        loop {
            calls += 1;
            let named = self.state().named(now());
            let sent = now();
            shared.counted.calls.fetch_add(1, Ordering::Relaxed);
            let answer = shared.ask.ask(&self.user, named.clone()).await;
            if let Some(settled) = self.settle(shared, sent, &named, answer, calls < CALLS_MAX) {
                return settled;
            }
        }
    }

    /// Notes what a call brought that began at `sent` and named these; `None` if that does not count, and another call may be made.
    /// All under one lock, so that no complaint falls in between.
    pub(super) fn settle(
        &self,
        shared: &Shared,
        sent: Instant,
        named: &[String],
        answer: Result<v1::Token, ClientError>,
        may_repeat: bool,
    ) -> Option<(Outcome, Option<Instant>)> {
        let mut state = self.state();
        let now = now();
        let outcome = match answer {
            Ok(answer) => {
                let life = rules::life(sent, &answer, shared.jitter.draw());
                let has_ended = life.ends <= now;
                let took_long = now >= sent + REST;
                let stale = state.is_stale(&answer.token_id, named);
                if may_repeat && (stale || has_ended && took_long) {
                    return None;
                }
                if has_ended { Err(ended()) } else { Ok(Token::new(self.user.clone(), answer, life)) }
            }
            Err(error) => Err(error),
        };
        state.minding = Minding::Idle;
        let next = match &outcome {
            Ok(token) => {
                (state.failures, state.stopped, state.rested) = (0, None, now + REST);
                self.held.store(Some(token.held()));
                Some(token.life().renew.max(state.rested))
            }
            Err(error) => self.failed(&mut state, shared, error),
        };
        Some((outcome, next))
    }

    /// Notes a failure; when to try again, if a token is there that is to be renewed.
    fn failed(&self, state: &mut State, shared: &Shared, error: &ClientError) -> Option<Instant> {
        shared.counted.failures.fetch_add(1, Ordering::Relaxed);
        let now = now();
        let held = self.hit(now);
        let has_token = held.is_some();
        let mut until = now + rules::pause(error, state.failures, has_token, shared.jitter.draw());
        if let Some(held) = held.filter(|_| is_our_own_pause(error)) {
            // Once the token has ended somebody waits for the next.
            until = until.min(held.life().ends);
        }
        state.failures = state.failures.saturating_add(1);
        state.stopped = Some((until, error.clone()));
        // Without a token the next who asks begins anew.
        has_token.then_some(until)
    }

    /// The flight of a sleeper that has woken, if it is still the one that counts and somebody asked lately.
    fn wake(&self, shared: &Shared, serial: u64) -> Option<Leader<Outcome>> {
        let mut state = self.state();
        let lately = shared.millis(now()).saturating_sub(self.asked_at()) <= shared.idle_after;
        if state.serial != serial || !lately {
            return None;
        }
        let leader = Leader::new();
        state.minding = Minding::Calling(leader.follower());
        Some(leader)
    }
}

impl State {
    /// The call that is under way.
    fn call(&self) -> Option<Follower<Outcome>> {
        match &self.minding {
            Minding::Calling(follower) if !follower.is_over() => Some(follower.clone()),
            Minding::Calling(_) | Minding::Idle => None,
        }
    }

    fn tasks_live(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        !self.tasks.is_empty()
    }

    fn is_stopped(&self, now: Instant) -> bool {
        self.stopped.as_ref().is_some_and(|(until, _)| *until > now)
    }

    /// The ids that a call names, the newest first.
    fn named(&mut self, now: Instant) -> Vec<String> {
        self.complaints.retain(|one| one.ends > now);
        self.complaints.iter().rev().filter(|one| one.named).map(|one| one.id.clone()).collect()
    }

    /// Whether this answer to a call was complained of before the call could name it. Where it was named, the vault insists on the
    /// token: it is believed from now on, or each call would cost a sign-in.
    fn is_stale(&mut self, id: &str, named: &[String]) -> bool {
        let Some(complaint) = self.complaints.iter_mut().find(|one| one.named && one.id == id) else { return false };
        complaint.named = !named.iter().any(|one| one == id);
        complaint.named
    }
}

/// The task of a slot. Between calls it holds nothing that outlives the source.
async fn mind(slot: Weak<Slot>, shared: Arc<Shared>, mut leader: Leader<Outcome>, serial: u64) {
    loop {
        let Some(minded) = slot.upgrade() else { return };
        let (outcome, next) = minded.fly(&shared).await;
        drop(minded);
        leader.finish(outcome);
        let Some(next) = next else { return };
        sleep_until(next).await;
        let woken = slot.upgrade().and_then(|minded| minded.wake(&shared, serial));
        leader = match woken {
            Some(next) => next,
            None => return,
        };
    }
}
