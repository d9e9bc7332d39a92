//! The sign-in's HTTP exchange.
//!
//! Must never follow a redirect, use a proxy, resend what may have been read, read without a limit or a time, or let out an
//! error of reqwest's, which carries the URL.

#[cfg(test)]
mod tests;

use std::{
    error::Error,
    fmt, io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::{
    Client, RequestBuilder, Response, Url,
    header::{ACCEPT, ACCEPT_ENCODING, AGE, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderName, RETRY_AFTER},
};
use tokio::time::{Sleep, sleep};
use zeroize::Zeroizing;

use super::{
    Failure, Grant, SIGN_IN_PATH, SignIn, SigningIn, SigningOut, UNREADABLE,
    reply::{Asked, Granted, Reply, Unreadable, classify, harmless},
};
use crate::{
    clock::Clock,
    config::VaultConfig,
    outbound::{self, HttpClientError},
    secret::Secret,
    telemetry::traces::{self, Context, Span},
    user::UserKey,
};

/// Longest body that is read, in bytes: a reply has about 600, and the longest token that is taken has 16,384. The words for
/// a longer one are in [`classify`].
const BODY_MAX: usize = 64 * 1024;

const MERCHANT: HeaderName = HeaderName::from_static("x-merchant-id");
/// What to quote to the vendor's support.
const REQUEST_ID: &str = "x-request-id";

/// The share of the timeout that one attempt to connect may take: two attempts and the answer itself fit.
const CONNECT_SHARE: u32 = 3;
/// Under the base URL.
const SIGN_OUT_PATH: &str = "/signout";

/// The vault, over HTTP.
pub struct HttpVault {
    client: Client,
    endpoint: Url,
    pub(super) sign_out: Url,
    pub(super) timeout: Duration,
    assumed_lifetime: Duration,
    /// Tells what a `Retry-After` that is a date means, and whether a token's own end is past.
    clock: Arc<dyn Clock>,
    /// That its clock can't be compared with ours was said.
    clock_doubted: AtomicBool,
}

impl fmt::Debug for HttpVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpVault").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

impl SignIn for HttpVault {
    fn sign_in<'a>(&'a self, user: &'a UserKey, password: &'a Secret, span: &'a Span) -> SigningIn<'a> {
        Box::pin(async move {
            self.describe(span);
            let mut status = None;
            let result = self.exchange(user, password, span.context(), &mut status).await;
            if span.is_recorded() {
                conclude(span, status, result.as_ref().err());
            }
            result
        })
    }

    fn sign_out<'a>(&'a self, user: &'a UserKey, token: &'a Secret) -> SigningOut<'a> {
        Box::pin(self.end_token(user, token))
    }
}

impl HttpVault {
    /// Prepares a client; connects to nothing yet.
    ///
    /// # Errors
    /// Where TLS can't be set up.
    pub fn new(config: &VaultConfig, clock: Arc<dyn Clock>) -> Result<Self, HttpClientError> {
        let below = |path: &str| {
            let mut url = config.base_url.url().clone();
            url.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
            url
        };
        let roots = config.ca_file.as_ref().map_or_else(outbound::public_roots, |file| Arc::clone(&file.roots));
        let builder = outbound::builder(roots, config.base_url.absolute().map(Box::from).into_iter().collect())?
            .default_headers(config.headers.clone())
            // Never a default of reqwest's, which doesn't end.
            .connect_timeout(config.timeout / CONNECT_SHARE)
            .pool_max_idle_per_host(config.max_concurrent_sign_ins);
        Ok(Self {
            client: outbound::build(builder)?,
            endpoint: below(SIGN_IN_PATH),
            sign_out: below(SIGN_OUT_PATH),
            timeout: config.timeout,
            assumed_lifetime: config.assumed_lifetime,
            clock,
            clock_doubted: AtomicBool::new(false),
        })
    }

