//! Keeps the connections: makes them, finds out that they are lost, makes them again, and reads the news.
//!
//! Must never let calls find out one by one that the server is away: the first that does tells all others, and only the keeper tries
//! again.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Shared,
    link::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, Dial, Link, LinkError, patience, within},
    seal::Name,
    slowness::{SLOW_ANSWER, SLOW_PAUSE, Slowness},
    watchers::News,
};
use crate::{backoff::Backoff, clock::Moment, config::SharedServer, telemetry::metrics::SharedOperation};

/// The pause after a connection could not be made; where they are made, and one after the other does not last, it grows.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(8));
/// One that lasted for less is not made again at once.
const LASTED: Duration = Duration::from_secs(10);
/// So many questions are asked at once: enough to keep a server busy that is a millisecond away, few enough that none waits there for long.
const AT_ONCE: usize = 128;
/// How long a question may wait to be asked: the ten thousand of a bad morning are asked within it.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether there is a connection.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// It is being made, for the first time or since it was lost a moment ago: whoever needs it waits for that one try.
    Connecting,
    Up(Arc<Connected>),
    /// Nobody waits for it.
    Down(LinkError),
}

/// Whether there is a connection, for all who want to know. They are woken in the order in which they came.
#[derive(Debug)]
pub(super) struct Kept {
    state: Mutex<State>,
    changed: Notify,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State::Connecting), changed: Notify::new() }
    }

    fn get(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.get());
        self.changed.notify_waiters();
    }
}

/// A connection that is good as far as is known.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) link: Link,
    /// Who may ask now: what waits in a queue of ours is not the server's to answer in time.
    turns: Semaphore,
    slowness: Mutex<Slowness>,
    lost: CancellationToken,
}

impl Connected {
    fn new(link: Link) -> Self {
        Self { link, turns: Semaphore::new(AT_ONCE), slowness: Mutex::default(), lost: CancellationToken::new() }
    }

    fn slowness(&self) -> MutexGuard<'_, Slowness> {
        self.slowness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it was lost, where that was noticed by who asked on it.
    fn lost_by(&self) -> LinkError {
        if self.slowness().is_too_slow() { LinkError::Slow } else { LinkError::Broken }
    }

    /// Whether what failed so may go well on the next connection: this one is lost, and by no silence to this question.
    pub(super) fn may_be_asked_anew(&self, why: LinkError) -> bool {
        self.lost.is_cancelled() && matches!(why, LinkError::Broken | LinkError::Off)
    }
}

/// How the tier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is used.
    Up,
    /// It is not, and why; none where that is being found out.
    Down(Option<LinkError>),
}

impl Shared {
    pub(super) fn condition(&self) -> Condition {
        match &*self.state.get() {
            State::Up(_) => Condition::Up,
            State::Connecting => Condition::Down(None),
            State::Down(why) => Condition::Down(Some(*why)),
        }
    }

    /// The connection, if there is one; waits for the one try that is under way.
    pub(super) async fn connected(&self, operation: SharedOperation) -> Option<Arc<Connected>> {
        let waiting = async {
            loop {
                let changed = self.state.changed.notified();
                match &*self.state.get() {
                    State::Up(connected) => return Some(Arc::clone(connected)),
                    State::Down(_) => return None,
                    State::Connecting => {}
                }
                changed.await;
            }
        };
        let connected = tokio::select! {
            biased;
            connected = waiting => connected,
            () = patience(CONNECT_TIMEOUT) => None,
        };
        if connected.is_none() {
            self.metrics.shared.off(operation);
        }
        connected
    }

