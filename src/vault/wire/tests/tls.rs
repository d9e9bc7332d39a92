//! The same over TLS, with a CA that is made for the test.

use std::{io::Read, sync::atomic::Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::PrivatePkcs8KeyDer,
    version::{TLS12, TLS13},
};

use super::{peer::read_request, *};
use crate::config::Authorities;

/// A CA, and what trusts it.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: Vec<u8>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().expect("keys can be made");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("the parameters are good");
        let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certificate.der());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n").into_bytes();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A server's side with a certificate for a name. It would rather speak HTTP/2.
    fn server(&self, name: &str, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("keys can be made");
        let params = CertificateParams::new([name.to_owned()]).expect("the name is good");
        let certificate = params.signed_by(&key, &self.issuer).expect("the parameters are good");
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .expect("the provider knows it")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .expect("the key is the certificate's");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// A peer that closes some connections before a word is said, and gives a token on the others.
fn peer(server: Arc<ServerConfig>, closes_first: usize) -> Peer {
    Peer::start(move |served| {
        if served.before < closes_first {
            return;
        }
        let connection = ServerConnection::new(Arc::clone(&server)).expect("the configuration is good");
        let mut stream = StreamOwned::new(connection, &mut served.stream);
        if read_request(&mut stream).is_some() {
            served.requests.fetch_add(1, Ordering::SeqCst);
            assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
            stream.write_all(ok(TOKEN).as_bytes()).expect("the client waits");
            // Nothing more comes; this keeps the connection until the client lets go of it.
            read_request(&mut stream);
        }
    })
}

fn trusting(ca: &Ca, peer: &Peer) -> VaultConfig {
    VaultConfig { ca_file: Some(authorities(&ca.pem)), ..config(&format!("https://{}", peer.address)) }
}

fn authorities(pem: &[u8]) -> Authorities {
    outbound::authorities(pem).expect("the bundle is good")
}

#[tokio::test]
async fn only_the_configured_authorities_are_trusted() {
    let (ours, other) = (Ca::new(), Ca::new());
    assert_eq!(authorities(&ours.pem).roots.len(), 1, "the compiled-in ones are left out");
    for version in [&TLS12, &TLS13] {
        let peer = peer(ours.server("127.0.0.1", version), 0);
        sign_in(trusting(&ours, &peer), "1234Qwerty").await.expect("the peer gives a token");
        let mut both = trusting(&ours, &peer);
        both.ca_file = Some(authorities(&[other.pem.clone(), ours.pem.clone()].concat()));
        sign_in(both, "1234Qwerty").await.expect("the peer gives a token");
        assert_eq!(peer.counts(), (2, 2));

        let compiled_in = VaultConfig { ca_file: None, ..trusting(&ours, &peer) };
        for config in [trusting(&other, &peer), compiled_in] {
            let result = sign_in(config, "1234Qwerty").await;
            assert_eq!(result, Err(unavailable("its TLS certificate is not valid for it or not trusted")));
        }
        let elsewhere = super::tls::peer(ours.server("vault.example.org", version), 0);
        let result = sign_in(trusting(&ours, &elsewhere), "1234Qwerty").await;
        assert_eq!(result, Err(unavailable("its TLS certificate is not valid for it or not trusted")));
        assert_eq!((peer.counts().1, elsewhere.counts().1), (2, 0), "no request was sent");
    }
}

#[tokio::test]
async fn what_was_not_sent_is_tried_once_more() {
    let ca = Ca::new();
    let server = ca.server("127.0.0.1", &TLS13);
    let once = peer(Arc::clone(&server), 1);
    sign_in(trusting(&ca, &once), "1234Qwerty").await.expect("the peer gives a token");
    assert_eq!(once.counts(), (2, 1));

    let always = peer(server, usize::MAX);
    let result = sign_in(trusting(&ca, &always), "1234Qwerty").await;
    assert!(is_unavailable(&result), "{result:?}");
    assert_eq!(always.counts(), (2, 0));
}

#[tokio::test]
async fn plain_http_behind_https_is_no_handshake() {
    let ca = Ca::new();
    let peer = Peer::start(|served| {
        served.write(b"HTTP/1.1 400 X\r\n\r\n");
        served.is_left_within(TIMEOUT);
    });
    let result = sign_in(trusting(&ca, &peer), "1234Qwerty").await;
    assert_eq!(result, Err(unavailable("the TLS handshake with it failed")));
}

#[tokio::test]
async fn a_silent_handshake_ends_within_the_timeout() {
    let ca = Ca::new();
    let peer = Peer::start(|served| {
        while !served.is_left_within(TIMEOUT) {}
        while matches!(served.stream.read(&mut [0; 4_096]), Ok(1..)) {}
    });
    let timeout = 3 * SHORT;
    let started = SystemClock.now();
    let result = sign_in(VaultConfig { timeout, ..trusting(&ca, &peer) }, "1234Qwerty").await;
    assert_eq!(result, Err(unavailable("it took too long to connect to")));
    assert!(started.age_at(SystemClock.now()) < TIMEOUT / 2);
    let both = async {
        while peer.counts().0 < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, both).await.expect("there were two attempts to connect");
    assert_eq!(peer.counts(), (2, 0));
}
