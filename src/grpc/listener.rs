//! The accept loop and the connections behind it, every limit set on purpose.
//!
//! Must never spin when descriptors run out, wait forever for a client that says nothing, or hold up the end of the process:
//! a drain has a hard end.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, body::Body};
use tracing::{debug, warn};

use super::{identity::Peer, services::Services};

/// Most connections per listener: a thousand pods with a few channels each; an idle one costs about 20 KiB.
pub const CONNECTIONS_MAX: usize = 8_192;
/// Most calls at once on a connection. Generous, since hits would queue in the client behind calls that wait for the vault;
/// what those may cost in all is bounded by `flight::WAITERS_MAX`.
const STREAMS_MAX: u32 = 2_048;
/// A request is a few hundred bytes, so windows beyond HTTP/2's own default buy nothing.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Room for the messages of some four hundred calls; they are read as they come.
const CONNECTION_WINDOW: u32 = 128 * 1024;
/// HTTP/2's smallest and default: no frame of ours comes near it.
const FRAME_MAX: u32 = 16 * 1024;
/// Metadata of a call, decoded: a projected service-account token has about 2 KiB.
const HEADER_LIST_MAX: u32 = 16 * 1024;
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
/// Pause after a failed accept: the usual cause, no descriptors left, passes only when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// After GOAWAY a connection without calls is given this long to close by itself.
const IDLE_GOODBYE: Duration = Duration::from_millis(500);

/// The two steps of an end, told to every connection.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Accept no more, send GOAWAY, finish the calls in flight.
    pub goaway: CancellationToken,
    /// Drop what is left.
    pub abort: CancellationToken,
}

/// Accepts connections until told to end, and hands each to `serve`, at most `most` at once.
pub async fn accept<F, S>(listener: TcpListener, most: usize, tasks: TaskTracker, ending: Ending, serve: F)
where
    F: Fn(TcpStream, SocketAddr) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(most));
    let mut turned_away = TurnedAway::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = ending.goaway.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "can't accept a connection; pausing");
                tokio::select! {
                    () = ending.goaway.cancelled() => return,
                    () = sleep(ACCEPT_PAUSE) => continue,
                }
            }
        };
        // The place is taken after the accept, so that a full house turns clients away instead of letting them hang.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            turned_away.say(most);
            continue;
        };
        // Small replies must not wait for more to send (Nagle).
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "the connection was gone before it was served");
            continue;
        }
        let (connection, abort) = (serve(stream, from), ending.abort.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = connection => {}
                () = abort.cancelled() => {}
            }
            drop(place);
        });
    }
}

/// Clients that a full house turned away; told in powers of two, so that a flood of them is no flood of lines.
#[derive(Default)]
struct TurnedAway(u64);

impl TurnedAway {
    fn say(&mut self, most: usize) {
        self.0 = self.0.saturating_add(1);
        if self.0.is_power_of_two() {
            warn!(most, turned_away = self.0, "too many connections: new ones are closed");
        }
    }
}

/// Serves gRPC on one connection, until it ends, the process does, or `leave` says that this connection is to go.
pub async fn serve<S>(stream: S, peer: Peer, services: Services, ending: Ending, leave: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let preface = Arc::new(AtomicBool::new(false));
    let io = Stream { inner: stream, read: 0, preface: Arc::clone(&preface) };
    let calls = Arc::new(AtomicUsize::new(0));
    let service = Calls { services, peer: Arc::new(peer), under_way: Arc::clone(&calls) };
    let mut leave = pin!(leave);
    let mut connection = pin!(builder().serve_connection(TokioIo::new(io), service));

    let mut preface_due = pin!(sleep(PREFACE_TIMEOUT));
    let mut preface_awaited = true;
    loop {
        tokio::select! {
            _ended = connection.as_mut() => return,
            () = preface_due.as_mut(), if preface_awaited => {
                if !preface.load(Ordering::Relaxed) {
                    debug!("a connection without a preface was closed");
                    return;
                }
                preface_awaited = false;
            }
            () = ending.goaway.cancelled() => break,
            () = leave.as_mut() => break,
        }
    }
    if !preface.load(Ordering::Relaxed) {
        return;
    }
    connection.as_mut().graceful_shutdown();
    // With calls in flight, as long as they need; without any, as long as a living client needs to read the last answers and
    // say goodbye.
    let mut idle = false;
    loop {
        tokio::select! {
            biased;
            _ended = connection.as_mut() => return,
            () = sleep(IDLE_GOODBYE) => {
                let was_idle = std::mem::replace(&mut idle, calls.load(Ordering::Relaxed) == 0);
                if idle && was_idle {
                    return;
                }
            }
        }
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
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

/// Counts a connection's calls under way.
struct Calls {
    services: Services,
    peer: Arc<Peer>,
    under_way: Arc<AtomicUsize>,
}

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let one = One::of(&self.under_way);
        let responding = self.services.respond(request, &self.peer);
        Box::pin(async move { responding.await.map(|response| response.map(|body| Answer { body, _one: one })) })
    }
}

/// One call, from its headers until the last of its answer was taken.
struct One(Arc<AtomicUsize>);

impl One {
    fn of(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer that counts as under way while it is being sent.
struct Answer {
    body: Body,
    _one: One,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// The connection's bytes. Says that it can't write vectored, so that h2 copies small frames together into one write, which
/// costs less than the system calls it saves; and notes when the preface is here.
struct Stream<S> {
    inner: S,
    read: usize,
    preface: Arc<AtomicBool>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        if self.read < PREFACE_LENGTH {
            self.read += buf.filled().len() - before;
            if self.read >= PREFACE_LENGTH {
                self.preface.store(true, Ordering::Relaxed);
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
