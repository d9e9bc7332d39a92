//! One connection of gRPC, every limit of HTTP/2 set on purpose.
//!
//! Must never wait forever for a client that says nothing, nor hold up the end of the process: what lasts as long as its client
//! likes (a watch of health, reflection) ends when the connection is to go.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::Frame;
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};
use tracing::debug;

use super::services::{self, Link, Services};
use crate::{
    authn::Peer,
    net::{
        accept::Ending,
        places::{Guest, UnderWay},
    },
};

/// Most calls at once on a connection. Generous, since hits would queue in the client behind calls that wait for the vault;
/// what those may cost in all is bounded by `flight::WAITERS_MAX`.
const STREAMS_MAX: u32 = 2_048;
/// A request is a few hundred bytes, so windows beyond HTTP/2's own default buy nothing.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Room for the messages of some four hundred calls; they are read as they come.
const CONNECTION_WINDOW: u32 = 128 * 1024;
/// HTTP/2's smallest and default: no frame of ours comes near it.
const FRAME_MAX: u32 = 16 * 1024;
/// Metadata of a call, decoded, that is read at all: beyond this the stream is refused by HTTP/2, with 431 and no words. Four times
/// what is taken (`services::METADATA_MAX`), so that whoever brings too much is told.
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
const IDLE_GOODBYE: Duration = Duration::from_millis(500);
/// And one whose calls all have their answers is given so many times as long to read them: some clients never do.
const UNREAD_GOODBYES: u32 = 4;

/// Serves gRPC on one connection, until it ends, the process does, its place is wanted, or `leave` says that it is to go.
pub async fn serve<S>(
    stream: S,
    peer: Peer,
    services: Services,
    guest: Arc<Guest>,
    ending: Ending,
    leave: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = Stream { inner: stream, read: 0, guest: Arc::clone(&guest) };
    let over = CancellationToken::new();
    let service = Calls { services, link: Arc::new(Link { peer, guest: Arc::clone(&guest), over: over.clone() }) };
    let mut leave = pin!(leave);
    let mut connection = pin!(builder().serve_connection(TokioIo::new(io), service));

    let mut preface_due = pin!(sleep(PREFACE_TIMEOUT));
    let mut preface_awaited = true;
    loop {
        tokio::select! {
            _ended = connection.as_mut() => return,
            () = preface_due.as_mut(), if preface_awaited => {
                if !guest.has_greeted() {
                    debug!("a connection without a preface was closed");
                    return;
                }
                preface_awaited = false;
            }
            () = ending.goaway.cancelled() => break,
            () = guest.told_to_leave() => break,
            () = leave.as_mut() => break,
        }
    }
    if !guest.has_greeted() {
        return;
    }
    over.cancel();
    connection.as_mut().graceful_shutdown();
    // With calls in flight, as long as they need; without any, as long as a living client needs to read the last answers and
    // say goodbye.
    let (mut idle, mut unread) = (false, 0);
    loop {
        tokio::select! {
            biased;
            _ended = connection.as_mut() => return,
            () = sleep(IDLE_GOODBYE) => {
                let was_idle = std::mem::replace(&mut idle, guest.is_idle());
                unread = if guest.is_answered() { unread + 1 } else { 0 };
                if idle && was_idle || unread > UNREAD_GOODBYES {
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

/// A connection's calls.
struct Calls {
    services: Services,
    link: Arc<Link>,
}

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut under_way = self.link.guest.begins();
        let lasts = self.services.lasts(request.uri().path());
        let responding = self.services.respond(request, &self.link);
        if !lasts {
            return Box::pin(async move {
                let response = responding.await?;
                under_way.answered();
                Ok(response.map(|body| Answer::Call { body, _counted: under_way }))
            });
        }
        drop(under_way);
        let over = self.link.over.clone();
        Box::pin(async move {
            let response = tokio::select! {
                response = responding => response?,
                () = over.cancelled() => services::shutting_down().into_http(),
            };
            Ok(response.map(|body| Answer::Lasting { body, over: Some(Box::pin(over.cancelled_owned())) }))
        })
    }
}

/// An answer while it is being sent.
enum Answer {
    /// It counts as a call under way.
    Call { body: Body, _counted: UnderWay },
    /// It counts for nothing, and ends with the connection; none once it has.
    Lasting { body: Body, over: Option<Pin<Box<WaitForCancellationFutureOwned>>> },
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let (body, over) = match &mut *self {
            Self::Call { body, .. } => return Pin::new(body).poll_frame(cx),
            Self::Lasting { body, over } => (body, over),
        };
        let Some(ended) = over else { return Poll::Ready(None) };
        if ended.as_mut().poll(cx).is_pending() {
            return Pin::new(body).poll_frame(cx);
        }
        *over = None;
        let (mut head, _) = services::shutting_down().into_http::<Body>().into_parts();
        head.headers.remove(CONTENT_TYPE);
        Poll::Ready(Some(Ok(Frame::trailers(head.headers))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Call { body, .. } => body.is_end_stream(),
            Self::Lasting { body, over } => over.is_none() || body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Call { body, .. } | Self::Lasting { body, .. } => body.size_hint(),
        }
    }
}

/// The connection's bytes. Says that it can't write vectored, so that h2 copies small frames together into one write, which
/// costs less than the system calls it saves; and notes when the preface is here.
struct Stream<S> {
    inner: S,
    read: usize,
    guest: Arc<Guest>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        if self.read < PREFACE_LENGTH {
            self.read += buf.filled().len() - before;
            if self.read >= PREFACE_LENGTH {
                self.guest.greet();
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
