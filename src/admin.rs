//! The admin port: `/livez`, `/readyz`, `/metrics` and `/status`, read-only.
//!
//! Must never change anything, name a user, or let readiness speak of anything but this process.

pub mod overview;
mod status_html;
mod status_json;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::map_response,
    response::{IntoResponse as _, Redirect, Response},
    routing::get,
};
use hyper_util::service::TowerToHyperService;

use self::{
    overview::{Overview, Phase},
    status_json::Status,
};
use crate::{
    net::{
        accept::{Accepted, Shutdown},
        http1,
    },
    telemetry::metrics::{Format, Metrics},
};

/// Most connections: probes, a scraper and a few people. Beyond them whoever asks for something gets the place of who doesn't.
pub const CONNECTIONS_MAX: usize = 64;

/// What the pages show.
#[derive(Clone, Debug)]
pub struct AdminState {
    /// The facts.
    pub overview: Arc<Overview>,
    /// What was counted.
    pub metrics: Arc<Metrics>,
}

/// The pages of the port. Each takes GET and HEAD, and nothing else.
pub fn router(shown: AdminState) -> Router {
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

async fn exposition(State(shown): State<AdminState>, headers: HeaderMap) -> Response {
    let Some(view) = shown.overview.view().await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let format = Format::accepted(accepted(&headers));
    match shown.metrics.text(view.now(), format) {
        Ok(text) => ([(CONTENT_TYPE, format.content_type()), (VARY, "accept")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// HTML for whoever asks for it, as browsers do, or `?format=html`; JSON for everybody else, or `?format=json`.
async fn overview(State(shown): State<AdminState>, uri: Uri, headers: HeaderMap) -> Response {
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
async fn readyz(State(shown): State<AdminState>) -> (StatusCode, &'static str) {
    match shown.overview.phase() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Phase::Ready => (StatusCode::OK, "ready\n"),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

/// Serves the port on one connection.
pub async fn serve(accepted: Accepted, router: Router, shutdown: Shutdown) {
    http1::serve(accepted, TowerToHyperService::new(router), shutdown).await;
}
