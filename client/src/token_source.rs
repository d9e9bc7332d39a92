//! Tokens from this process's own memory, renewed behind it: what callers use.
//!
//! Must never hand out a token that has ended, have two calls under way for one user, or ask in a loop, whatever the broker answers.

mod apart;
mod brokers;
mod builder;
mod held_token;
mod rules;
mod slot;
mod token_user;
mod user_map;

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, task::JoinSet, time::Instant};
use tonic::Status;

pub use self::{
    builder::{Identity, TokenSourceBuilder},
    held_token::Token,
    token_user::User,
};
use self::{
    slot::{IDLE_AFTER, Next, Slot},
    user_map::UserMap,
};
use crate::{
    client::ClientError,
    jitter::Jitter,
    proto::v1,
    single_flight::{Follower, WaitError},
};

/// Most calls of [`TokenSource::warm`] at once: it may be called with all users there are.
const WARM_AT_ONCE: usize = 32;
/// How often a caller begins again whose call broke off, because it panicked.
const TRIES: usize = 3;

/// What a flight brings.
type Outcome = Result<Token, ClientError>;

/// What asks a broker, for tests: callers have [`TokenSource::builder`].
#[doc(hidden)]
pub trait Ask: Send + Sync + 'static {
    /// A token of this user's that is none of those that the vault's API rejected.
    fn ask<'a>(&'a self, user: &'a User, rejected: Vec<String>) -> Asking<'a>;
}

/// What [`Ask`] does.
#[doc(hidden)]
pub type Asking<'a> = Pin<Box<dyn Future<Output = Result<v1::Token, ClientError>> + Send + 'a>>;

/// What all slots share.
struct Shared {
    ask: Box<dyn Ask>,
    /// Where all that the source does runs: on a thread of its own, but in tests of time.
    runtime: Handle,
    /// When the source was made.
    epoch: Instant,
    /// In milliseconds.
    idle_after: u64,
    jitter: Jitter,
    counted: Counted,
}

#[derive(Default)]
struct Counted {
    calls: AtomicU64,
    failures: AtomicU64,
    complaints: AtomicU64,
}

impl Shared {
    /// What the call brings, if that is in time. Whoever waits may have no timer, nor a runtime: it is this one's that counts the time.
    async fn wait(&self, follower: Follower<Outcome>, by: Instant) -> Result<Outcome, WaitError> {
        // Dropped with whoever waits, which ends the task.
        let mut waiting = JoinSet::new();
        waiting.spawn_on(async move { follower.result_by(by).await }, &self.runtime);
        waiting.join_next().await.and_then(Result::ok).unwrap_or(Err(WaitError::BrokeOff))
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Tokens, from memory as far as they are there. Make one for the process and clone it: clones share everything.
///
/// [`token`](Self::token) is the call that suffices: it answers from memory, or waits for the broker.
/// [`cached`](Self::cached) never waits. Tokens of users who are asked for are renewed ahead of their end, one call at a time for
/// each, which goes on whatever becomes of the caller. A token that is good is handed out while every broker is down.
///
/// All that happens on a thread of the source's own, which ends with the last clone: callers may come from any runtime, from several,
/// or from none. A process that forks makes its source after that.
#[derive(Clone)]
pub struct TokenSource(Arc<Inner>);

struct Inner {
    users: UserMap,
    shared: Arc<Shared>,
    timeout: Duration,
    /// Its thread, where it has one. The tasks on it hold none of this: it ends with the last clone of the source.
    _thread: Option<apart::Running>,
}

/// Why no token is in memory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Missing {
    /// Nobody has asked for this user, or not for so long that the user was forgotten.
    NotAsked,
    /// The first call is under way, or the next after one that brought none.
    Asking,
    /// It was complained of, and the next is not there yet.
    Rejected,
    /// It has ended, and nobody has asked for the next.
    Ended,
    /// The broker gave none, and is not asked again for a while.
    Refused(ClientError),
}

/// What a source has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Users that it knows.
    pub users: usize,
    /// Calls to the broker.
    pub calls: u64,
    /// Those, with their repeats, that brought no token.
    pub failures: u64,
    /// Tokens that were complained of.
    pub complaints: u64,
}

impl TokenSource {
    /// A source that is told its brokers and how they know us.
    pub fn builder() -> TokenSourceBuilder {
        TokenSourceBuilder::default()
    }

    /// A source over whatever answers as a broker does, on the caller's runtime, for tests: its time may be paused, and what is drawn by
    /// chance is given.
    #[doc(hidden)]
    #[must_use]
    pub fn over(ask: Box<dyn Ask>, timeout: Duration, runtime: Handle, jitter: Jitter) -> Self {
        let idle_after = u64::try_from(IDLE_AFTER.as_millis()).unwrap_or(u64::MAX);
        let shared = Shared { ask, runtime, epoch: now(), idle_after, jitter, counted: Counted::default() };
        Self(Arc::new(Inner { users: UserMap::default(), shared: Arc::new(shared), timeout, _thread: None }))
    }

