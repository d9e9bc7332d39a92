//! Connections to the server, and the few things that are asked of it.
//!
//! The only place that knows the protocol's client. Must never wait without an end, or take a server's text into a message.

mod link_error;

use std::{fmt, pin::Pin, time::Duration};

use redis::{AsyncConnectionConfig, Cmd, ProtocolVersion, RedisConnectionInfo, Value, aio::MultiplexedConnection};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{JoinSet, yield_now},
    time::sleep,
};
use zeroize::Zeroizing;

pub use self::link_error::LinkError;
use super::bounded::{Bounded, Unanswered};
use crate::config::SharedServer;

/// How long anything that is asked may take. A server beside the broker answers within a millisecond; one that forks to write its memory to
/// disk, or a broker that starts cold on a busy machine, may take hundreds. Once it is over, the tier is off until it answers again.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// How long it may take to connect, with TLS and a password: a few round trips. With the time for an answer less than a second: by then
/// nobody waits for a server that is away.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_millis(450);
/// How long a question for news waits for some at the server: what is lost without a word is noticed within that and an answer's time.
const NEWS_WAIT: Duration = Duration::from_millis(1_000);
/// Most news in one answer.
const NEWS_COUNT: usize = 512;
/// News that the server keeps, about: some minutes of a large fleet's, and each takes a hundred bytes.
const NEWS_KEPT: usize = 10_000;
/// Under which the news stands.
const NEWS: &str = "tb1:news";
/// What is tried when a connection is made, so that it is seen then what the server or its ACL forbids: all that is done later. It leaves
/// nothing behind.
const PROBE: &str = "redis.call('SET', KEYS[1], '', 'PX', 1000) redis.call('GET', KEYS[1]) redis.call('DEL', KEYS[1]) \
    redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', 'n', '') return 1";
/// With what.
const PROBED: &str = "tb1:probe";
const PROBED_NEWS: &str = "tb1:probe-news";
/// Before the first news.
const BEGINNING: &str = "0-0";

/// What stands of a subject, how long it is kept yet, whether the lock is held, and the time. Nothing is changed in between. With two
/// arguments it takes the lock if nobody has it, or this owner; then it says whether it is this owner's.
const LOOK: &str = "local won = 0 \
    if ARGV[1] then \
      if redis.call('SET', KEYS[5], ARGV[1], 'NX', 'PX', ARGV[2]) or redis.call('GET', KEYS[5]) == ARGV[1] then won = 1 end \
    end \
    local v = redis.call('MGET', KEYS[1], KEYS[2], KEYS[3], KEYS[4]) \
    return {v[1], redis.call('PTTL', KEYS[1]), v[2], redis.call('PTTL', KEYS[2]), v[3], redis.call('PTTL', KEYS[3]), \
      v[4], redis.call('PTTL', KEYS[4]), won, redis.call('EXISTS', KEYS[5]), tonumber(redis.call('TIME')[1])}";
/// Writes what came of it and gives the lock back, if it is still held. A token that is written ends whatever stood against the credential. What
/// is left of the lock says how late it is: a server that stood still makes no token younger, whose age is told by how long it is kept. What is
/// to be removed for an operator goes first, so that it is gone where the server is full and takes nothing in its place.
const WRITE: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end \
    if ARGV[13] == 't' then redis.call('DEL', KEYS[2]) end \
    if ARGV[13] == 'm' then redis.call('DEL', KEYS[4]) end \
    local late = math.max(0, tonumber(ARGV[12]) - redis.call('PTTL', KEYS[1])) \
    if ARGV[3] ~= '' then \
      if late < tonumber(ARGV[4]) then redis.call('SET', KEYS[2], ARGV[3], 'PX', tonumber(ARGV[4]) - late) end \
      if ARGV[13] == 's' then redis.call('DEL', KEYS[3]) end \
    end \
    if ARGV[5] ~= '' then redis.call('SET', KEYS[3], ARGV[5], 'PX', ARGV[6]) end \
    if ARGV[7] ~= '' and redis.call('PTTL', KEYS[4]) < tonumber(ARGV[8]) then redis.call('SET', KEYS[4], ARGV[7], 'PX', ARGV[8]) end \
    if ARGV[9] ~= '' then redis.call('SET', KEYS[5], ARGV[9], 'PX', ARGV[10]) end \
    redis.call('DEL', KEYS[1]) \
    redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[11], '*', 'n', ARGV[2]) return 1";
/// Gives the lock back, if it is still held, and tells those who wait for it; a full server deletes, but takes no news.
const RELEASE: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end redis.call('DEL', KEYS[1]) \
    redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'n', ARGV[2]) return 1";

/// Time is counted in steps of this length: where the broker itself doesn't get to run, or the whole machine stands still, that is no fault
/// of the server's, whose answer may be here and unread.
const STEP: Duration = Duration::from_millis(50);

