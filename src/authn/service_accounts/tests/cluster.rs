//! An API server on a real socket, which answers as the test says.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer, version::TLS13};

use super::*;

/// What the API server does with a request.
#[derive(Clone)]
pub(super) enum Does {
    Answers(u16, String),
    /// Reads the request, and says nothing.
    Hangs,
    /// Closes the connection once the request is read.
    Leaves,
}

/// Listens on loopback, and remembers each request.
#[derive(Clone)]
pub(super) struct Cluster {
    address: SocketAddr,
    scheme: &'static str,
    does: Arc<Mutex<(Does, Does)>>,
    seen: Arc<Mutex<Vec<String>>>,
    fetches: Arc<AtomicUsize>,
    reviews: Arc<AtomicUsize>,
}

impl Cluster {
    /// Publishes the keys of these.
    pub(super) fn publishing(signers: &[&Signer]) -> Self {
        Self::listening(signers, None)
    }

    /// The same over TLS; and the CA to trust, in PEM.
    pub(super) fn with_tls(signers: &[&Signer]) -> (Self, String) {
        let made = "keys and certificates can be made";
        let (ca_key, key) = (KeyPair::generate().expect(made), KeyPair::generate().expect(made));
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).expect(made);
        let params_of_server = CertificateParams::new(["127.0.0.1".to_owned()]).expect(made);
        let certificate = params_of_server.signed_by(&key, &Issuer::new(params, ca_key)).expect(made);
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider knows it")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .expect("the key is the certificate's");
        let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, ca.der());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        (Self::listening(signers, Some(Arc::new(config))), pem)
    }

    fn listening(signers: &[&Signer], tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let cluster = Self {
            address: listener.local_addr().expect("it is bound"),
            scheme: if tls.is_some() { "https" } else { "http" },
            does: Arc::new(Mutex::new((Does::Hangs, Does::Hangs))),
            seen: Arc::default(),
            fetches: Arc::default(),
            reviews: Arc::default(),
        };
        cluster.publish(signers);
        let served = cluster.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (served, stream) = (served.clone(), stream.expect("it was accepted"));
                let tls = tls.clone().map(|config| ServerConnection::new(config).expect("the configuration is good"));
                thread::spawn(move || match tls {
                    Some(connection) => served.serve(StreamOwned::new(connection, stream)),
                    None => served.serve(stream),
                });
            }
        });
        cluster
    }

    pub(super) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub(super) fn publish(&self, signers: &[&Signer]) {
        let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
        self.fetch_does(Does::Answers(200, json!({ "keys": keys }).to_string()));
    }

    pub(super) fn fetch_does(&self, does: Does) {
        lock(&self.does).0 = does;
    }

    pub(super) fn review_does(&self, does: Does) {
        lock(&self.does).1 = does;
    }

    /// What a review's answer has in its status.
    pub(super) fn reviews(&self, status: &Value) {
        self.review_does(Does::Answers(201, json!({ "kind": "TokenReview", "status": status }).to_string()));
    }

    /// How often keys were fetched and tokens reviewed.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.fetches.load(Ordering::SeqCst), self.reviews.load(Ordering::SeqCst))
    }

    pub(super) fn seen(&self) -> Vec<String> {
        lock(&self.seen).clone()
    }

    fn serve(&self, mut stream: impl Read + Write) {
        while let Some(request) = read(&mut stream) {
            let is_review = request.starts_with("POST ");
            lock(&self.seen).push(request);
            let counter = if is_review { &self.reviews } else { &self.fetches };
            counter.fetch_add(1, Ordering::SeqCst);
            let (fetch, review) = lock(&self.does).clone();
            match if is_review { review } else { fetch } {
                Does::Answers(status, body) => {
                    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
                // Until the client gives up.
                Does::Hangs => drop(stream.read(&mut [0])),
                Does::Leaves => return,
            }
        }
    }
}

/// Reads one request, to the last byte of its body; `None` where the client closed instead.
fn read(stream: &mut impl Read) -> Option<String> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        request.push(byte[0]);
    }
    let head = String::from_utf8(request).expect("heads are ASCII");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().expect("is a number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(head + &String::from_utf8(body).expect("bodies are JSON"))
}
