//! One connection of HTTP/2, every limit set on purpose.
//!
//! Must never wait forever for a client that says nothing, nor hold up the end of the process: the session's `closing`
//! tells streams without an end of their own when theirs has come.

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    future::{pending, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http2, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Sleep, sleep},
};
use tracing::{debug, info};

use super::{
    Session,
    accept::{Accepted, LAST_READ, Shutdown, last_read},
    connection_limit::{Connection, Unsent},
    frames::Frames,
    in_place::{InPlace, Runner},
    memory_budget::{STREAM_WINDOW, STREAMS_MAX, STREAMS_OF_STRANGER_MAX},
    read_turns::ReadTurns,
    tls::{Secured, TlsAcceptor},
    transport::Transport,
};
use crate::{authn::certificate::Peer, clock::Clock};

/// Unread bytes of a connection for each of its streams. h2 lets small frames use up half of a connection's, each counted as 256 bytes
/// less its length, and ends the connection beyond it: enough for the messages of all its calls at once, before any of them was read.
const WINDOW_PER_STREAM: u32 = 512;
/// HTTP/2's own default, and the least: a connection's window only grows (RFC 9113, 6.9.2).
const CONNECTION_WINDOW_MIN: u32 = 65_535;
/// HTTP/2's smallest and default: no frame of ours comes near it.
const FRAME_MAX: u32 = 16 * 1024;
/// Metadata of a call, decoded, that is read at all: beyond this the stream is refused by HTTP/2, with 431 and no words. Four times
/// what is taken (`rpc::layer::METADATA_MAX`), so that whoever brings too much is told.
const HEADER_LIST_MAX: u32 = 64 * 1024;
/// Unsent bytes kept per stream: a reply with the largest token fits.
const SEND_BUFFER_MAX: usize = 64 * 1024;
/// Streams reset by the client before we looked at them (CVE-2023-44487, "rapid reset"), before the connection ends: a broker
/// that was stalled for a moment finds a burst of calls whose deadlines have passed.
const PENDING_RESETS_MAX: usize = 512;
/// Streams we reset for the client's faults in the whole life of a connection, before it ends.
const LOCAL_RESETS_MAX: usize = 1_024;
/// A connection that is quiet for so long is asked whether it lives …
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
/// … and is ended if it does not answer within this.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The client's connection preface is here by then: it is the first thing a client sends.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that has proven nothing has asked for something by then: clients connect to ask, and connect again when they do.
const FIRST_CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Answers that were made are looked for so often: a client that lives reads them at once.
const UNREAD_PERIOD: Duration = Duration::from_millis(100);
/// Where some were left unread for so many periods, 5 s, their connection ends.
const UNREAD_PERIODS: u32 = 50;
/// However little time a connection has, GOAWAY and a last answer leave within this.
const CLOSE_MIN: Duration = Duration::from_millis(500);
/// After GOAWAY a connection without calls is given twice this to close by itself. One that lives does so at once; one whose machine is so
/// busy that it does not run would lose the answers that the kernel holds for it, since what it sends later is met by a reset (RFC 9293, 3.10.7.1).
const IDLE_CLOSE: Duration = Duration::from_millis(1_500);
/// And one whose calls all have their answers is given so many times as long to read them: some clients never do.
const UNREAD_CLOSE: u32 = 2;
/// A connection whose client nobody vouches for any more is closed within this, whatever is under way: its calls get no token.
const UNTRUSTED_CLOSE: Duration = Duration::from_secs(1);

/// Takes connections through their life: TLS where there is any, then HTTP/2, until they are too old, nobody vouches for the client any
/// more, or the process ends.
#[derive(Clone)]
pub struct Http2<F> {
    /// None: plaintext.
    pub tls: Option<TlsAcceptor>,
    /// How they end.
    pub shutdown: Shutdown,
    /// How long one that opens now may last.
    pub life: Arc<dyn Fn() -> Life + Send + Sync>,
    /// Most calls at once on a connection in plaintext.
    pub plaintext_streams: u32,
    /// For the budget of frames.
    pub clock: Arc<dyn Clock>,
    /// Makes what answers the calls of a session.
    pub service: F,
}

/// How long a connection may last.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Then its client is told to open another …
    pub age: Duration,
    /// … and calls under way have so long.
    pub drain: Duration,
}

