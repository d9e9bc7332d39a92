//! HTTP clients that are fit to carry secrets, and their answers' bodies.
//!
//! Must never take a default of reqwest's that follows redirects or proxies, sends again, or trusts what nobody named; must
//! never read a body without a limit.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, ClientBuilder, Response, redirect, retry};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::CertificateDer,
    version::{TLS12, TLS13},
};
use zeroize::Zeroizing;

use crate::pem;

/// How long an unused connection is kept. Load balancers close theirs after 60 s at the earliest, some servers after 20; a
/// request that meets the closing can't be resent, so ours goes first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Why there can be no client.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// In words that fit behind "the CA bundle".
    CaBundle(String),
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
    let fault = |fault| Unfit::CaBundle(format!("is a file {fault}"));
    anchors(&pem::authorities(pem).map_err(fault)?).map_err(fault)
}

/// What is trusted where these are.
pub(crate) fn anchors(authorities: &[pem::Block]) -> Result<RootCertStore, pem::Fault> {
    let mut roots = RootCertStore::empty();
    for block in authorities {
        roots.add(CertificateDer::from(block.der.as_slice())).map_err(|_malformed| pem::unreadable(block.line))?;
    }
    Ok(roots)
}

/// Reads a body; `None` if it is longer than `max` bytes, and then no more of it is read than that.
#[allow(clippy::disallowed_methods, reason = "this is the place that reads bodies, up to a limit")]
pub(crate) async fn read(response: &mut Response, max: usize) -> reqwest::Result<Option<Zeroizing<Vec<u8>>>> {
    // Taken at once, so that a token leaves no copy behind as the buffer grows.
    let mut body = Zeroizing::new(Vec::with_capacity(max));
    while let Some(chunk) = response.chunk().await? {
        if chunk.len() > max - body.len() {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}
