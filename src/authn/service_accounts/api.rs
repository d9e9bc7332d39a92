//! Requests to the cluster's API server, with its CA and our token as they are now.
//!
//! Must never send our token to a server that is not the cluster's, nor let out a body or an error of reqwest's, which carries
//! the URL.

use std::{path::PathBuf, sync::Mutex};

use bytes::Bytes;
use reqwest::{
    Client, RequestBuilder, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use tracing::warn;
use zeroize::Zeroizing;

use super::{Timeouts, lock};
use crate::{
    config::{KeySource, ServiceAccountsConfig, read_file},
    jwks, outbound,
    text::{self, Flaw},
};

/// Longest body that is read, in bytes: that of keys; a review's answer is its token and a little.
pub(super) const BODY_MAX: usize = jwks::BYTES_MAX;
/// Longest file of certificates.
const CA_MAX: u64 = 1 << 20;
/// Longest token of our own: what a request's headers may have in all.
const TOKEN_MAX: u64 = 16 << 10;
/// Connections kept for the next request: reviews come in bursts, and a handshake costs more than a socket.
const IDLE_CONNECTIONS: usize = 16;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The API server gives its keys as nothing but `application/jwk-set+json`, and 406 to who takes JSON alone.
const KEYS: HeaderValue = HeaderValue::from_static("application/jwk-set+json, application/json");

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The API server doesn't know us, or doesn't let us: somebody has to set that right.
    Denied,
    /// In words for the log.
    Away(&'static str),
}

/// The API server's client.
pub(super) struct Api {
    ca_file: Option<PathBuf>,
    token_file: PathBuf,
    /// Hosts that are looked up with a dot at their end.
    absolute: Vec<Box<str>>,
    timeouts: Timeouts,
    trusting: Mutex<Trusting>,
}

/// A client, and the authorities it was made with: nothing before the first request.
#[derive(Default)]
struct Trusting {
    ca_pem: Option<Zeroizing<Vec<u8>>>,
    client: Option<Client>,
    /// Why the file as it is now isn't taken, as the log was told.
    fault: Option<String>,
}

impl Api {
    pub(super) fn new(config: &ServiceAccountsConfig, timeouts: Timeouts) -> Self {
        let keys = config.issuers.iter().filter_map(|issuer| match &issuer.keys {
            KeySource::Url { url, .. } => Some(url),
            KeySource::File(_) => None,
        });
        Self {
            ca_file: config.ca_file.clone(),
            token_file: config.token_file.clone(),
            absolute: keys.chain(&config.review).filter_map(|target| target.absolute()).map(Box::from).collect(),
            timeouts,
            trusting: Mutex::default(),
        }
    }

    /// The keys: the body of an answer of 200. `with_token`: whether they may be asked for as ourselves.
    ///
    /// Even then only of a server that the cluster's CA vouches for, or on loopback: keys may also be published by a stranger, who could
    /// use our token.
    pub(super) async fn get(&self, url: &Url, with_token: bool) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let client = self.client().await?;
        let mut request = client.get(url.clone());
        if with_token
            && (self.ca_file.is_some() || url.scheme() == "http")
            && let Some(token) = self.own_token().await?
        {
            request = request.header(AUTHORIZATION, token);
        }
        exchange(request.header(ACCEPT, KEYS), StatusCode::OK).await
    }

    /// The body of an answer of 201.
    pub(super) async fn create(&self, url: &Url, body: Bytes) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let client = self.client().await?;
        let token = self.own_token().await?.ok_or(Failed::Away("the broker's own token can't be read"))?;
        let request = client.post(url.clone()).header(AUTHORIZATION, token).header(CONTENT_TYPE, JSON).body(body);
        exchange(request.header(ACCEPT, JSON), StatusCode::CREATED).await
    }

    /// A client that trusts what the CA file says now; the last one, if it can't be read or is at fault.
    async fn client(&self) -> Result<Client, Failed> {
        let read = match self.ca_file.clone() {
            Some(path) => blocking(move || read_file(&path, CA_MAX)).await?.map(|contents| Some(contents.bytes)),
            None => Ok(None),
        };
        let mut trusting = lock(&self.trusting);
        let fault = match read {
            Ok(ca_pem) if trusting.client.is_some() && trusting.ca_pem == ca_pem => None,
            Ok(ca_pem) => match self.trust(ca_pem.as_deref().map(Vec::as_slice)) {
                Ok(client) => {
                    (trusting.ca_pem, trusting.client) = (ca_pem, Some(client));
                    None
                }
                Err(fault) => Some(fault),
            },
            Err(why) => Some(why.to_string()),
        };
        // Once for each state of the file: each request looks at it.
        if trusting.fault != fault {
            if let (Some(fault), Some(path)) = (&fault, &self.ca_file) {
                warn!(file = %path.display(), "the API server's CA file {fault}; what it said before, if anything, is trusted on");
            }
            trusting.fault = fault;
        }
        trusting.client.clone().ok_or(Failed::Away("its CA file can't be used"))
    }

    /// A client that trusts these authorities, in PEM, or the public ones; else why not, in words that fit behind "the CA file".
    fn trust(&self, ca_pem: Option<&[u8]>) -> Result<Client, String> {
        let roots = match ca_pem {
            Some(pem) => outbound::authorities(pem).map_err(|fault| format!("is a file {fault}"))?.roots,
            None => outbound::public_roots(),
        };
        let builder = outbound::builder(roots, self.absolute.clone()).map_err(|error| error.to_string())?;
        let builder = builder
            .connect_timeout(self.timeouts.connect)
            .timeout(self.timeouts.request)
            .pool_max_idle_per_host(IDLE_CONNECTIONS);
        outbound::build(builder).map_err(|error| error.to_string())
    }

    /// Our own token as a header's value, in memory that is wiped; `None` if there is none to be read.
    async fn own_token(&self) -> Result<Option<HeaderValue>, Failed> {
        let path = self.token_file.clone();
        let Some(contents) = blocking(move || read_file(&path, TOKEN_MAX).ok()).await? else { return Ok(None) };
        let token = match text::token(&contents.bytes) {
            Ok(token) => token,
            Err(Flaw::Empty) => return Ok(None),
            Err(_) => return Err(Failed::Away("the file of the broker's own token holds something else: `check` says what")),
        };
        let mut value = Zeroizing::new(Vec::with_capacity("Bearer ".len() + token.len()));
        value.extend_from_slice(b"Bearer ");
        value.extend_from_slice(token.as_bytes());
        Ok(outbound::secret_value(value))
    }
}

async fn exchange(request: RequestBuilder, expected: StatusCode) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let broken = |_error: reqwest::Error| Failed::Away("it can't be reached, or its answer broke off or took too long");
    let mut response = request.send().await.map_err(broken)?;
    let status = response.status();
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(Failed::Denied);
    }
    if status != expected {
        return Err(Failed::Away("it answered with another status than documented"));
    }
    outbound::read(&mut response, BODY_MAX).await.map_err(broken)?.ok_or(Failed::Away("its answer is too long"))
}

/// Reads files where waiting for a disk holds nobody up.
pub(super) async fn blocking<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T, Failed> {
    tokio::task::spawn_blocking(read).await.ok().ok_or(Failed::Away("its files can't be read now"))
}