    /// The same on a thread of its own, by its own chance.
    fn apart(ask: Box<dyn Ask>, timeout: Duration) -> io::Result<Self> {
        let (runtime, running) = apart::start()?;
        let mut source = Self::over(ask, timeout, runtime, Jitter::by_chance());
        if let Some(inner) = Arc::get_mut(&mut source.0) {
            inner._thread = Some(running);
        }
        Ok(source)
    }

    /// This user's token: the one in memory, or the one that the broker has. Waits for as long as the builder's
    /// [`timeout`](TokenSourceBuilder::timeout) at most, from the look-up of the broker's name on. Whoever stops waiting changes
    /// nothing for the others.
    ///
    /// # Errors
    /// Why there is none: [`ClientError::is_permanent`], [`ClientError::retry_after`] and [`ClientError::reason`] say what to do.
    /// For a while after a failure its error is repeated, and the broker is not asked.
    #[allow(clippy::disallowed_methods, reason = "the caller's time is counted from here")]
    pub async fn token(&self, user: &User) -> Result<Token, ClientError> {
        let began = now();
        if let Some(token) = self.cached_at(user, began) {
            return Ok(token);
        }
        let asked = self.0.shared.millis(began);
        let slot = self.0.users.get_or_add(user, || Slot::new(user.clone(), asked));
        slot.note_asked(asked);
        for _ in 0..TRIES {
            match slot.next(&self.0.shared) {
                Next::Now(outcome) => return outcome,
                Next::Wait(follower) => match self.0.shared.wait(follower, began + self.0.timeout).await {
                    // It was good when the call ended; this task may not have run since.
                    Ok(Ok(token)) if token.life().ends <= now() => {}
                    Ok(outcome) => return outcome,
                    Err(WaitError::Deadline) => {
                        let text = format!("no token within {} s", self.0.timeout.as_secs_f64());
                        return Err(ClientError::Status(Box::new(Status::deadline_exceeded(text))));
                    }
                    Err(WaitError::BrokeOff) => {}
                },
            }
        }
        Err(ClientError::Status(Box::new(Status::unavailable("the call broke off: it panicked"))))
    }

    /// This user's token if it is in memory and good; never waits, takes no lock, and needs no runtime. A token that is due is
    /// renewed behind it. `None` says nothing about why: [`look`](Self::look) does.
    #[must_use]
    pub fn cached(&self, user: &User) -> Option<Token> {
        self.cached_at(user, now())
    }

    fn cached_at(&self, user: &User, now: Instant) -> Option<Token> {
        self.0.users.with(user, |slot| {
            let token = slot.hit(now)?;
            let at = self.0.shared.millis(now);
            slot.note_asked(at);
            if token.life().renew <= now && slot.is_to_nudge(at) {
                slot.nudge(&self.0.shared);
            }
            Some(token)
        })?
    }

    /// The same, and why not: for metrics and for people. Takes a lock where there is no token.
    ///
    /// # Errors
    /// Why no token is in memory.
    pub fn look(&self, user: &User) -> Result<Token, Missing> {
        if let Some(token) = self.cached(user) {
            return Ok(token);
        }
        let missing = self.0.users.with(user, |slot| {
            if slot.is_rejected() {
                Missing::Rejected
            } else if slot.is_calling() {
                Missing::Asking
            } else {
                slot.stopped().map_or(Missing::Ended, Missing::Refused)
            }
        });
        Err(missing.unwrap_or(Missing::NotAsked))
    }

    /// Has the tokens of these users in memory, as far as there are any: for a start. Calls go out a few at a time.
    ///
    /// # Errors
    /// Those who have none, and why.
    pub async fn warm(&self, users: &[User]) -> Result<(), Vec<(User, ClientError)>> {
        let (mut asking, mut failed) = (JoinSet::new(), Vec::new());
        let mut note = |(user, outcome): (User, Outcome)| failed.extend(outcome.err().map(|error| (user, error)));
        for user in users {
            if asking.len() >= WARM_AT_ONCE {
                asking.join_next().await.and_then(Result::ok).map(&mut note);
            }
            let (source, user) = (self.clone(), user.clone());
            let asks = async move {
                let outcome = source.token(&user).await;
                (user, outcome)
            };
            asking.spawn_on(asks, &self.0.shared.runtime);
        }
        asking.join_all().await.into_iter().for_each(note);
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }

    /// Takes the complaint that the vault's API answered this token with 401, and asks for the next, naming it. Whether that is news:
    /// of a token that was complained of before, or that was replaced in the meantime, a complaint does nothing.
    ///
    /// Where the vault insists on the token, it is handed out again, and not asked about any more.
    pub fn rejected(&self, token: &Token) -> bool {
        let is_news = self.0.users.with(token.user(), |slot| slot.rejected(token, &self.0.shared)) == Some(true);
        if is_news {
            self.0.shared.counted.complaints.fetch_add(1, Ordering::Relaxed);
        }
        is_news
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let counted = &self.0.shared.counted;
        Counts {
            users: self.0.users.len(),
            calls: counted.calls.load(Ordering::Relaxed),
            failures: counted.failures.load(Ordering::Relaxed),
            complaints: counted.complaints.load(Ordering::Relaxed),
        }
    }
}

/// Without tokens and users.
impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

#[allow(clippy::disallowed_methods, reason = "tokens end by the monotonic clock alone, which tests pause")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