    /// An answer, in time or not at all, and when it was asked for. Whoever gets none tells the others. What is written waits for no turn: so
    /// much is not written at once.
    pub(super) async fn timed<T>(
        &self,
        connected: &Arc<Connected>,
        operation: SharedOperation,
        asking: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<(T, Moment), LinkError> {
        let in_turn = matches!(operation, SharedOperation::Look | SharedOperation::Lease);
        let turn = tokio::select! {
            biased;
            turn = connected.turns.acquire_many(u32::from(in_turn)) => turn.ok(),
            () = connected.lost.cancelled() => None,
            () = patience(TURN_TIMEOUT) => None,
        };
        let Some(_turn) = turn else {
            self.metrics.shared.off(operation);
            return Err(LinkError::Off);
        };
        let (asked, is_slow) = (self.clock.now(), AtomicBool::new(false));
        // Whether it is slow is counted as its silence is: a moment in which nothing here ran is none of the server's.
        let waiting = async {
            patience(SLOW_ANSWER).await;
            is_slow.store(true, Ordering::Relaxed);
            patience(ANSWER_TIMEOUT.saturating_sub(SLOW_ANSWER)).await;
        };
        let answer = tokio::select! {
            biased;
            answer = asking => answer,
            () = connected.lost.cancelled() => Err(LinkError::Off),
            () = waiting => Err(LinkError::Timeout),
        };
        let now = self.clock.now().mono;
        self.metrics.shared.operation(operation, answer.is_ok(), now.saturating_duration_since(asked.mono));
        match &answer {
            Err(why) if why.ends() => self.lose(connected, State::Connecting),
            Err(LinkError::Off) => {}
            // To connect anew makes no server quicker: nobody waits for that.
            Ok(_) | Err(_) => {
                if connected.slowness().note(is_slow.load(Ordering::Relaxed), asked.mono, now) {
                    self.lose(connected, State::Down(LinkError::Slow));
                }
            }
        }
        answer.map(|answer| (answer, asked))
    }

    /// Has nobody use this connection any more.
    fn lose(&self, connected: &Arc<Connected>, next: State) {
        self.state.change(|state| {
            if matches!(state, State::Up(current) if Arc::ptr_eq(current, connected)) {
                *state = next;
            }
        });
        connected.lost.cancel();
    }

    /// Keeps the connections for ever.
    pub(super) async fn keep(&self, news: &(impl Fn(News) + Send + Sync)) {
        let mut servers = self.server.subscribe();
        // What the log was told last: whether it can be used.
        let (mut last, mut told, mut short, mut was_slow) = (None, None, 0, false);
        loop {
            let server = Arc::clone(&servers.borrow_and_update());
            let why = match open(&*self.dial, &server, was_slow).await {
                Ok((link, reader, newest)) => {
                    match told.replace(true) {
                        Some(false) => info!("the shared tier can be used again"),
                        Some(true) => {}
                        None => info!("the shared tier is used"),
                    }
                    let began = self.clock.now().mono;
                    let connected = Arc::new(Connected::new(link));
                    self.state.change(|state| *state = State::Up(Arc::clone(&connected)));
                    self.back.notify_one();
                    let why = tokio::select! {
                        biased;
                        why = self.read_news(&reader, newest, &mut last, news) => why,
                        () = connected.lost.cancelled() => connected.lost_by(),
                        _ = servers.changed() => LinkError::Off,
                    };
                    self.lose(&connected, State::Connecting);
                    let lasted = self.clock.now().mono.saturating_duration_since(began);
                    if why != LinkError::Slow && lasted >= LASTED || why == LinkError::Off {
                        warn!(%why, "the connection to the shared tier is made anew");
                        short = 0;
                        continue;
                    }
                    short += 1;
                    why
                }
                Err(why) => {
                    short = 0;
                    // It is no quicker.
                    if was_slow && why == LinkError::Timeout { LinkError::Slow } else { why }
                }
            };
            self.state.change(|state| *state = State::Down(why));
            if told.replace(false) != Some(false) {
                warn!(%why, "the shared tier can't be used, so each replica signs in by itself until it can be");
            }
            was_slow = why == LinkError::Slow;
            tokio::select! {
                biased;
                () = sleep(if was_slow { SLOW_PAUSE } else { RETRY.widest(short) }) => {}
                _ = servers.changed() => {}
            }
        }
    }

    /// Hands news on until the connection is lost. What came since the last one that was read is read first.
    async fn read_news(
        &self,
        reader: &Link,
        newest: String,
        last: &mut Option<String>,
        news: &(impl Fn(News) + Send + Sync),
    ) -> LinkError {
        // On another server, or one that was emptied and whose clock was set back, all that is there is news.
        let mut from = last.take().filter(|last| !is_before(&newest, last)).unwrap_or(newest);
        loop {
            let read = reader.news(&mut from).await;
            *last = Some(from.clone());
            match read {
                Ok(names) => names.iter().filter_map(|name| Name::parse(name)).for_each(|name| {
                    if let Some(told) = self.watchers.tell(&name) {
                        news(told);
                    }
                }),
                Err(why) => return why,
            }
        }
    }
}

/// A connection to ask on, one for news, and the last news that there is: whatever is looked at later is no older. A server that was too slow
/// has to be quick.
async fn open(dial: &dyn Dial, server: &SharedServer, was_slow: bool) -> Result<(Link, Link, String), LinkError> {
    let (link, reader) = tokio::try_join!(Link::open(dial, server), Link::open(dial, server))?;
    let newest = within(if was_slow { SLOW_ANSWER } else { ANSWER_TIMEOUT }, reader.last_news()).await?;
    Ok((link, reader, newest))
}

/// Whether one id of the news stands before another: both are two numbers.
fn is_before(one: &str, other: &str) -> bool {
    let numbers = |id: &str| {
        let (time, count) = id.split_once('-')?;
        Some((time.parse::<u64>().ok()?, count.parse::<u64>().ok()?))
    };
    numbers(one) < numbers(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_compared_as_numbers() {
        for (one, other, before) in [("9-0", "10-0", true), ("10-0", "9-9", false), ("5-9", "5-10", true), ("0-0", "0-0", false)]
        {
            assert_eq!(is_before(one, other), before, "{one} {other}");
        }
    }
}
