//! One connection of HTTP/2, every limit set on purpose.
//!
//! Must never wait forever for a client that says nothing, nor hold up the end of the process: the session's `closing`
//! tells streams without an end of their own when theirs has come.

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    future::poll_fn,
    io,
    net::SocketAddr,
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
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::sleep,
};
use tracing::{debug, info};

use super::{
    Session,
    accept::Shutdown,
    connection_limit::Connection,
    in_place::{InPlace, Runner},
    tls::{Secured, TlsAcceptor},
};
use crate::authn::certificate::Peer;

/// Most calls at once on a connection. Generous, since hits would queue in the client behind calls that wait for the vault;
/// what those may cost in all is bounded by `signin::WAITERS_MAX`.
const STREAMS_MAX: u32 = 2_048;
/// A request is a few hundred bytes, so windows beyond HTTP/2's own default buy nothing.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Unread bytes of a connection. h2 lets small frames use up half of this, each counted as 256 bytes less its length, and ends the
/// connection beyond it: enough for the messages of `STREAMS_MAX` calls that come at once, before any of them was read.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
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
/// Its length (RFC 9113, 3.4).
const PREFACE_LENGTH: usize = 24;
/// After GOAWAY a connection without calls is given this long to close by itself.
const IDLE_CLOSE: Duration = Duration::from_millis(500);
/// And one whose calls all have their answers is given so many times as long to read them: some clients never do.
const UNREAD_CLOSE: u32 = 4;

/// Takes connections through their life: TLS where there is any, then HTTP/2, until they are too old, nobody vouches for the client any
/// more, or the process ends.
#[derive(Clone)]
pub struct Http2<F> {
    /// None: plaintext.
    pub tls: Option<TlsAcceptor>,
    /// How they end.
    pub shutdown: Shutdown,
    /// How long one that opens now may last.
    pub age: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Makes what answers the calls of a session.
    pub service: F,
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
    pub async fn serve(self, stream: TcpStream, from: SocketAddr, connection: Arc<Connection>) {
        let Some(tls) = &self.tls else {
            let peer = Peer::in_plaintext(from.ip().to_canonical().is_loopback());
            let session = Session::new(peer, connection);
            let age = sleep((self.age)());
            return serve(stream, &session, (self.service)(Arc::clone(&session)), self.shutdown, age).await;
        };
        let secured = tokio::select! {
            () = self.shutdown.goaway.cancelled() => return,
            secured = tls.handshake(stream) => secured,
        };
        let Some(Secured { stream, peer, trust }) = secured else { return };
        let leave = async {
            tokio::select! {
                () = sleep((self.age)()) => {}
                () = trust.revoked() => info!("a connection ends: no client CA vouches for its certificate any more"),
            }
        };
        let session = Session::new(peer, connection);
        serve(stream, &session, (self.service)(Arc::clone(&session)), self.shutdown, leave).await;
    }
}

/// Serves one connection, until it ends, the process does, it is evicted, or `leave` says that it is to be closed.
async fn serve<IO, S, B>(stream: IO, session: &Arc<Session>, service: S, shutdown: Shutdown, leave: impl Future<Output = ()>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let connection = &session.connection;
    let io = Stream { inner: stream, read: 0, connection: Arc::clone(connection) };
    let mut leave = pin!(leave);
    let streams = InPlace::default();
    let mut runner = streams.runner();
    let mut serving = pin!(builder(streams).serve_connection(TokioIo::new(io), service));

    let mut preface_due = pin!(sleep(PREFACE_TIMEOUT));
    let mut preface_awaited = true;
    loop {
        tokio::select! {
            () = poll_fn(|cx| turn(serving.as_mut(), &mut runner, cx)) => return,
            () = preface_due.as_mut(), if preface_awaited => {
                if !connection.is_proven() {
                    debug!("a connection without a preface was closed");
                    return;
                }
                preface_awaited = false;
            }
            () = shutdown.goaway.cancelled() => break,
            () = connection.evicted() => break,
            () = leave.as_mut() => break,
        }
    }
    if !connection.is_proven() {
        return;
    }
    session.closing.cancel();
    serving.as_mut().graceful_shutdown();
    // With calls in flight, as long as they need; without any, as long as a living client needs to read the last answers and
    // close.
    let (mut idle, mut unread) = (false, 0);
    loop {
        tokio::select! {
            biased;
            () = poll_fn(|cx| turn(serving.as_mut(), &mut runner, cx)) => return,
            () = sleep(IDLE_CLOSE) => {
                let was_idle = std::mem::replace(&mut idle, connection.is_idle());
                unread = if connection.is_answered() { unread + 1 } else { 0 };
                if idle && was_idle || unread > UNREAD_CLOSE {
                    return;
                }
            }
        }
    }
}

/// One turn of a connection's task: what has come is read, what was answered is written, and the streams that have come are run. Their
/// answers wake the task, and are written all at once in its next turn.
fn turn<C: Future>(serving: Pin<&mut C>, runner: &mut Runner, cx: &mut Context<'_>) -> Poll<()> {
    let ended = serving.poll(cx).map(drop);
    runner.run(cx);
    ended
}

fn builder(streams: InPlace) -> http2::Builder<InPlace> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
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

/// The connection's bytes. Says that it can't write vectored, so that h2 copies small frames together into one write, which
/// costs less than the system calls it saves; and notes when the preface is here.
struct Stream<S> {
    inner: S,
    read: usize,
    connection: Arc<Connection>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        if self.read < PREFACE_LENGTH {
            self.read += buf.filled().len() - before;
            if self.read >= PREFACE_LENGTH {
                self.connection.set_proven();
            }
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        false
    }
}
