//! The admin port: `/livez`, `/readyz` and `/metrics`, read-only.
//!
//! Must never change anything, nor say anything of the upstream: readiness speaks of this process.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::{net::TcpStream, sync::watch};

use crate::{
    grpc::listener::Ending,
    metrics::{self, Metrics},
};

/// Most connections: probes, a scraper and a few people.
pub const CONNECTIONS_MAX: usize = 64;
/// A request's head is here by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest request head, in bytes; also the least that hyper takes.
const HEAD_MAX: usize = 8 * 1024;

/// How far the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not listening yet.
    Starting,
    /// Answering.
    Ready,
    /// About to end.
    Draining,
}

/// The pages of the port.
pub fn router(phase: watch::Receiver<Phase>, metrics: Arc<Metrics>) -> Router {
    let probes = Router::new().route("/livez", get(|| async { "alive\n" })).route("/readyz", get(readyz)).with_state(phase);
    probes.merge(Router::new().route("/metrics", get(exposition)).with_state(metrics))
}

#[allow(clippy::unused_async, reason = "axum's handlers are async")]
async fn exposition(State(counted): State<Arc<Metrics>>) -> Response {
    match counted.text() {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[allow(clippy::unused_async, reason = "axum's handlers are async")]
async fn readyz(State(phase): State<watch::Receiver<Phase>>) -> (StatusCode, &'static str) {
    match *phase.borrow() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Phase::Ready => (StatusCode::OK, "ready\n"),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

/// Serves the port on one connection.
pub async fn serve(stream: TcpStream, router: Router, ending: Ending) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = ending.goaway.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    // What ends a connection early is its client's affair.
    drop(connection.await);
}
