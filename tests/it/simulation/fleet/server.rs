//! A simulated server: it speaks the protocol over streams in memory, runs the broker's scripts, and has the faults that servers have.

use std::{
    collections::BTreeSet,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use token_broker::{
    config::SharedServer,
    tier::{Dial, Dialled, LinkError, Stream},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, WriteHalf, duplex, split},
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    script::{Value, number},
    store::Store,
    truth::Truth,
};

/// What fits into a connection that nobody reads.
const WIRE: usize = 1 << 20;
/// Commands that wait on one connection, at most.
const QUEUED: usize = 1_024;

/// The server, for all who connect to it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(super) truth: Arc<Truth>,
    state: Mutex<State>,
    /// There is news. Whoever waits for it is woken in order, so that a seed is a history.
    told: Notify,
    connections: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct State {
    store: Store,
    random: fastrand::Rng,
    /// It stands still until then.
    stalled: Instant,
    /// How long it takes to answer, in milliseconds.
    takes: RangeInclusive<u64>,
    /// Nobody reaches it.
    is_away: bool,
    /// These replicas don't.
    cut_off: BTreeSet<u64>,
    connections: Vec<(u64, CancellationToken)>,
}

/// The way of one replica to it.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) server: Arc<Server>,
    pub(crate) replica: u64,
}

impl Dial for Way {
    fn dial<'a>(&'a self, _: &'a SharedServer) -> Dialled<'a> {
        Box::pin(async move {
            sleep(Duration::from_millis(1)).await;
            let (ours, theirs) = duplex(WIRE);
            let lost = CancellationToken::new();
            {
                let mut state = self.server.state();
                if state.is_away || state.cut_off.contains(&self.replica) {
                    return Err(LinkError::Unreachable);
                }
                state.connections.retain(|(_, lost)| !lost.is_cancelled());
                state.connections.push((self.replica, lost.clone()));
            }
            let mut connections = self.server.connections.lock().expect("no panic");
            while connections.try_join_next().is_some() {}
            let (server, replica) = (Arc::clone(&self.server), self.replica);
            connections.spawn(async move {
                lost.run_until_cancelled(server.serve(theirs, replica)).await;
                lost.cancel();
            });
            Ok(Box::new(ours) as Box<dyn Stream>)
        })
    }
}

