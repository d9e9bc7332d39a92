//! TLS for callers: handshakes, the certificate shown, and whom the CAs vouch for.
//!
//! Must never resume a session (the certificate would not be looked at again), wait for a client without end, nor go on serving a
//! connection whose client no CA vouches for any more.

use std::{
    fmt,
    future::poll_fn,
    io,
    num::NonZero,
    pin::pin,
    sync::Arc,
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
    /// Watches over the CAs that vouched for it.
    pub trust: Trust,
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
        let mut source = self.source.clone();
        source.changed.mark_unchanged();
        let current = (source.current)()?;
        // Counted also where its place is wanted, and this is dropped in the middle.
        let mut counted = Counted { metrics: &self.metrics, became: HandshakeResult::TimedOut };
        let shaken = timeout(HANDSHAKE_TIMEOUT, self.shake(stream, Arc::clone(&current.server))).await.ok()?;
        counted.became = if shaken.is_ok() { HandshakeResult::Completed } else { HandshakeResult::Refused };
        drop(counted);
        let stream = shaken.map_err(|error| debug!(%error, "no handshake")).ok()?;
        let chain: Vec<_> =
            stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect();
        let peer = Peer::over_tls(chain.first());
        Some(Secured { stream, peer, trust: Trust { chain, verified_by: current, source, clock: Arc::clone(&self.clock) } })
    }
}

impl TlsAcceptor {
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

/// Whether the CAs in force still vouch for a client.
#[derive(Debug)]
pub struct Trust {
    chain: Vec<CertificateDer<'static>>,
    /// The TLS whose CAs vouched for it last.
    verified_by: Arc<ServerTls>,
    source: TlsSource,
    clock: Arc<dyn Clock>,
}

impl Trust {
    /// Ends when they don't any more: never for a client without a certificate.
    pub async fn revoked(mut self) {
        let Some((first, others)) = self.chain.split_first() else { return std::future::pending().await };
        loop {
            // Whoever replaces it lives as long as the process.
            if self.source.changed.changed().await.is_err() {
                return std::future::pending().await;
            }
            let Some(current) = (self.source.current)() else { return };
            // Most reloads change something else.
            if !Arc::ptr_eq(&current, &self.verified_by) && !current.vouches(first, others, self.clock.now().wall) {
                return;
            }
            self.verified_by = current;
        }
    }
}
