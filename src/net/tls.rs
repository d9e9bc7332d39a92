//! TLS for callers: handshakes, the certificate shown, and whom the CAs vouch for.
//!
//! Must never resume a session (the certificate would not be looked at again), wait for a client without end, nor go on serving a
//! connection whose client no CA vouches for any more.

use std::{
    fmt,
    future::{pending, poll_fn},
    io,
    num::NonZero,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    thread,
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, UnixTime},
    server::{Acceptor, NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};
use thiserror::Error;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tracing::debug;

use crate::{
    authn::certificate::Peer,
    clock::Clock,
    config,
    telemetry::metrics::{HandshakeResult, Metrics},
};

/// A handshake takes two round trips and, on a busy machine, some milliseconds of CPU. Whoever stops in the middle has nothing
/// but its place on the listener, and gives that up first.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// One core in so many works on handshakes at a time, about 0.3 ms on each, so that calls don't wait behind all of them: a thousand
/// pods that come at once are through in a second. Whoever is waited for holds none.
const ONE_CORE_IN: usize = 2;
/// HTTP/2, and nothing else, is spoken here.
const ALPN: &[u8] = b"h2";

/// The running TLS of a listener.
#[derive(Clone)]
pub struct TlsAcceptor {
    source: TlsSource,
    cores: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor").finish_non_exhaustive()
    }
}

/// Where the TLS in force is found, and word of each change.
#[derive(Clone)]
pub struct TlsSource {
    /// What is in force now; none where there is none, and then there are no handshakes.
    pub current: Arc<dyn Fn() -> Option<Arc<ServerTls>> + Send + Sync>,
    /// Notified whenever it may be another.
    pub changed: watch::Receiver<()>,
}

impl fmt::Debug for TlsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSource").finish_non_exhaustive()
    }
}

/// What handshakes are made with, until it is replaced.
pub struct ServerTls {
    server: Arc<ServerConfig>,
    /// None where callers aren't asked for a certificate.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// TLS can't be set up with what was configured.
#[derive(Debug, Error)]
#[error("grpc.tls can't be used: {0}")]
pub struct TlsError(String);

impl ServerTls {
    /// What `[grpc.tls]` says.
    ///
    /// # Errors
    /// Where rustls refuses it; what was read by `config` it takes.
    pub fn new(tls: &config::TlsConfig) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let fault = |why: &dyn fmt::Display| TlsError(why.to_string());
        let verifier = match &tls.client_ca {
            // Without a certificate too: probes of health have none, and whoever else has none is told so, instead of being cut off.
            Some(roots) => Some(
                WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider))
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| fault(&error))?,
            ),
            None => None,
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| fault(&error))?;
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&tls.certificate))));
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { server: Arc::new(server), verifier })
    }

    /// Whether its CAs vouch for this client at this time.
    fn vouches(&self, certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>], now: SystemTime) -> bool {
        let since = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        self.verifier.as_ref().is_some_and(|verifier| verifier.verify_client_cert(certificate, others, since).is_ok())
    }
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Secured {
    /// The bytes.
    pub stream: TlsStream<TcpStream>,
    /// Who is at the other end, as far as the certificate says.
    pub peer: Peer,
    /// Who vouched for its certificate; none where it showed none.
    pub trust: Option<Trust>,
}

impl TlsAcceptor {
    /// TLS with what `source` gives at each handshake.
    #[must_use]
    pub fn new(source: TlsSource, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        let all = thread::available_parallelism().map_or(1, NonZero::get);
        Self { source, cores: Arc::new(Semaphore::new((all / ONE_CORE_IN).max(1))), clock, metrics }
    }