impl<F> fmt::Debug for Http2<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2").field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl<F, S, B> Http2<F>
where
    F: Fn(Arc<Session>) -> S,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Serves one connection.
    pub async fn serve(self, Accepted { stream, from, connection, turns }: Accepted) {
        let Some(tls) = &self.tls else {
            let peer = Peer::in_plaintext(from.ip().to_canonical().is_loopback());
            let session = Session::new(peer, None, connection);
            return self.serve_session(stream, turns, session, self.plaintext_streams, pending()).await;
        };
        let too_late = async {
            self.shutdown.goaway.cancelled().await;
            sleep(LAST_READ).await;
        };
        let secured = tokio::select! {
            biased;
            secured = tls.handshake(stream, from.ip().to_canonical()) => secured,
            () = too_late => return,
        };
        let Some(Secured { stream, peer, trust }) = secured else { return };
        let streams = if trust.is_some() { STREAMS_MAX } else { STREAMS_OF_STRANGER_MAX };
        let session = Session::new(peer, trust, connection);
        let untrusted = {
            let session = Arc::clone(&session);
            async move {
                tls.revoked(session.trust.as_ref()).await;
                info!("a connection ends: no client CA vouches for its certificate any more");
            }
        };
        self.serve_session(stream, turns, session, streams, untrusted).await;
    }

    /// Serves one connection, until it ends, the process does, it is evicted or too old, or `untrusted` ends.
    async fn serve_session<IO>(
        &self,
        stream: IO,
        turns: Option<Arc<ReadTurns>>,
        session: Arc<Session>,
        streams: u32,
        untrusted: impl Future<Output = ()>,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Life { age, drain } = (self.life)();
        let (connection, service) = (&session.connection, (self.service)(Arc::clone(&session)));
        let in_place = InPlace::default();
        let io = Transport::new(stream, Arc::clone(connection), Some(Frames::new(Arc::clone(&self.clock))), turns);
        let mut runner = in_place.runner();
        let mut unread = Unread::new(connection);
        let mut serving = pin!(builder(in_place, streams).serve_connection(TokioIo::new(io), service));
        let mut untrusted = pin!(untrusted);
        let mut is_trusted = true;
        let close_within = {
            let mut said_nothing = pin!(says_nothing(&session));
            tokio::select! {
                () = poll_fn(|cx| turn(serving.as_mut(), &mut runner, &mut unread, cx)) => return,
                () = said_nothing.as_mut() => Some(Duration::ZERO),
                // The process sees to its end.
                () = self.shutdown.goaway.cancelled() => None,
                () = connection.evicted() => None,
                () = sleep(age) => Some(drain),
                () = untrusted.as_mut() => {
                    is_trusted = false;
                    Some(UNTRUSTED_CLOSE)
                }
            }
        };
        let has_begun = connection.is_proven()
            || self.shutdown.goaway.is_cancelled()
                && last_read(connection, |cx| turn(serving.as_mut(), &mut runner, &mut unread, cx)).await;
        if !has_begun {
            return;
        }
        session.closing.cancel();
        serving.as_mut().graceful_shutdown();
        let end = async {
            match close_within {
                Some(within) => sleep(within.max(CLOSE_MIN)).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = poll_fn(|cx| turn(serving.as_mut(), &mut runner, &mut unread, cx)) => {}
            () = has_nothing_to_do(connection) => {}
            // No peer puts these off, whether it answers GOAWAY or calls on.
            () = end => {}
            () = async { untrusted.as_mut().await; sleep(UNTRUSTED_CLOSE).await }, if is_trusted => {}
        }
    }
}

/// Ends when a client has said nothing for too long: no preface, or, where it has proven nothing, no call.
async fn says_nothing(session: &Session) {
    sleep(PREFACE_TIMEOUT).await;
    if !session.connection.is_proven() {
        debug!("a connection without a preface was closed");
        return;
    }
    if session.trust.is_none() {
        sleep(FIRST_CALL_TIMEOUT.saturating_sub(PREFACE_TIMEOUT)).await;
        if !session.connection.is_served() {
            debug!("a connection without a call was closed");
            return;
        }
    }
    pending().await
}

/// Ends, after GOAWAY, when no call is under way: as long as a living client needs to read the last answers and close.
async fn has_nothing_to_do(connection: &Connection) {
    let (mut idle, mut unread) = (false, 0);
    loop {
        sleep(IDLE_CLOSE).await;
        let was_idle = std::mem::replace(&mut idle, connection.is_idle());
        unread = if connection.is_answered() { unread + 1 } else { 0 };
        if idle && was_idle || unread >= UNREAD_CLOSE {
            return;
        }
    }
}

/// Bounds how long a client leaves answers unread, by HTTP/2's windows.
struct Unread<'c> {
    connection: &'c Arc<Connection>,
    due: Option<Pin<Box<Sleep>>>,
    /// For how many periods some were.
    stale: u32,
    unsent: Option<Unsent>,
}

impl<'c> Unread<'c> {
    fn new(connection: &'c Arc<Connection>) -> Self {
        Self { connection, due: None, stale: 0, unsent: None }
    }

    /// Ends when an answer was unread for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.connection.has_unread() {
            // Nearly always, and then there is nothing to be dropped.
            if self.due.is_some() {
                *self = Self::new(self.connection);
            }
            return Poll::Pending;
        }
        loop {
            let due = self.due.get_or_insert_with(|| Box::pin(sleep(UNREAD_PERIOD)));
            if due.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.due = None;
            if !self.connection.has_stale() {
                (self.stale, self.unsent) = (0, None);
                continue;
            }
            self.stale += 1;
            if self.stale > UNREAD_PERIODS {
                debug!("a connection whose client does not read was closed");
                return Poll::Ready(());
            }
            self.unsent.get_or_insert_with(|| self.connection.unsent());
        }
    }
}

/// One turn of a connection's task: what has come is read, what was answered is written, and the streams that have come are run. Their
/// answers wake the task, and are written all at once in its next turn.
fn turn<C: Future>(serving: Pin<&mut C>, runner: &mut Runner, unread: &mut Unread<'_>, cx: &mut Context<'_>) -> Poll<()> {
    let ended = serving.poll(cx).map(drop);
    runner.run(cx);
    if ended.is_ready() { ended } else { unread.poll(cx) }
}

fn builder(in_place: InPlace, streams: u32) -> http2::Builder<InPlace> {
    let mut builder = http2::Builder::new(in_place);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size((streams * WINDOW_PER_STREAM).max(CONNECTION_WINDOW_MIN))
        .max_frame_size(FRAME_MAX)
        .max_header_list_size(HEADER_LIST_MAX)
        .max_send_buf_size(SEND_BUFFER_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        // gRPC has no use for it.
        .auto_date_header(false);
    builder
}
