//! Client certificates that have ended, don't hold yet, or are of another CA: the connection is taken and proves nothing, and
//! each call is told why.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use token_broker::client::{Client, Security};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE, Said, Setting, Stage,
    authority::{Authority, Issued, Name},
    cluster::{Cluster, ISSUER, SUBJECT},
    http,
    process::Process,
    secured::{CARDS, TLS, ask, caller, secured},
    user,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Certificates that prove nothing, with a word of what their owners are told.
fn unproven(ca: &Authority) -> [(Issued, &'static str); 3] {
    let (now, names) = (SystemTime::now(), [Name::Uri(CARDS)]);
    [
        (ca.issue(&names, now - 2 * HOUR, now - HOUR), "has ended"),
        (ca.issue(&names, now + HOUR, now + 2 * HOUR), "does not hold yet"),
        (Authority::new().client(&names), "none of the broker's client CAs vouches for your certificate"),
    ]
}

#[tokio::test]
async fn who_shows_one_is_told_what_is_wrong_with_it_and_gets_nothing() {
    let ca = Authority::new();
    let stage = secured(&ca, &caller(CARDS, "merchants = [\"*\"]")).await;
    for (issued, why) in unproven(&ca) {
        let said = Said::of(ask(&stage, &ca, Some(&issued)).await.expect_err("it proves nothing"));
        let text = said.check(Code::Unauthenticated, "CALLER_UNAUTHENTICATED").error.to_string();
        assert!(text.contains(why), "{why}: {text}");
    }
    let said = Said::of(ask(&stage, &ca, Some(&ca.of_servers_alone("localhost"))).await.expect_err("it proves nothing"));
    assert!(said.check(Code::Unauthenticated, "CALLER_UNAUTHENTICATED").error.to_string().contains("clientAuth"), "{said:?}");
    let metrics = http(&stage.admin, "/metrics").await;
    assert!(metrics.contains("token_broker_tls_handshakes_total{result=\"untrusted\"} 4\n"), "{metrics}");
    assert_eq!(stage.token().await.expect_err("nor in plaintext").reason(), None);
    assert_eq!(stage.sandbox.sign_ins(), 0);
}

/// A good token beside a bad certificate: whoever means to be known by the former leaves the latter away.
#[tokio::test]
async fn it_is_never_passed_over_for_a_token() {
    let (ca, cluster) = (Authority::new(), Cluster::new());
    let (server, pem, jwks) = (ca.server(), ca.pem.clone(), cluster.jwks());
    let prepare = move |directory: &Path| {
        server.write(directory);
        fs::write(directory.join("ca.crt"), &pem).expect("is written");
        fs::write(directory.join("jwks"), &jwks).expect("is written");
    };
    let accounts = format!("[auth.service_accounts]\nissuer = \"{ISSUER}\"\njwks_file = \"jwks\"\n");
    let rest = format!("{accounts}{}{}", caller(SUBJECT, "merchants = [\"*\"]"), user(NUMBER, PASSWORD));
    let stage = Setting { grpc: TLS.to_owned(), rest, prepare: Some(Box::new(prepare)), ..Setting::default() }.start().await;
    let path = stage.files.path().join("token");
    fs::write(&path, cluster.token(|_| ())).expect("is written");
    let asked = async |issued: Option<&Issued>| {
        let identity_pem = issued.map(|issued| (issued.certificate.clone().into_bytes(), issued.key.clone().into_bytes()));
        let ca_pem = Some(ca.pem.clone().into_bytes());
        let security = Security { ca_pem, identity_pem, token_file: Some(path.clone()) };
        let client = Client::with_security(&stage.secure_endpoint(), security).expect("is an endpoint");
        client.timeout(PATIENCE).token(MERCHANT, NUMBER).await
    };
    asked(None).await.expect("the token is good");
    for (issued, why) in unproven(&ca) {
        let said = Said::of(asked(Some(&issued)).await.expect_err("the certificate counts"));
        let text = said.check(Code::Unauthenticated, "CALLER_UNAUTHENTICATED").error.to_string();
        assert!(text.contains(why), "{why}: {text}");
    }
}

#[tokio::test]
async fn health_is_for_them_too() {
    let ca = Authority::new();
    let stage = secured(&ca, &caller(CARDS, "merchants = []")).await;
    for (issued, _) in unproven(&ca) {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&ca.pem))
            .identity(Identity::from_pem(&issued.certificate, &issued.key));
        let endpoint = Endpoint::from_shared(stage.secure_endpoint()).expect("is a URL").tls_config(tls).expect("is good");
        let channel = endpoint.connect().await.expect("it shakes hands");
        let answer = HealthClient::new(channel).check(HealthCheckRequest { service: String::new() }).await;
        assert_eq!(answer.expect("health is for everybody").into_inner().status, 1);
    }
}