    /// Shakes hands; none where the client doesn't, in time, or can't be trusted.
    pub async fn handshake(&self, stream: TcpStream) -> Option<Secured> {
        let current = (self.source.current)()?;
        // Counted also where its place is wanted, and this is dropped in the middle.
        let mut counted = Counted { metrics: &self.metrics, became: HandshakeResult::TimedOut };
        let shaken = timeout(HANDSHAKE_TIMEOUT, self.shake(stream, Arc::clone(&current.server))).await.ok()?;
        counted.became = if shaken.is_ok() { HandshakeResult::Completed } else { HandshakeResult::Refused };
        drop(counted);
        let stream = shaken.map_err(|error| debug!(%error, "no handshake")).ok()?;
        let chain: Vec<_> =
            stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect();
        let peer = Peer::over_tls(chain.first());
        let clock = Arc::clone(&self.clock);
        let trust =
            (!chain.is_empty()).then(|| Trust { chain, clock, verified: Mutex::new(Verified { by: current, vouched: true }) });
        Some(Secured { stream, peer, trust })
    }

    /// Ends when the CAs in force don't vouch for a client any more: never for one without a certificate.
    pub async fn revoked(&self, trust: Option<&Trust>) {
        let (Some(trust), mut source) = (trust, self.source.clone()) else { return pending().await };
        loop {
            let Some(current) = (source.current)() else { return };
            if !trust.holds(&current) {
                return;
            }
            // Whoever replaces it lives as long as the process.
            if source.changed.changed().await.is_err() {
                return pending().await;
            }
        }
    }

    async fn shake(&self, stream: TcpStream, server: Arc<ServerConfig>) -> io::Result<TlsStream<TcpStream>> {
        // What the client begins with is read whole before anything is worked out for it.
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let mut shaking = pin!(hello.into_stream(server));
        let begun = {
            let _core = self.cores.acquire().await.map_err(io::Error::other)?;
            // Once, so that the core is free again while the client is waited for.
            poll_fn(|cx| Poll::Ready(shaking.as_mut().poll(cx))).await
        };
        match begun {
            Poll::Ready(shaken) => shaken,
            Poll::Pending => shaking.await,
        }
    }
}

/// Counts a handshake once it is over.
struct Counted<'a> {
    metrics: &'a Metrics,
    became: HandshakeResult,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.metrics.handshake(self.became);
    }
}

/// A client's certificate, and whether the CAs in force vouch for it.
#[derive(Debug)]
pub struct Trust {
    chain: Vec<CertificateDer<'static>>,
    clock: Arc<dyn Clock>,
    verified: Mutex<Verified>,
}

/// What was found when it was looked at last.
#[derive(Debug)]
struct Verified {
    by: Arc<ServerTls>,
    vouched: bool,
}

impl Trust {
    /// Whether they do: looked at anew whenever others are in force, so that no call is answered on the word of those that were before.
    #[must_use]
    pub fn holds(&self, current: &Arc<ServerTls>) -> bool {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        // Most reloads change something else.
        if !Arc::ptr_eq(current, &verified.by) {
            let Some((first, others)) = self.chain.split_first() else { return false };
            *verified = Verified { by: Arc::clone(current), vouched: current.vouches(first, others, self.clock.now().wall) };
        }
        verified.vouched
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn tls(client_ca: &rcgen::Certificate) -> Arc<ServerTls> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(client_ca.der().clone()).expect("is a CA");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().expect("is good");
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).expect("is known");
        let server =
            builder.with_no_client_auth().with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        Arc::new(ServerTls { server: Arc::new(server), verifier: Some(verifier) })
    }

    fn ca() -> (rcgen::Certificate, rcgen::Issuer<'static, rcgen::KeyPair>) {
        let key = rcgen::KeyPair::generate().expect("keys can be made");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params.self_signed(&key).expect("is good"), rcgen::Issuer::new(params, key))
    }

    #[test]
    fn a_client_is_believed_on_the_word_of_the_cas_in_force_alone() {
        let ((ca, issuer), (other, _)) = (ca(), ca());
        let mut params = rcgen::CertificateParams::default();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().expect("keys can be made");
        let client = params.signed_by(&key, &issuer).expect("is good");
        let (first, renewed, without) = (tls(&ca), tls(&ca), tls(&other));
        let verified = Mutex::new(Verified { by: Arc::clone(&first), vouched: true });
        let trust = Trust { chain: vec![client.der().clone()], clock: Arc::new(SystemClock), verified };
        for (current, holds) in [(&first, true), (&renewed, true), (&without, false), (&without, false), (&first, true)] {
            assert_eq!(trust.holds(current), holds);
        }
    }
}
