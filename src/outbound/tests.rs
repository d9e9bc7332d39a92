//! Names with a dot at their end: looked up with it, and told to the server without it.

use std::{
    io,
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
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
        let Target { url, absolute } = Target::parse(&format!("https://{NAME}{dot}:{}/a", address.port())).expect("is one");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let look_up = move |name| {
            noted.lock().expect("no panic").push(name);
            async move { io::Result::Ok(std::iter::once(address)) }
        };
        let resolver = Dotted { absolute: absolute.into_iter().collect(), look_up };
        let client = build(builder_with(Some(ca.as_bytes()), resolver).expect("is good")).expect("is good");
        assert_eq!(client.get(url).send().await.expect("it answers").status(), 204);
        let (name, request) = serving.await.expect("no panic");
        assert_eq!(*asked.lock().expect("no panic"), [asked_expected]);
        assert_eq!(name.as_deref(), Some(NAME));
        assert!(request.contains(&format!("\r\nhost: {NAME}:{}\r\n", address.port())), "{request}");
    }
}

/// What may stand in a URL.
fn piece() -> impl Strategy<Value = String> {
    let fixed = [
        "https://",
        "http://",
        "a",
        "xn--a",
        "xn--4ca",
        "localhost",
        "127.0.0.1",
        "[::1]",
        ".",
        ".",
        "-",
        "_",
        ":443",
        ":1",
        "/",
        "/v1",
        "1",
        "0x7f",
        "A",
    ];
    prop::sample::select(fixed.to_vec()).prop_map(str::to_owned)
}

proptest! {
    /// What the configuration takes can be asked, at the host that it names, and that host is one that a certificate can have.
    #[test]
    fn whatever_the_configuration_takes_can_be_asked(pieces in prop::collection::vec(piece(), 0..8), scheme in 0..3) {
        let text = format!("{}{}", if scheme == 0 { "" } else { "https://" }, pieces.concat());
        if let Ok(url) = crate::config::base_url(&text) {
            let Target { url: target, absolute } = Target::parse(&url).expect("can be asked");
            let host = target.host_str().expect("has one");
            prop_assert!(!host.ends_with('.') && text.to_ascii_lowercase().contains(host), "{} {}", text, host);
            prop_assert_eq!(absolute.is_some(), url.split('/').nth(2).is_some_and(|authority| authority.starts_with(&format!("{host}."))), "{}", url);
            let name = host.trim_matches(['[', ']']);
            prop_assert!(rustls::pki_types::ServerName::try_from(name).is_ok(), "{}", host);
        }
    }
}