/// Whether HTTP/2 begins with a client that shows this certificate and signs with that key.
async fn is_served(
    stage: &Stage,
    ca: &Authority,
    shown: &Issued,
    key: &Issued,
    version: &'static rustls::SupportedProtocolVersion,
) -> bool {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let der = CertificateDer::from_pem_slice(shown.certificate.as_bytes()).expect("is PEM");
    let key = PrivateKeyDer::from_pem_slice(key.key.as_bytes()).expect("is PEM");
    let signing = aws_lc_rs::sign::any_supported_type(&key).expect("is a key");
    let identity = SingleCertAndKey::from(CertifiedKey::new(vec![der], signing));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("is PEM")).expect("is a CA");
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).expect("is known");
    let mut config = builder.with_root_certificates(roots).with_client_cert_resolver(Arc::new(identity));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio::net::TcpStream::connect(stage.endpoint.trim_start_matches("http://")).await.expect("it listens");
    let name = ServerName::try_from("localhost").expect("is a name");
    let Ok(mut stream) = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await else { return false };
    // The preface, and empty settings.
    let begun = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let read = timeout(PATIENCE, stream.read(&mut [0])).await.expect("it does not wait for ever");
    begun.is_ok() && matches!(read, Ok(1))
}

#[tokio::test]
async fn a_certificate_without_its_key_gets_no_handshake() {
    let ca = Authority::new();
    let stage = secured(&ca, &caller(CARDS, "merchants = [\"*\"]")).await;
    let (good, other) = (ca.client(&[Name::Uri(CARDS)]), ca.client(&[Name::Uri(CARDS)]));
    for version in [&TLS12, &TLS13] {
        assert!(is_served(&stage, &ca, &good, &good, version).await, "{version:?}");
        assert!(!is_served(&stage, &ca, &good, &other, version).await, "{version:?}: a stolen certificate");
        for (issued, why) in unproven(&ca) {
            assert!(is_served(&stage, &ca, &issued, &issued, version).await, "{version:?}: {why}");
            assert!(!is_served(&stage, &ca, &issued, &other, version).await, "{version:?}: {why}");
        }
    }
}

#[tokio::test]
async fn the_log_names_the_peer_once_a_minute() {
    let (ca, files) = (Authority::new(), tempfile::tempdir().expect("a directory"));
    ca.server().write(files.path());
    fs::write(files.path().join("ca.crt"), &ca.pem).expect("is written");
    let path = |name: &str| files.path().join(name).display().to_string();
    let config = format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[grpc.tls]\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n\
         client_ca_file = \"{}\"\n[vault]\nbase_url = \"http://127.0.0.1:1\"\n{}{}",
        path("tls.crt"),
        path("tls.key"),
        path("ca.crt"),
        caller(CARDS, "merchants = [\"*\"]"),
        user(NUMBER, PASSWORD)
    );
    let mut broker = Process::serve(&config, &[]).await;
    let endpoint = broker.endpoint().replace("http://", "https://");
    for _ in 0..2 {
        for (issued, _) in unproven(&ca) {
            let client = crate::support::authority::client(&endpoint, &ca, Some(&issued));
            client.token(MERCHANT, NUMBER).await.expect_err("it proves nothing");
        }
    }
    const MESSAGE: &str = "a client's certificate proves nothing: its calls are told why";
    let line = broker.line(MESSAGE).await;
    assert_eq!((&line["level"], &line["peer"]), (&"WARN".into(), &"127.0.0.1".into()), "{line}");
    assert!(line["why"].as_str().is_some_and(|why| why.contains("has ended")), "{line}");
    broker.signal(rustix::process::Signal::TERM);
    assert!(broker.ended(PATIENCE).await.success());
    assert_eq!(broker.log().matches(MESSAGE).count(), 1, "once a minute");
}