    /// One request and its answer, within the timeout, and the answer's status. An answer that has begun counts, however it ends: its status
    /// may be a no.
    async fn exchange(
        &self,
        user: &UserKey,
        password: &Secret,
        trace: Option<Context>,
        status: &mut Option<u16>,
    ) -> Result<Grant, Failure> {
        let mut timeout = pin!(sleep(self.timeout));
        let at = self.clock.now().wall;
        let sent = tokio::select! {
            biased;
            sent = self.send(user, form(user, password), trace) => sent,
            () = &mut timeout => return Err(unavailable("it did not answer in time")),
        };
        let mut response = sent.map_err(|error| transport(&error))?;
        *status = Some(response.status().as_u16());
        let mut body = Zeroizing::new(Vec::new());
        let unreadable = read(&mut body, &mut response, timeout).await;
        let headers = response.headers();
        let asked =
            Asked { number: user.number.expose(), password: password.expose(), assumed_lifetime: self.assumed_lifetime, at };
        let waits: Vec<_> = headers.get_all(RETRY_AFTER).iter().filter_map(|value| value.to_str().ok()).collect();
        let reply = Reply {
            status: response.status().as_u16(),
            retry_after: &waits,
            date: date(headers),
            body: &body,
            unreadable,
            now: self.clock.now().wall,
        };
        match classify(&reply, &asked) {
            Ok(Granted { grant, clock_ahead_s }) => {
                self.doubt_clock(clock_ahead_s);
                Ok(grant)
            }
            Err(failure) => {
                if let Some(id) = text(headers, REQUEST_ID).and_then(|id| harmless(id, &asked)) {
                    tracing::info!(x_request_id = id, "a sign-in failed; the vault's support asks for this id");
                }
                Err(failure)
            }
        }
    }

    /// Says in a span where the request goes: the configuration lets no URL have a user or a query.
    fn describe(&self, span: &Span) {
        if span.is_recorded() {
            span.set("http.request.method", "POST");
            span.set("url.template", SIGN_IN_PATH);
            span.set("url.full", self.endpoint.to_string());
            span.set("server.address", self.endpoint.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned());
            span.set_number("server.port", self.endpoint.port_or_known_default().unwrap_or_default().into());
        }
    }

    /// Says once that the vault's clock and ours are too far apart for its tokens' `exp` to be believed.
    fn doubt_clock(&self, ahead_s: Option<i64>) {
        if let Some(vault_ahead_s) = ahead_s
            && !self.clock_doubted.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                vault_ahead_s,
                "the vault's clock and this machine's differ, so that the end its tokens name can't be told: they are taken to live as \
                 long as they say from the sign-in on; have both clocks checked"
            );
        }
    }

    /// Sends the request, once more only where there was no connection to send it on: after that the vault may have read and
    /// judged it, and a second wrong password counts.
    async fn send(&self, user: &UserKey, body: Bytes, trace: Option<Context>) -> reqwest::Result<Response> {
        match self.post(user, body.clone(), trace).await {
            Err(error) if error.is_connect() => self.post(user, body, trace).await,
            sent => sent,
        }
    }

    fn post(&self, user: &UserKey, body: Bytes, trace: Option<Context>) -> impl Future<Output = reqwest::Result<Response>> {
        let request = self.post_to(&self.endpoint, user).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
        match trace {
            Some(trace) => request.header(traces::HEADER, trace.to_string()),
            None => request,
        }
        .send()
    }

    /// What all requests for a user have in common.
    pub(super) fn post_to(&self, url: &Url, user: &UserKey) -> RequestBuilder {
        self.client
            .post(url.clone())
            .header(MERCHANT, user.merchant.as_str())
            .header(ACCEPT, "application/json")
            .header(ACCEPT_ENCODING, "identity")
    }
}

