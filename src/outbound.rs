//! HTTP clients that are fit to carry secrets, and their answers' bodies.
//!
//! Must never take a default of reqwest's that follows redirects or proxies, sends again, or trusts what nobody named; must
//! never read a body without a limit.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, ClientBuilder, Response, redirect, retry};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use zeroize::Zeroizing;

/// How long an unused connection is kept. Servers and what stands before them forget theirs after a time of their own, down to
/// the second that is the least `Keep-Alive: timeout` can say (gunicorn: 2 s, Node and Apache: 5 s), and not all of them tell; a
/// request that meets such a connection is lost and can't be resent, so ours goes first. In a burst it is used again all the same.
const IDLE_TIMEOUT: Duration = Duration::from_millis(900);
/// Most headers of an answer: hyper refuses an answer with more than 100 of them, and with it the grant. A head is limited in bytes
/// too, by hyper.
const HEADERS_MAX: usize = 512;

/// Why there can be no client.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// In words that fit behind "the CA bundle".
    CaBundle(&'static str),
    /// TLS or the client itself.
    Client(String),
}

/// What every client of ours has in common; its timeouts are its owner's to add. Trusts the authorities in `ca_pem` and no
/// others; without any, those compiled in.
pub(crate) fn builder(ca_pem: Option<&[u8]>) -> Result<ClientBuilder, Unfit> {
    Ok(Client::builder()
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
        .tls_backend_preconfigured(tls(ca_pem)?))
}

/// The client, once its owner has added the rest.
pub(crate) fn build(builder: ClientBuilder) -> Result<Client, Unfit> {
    builder.build().map_err(|error| Unfit::Client(error.without_url().to_string()))
}

/// Everything about TLS is named here, since a process default could be set by anybody.
fn tls(ca_pem: Option<&[u8]>) -> Result<ClientConfig, Unfit> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| Unfit::Client(error.to_string()))?
        .with_root_certificates(roots(ca_pem)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The configured authorities and no others; without any, those compiled in.
pub(crate) fn roots(ca_pem: Option<&[u8]>) -> Result<RootCertStore, Unfit> {
    let mut roots = RootCertStore::empty();
    let Some(pem) = ca_pem else {
        roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        return Ok(roots);
    };
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.ok().ok_or(Unfit::CaBundle("is not PEM"))?;
        roots.add(certificate).ok().ok_or(Unfit::CaBundle("holds a certificate that can't be read"))?;
    }
    if roots.is_empty() { Err(Unfit::CaBundle("holds no certificate")) } else { Ok(roots) }
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
