//! One connection of HTTP/1.1, for the admin port.
//!
//! Must never wait long for a head that doesn't come, nor hold up the end of the process.

use std::{convert::Infallible, error::Error, pin::pin, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;

use super::{
    CountedBody,
    accept::{Accepted, Shutdown, last_read},
    transport::Transport,
};

/// A request's head is here by then, and the next one: probes and scrapers send theirs in one piece, and connect anew.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// At the end of the process an answer that is under way is taken by then.
const DRAIN: Duration = Duration::from_secs(1);
/// Largest request head, in bytes; also the least that hyper takes.
const HEAD_MAX: usize = 8 * 1024;

/// Serves `service` on one connection, until it ends, is evicted, or the process ends.
pub async fn serve<S, B>(Accepted { stream, connection, turns, .. }: Accepted, service: S, shutdown: Shutdown)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_MAX);
    let counted = service_fn(|request| {
        connection.set_proven();
        let call = connection.begin_call();
        let answering = service.call(request);
        async move { answering.await.map(|response| response.map(|body| CountedBody::new(body, call))) }
    });
    let mut serving =
        pin!(builder.serve_connection(TokioIo::new(Transport::new(stream, Arc::clone(&connection), None, turns)), counted));
    tokio::select! {
        _ended = serving.as_mut() => return,
        () = connection.evicted() => return,
        () = shutdown.goaway.cancelled() => {}
    }
    // Told to end before it has read anything, hyper closes at once.
    if !last_read(&connection, |cx| serving.as_mut().poll(cx).map(drop)).await {
        return;
    }
    serving.as_mut().graceful_shutdown();
    // What ends a connection early is its client's affair.
    drop(timeout(DRAIN, serving).await);
}
