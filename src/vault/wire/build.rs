//! From settings to a client that is fit to carry passwords.
//!
//! Must never take a default of reqwest's that follows redirects or proxies, or that never times out.

use std::{sync::Arc, time::Duration};

use reqwest::{
    Client, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect, retry,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
    version::{TLS12, TLS13},
};

use super::Vault;
use crate::clock::Clock;
use crate::config;
use crate::secret::Secret;

/// How long an unused connection is kept. Load balancers close theirs after 60 s at the earliest, some servers after 20; a
/// request that meets the closing can't be resent, so ours goes first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
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
    CaBundle(&'static str),
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

impl Vault {
    /// Prepares a client; connects to nothing yet.
    ///
    /// # Errors
    /// Says which setting can't be used.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        let endpoint = endpoint(&settings.base_url)?;
        let client = Client::builder()
            .user_agent(concat!("token-broker/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers(&settings.headers)?)
            // A redirect of 307 or 308 would carry the password to another host.
            .redirect(redirect::Policy::none())
            // The environment is no configuration, and a proxy would read plain http.
            .no_proxy()
            .retry(retry::never())
            .http1_only()
            .connect_timeout(settings.timeout / CONNECT_SHARE)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(settings.max_connections)
            .tls_backend_preconfigured(tls(settings.ca_pem.as_deref())?)
            .build()
            .map_err(|error| BuildError::Client(error.without_url().to_string()))?;
        Ok(Self { client, endpoint, timeout: settings.timeout, assumed_lifetime: settings.assumed_lifetime, clock })
    }
}

fn endpoint(base_url: &str) -> Result<Url, BuildError> {
    let base = Url::parse(base_url).ok().ok_or(BuildError::BaseUrl)?;
    let bare = base.username().is_empty() && base.password().is_none() && base.query().is_none() && base.fragment().is_none();
    if !bare || !base.has_host() || !matches!(base.scheme(), "http" | "https") {
        return Err(BuildError::BaseUrl);
    }
    let mut endpoint = base.clone();
    endpoint.set_path(&format!("{}{PATH}", base.path().trim_end_matches('/')));
    Ok(endpoint)
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

/// Everything about TLS is named here, since a process default could be set by anybody.
fn tls(ca_pem: Option<&[u8]>) -> Result<ClientConfig, BuildError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| BuildError::Client(error.to_string()))?
        .with_root_certificates(roots(ca_pem)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The configured authorities and no others; without any, those compiled in.
pub(super) fn roots(ca_pem: Option<&[u8]>) -> Result<RootCertStore, BuildError> {
    let mut roots = RootCertStore::empty();
    let Some(pem) = ca_pem else {
        roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        return Ok(roots);
    };
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.ok().ok_or(BuildError::CaBundle("is not PEM"))?;
        roots.add(certificate).ok().ok_or(BuildError::CaBundle("holds a certificate that can't be read"))?;
    }
    if roots.is_empty() { Err(BuildError::CaBundle("holds no certificate")) } else { Ok(roots) }
}
