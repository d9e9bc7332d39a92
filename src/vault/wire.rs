//! The sign-in's HTTP exchange.
//!
//! Must never follow a redirect, use a proxy, resend what may have been read, read without a limit or a time, or let out an
//! error of reqwest's, which carries the URL.

mod build;
#[cfg(test)]
mod tests;

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, Response, Url,
    header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER},
};
use zeroize::Zeroizing;

pub use self::build::{BuildError, Settings};
use super::{
    Failure, Grant, SignIn, SigningIn,
    reply::{Asked, Reply, Unreadable, classify, harmless},
};
use crate::{
    clock::Clock,
    model::UserKey,
    outbound,
    secret::Secret,
    traces::{self, Context},
};

/// Longest body that is read, in bytes: a reply has about 600, and the longest token that is taken has 16,384. The words for
/// a longer one are in [`classify`].
const BODY_MAX: usize = 64 * 1024;

const MERCHANT: HeaderName = HeaderName::from_static("x-merchant-id");
/// What to quote to the vendor's support.
const REQUEST_ID: &str = "x-request-id";

/// The vault, over HTTP.
pub struct Vault {
    client: Client,
    endpoint: Url,
    timeout: Duration,
    assumed_lifetime: Duration,
    /// Tells what a `Retry-After` that is a date means.
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

impl SignIn for Vault {
    fn sign_in<'a>(&'a self, user: &'a UserKey, password: &'a Secret, trace: Option<Context>) -> SigningIn<'a> {
        Box::pin(async move {
            match tokio::time::timeout(self.timeout, self.exchange(user, password, trace)).await {
                Ok(result) => result,
                Err(_elapsed) => Err(unavailable("it did not answer in time")),
            }
        })
    }
}

impl Vault {
    async fn exchange(&self, user: &UserKey, password: &Secret, trace: Option<Context>) -> Result<Grant, Failure> {
        let mut response = self.send(user, form(user, password), trace).await.map_err(|error| transport(&error))?;
        let body = if is_encoded(response.headers()) {
            Err(Unreadable::Encoded)
        } else {
            outbound::read(&mut response, BODY_MAX).await.map_err(|error| transport(&error))?.ok_or(Unreadable::TooLong)
        };
        let asked = Asked { number: user.number.expose(), password: password.expose(), assumed_lifetime: self.assumed_lifetime };
        let reply = Reply {
            status: response.status().as_u16(),
            retry_after: text(response.headers(), RETRY_AFTER.as_str()),
            body: body.as_ref().map(|body| body.as_slice()).map_err(|unreadable| *unreadable),
            now: self.clock.now().wall,
        };
        let result = classify(&reply, &asked);
        if result.is_err()
            && let Some(id) = text(response.headers(), REQUEST_ID).and_then(|id| harmless(id, &asked))
        {
            tracing::info!(x_request_id = id, "a sign-in failed; the vault's support asks for this id");
        }
        result
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
        let request = self
            .client
            .post(self.endpoint.clone())
            .header(MERCHANT, user.merchant.as_str())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        match trace {
            Some(trace) => request.header(traces::HEADER, trace.to_string()),
            None => request,
        }
        .send()
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

/// Whether there is a content encoding; none was asked for, so it is not undone.
fn is_encoded(headers: &HeaderMap) -> bool {
    let plain = |value: &str| value.trim().is_empty() || value.trim().eq_ignore_ascii_case("identity");
    headers.get_all(CONTENT_ENCODING).iter().any(|value| !value.to_str().is_ok_and(plain))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What went wrong on the way, in fixed words: the error's own carry the URL.
fn transport(error: &reqwest::Error) -> Failure {
    unavailable(if error.is_timeout() {
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
    })
}

/// The TLS error in a chain. An `io::Error` skips what it wraps when it is asked for its source.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref() {
            return Some(tls);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

fn unavailable(cause: &'static str) -> Failure {
    Failure::Unavailable { cause, wait: None, vault_error: String::new() }
}