impl Server {
    pub(crate) fn new(truth: Arc<Truth>, random: fastrand::Rng) -> Self {
        let state = State {
            store: Store::new(),
            random,
            stalled: Instant::now(),
            takes: 0..=2,
            is_away: false,
            cut_off: BTreeSet::new(),
            connections: Vec::new(),
        };
        Self { truth, state: Mutex::new(state), told: Notify::new(), connections: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    /// Changes what it holds, behind the brokers' backs.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        change(&mut self.state().store)
    }

    pub(crate) fn stall(&self, until: Instant) {
        self.state().stalled = until;
    }

    /// Takes so many milliseconds to answer.
    pub(crate) fn takes(&self, takes: RangeInclusive<u64>) {
        self.state().takes = takes;
    }

    pub(crate) fn away(&self, is_away: bool) {
        self.state().is_away = is_away;
    }

    /// This replica reaches it no more, or again.
    pub(crate) fn cut_off(&self, replica: u64, is_cut_off: bool) {
        let mut state = self.state();
        if is_cut_off {
            state.cut_off.insert(replica);
        } else {
            state.cut_off.remove(&replica);
        }
    }

    /// Breaks connections: this replica's, or all.
    pub(crate) fn hang_up(&self, replica: Option<u64>) {
        let state = self.state();
        let concerned = state.connections.iter().filter(|(of, _)| replica.is_none_or(|replica| replica == *of));
        concerned.for_each(|(_, lost)| lost.cancel());
    }

    async fn serve(self: Arc<Self>, stream: DuplexStream, replica: u64) {
        let ((mut hears, mut says), (queue, mut commands)) = (split(stream), mpsc::channel(QUEUED));
        // Looked at as they come, however long it takes until they are done.
        let hearing = async {
            let (mut unread, mut chunk, queue) = (Vec::new(), [0; 4_096], queue);
            while let Ok(length @ 1..) = hears.read(&mut chunk).await {
                unread.extend_from_slice(&chunk[..length]);
                while let Some(words) = command(&mut unread) {
                    self.is_in_time(&words, replica);
                    queue.send(words).await.expect("they are done");
                }
            }
        };
        let doing = async {
            while let Some(words) = commands.recv().await {
                self.execute(&words, &mut says).await;
            }
        };
        tokio::join!(hearing, doing);
    }

    async fn execute(&self, words: &[Vec<u8>], says: &mut WriteHalf<DuplexStream>) {
        let took = {
            let mut state = self.state();
            let takes = state.takes.clone();
            Duration::from_millis(state.random.u64(takes))
        };
        sleep(took).await;
        self.runs().await;
        let answer = if words[0] == b"XREAD" { self.wait_for_news(words).await } else { self.answer(words) };
        let mut bytes = Vec::new();
        write(&mut bytes, &answer);
        // One that hung up has been done as it asked all the same.
        says.write_all(&bytes).await.ok();
    }

    /// Waits until it doesn't stand still.
    async fn runs(&self) {
        loop {
            let until = self.state().stalled;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    fn answer(&self, words: &[Vec<u8>]) -> Result<Value, String> {
        let mut state = self.state();
        state.store.clock = self.truth.server_clock();
        let (before, last) = (state.store.faults.len(), state.store.last);
        let answer = state.store.answer(words);
        let is_news = state.store.last != last;
        let faults = state.store.faults.split_off(before);
        drop(state);
        for fault in faults {
            self.truth.check(false, || fault);
        }
        if is_news {
            self.told.notify_waiters();
        }
        answer
    }

    /// A holder that is past its lease sends nothing to be written.
    fn is_in_time(&self, words: &[Vec<u8>], replica: u64) {
        let keys = if words[0] == b"EVAL" { usize::try_from(number(&words[2])).expect("is a count") } else { 0 };
        // Nothing else but a lock's return begins with the lock, and that has only the news besides.
        if keys > 2 && words[3].starts_with(b"tb1:l:") {
            let owner = &words[3 + keys];
            let state = self.state();
            let taken = state.store.leases.iter().find(|(of, ..)| of == owner).cloned();
            drop(state);
            let is_over = taken.is_none_or(|(_, from, lasts)| Instant::now() >= from + lasts);
            self.truth.check(!is_over, || format!("replica {replica} writes past its lease"));
        }
    }

    async fn wait_for_news(&self, words: &[Vec<u8>]) -> Result<Value, String> {
        let block = words.iter().position(|word| word == b"BLOCK").map(|at| number(&words[at + 1])).expect("is always said");
        let until = Instant::now() + Duration::from_millis(u64::try_from(block).expect("is positive"));
        loop {
            self.runs().await;
            let told = self.told.notified();
            let found = self.state().store.news(words);
            if let Some(found) = found {
                return Ok(found);
            }
            if timeout_at(until, told).await.is_err() {
                self.runs().await;
                return Ok(Value::Nil);
            }
        }
    }
}

/// Takes a command off what was read, if there is a whole one.
fn command(unread: &mut Vec<u8>) -> Option<Vec<Vec<u8>>> {
    let mut at = 0;
    let count = line(unread, &mut at, b'*')?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = line(unread, &mut at, b'$')?;
        words.push(unread.get(at..at + length)?.to_vec());
        at += length + 2;
    }
    (at <= unread.len()).then_some(())?;
    unread.drain(..at);
    Some(words)
}

fn line(unread: &[u8], at: &mut usize, kind: u8) -> Option<usize> {
    let rest = unread.get(*at..)?;
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    assert_eq!(rest[0], kind);
    *at += end + 2;
    usize::try_from(number(&rest[1..end])).ok()
}

fn write(bytes: &mut Vec<u8>, answer: &Result<Value, String>) {
    match answer {
        Err(error) => bytes.extend_from_slice(format!("-{error}\r\n").as_bytes()),
        Ok(Value::Nil) => bytes.extend_from_slice(b"$-1\r\n"),
        Ok(Value::Int(number)) => bytes.extend_from_slice(format!(":{number}\r\n").as_bytes()),
        Ok(Value::Text(text)) => {
            bytes.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
            bytes.extend_from_slice(text);
            bytes.extend_from_slice(b"\r\n");
        }
        Ok(Value::List(values)) => {
            bytes.extend_from_slice(format!("*{}\r\n", values.len()).as_bytes());
            values.iter().for_each(|value| write(bytes, &Ok(value.clone())));
        }
    }
}
