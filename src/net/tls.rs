//! TLS for callers: handshakes, the certificate shown, and whom the CAs vouch for.
//!
//! Must never resume a session (the certificate would not be looked at again), wait for a client without end, nor go on serving a
//! connection whose client no CA vouches for any more; nor take one for whom none ever did for more than a stranger.

use std::{
    fmt,
    future::{pending, poll_fn},
    io,
    net::IpAddr,
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
    pki_types::CertificateDer,
    server::{Acceptor, NoServerSessionStorage, WebPkiClientVerifier},
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

use super::vouch::{Unproven, Voucher};
use crate::{
    authn::certificate::Peer,
    clock::Clock,
    config,
    telemetry::metrics::{HandshakeResult, Metrics},
};

/// A handshake takes two round trips and, on a busy machine, some milliseconds of CPU. Whoever stops in the middle has nothing
/// but its place on the listener, and gives that up first.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// One core in so many works on handshakes at a time, about 0.3 ms on each, so that calls don't wait behind all of them: a
/// thousand pods that come at once are through in a second. Whoever is waited for holds none.
const ONE_CORE_IN: usize = 2;
/// What the owner of a certificate is told that nobody asked for; TLS has no way to show one.
const NOT_ASKED: &str = "the broker asks for no certificate: connect without one";
/// HTTP/2, and nothing else, is spoken here.
const ALPN: &[u8] = b"h2";

/// The running TLS of a listener.
#[derive(Clone)]
pub struct TlsAcceptor {
    source: TlsSource,
    cores: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    unproven: Arc<Unproven>,
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
    /// Whether who is not known is refused now. Where not, a client that nobody vouches for any more keeps its connection.
    pub refuses: Arc<dyn Fn() -> bool + Send + Sync>,
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
    voucher: Option<Voucher>,
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
        let voucher = match &tls.client_ca {
            // Without a certificate too: probes of health have none, and whoever else has none is told so, instead of being cut
            // off.
            Some(roots) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider)).allow_unauthenticated();
                Some(Voucher::new(verifier.build().map_err(|error| fault(&error))?))
            }
            None => None,
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| fault(&error))?;
        let builder = match &voucher {
            Some(voucher) => builder.with_client_cert_verifier(voucher.at_handshake()),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&tls.certificate))));
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { server: Arc::new(server), voucher })
    }

    /// Whether its CAs vouch for this client at this time, or why not.
    fn judge(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), &'static str> {
        self.voucher.as_ref().map_or(Err(NOT_ASKED), |voucher| voucher.judge(chain, now))
    }
}

/// What a client proved.
enum Shown {
    Nothing,
    /// Its certificate, which the CAs vouch for.
    Certificate(Vec<CertificateDer<'static>>),
    /// One that they don't vouch for, and so nothing either; its owner is told why.
    Unproven(&'static str),
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Secured {
    /// The bytes.
    pub stream: TlsStream<TcpStream>,
    /// Who is at the other end, as far as the certificate says.
    pub peer: Peer,
    /// Who vouched for its certificate; none where it showed none, or one that nobody vouches for.
    pub trust: Option<Trust>,
}

impl TlsAcceptor {
    /// TLS with what `source` gives at each handshake.
    #[must_use]
    pub fn new(source: TlsSource, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        let all = thread::available_parallelism().map_or(1, NonZero::get);
        let (cores, unproven) = (Semaphore::new((all / ONE_CORE_IN).max(1)), Unproven::new(Arc::clone(&clock)));
        Self { source, cores: Arc::new(cores), clock, metrics, unproven: Arc::new(unproven) }
    }

    /// Shakes hands with a client at this address; none where it doesn't, or not in time. One whose certificate can't be trusted
    /// is taken, and proves nothing.
    pub async fn handshake(&self, stream: TcpStream, from: IpAddr) -> Option<Secured> {
        let current = (self.source.current)()?;
        // Counted also where its place is wanted, and this is dropped in the middle.
        let mut counted = Counted { metrics: &self.metrics, became: HandshakeResult::TimedOut };
        let shaken = timeout(HANDSHAKE_TIMEOUT, self.shake_and_judge(stream, &current)).await.ok()?;
        counted.became = match &shaken {
            Ok((_, Shown::Nothing | Shown::Certificate(_))) => HandshakeResult::Completed,
            Ok((_, Shown::Unproven(_))) => HandshakeResult::Untrusted,
            Err(_) => HandshakeResult::Refused,
        };
        drop(counted);
        let (stream, shown) = shaken.map_err(|error| debug!(%error, "no handshake")).ok()?;
        let (peer, trust) = match shown {
            Shown::Nothing => (Peer::over_tls(None), None),
            Shown::Certificate(chain) => {
                let (peer, clock) = (Peer::over_tls(chain.first()), Arc::clone(&self.clock));
                (peer, Some(Trust { chain, clock, verified: Mutex::new(Verified { by: current, vouched: true }) }))
            }
            Shown::Unproven(why) => {
                self.unproven.tell(from, why);
                (Peer::unproven(why), None)
            }
        };
        Some(Secured { stream, peer, trust })
    }

    /// Shakes hands, and judges what the client showed.
    async fn shake_and_judge(&self, stream: TcpStream, current: &ServerTls) -> io::Result<(TlsStream<TcpStream>, Shown)> {
        let stream = self.shake(stream, Arc::clone(&current.server)).await?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Vec<_> = certificates.iter().map(|der| der.clone().into_owned()).collect();
        if chain.is_empty() {
            return Ok((stream, Shown::Nothing));
        }
        let _core = self.cores.acquire().await.map_err(io::Error::other)?;
        let shown = match current.judge(&chain, self.clock.now().wall) {
            Ok(()) => Shown::Certificate(chain),
            Err(why) => Shown::Unproven(why),
        };
        Ok((stream, shown))
    }

    /// Ends when the CAs in force don't vouch for a client any more, and who is not known is refused: never for one without a certificate.
    pub async fn revoked(&self, trust: Option<&Trust>) {
        let (Some(trust), mut source) = (trust, self.source.clone()) else { return pending().await };
        loop {
            let Some(current) = (source.current)() else { return };
            if !trust.holds(&current) && (source.refuses)() {
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
    /// Whether they do: looked at anew whenever others are in force, so that no call is answered on the word of those that were
    /// before.
    #[must_use]
    pub fn holds(&self, current: &Arc<ServerTls>) -> bool {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        // Most reloads change something else.
        if !Arc::ptr_eq(current, &verified.by) {
            let vouched = current.judge(&self.chain, self.clock.now().wall).is_ok();
            *verified = Verified { by: Arc::clone(current), vouched };
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
        Arc::new(ServerTls { server: Arc::new(server), voucher: Some(Voucher::new(verifier)) })
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
