//! Who vouches for a client's certificate: the CAs, and why they don't. Such a client is told with each of its calls, and the
//! operator at `warn`.
//!
//! Must never take a certificate for whose key its client has no proof, nor let one that nobody vouches for prove anything.

use std::{
    fmt, mem,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use tokio::time::Instant;
use tracing::warn;

use super::memory_budget::{CHAIN_BYTES_MAX, CHAIN_MAX};
use crate::{authn::certificate::UNREADABLE, clock::Clock};

const ENDED: &str = "your certificate has ended, or one of those between it and its CA: connect again with the next one";
const TOO_SOON: &str = "your certificate does not hold yet, or one of those between it and its CA: wait until it does, or set the clock right \
                        of whoever issued it";
const NO_CLIENTS: &str = "your certificate was not issued for clients: connect with one whose extended key usage has clientAuth";
const UNKNOWN: &str = "none of the broker's client CAs vouches for your certificate: connect with one of a CA that it trusts, and show the \
                       certificates between the two as well";

/// Each address is told of so often at most …
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// … and so many of them in that time, about 32 bytes each: whoever tries from a whole network fills no log.
const ADDRESSES_MAX: usize = 20;

/// Whom the CAs vouch for.
pub(super) struct Voucher(Arc<dyn ClientCertVerifier>);

impl Voucher {
    /// By the judgement of `verifier`.
    pub(super) fn new(verifier: Arc<dyn ClientCertVerifier>) -> Self {
        Self(verifier)
    }

    /// What handshakes are made with: the client has to prove that the key of its certificate is its own, and nothing is asked of
    /// the certificate itself.
    pub(super) fn at_handshake(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::new(AnyCertificate(Arc::clone(&self.0)))
    }

    /// Whether they vouch for the first of these certificates at this time, perhaps through the others.
    ///
    /// # Errors
    /// Says why not, to its owner.
    pub(super) fn judge(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), &'static str> {
        let (own, others) = chain.split_first().ok_or(UNKNOWN)?;
        let since = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        self.0.verify_client_cert(own, others, since).map(drop).map_err(|why| in_words(&why))
    }
}

fn in_words(why: &Error) -> &'static str {
    use CertificateError as Why;
    let Error::InvalidCertificate(why) = why else { return UNKNOWN };
    if matches!(why, Why::Expired | Why::ExpiredContext { .. }) {
        ENDED
    } else if matches!(why, Why::NotValidYet | Why::NotValidYetContext { .. }) {
        TOO_SOON
    } else if matches!(why, Why::InvalidPurpose | Why::InvalidPurposeContext { .. }) {
        NO_CLIENTS
    } else if matches!(why, Why::BadEncoding) {
        UNREADABLE
    } else {
        UNKNOWN
    }
}

/// Lets any certificate through a handshake that its client holds the key of: what it is worth is judged after. But never a chain that
/// would take more memory than a connection has, or, as webpki tries every way through it, seconds to be judged.
struct AnyCertificate(Arc<dyn ClientCertVerifier>);

impl fmt::Debug for AnyCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyCertificate").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bytes = others.iter().fold(own.len(), |bytes, other| bytes.saturating_add(other.len()));
        if others.len() >= CHAIN_MAX || bytes > CHAIN_BYTES_MAX {
            return Err(Error::General(format!(
                "its client shows more than {CHAIN_MAX} certificates, or {CHAIN_BYTES_MAX} bytes"
            )));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }
}

/// Tells the operator of certificates that prove nothing: of each address at most once a minute, and how many were not told of.
pub(super) struct Unproven {
    clock: Arc<dyn Clock>,
    lately: Mutex<Lately>,
}

#[derive(Default)]
struct Lately {
    since: Option<Instant>,
    told: Vec<IpAddr>,
    untold: u64,
}

impl Unproven {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, lately: Mutex::default() }
    }

    pub(super) fn tell(&self, peer: IpAddr, why: &'static str) {
        let now = self.clock.now().mono;
        let untold = self.lately.lock().unwrap_or_else(PoisonError::into_inner).tells(peer, now);
        if let Some(more) = untold {
            let more = Some(more).filter(|more| *more > 0);
            warn!(%peer, why, more, "a client's certificate proves nothing: its calls are told why");
        }
    }
}

impl Lately {
    /// Whether this one is to be told of: then with how many were not since the last that was.
    fn tells(&mut self, peer: IpAddr, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= TOLD_EVERY) {
            (self.since, self.told) = (Some(now), Vec::new());
        }
        if self.told.contains(&peer) || self.told.len() >= ADDRESSES_MAX {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        self.told.push(peer);
        Some(mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rustls::server::WebPkiClientVerifier;

    use super::*;
    use crate::clock::SystemClock;

    /// Also of empty ones, which take three bytes each on the wire, and 24 here.
    #[test]
    fn a_chain_is_taken_that_is_short() {
        let handshake = Voucher::new(WebPkiClientVerifier::no_client_auth()).at_handshake();
        let is_taken = |own: usize, others: &[usize]| {
            let [own, others] =
                [&[own], others].map(|all| all.iter().map(|n| CertificateDer::from(vec![0; *n])).collect::<Vec<_>>());
            handshake.verify_client_cert(&own[0], &others, UnixTime::now()).is_ok()
        };
        assert!(is_taken(CHAIN_BYTES_MAX, &[]) && is_taken(1_000, &[1_500; CHAIN_MAX - 1]));
        assert!(!is_taken(CHAIN_BYTES_MAX + 1, &[]) && !is_taken(1_000, &[CHAIN_BYTES_MAX]) && !is_taken(1, &[0; CHAIN_MAX]));
    }

    #[test]
    fn each_address_is_told_of_once_a_minute_and_no_more_than_some_of_them() {
        let (mut lately, began) = (Lately::default(), SystemClock.now().mono);
        let peer = |n: usize| IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(n).expect("is small")));
        assert_eq!((lately.tells(peer(0), began), lately.tells(peer(0), began)), (Some(0), None));
        assert_eq!(lately.tells(peer(1), began), Some(1), "and how many were not");
        let told = (0..1_000).filter(|n| lately.tells(peer(*n), began).is_some()).count();
        assert_eq!((told, lately.told.len()), (ADDRESSES_MAX - 2, ADDRESSES_MAX));
        assert_eq!(lately.tells(peer(5_000), began + TOLD_EVERY), Some(1_000 - 20));
    }
}