/// So much time in which this process could have heard something. Whoever waits for it besides an answer looks for the answer first.
pub(super) async fn patience(length: Duration) {
    let mut left = length;
    while !left.is_zero() {
        let step = left.min(STEP);
        sleep(step).await;
        left -= step;
        // What came meanwhile is read before time is called.
        yield_now().await;
    }
}

/// An answer within so much time, counted like that.
pub(super) async fn within<T>(length: Duration, answer: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
    tokio::select! {
        biased;
        answer = answer => answer,
        () = patience(length) => Err(LinkError::Timeout),
    }
}

/// Where the entries of a subject are.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) token: String,
    pub(super) stop: String,
    pub(super) merchant: String,
    pub(super) lifted: String,
    pub(super) lock: String,
}

/// What stands there: sealed, and how long the server keeps it yet.
pub(super) type Standing = Option<(Zeroizing<Vec<u8>>, Duration)>;

/// What stands of a subject.
#[derive(Debug, Default)]
pub(super) struct Stands {
    pub(super) token: Standing,
    pub(super) stop: Standing,
    pub(super) merchant: Standing,
    pub(super) lifted: Standing,
    /// Whether anybody has the lock.
    pub(super) is_locked: bool,
    /// The server's clock, in seconds since 1970.
    pub(super) clock: u32,
}

/// What is to go.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Removes {
    #[default]
    Nothing,
    /// What stood against the credential: there is a token.
    Stop,
    /// The user's token, for an operator.
    Token,
    /// The merchant's wait, however long, for an operator.
    Merchant,
}

/// What is to be written; what is empty is left as it is.
#[derive(Debug, Default)]
pub(super) struct Writing {
    pub(super) removes: Removes,
    pub(super) token: Option<(Vec<u8>, Duration)>,
    pub(super) stop: Option<(Vec<u8>, Duration)>,
    pub(super) merchant: Option<(Vec<u8>, Duration)>,
    pub(super) lifted: Option<(Vec<u8>, Duration)>,
}

/// What the protocol is spoken over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream to the server, or why there is none.
pub type Dialled<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Stream>, LinkError>> + Send + 'a>>;

/// How the server is reached: by TCP, or within a simulation.
pub trait Dial: fmt::Debug + Send + Sync {
    /// Makes a stream to it. Whoever asks ends it when it takes too long.
    fn dial<'a>(&'a self, server: &'a SharedServer) -> Dialled<'a>;
}

/// A connection, which ends when this is dropped.
pub(super) struct Link {
    connection: MultiplexedConnection,
    unanswered: Unanswered,
    _driver: JoinSet<()>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    /// Connects, shows the password, and sees that the server can be read from and written to.
    pub(super) async fn open(dial: &dyn Dial, server: &SharedServer) -> Result<Self, LinkError> {
        let connecting = async {
            let link = Self::connect(dial, server).await?;
            match link.ask(&eval(PROBE, &[PROBED, PROBED_NEWS])).await {
                // What is there can be read.
                Ok(_) | Err(LinkError::Full) => {}
                Err(error) => return Err(error),
            }
            let nowhere = || PROBED.to_owned();
            let (token, stop, merchant, lifted, lock) = (nowhere(), nowhere(), nowhere(), nowhere(), nowhere());
            link.look(&Places { token, stop, merchant, lifted, lock }).await?;
            Ok(link)
        };
        within(CONNECT_TIMEOUT, connecting).await
    }

