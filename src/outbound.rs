//! HTTP clients that are fit to carry secrets, and their answers' bodies.
//!
//! Must never take a default of reqwest's that follows redirects or proxies, sends again, or trusts what nobody named; must
//! never read a body without a limit.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::{
    Client, ClientBuilder, Response, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::HeaderValue,
    redirect, retry,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::CertificateDer,
    version::{TLS12, TLS13},
};
use zeroize::Zeroizing;

use crate::{host, pem, x509};

#[cfg(test)]
mod tests;

/// How long an unused connection is kept. Servers and what stands before them forget theirs after a time of their own, down to
/// the second that is the least `Keep-Alive: timeout` can say (gunicorn: 2 s, Node and Apache: 5 s), and not all of them tell; a
/// request that meets such a connection is lost and can't be resent, so ours goes first. In a burst it is used again all the same.
const IDLE_TIMEOUT: Duration = Duration::from_millis(900);
/// Most headers of an answer: hyper refuses an answer with more than 100 of them, and with it the grant. A head is limited in bytes
/// too, by hyper.
const HEADERS_MAX: usize = 512;

/// TLS, or the client itself, can't be set up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the HTTP client can't be built: {0}")]
pub struct HttpClientError(String);

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    text: Box<str>,
    url: Url,
    absolute: Option<Box<str>>,
}

impl Target {
    /// A URL that a request may go to: `https://` or `http://` with a host, and without user, query and fragment.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let dotless = host::without_dot(text);
        let url = Url::parse(dotless.as_ref().map_or(text, |(url, _)| url)).ok()?;
        let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        let fit = bare && url.has_host() && matches!(url.scheme(), "http" | "https");
        let absolute = dotless.and_then(|_| url.domain().map(Box::from));
        fit.then_some(Self { text: text.into(), url, absolute })
    }

    /// As it was written, a dot at the end of its host included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As it is asked and as certificates name it: without a dot at the end of its host.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// The host, where a dot stands at its end: that is how it is looked up, and no search domain is tried.
    pub(crate) fn absolute(&self) -> Option<&str> {
        self.absolute.as_deref()
    }

    /// Whether the other leads to the same server: scheme, host and port are the same.
    pub(crate) fn is_same_server(&self, other: &Self) -> bool {
        self.url.origin() == other.url.origin() && self.absolute == other.absolute
    }
}

/// Whom a server's or a client's certificate may come from.
#[derive(Clone, Debug)]
pub struct Authorities {
    /// Their certificates, at least one.
    pub roots: Arc<RootCertStore>,
    /// The end of the one that ends first; none where none of them says.
    pub not_after: Option<SystemTime>,
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.roots.roots == other.roots.roots && self.not_after == other.not_after
    }
}

/// What every client of ours has in common; its timeouts are its owner's to add. Trusts `roots` alone. `absolute`: those of the
/// [`Target`]s it is for.
pub(crate) fn builder(roots: Arc<RootCertStore>, absolute: Vec<Box<str>>) -> Result<ClientBuilder, HttpClientError> {
    builder_with(roots, Dotted { absolute, look_up: |asked| tokio::net::lookup_host((asked, 0)) })
}

fn builder_with<L, F, A>(roots: Arc<RootCertStore>, resolver: Dotted<L>) -> Result<ClientBuilder, HttpClientError>
where
    L: Fn(String) -> F + Send + Sync + 'static,
    F: Future<Output = std::io::Result<A>> + Send + 'static,
    A: Iterator<Item = SocketAddr> + Send + 'static,
{
    Ok(Client::builder()
        .dns_resolver(Arc::new(resolver))
        .user_agent(concat!("token-broker/", env!("CARGO_PKG_VERSION")))
        // A redirect of 307 or 308 would carry the secret to another host.
        .redirect(redirect::Policy::none())
        // The environment is no configuration, and a proxy would read plain http.
        .no_proxy()
        .retry(retry::never())
        .http1_only()
        .pool_idle_timeout(IDLE_TIMEOUT)
        // A header that is a little wrong must not lose an answer, which may be a grant or a no.
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_max_headers(HEADERS_MAX)
        .tls_backend_preconfigured(http_tls(roots)?))
}

/// Looks names up as the system does, those that were written with a dot at their end with that.
struct Dotted<L> {
    absolute: Vec<Box<str>>,
    look_up: L,
}

impl<L, F, A> Resolve for Dotted<L>
where
    L: Fn(String) -> F + Send + Sync,
    F: Future<Output = std::io::Result<A>> + Send + 'static,
    A: Iterator<Item = SocketAddr> + Send + 'static,
{
    fn resolve(&self, name: Name) -> Resolving {
        let dot = if self.absolute.iter().any(|absolute| **absolute == *name.as_str()) { "." } else { "" };
        let looking = (self.look_up)(format!("{}{dot}", name.as_str()));
        Box::pin(async { Ok(Box::new(looking.await?) as Addrs) })
    }
}

/// The client, once its owner has added the rest.
pub(crate) fn build(builder: ClientBuilder) -> Result<Client, HttpClientError> {
    builder.build().map_err(|error| HttpClientError(error.without_url().to_string()))
}

/// Everything about TLS is named here, since a process default could be set by anybody.
pub(crate) fn tls(roots: Arc<RootCertStore>) -> Result<ClientConfig, HttpClientError> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| HttpClientError(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn http_tls(roots: Arc<RootCertStore>) -> Result<ClientConfig, HttpClientError> {
    let mut config = tls(roots)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The public authorities, which are compiled in.
pub(crate) fn public_roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    Arc::new(roots)
}

/// Those in a file: PEM that holds at least one, and nothing but such as are fit to be trusted.
pub(crate) fn authorities(pem: &[u8]) -> Result<Authorities, pem::Fault> {
    let blocks = pem::authorities(pem)?;
    let not_after = blocks.iter().fold(None, |first, block| x509::first_end(first, &block.der));
    Ok(Authorities { roots: Arc::new(anchors(&blocks)?), not_after })
}

/// What is trusted where these are.
pub(crate) fn anchors(authorities: &[pem::Block]) -> Result<RootCertStore, pem::Fault> {
    let mut roots = RootCertStore::empty();
    for block in authorities {
        roots.add(CertificateDer::from(block.der.as_slice())).map_err(|_malformed| pem::unreadable(block.line))?;
    }
    Ok(roots)
}

/// A header's value that nothing shows, in memory that is wiped; `None` where no header can carry it.
pub(crate) fn secret_value(value: impl AsRef<[u8]> + Send + 'static) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(value)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Reads a body; `None` if it is longer than `max` bytes, and then no more of it is read than that.
pub(crate) async fn read(response: &mut Response, max: usize) -> reqwest::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut body = Zeroizing::new(Vec::new());
    Ok(read_into(&mut body, response, max).await?.then_some(body))
}

/// Reads a body into `body`, where it stays whatever ends the reading; `false` if it is longer than `max` bytes, and then no more
/// of it is read than that.
#[allow(clippy::disallowed_methods, reason = "this is the place that reads bodies, up to a limit")]
pub(crate) async fn read_into(body: &mut Zeroizing<Vec<u8>>, response: &mut Response, max: usize) -> reqwest::Result<bool> {
    // Taken at once, so that a token leaves no copy behind as the buffer grows.
    body.reserve_exact(max);
    while let Some(chunk) = response.chunk().await? {
        let room = max - body.len();
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if chunk.len() > room {
            return Ok(false);
        }
    }
    Ok(true)
}
