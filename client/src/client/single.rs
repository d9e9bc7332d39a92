//! The connection to one address.
//!
//! Must never be tied to the call that began it: a caller in a hurry goes, and the next finds what it brought, or why it failed
//! only if it waited for it.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::{sync::watch, task::JoinSet};
use tonic::{Status, transport::Endpoint};

use super::{connect::Connector, liveness::LiveChannel};

/// A connection, and a number that no other has.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    pub(super) channel: LiveChannel,
    serial: u64,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Idle,
    Connecting,
    /// Connected, and nobody has said anything yet.
    Confirming,
    Connected(Connected),
    /// Why not; the next call tries again.
    Failed(String),
}

/// One address. Dropping it ends the attempt that is under way.
#[derive(Debug)]
pub(super) struct Single {
    endpoint: Endpoint,
    connector: Connector,
    state: watch::Sender<State>,
    attempts: Mutex<JoinSet<()>>,
    serials: AtomicU64,
}

impl Single {
    pub(super) fn new(endpoint: Endpoint, connector: Connector) -> Self {
        let (state, _) = watch::channel(State::default());
        Self { endpoint, connector, state, attempts: Mutex::default(), serials: AtomicU64::new(0) }
    }

    /// The connection: the one there is, or what the attempt under way brings.
    pub(super) async fn reached(&self) -> Result<Connected, Status> {
        let mut state = self.state.subscribe();
        let begins = self.state.send_if_modified(|state| {
            let idle = matches!(state, State::Idle | State::Failed(_));
            if idle {
                *state = State::Connecting;
            }
            idle
        });
        if begins {
            self.attempt();
        }
        let state = state.wait_for(|state| !matches!(state, State::Connecting | State::Confirming)).await;
        match &*state.map_err(|_ended| Status::unavailable("the client ends"))? {
            State::Connected(reached) => Ok(reached.clone()),
            State::Failed(why) => Err(Status::unavailable(format!("{} can't be reached: {why}", self.host()))),
            // Lost by another call in this very moment.
            State::Idle | State::Connecting | State::Confirming => Err(Status::unavailable("the connection was lost")),
        }
    }

    /// Has the next call connect anew, since this connection failed.
    pub(super) fn lost(&self, lost: &Connected) {
        give_up(&self.state, lost.serial);
    }

    /// To be told when a call over this connection was answered.
    pub(super) fn unanswered<'a>(&'a self, reached: &'a Connected) -> Unanswered<'a> {
        Unanswered { one: self, reached: Some(reached) }
    }

    /// Asks the peer whether it lives, after a call that it left without an answer; if not, the next call connects anew.
    fn examine(&self, reached: &Connected) {
        let (channel, serial, state) = (reached.channel.clone(), reached.serial, self.state.clone());
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        while attempts.try_join_next().is_some() {}
        // One at a time: whatever it finds counts for all.
        if attempts.is_empty() {
            attempts.spawn(async move {
                if channel.word_in_time().await.is_none() {
                    give_up(&state, serial);
                }
            });
        }
    }

    /// Whether there is no connection yet.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(*self.state.borrow(), State::Connecting)
    }

    /// Of the URL no more than this: it may hold a password.
    fn host(&self) -> &str {
        self.endpoint.uri().host().unwrap_or_default()
    }

    fn attempt(&self) {
        let told = Told(self.state.clone());
        let (endpoint, connector) = (self.endpoint.clone(), self.connector.clone());
        let serial = self.serials.fetch_add(1, Ordering::Relaxed);
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        while attempts.try_join_next().is_some() {}
        attempts.spawn(async move {
            let connected = || drop(told.0.send_replace(State::Confirming));
            let state = match connector.reach(&endpoint, connected).await {
                Ok((channel, _word)) => State::Connected(Connected { channel, serial }),
                Err(why) => State::Failed(why),
            };
            told.0.send_replace(state);
        });
    }
}

fn give_up(state: &watch::Sender<State>, serial: u64) {
    state.send_if_modified(|state| {
        let is_it = matches!(state, State::Connected(reached) if reached.serial == serial);
        if is_it {
            *state = State::Idle;
        }
        is_it
    });
}

/// A call under way. Dropped before it is over, which is the caller's doing, it has the peer asked whether it lives.
pub(super) struct Unanswered<'a> {
    one: &'a Single,
    reached: Option<&'a Connected>,
}

impl Unanswered<'_> {
    pub(super) fn over(mut self) {
        self.reached = None;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(reached) = self.reached {
            self.one.examine(reached);
        }
    }
}

/// Leaves no call waiting for an attempt that is no more, say because its runtime ended.
struct Told(watch::Sender<State>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.send_if_modified(|state| {
            let trying = matches!(state, State::Connecting | State::Confirming);
            if trying {
                *state = State::Failed("the attempt was broken off".to_owned());
            }
            trying
        });
    }
}
