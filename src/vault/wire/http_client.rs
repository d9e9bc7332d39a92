//! From settings to a client that is fit to carry passwords.
//!
//! Must never take a default of reqwest's that never times out.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::Vault;
use crate::{
    clock::Clock,
    config,
    outbound::{self, Target, Unfit},
    secret::Secret,
};

/// The share of the timeout that one attempt to connect may take: two attempts and the answer itself fit.
const CONNECT_SHARE: u32 = 3;
/// Under the base URL.
const PATH: &str = "/oauth/token";

/// Where and how to sign in. What a configuration allows beyond this (such as plain `http` on loopback only) it checks itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `https://` or `http://`, a host, and perhaps a port and a path; `/oauth/token` is added.
    pub base_url: String,
    /// The certificates to trust in place of the compiled-in roots: PEM, at least one.
    pub ca_pem: Option<Vec<u8>>,
    /// Headers added to each call; none of [`config::RESERVED_HEADERS`], and each name once.
    pub headers: Vec<(String, Secret)>,
    /// How long one sign-in may take, with everything that belongs to it.
    pub timeout: Duration,
    /// How many connections are kept for reuse: as many as sign-ins may run at once. Whoever starts them bounds those in use.
    pub max_connections: usize,
    /// A token's lifetime where the vault says nothing about it; above zero.
    pub assumed_lifetime: Duration,
}

/// Why there can be no client. Never holds a header's value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The base URL.
    #[error("the base URL must be http:// or https:// with a host, and without user, query and fragment")]
    BaseUrl,
    /// The CA bundle.
    #[error("the CA bundle {0}")]
    CaBundle(String),
    /// A header, by its name.
    #[error("the header {name:?} {fault}")]
    Header {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// TLS or the client itself.
    #[error("the HTTP client can't be built: {0}")]
    Client(String),
}

impl From<Unfit> for BuildError {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::CaBundle(fault) => Self::CaBundle(fault),
            Unfit::Client(cause) => Self::Client(cause),
        }
    }
}

impl Vault {
    /// Prepares a client; connects to nothing yet.
    ///
    /// # Errors
    /// Says which setting can't be used.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        let Target { url: endpoint, absolute } = endpoint(&settings.base_url)?;
        let builder = outbound::builder(settings.ca_pem.as_deref(), absolute.into_iter().collect())?
            .default_headers(headers(&settings.headers)?)
            .connect_timeout(settings.timeout / CONNECT_SHARE)
            .pool_max_idle_per_host(settings.max_connections);
        let client = outbound::build(builder)?;
        Ok(Self {
            client,
            endpoint,
            timeout: settings.timeout,
            assumed_lifetime: settings.assumed_lifetime,
            clock,
            clock_doubted: AtomicBool::new(false),
        })
    }
}

fn endpoint(base_url: &str) -> Result<Target, BuildError> {
    let Target { mut url, absolute } =
        Target::parse(base_url).filter(|base| base.url.query().is_none()).ok_or(BuildError::BaseUrl)?;
    let path = format!("{}{PATH}", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(Target { url, absolute })
}

fn headers(given: &[(String, Secret)]) -> Result<HeaderMap, BuildError> {
    let mut headers = HeaderMap::new();
    for (given_name, value) in given {
        let fault = |fault| BuildError::Header { name: given_name.clone(), fault };
        let name: HeaderName = given_name.parse().ok().ok_or_else(|| fault("is not a header's name"))?;
        if config::RESERVED_HEADERS.contains(&name) {
            return Err(fault("is set by the sign-in itself"));
        }
        // `HeaderValue` would also take letters outside ASCII, which servers read in different ways.
        let ascii = Some(value.expose()).filter(|value| value.is_ascii());
        let value = ascii.and_then(|value| HeaderValue::from_str(value).ok());
        let mut value = value.ok_or_else(|| fault("has a value other than visible ASCII"))?;
        value.set_sensitive(true);
        if headers.insert(name, value).is_some() {
            return Err(fault("is given twice"));
        }
    }
    Ok(headers)
}
