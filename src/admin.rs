//! The admin port: `/livez`, `/readyz`, `/metrics` and `/status`, read-only.
//!
//! Must never change anything, name a user, or let readiness speak of anything but this process.

pub mod overview;
mod status_html;
mod status_json;

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::map_response,
    response::{IntoResponse as _, Redirect, Response},
    routing::get,
};
use http_body::Frame;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpStream, time::timeout};

use self::{
    overview::{Overview, Phase},
    status_json::Status,
};
use crate::{
    net::{
        accept::Ending,
        places::{Guest, UnderWay},
    },
    telemetry::metrics::{Format, Metrics},
};

/// Most connections: probes, a scraper and a few people. Beyond them whoever asks for something gets the place of who doesn't.
pub const CONNECTIONS_MAX: usize = 64;
/// A request's head is here by then, and the next one: probes and scrapers send theirs in one piece, and connect anew.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// At the end of the process an answer that is under way is taken by then.
const GOODBYE: Duration = Duration::from_secs(1);
/// Largest request head, in bytes; also the least that hyper takes.
const HEAD_MAX: usize = 8 * 1024;

/// What the pages show.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The facts.
    pub overview: Arc<Overview>,
    /// What was counted.
    pub metrics: Arc<Metrics>,
}

/// The pages of the port. Each takes GET and HEAD, and nothing else.
pub fn router(shown: Shown) -> Router {
    Router::new()
        .route("/", get(|| async { Redirect::temporary("/status") }))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposition))
        .route("/status", get(overview))
        .with_state(shown)
        .layer(map_response(guarded))
}

/// Nothing here is to be kept, guessed at, framed, or to bring anything along.
#[allow(clippy::unused_async, reason = "axum's layers are async")]
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    response
}

async fn exposition(State(shown): State<Shown>, headers: HeaderMap) -> Response {
    let Some(view) = shown.overview.view().await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let format = Format::accepted(accepted(&headers));
    match shown.metrics.text(view.now(), format) {
        Ok(text) => ([(CONTENT_TYPE, format.content_type()), (VARY, "accept")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// HTML for whoever asks for it, as browsers do, or `?format=html`; JSON for everybody else, or `?format=json`.
async fn overview(State(shown): State<Shown>, uri: Uri, headers: HeaderMap) -> Response {
    let html = match uri.query() {
        None => accepted(&headers).contains("text/html"),
        Some("format=html") => true,
        Some("format=json") => false,
        Some(_) => return (StatusCode::BAD_REQUEST, "the query can be format=html or format=json\n").into_response(),
    };
    let Some(view) = shown.overview.view().await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let status = Status::of(&view);
    if html {
        let policy = [(CONTENT_SECURITY_POLICY, status_html::content_security_policy())];
        return (policy, [(VARY, "accept")], axum::response::Html(status_html::render(&status).into_string())).into_response();
    }
    match serde_json::to_string_pretty(&status) {
        Ok(json) => ([(CONTENT_TYPE, "application/json"), (VARY, "accept")], json + "\n").into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn accepted(headers: &HeaderMap) -> &str {
    headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[allow(clippy::unused_async, reason = "axum's handlers are async")]
async fn readyz(State(shown): State<Shown>) -> (StatusCode, &'static str) {
    match shown.overview.phase() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Phase::Ready => (StatusCode::OK, "ready\n"),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

/// Serves the port on one connection.
pub async fn serve(stream: TcpStream, router: Router, guest: Arc<Guest>, ending: Ending) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_MAX);
    let leaving = Arc::clone(&guest);
    let requests = Requests { router: TowerToHyperService::new(router), guest };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), requests));
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = leaving.told_to_leave() => return,
        () = ending.goaway.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    // What ends a connection early is its client's affair.
    drop(timeout(GOODBYE, connection).await);
}

/// A connection's requests.
struct Requests {
    router: TowerToHyperService<Router>,
    guest: Arc<Guest>,
}

impl hyper::service::Service<axum::http::Request<Incoming>> for Requests {
    type Response = axum::http::Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: axum::http::Request<Incoming>) -> Self::Future {
        self.guest.greet();
        let under_way = self.guest.begins();
        let answering = self.router.call(request);
        Box::pin(async move { answering.await.map(|r| r.map(|body| Answer { body, _counted: under_way })) })
    }
}

/// An answer while it is being sent.
struct Answer {
    body: Body,
    _counted: UnderWay,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