/// Says in a span how it ended, as OpenTelemetry's conventions for HTTP have it: by the status, where that says that it failed.
fn conclude(span: &Span, status: Option<u16>, failure: Option<&Failure>) {
    if let Some(status) = status {
        span.set_number("http.response.status_code", status.into());
    }
    match (failure, status) {
        (Some(_), Some(status @ 400..)) => span.set("error.type", status.to_string()),
        (Some(failure), Some(_) | None) => span.set("error.type", failure.kind()),
        (None, _) => {}
    }
}

/// The request's body, in memory that is wiped once the last of its users lets go of it. (What hyper and the kernel copy on
/// the way to the socket is beyond reach.)
fn form(user: &UserKey, password: &Secret) -> Bytes {
    let (number, password) = (user.number.expose(), password.expose());
    // Each byte takes three characters at most, so that the text never moves and leaves a copy behind.
    let names = "grant_type=mobile_phone&number=&password=".len();
    let mut body = Zeroizing::new(String::with_capacity(names + 3 * (number.len() + password.len())));
    form_urlencoded::Serializer::new(&mut *body)
        .append_pair("grant_type", "mobile_phone")
        .append_pair("number", number)
        .append_pair("password", password);
    Bytes::from_owner(body)
}

/// Reads an answer's body; says why it is not the whole one, if so.
async fn read(body: &mut Zeroizing<Vec<u8>>, response: &mut Response, timeout: Pin<&mut Sleep>) -> Option<Unreadable> {
    let encoded = is_encoded(response.headers());
    let whole = tokio::select! {
        biased;
        whole = outbound::read_into(body, response, BODY_MAX) => whole.ok(),
        () = timeout => None,
    };
    match whole {
        _ if encoded => Some(Unreadable::Encoded),
        Some(true) => None,
        Some(false) => Some(Unreadable::TooLong),
        None => Some(Unreadable::CutOff),
    }
}

/// What the vault's clock says, if the answer was made just now.
fn date(headers: &HeaderMap) -> Option<SystemTime> {
    if headers.contains_key(AGE) { None } else { httpdate::parse_http_date(text(headers, DATE.as_str())?).ok() }
}

/// Whether there is a content encoding; none was asked for, so it is not undone. Some say so of a charset or a transfer, which is none.
fn is_encoded(headers: &HeaderMap) -> bool {
    const NONE: [&str; 7] = ["", "identity", "none", "utf-8", "8bit", "7bit", "binary"];
    let plain = |value: &str| NONE.iter().any(|none| value.trim().eq_ignore_ascii_case(none));
    headers.get_all(CONTENT_ENCODING).iter().any(|value| !value.to_str().is_ok_and(plain))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What went wrong on the way, in fixed words: the error's own carry the URL.
fn transport(error: &reqwest::Error) -> Failure {
    if caused_by(error, hyper::Error::is_parse) {
        // It may have been a no.
        return Failure::Undocumented { status: UNREADABLE, wait: None, vault_error: String::new() };
    }
    unavailable(transport_cause(error))
}

/// The same in words.
pub(super) fn transport_cause(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "it took too long to connect to"
    } else if let Some(tls) = tls_error(error) {
        if matches!(tls, rustls::Error::InvalidCertificate(_)) {
            "its TLS certificate is not valid for it or not trusted"
        } else {
            "the TLS handshake with it failed"
        }
    } else if error.is_connect() {
        "no connection to it could be made"
    } else {
        "the connection broke before its answer was complete"
    }
}

/// The TLS error in a chain.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    causes(error).find_map(|error| error.downcast_ref())
}

/// Whether hyper's error in a chain is of a kind.
fn caused_by(error: &(dyn Error + 'static), kind: impl Fn(&hyper::Error) -> bool) -> bool {
    causes(error).filter_map(|error| error.downcast_ref()).any(kind)
}

/// An error and what it wraps. An `io::Error` skips what it wraps when it is asked for its source.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> + 'a {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
        Some(error)
    })
}

fn unavailable(cause: &'static str) -> Failure {
    Failure::Unavailable { cause, wait: None, vault_error: String::new() }
}
