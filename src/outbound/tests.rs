//! Names with a dot at their end: looked up with it, and told to the server without it.

use std::{
    io,
    sync::{Arc, Mutex},
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;

const NAME: &str = "vault.example.org";

/// A server with a certificate of [`NAME`]; answers one request with the name that the handshake asked for and the request itself.
async fn server() -> (SocketAddr, String, tokio::task::JoinHandle<(Option<String>, String)>) {
    let key = KeyPair::generate().expect("keys can be made");
    let certificate = CertificateParams::new([NAME.to_owned()]).expect("is a name").self_signed(&key).expect("is good");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("it knows TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .expect("they belong together");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("is bound");
    #[allow(clippy::disallowed_methods, reason = "the test waits for it")]
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("somebody connects");
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.expect("it shakes hands");
        let name = stream.get_ref().1.server_name().map(str::to_owned);
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.expect("the request goes on"));
        }
        stream.write_all(b"HTTP/1.1 204 X\r\n\r\n").await.expect("it reads");
        (name, String::from_utf8(request).expect("is ASCII"))
    });
    (address, certificate.pem(), serving)
}

#[tokio::test]
async fn a_dot_at_the_end_of_a_host_is_for_the_look_up_alone() {
    for (dot, asked_expected) in [(".", "vault.example.org."), ("", "vault.example.org")] {
        let (address, ca, serving) = server().await;
        let target = Target::parse(&format!("https://{NAME}{dot}:{}/a", address.port())).expect("is one");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let look_up = move |name| {
            noted.lock().expect("no panic").push(name);
            async move { io::Result::Ok(std::iter::once(address)) }
        };
        let resolver = Dotted { absolute: target.absolute().map(Box::from).into_iter().collect(), look_up };
        let roots = authorities(ca.as_bytes()).expect("is good").roots;
        let client = build(builder_with(roots, resolver).expect("is good")).expect("is good");
        assert_eq!(client.get(target.url().clone()).send().await.expect("it answers").status(), 204);
        let (name, request) = serving.await.expect("no panic");
        assert_eq!(*asked.lock().expect("no panic"), [asked_expected]);
        assert_eq!(name.as_deref(), Some(NAME));
        assert!(request.contains(&format!("\r\nhost: {NAME}:{}\r\n", address.port())), "{request}");
    }
}

#[test]
fn what_no_request_may_go_to_is_no_target() {
    for text in [
        "",
        "vault.example.org",
        "ftp://vault.example.org",
        "file:///jwks",
        "https://",
        "https://me@vault.example.org",
        "https://:secret@vault.example.org",
        "https://vault.example.org?secret",
        "https://vault.example.org/#secret",
    ] {
        assert_eq!(Target::parse(text), None, "{text}");
    }
}

#[test]
fn authorities_are_certificates_and_nothing_else() {
    for pem in [
        "",
        "secret",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    ] {
        let fault = authorities(pem.as_bytes()).expect_err(pem);
        assert!(!fault.to_string().contains("secret"), "{fault}");
    }
    assert_eq!(public_roots().len(), webpki_root_certs::TLS_SERVER_ROOT_CERTS.len());
}