    async fn connect(dial: &dyn Dial, server: &SharedServer) -> Result<Self, LinkError> {
        let stream = dial.dial(server).await?;
        let mut info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP2)
            .set_db(i64::from(server.database))
            // An ACL need not allow what nobody reads.
            .set_skip_set_lib_name();
        if let Some(user) = &server.user {
            info = info.set_username(user);
        }
        if let Some(password) = &server.password {
            info = info.set_password(password.expose());
        }
        // Its own times are turned off: each question here has one.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let (stream, unanswered) = Bounded::new(stream);
        let made = MultiplexedConnection::new_with_config(&info, stream, config).await;
        let (connection, driver) = made.map_err(|error| LinkError::of(&error))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(driver);
        Ok(Self { connection, unanswered, _driver: tasks })
    }

    async fn ask(&self, command: &Cmd) -> Result<Value, LinkError> {
        let answer = self.connection.clone().send_packed_command(command).await;
        self.unanswered.answered();
        match answer {
            Ok(Value::ServerError(error)) => Err(LinkError::of(&error.into())),
            Ok(value) => Ok(value),
            Err(error) => Err(LinkError::of(&error)),
        }
    }

    /// What stands of a subject.
    pub(super) async fn look(&self, places: &Places) -> Result<Stands, LinkError> {
        Ok(stands(self.ask(&look(places)).await?)?.1)
    }

    /// The same, and whether the lock is this owner's now, for so long.
    pub(super) async fn lease(&self, places: &Places, owner: &str, lease: Duration) -> Result<(bool, Stands), LinkError> {
        let mut script = look(places);
        script.arg(owner).arg(millis(lease));
        stands(self.ask(&script).await?)
    }

    /// Writes, and gives the lock back, of which so much is `left`; whether it was still held.
    pub(super) async fn write(
        &self,
        places: &Places,
        (owner, left): (&str, Duration),
        name: &str,
        writing: &Writing,
    ) -> Result<bool, LinkError> {
        let mut script = eval(WRITE, &[&places.lock, &places.token, &places.stop, &places.merchant, &places.lifted, NEWS]);
        script.arg(owner).arg(name);
        for entry in [&writing.token, &writing.stop, &writing.merchant, &writing.lifted] {
            match entry {
                Some((sealed, kept)) => script.arg(sealed).arg(millis(*kept)),
                None => script.arg("").arg(1),
            };
        }
        script.arg(NEWS_KEPT).arg(millis(left)).arg(match writing.removes {
            Removes::Nothing => "",
            Removes::Stop => "s",
            Removes::Token => "t",
            Removes::Merchant => "m",
        });
        Ok(matches!(self.ask(&script).await?, Value::Int(1)))
    }

    /// Gives the lock back, if it is still held.
    pub(super) async fn release(&self, lock: &str, owner: &str, name: &str) -> Result<(), LinkError> {
        let mut script = eval(RELEASE, &[lock, NEWS]);
        script.arg(owner).arg(name).arg(NEWS_KEPT);
        self.ask(&script).await.map(drop)
    }

    /// The last news that there is. Whoever asks ends it when it takes too long.
    pub(super) async fn last_news(&self) -> Result<String, LinkError> {
        let mut last = redis::cmd("XREVRANGE");
        last.arg(NEWS).arg("+").arg("-").arg("COUNT").arg(1);
        let answer = self.ask(&last).await?;
        let id = list(answer)?.into_iter().next().and_then(|entry| list(entry).ok()?.into_iter().next()).and_then(text);
        Ok(id.and_then(|id| String::from_utf8(id).ok()).unwrap_or_else(|| BEGINNING.to_owned()))
    }

    /// Waits a moment for news after `last`, which becomes the last of them. For a connection of its own.
    pub(super) async fn news(&self, last: &mut String) -> Result<Vec<Vec<u8>>, LinkError> {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(NEWS_COUNT).arg("BLOCK").arg(millis(NEWS_WAIT)).arg("STREAMS").arg(NEWS).arg(&*last);
        let answer = within(NEWS_WAIT + ANSWER_TIMEOUT, self.ask(&read)).await?;
        if answer == Value::Nil {
            return Ok(Vec::new());
        }
        // A list of streams, of which there is one: its name, and its entries; of each the id, and names with values.
        let streams = list(answer)?.into_iter().next().ok_or(LinkError::Failing)?;
        let entries = list(streams)?.into_iter().nth(1).ok_or(LinkError::Failing)?;
        let mut names = Vec::new();
        for entry in list(entries)? {
            let mut entry = list(entry)?.into_iter();
            let id = entry.next().and_then(text).and_then(|id| String::from_utf8(id).ok()).ok_or(LinkError::Failing)?;
            *last = id;
            let fields = entry.next().and_then(|fields| list(fields).ok()).unwrap_or_default();
            names.extend(fields.into_iter().nth(1).and_then(text));
        }
        Ok(names)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn eval(script: &str, keys: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(keys.len()).arg(keys);
    command
}

fn look(places: &Places) -> Cmd {
    eval(LOOK, &[&places.token, &places.stop, &places.merchant, &places.lifted, &places.lock])
}

fn list(value: Value) -> Result<Vec<Value>, LinkError> {
    if let Value::Array(values) = value { Ok(values) } else { Err(LinkError::Failing) }
}

fn text(value: Value) -> Option<Vec<u8>> {
    if let Value::BulkString(bytes) = value { Some(bytes) } else { None }
}

/// Whether the lock was won, and what stands.
fn stands(answer: Value) -> Result<(bool, Stands), LinkError> {
    let mut answer = list(answer)?.into_iter();
    let mut standing = || {
        let (value, kept) = (answer.next().ok_or(LinkError::Failing)?, answer.next().ok_or(LinkError::Failing)?);
        // What is kept for ever was put there by somebody else.
        let kept = if let Value::Int(kept) = kept { u64::try_from(kept).ok().map(Duration::from_millis) } else { None };
        Ok::<Standing, LinkError>(text(value).map(|sealed| (Zeroizing::new(sealed), kept.unwrap_or_default())))
    };
    let (token, stop, merchant, lifted) = (standing()?, standing()?, standing()?, standing()?);
    let mut number = || if let Some(Value::Int(number)) = answer.next() { Ok(number) } else { Err(LinkError::Failing) };
    let (won, locked, clock) = (number()?, number()?, number()?);
    let clock = u32::try_from(clock).map_err(|_beyond| LinkError::Failing)?;
    Ok((won == 1, Stands { token, stop, merchant, lifted, is_locked: locked == 1, clock }))
}
