//! What the operating system allows, and strangers that take places: whoever has something to ask gets through.

use std::{sync::Arc, time::Duration};

use token_broker::client::Client;
use token_broker_sandbox::{Options, Sandbox};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    time::{Instant, timeout},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    Bare, MERCHANT, NUMBER, PASSWORD, PATIENCE,
    authority::{Authority, Name, client},
    http,
    process::Process,
    user,
};

/// Far less than strangers have time to say something, which is 10 s, and more than a busy machine takes.
const SOON: Duration = Duration::from_secs(5);
/// A whole preface and empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// More than any listener of a process with 300 descriptors has places for.
const CROWD: usize = 350;

fn config(sandbox: &Sandbox) -> String {
    format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\nhealth_listen = \"127.0.0.1:0\"\nlame_duck = \"0s\"\ndrain = \"2s\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n[vault]\nbase_url = \"{}\"\n{}{}",
        sandbox.url(),
        user(NUMBER, PASSWORD),
        user("+447871239998", PASSWORD)
    )
}

fn sandbox_options() -> Options {
    let mut options = Options::default();
    options.users.push(token_broker_sandbox::User::new(MERCHANT, "+447871239998", PASSWORD));
    options
}

/// Strangers that connect, say this, and then stay.
async fn strangers(address: &str, n: usize, say: &[u8]) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..n {
        let Ok(mut stream) = TcpStream::connect(address).await else { continue };
        // Whoever is closed at once can't be told.
        stream.write_all(say).await.ok();
        all.push(stream);
    }
    all
}

async fn lives(admin: &str) {
    let answer = timeout(SOON, http(admin, "/livez")).await.expect("a probe is answered soon");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

async fn is_healthy(address: &str) {
    let check = async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("is a URL");
        let mut health = HealthClient::new(endpoint.connect().await.expect("it listens"));
        health.check(HealthCheckRequest::default()).await.expect("it is answered").into_inner().status
    };
    assert_eq!(timeout(SOON, check).await.expect("a probe is answered soon"), 1);
}

async fn gives_a_token(endpoint: &str, number: &str) {
    let client = Client::new(endpoint).expect("is an endpoint").timeout(SOON);
    client.token(MERCHANT, number).await.unwrap_or_else(|error| panic!("no token: {error}"));
}

fn warnings(broker: &Process) -> usize {
    broker.log().lines().filter(|line| line.contains("\"WARN\"") || line.contains("\"ERROR\"")).count()
}

#[tokio::test]
async fn the_soft_limit_of_descriptors_is_raised_and_that_is_said() {
    let sandbox = Sandbox::start(sandbox_options()).await.expect("starts");
    let broker = Process::with_descriptors(&config(&sandbox), 300, 4_096).await;
    let said = broker.line_like("descriptors").await;
    assert_eq!((&said["soft_before"], &said["limit"]), (&300.into(), &4_096.into()), "{said}");
    let address = broker.address("grpc");
    let crowd = strangers(&address, CROWD, PREFACE).await;
    gives_a_token(&broker.endpoint(), NUMBER).await;
    lives(&broker.address("admin")).await;
    // All of them have a place.
    for mut stranger in crowd {
        let mut settings = [0; 9];
        timeout(PATIENCE, stranger.read_exact(&mut settings)).await.expect("it answers").expect("it is not closed");
    }
}

#[tokio::test]
async fn few_descriptors_are_shared_out_so_that_callers_probes_and_the_vault_have_theirs() {
    let sandbox = Sandbox::start(sandbox_options()).await.expect("starts");
    let broker = Process::with_descriptors(&config(&sandbox), 300, 300).await;
    let (grpc, health, admin) = (broker.address("grpc"), broker.address("health"), broker.address("admin"));
    let mut crowds = Vec::new();
    for (n, say) in [b"".as_slice(), b"P", PREFACE].into_iter().enumerate() {
        for address in [&grpc, &health, &admin] {
            crowds.push(strangers(address, CROWD, say).await);
        }
        lives(&admin).await;
        is_healthy(&health).await;
        is_healthy(&grpc).await;
        gives_a_token(&broker.endpoint(), if n == 0 { NUMBER } else { "+447871239998" }).await;
    }
    assert!(!broker.log().contains("can't accept"), "{}", broker.log());
    assert!(warnings(&broker) <= 9, "few words: {}", broker.log());
    drop(crowds);
}

#[tokio::test]
async fn a_process_with_hardly_any_descriptors_says_so_and_answers() {
    let sandbox = Sandbox::start(sandbox_options()).await.expect("starts");
    let broker = Process::with_descriptors(&config(&sandbox), 64, 64).await;
    let crowd = strangers(&broker.address("grpc"), 100, b"").await;
    gives_a_token(&broker.endpoint(), NUMBER).await;
    lives(&broker.address("admin")).await;
    broker.line_like("few descriptors").await;
    drop(crowd);
}

#[tokio::test]
async fn nobody_keeps_probes_from_the_admin_port() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let broker = Process::serve(&config(&sandbox), &[]).await;
    let admin = broker.address("admin");
    let mut crowds = Vec::new();
    let get = "GET /metrics HTTP/1.1\r\nhost: admin\r\n\r\n";
    for say in [
        // Silent; half a head; idle after an answer; a body that never comes; answers that nobody reads.
        String::new(),
        "GET /livez HTTP/1.1\r\nhost:".to_owned(),
        "GET /livez HTTP/1.1\r\nhost: admin\r\n\r\n".to_owned(),
        "POST /livez HTTP/1.1\r\nhost: admin\r\ncontent-length: 1000\r\n\r\n".to_owned(),
        get.repeat(1_000),
    ] {
        crowds.push(strangers(&admin, 200, say.as_bytes()).await);
        lives(&admin).await;
    }
    drop(crowds);
}

#[tokio::test]
async fn nobody_keeps_probes_from_the_health_port() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let broker = Process::with_descriptors(&config(&sandbox), 300, 300).await;
    let address = broker.address("health");
    let crowd = strangers(&address, CROWD, PREFACE).await;
    is_healthy(&address).await;
    // Watches last as long as their clients like; they keep nobody out.
    let mut watches = Vec::new();
    for _ in 0..60 {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("is a URL");
        let mut health = HealthClient::new(endpoint.connect().await.expect("it listens"));
        watches.push((health.watch(HealthCheckRequest::default()).await, health));
    }
    is_healthy(&address).await;
    drop((crowd, watches));
}

#[tokio::test]
async fn calls_that_are_begun_and_never_made_keep_nobody_out() {
    let sandbox = Sandbox::start(sandbox_options()).await.expect("starts");
    let broker = Process::with_descriptors(&config(&sandbox), 300, 300).await;
    for path in ["/tokenbroker.v1.TokenBrokerService/GetToken", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"] {
        let mut beginning = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let (mut bare, begun) = (Bare::connect(&broker.endpoint()).await, Arc::new(Notify::new()));
            let mut other = bare.clone();
            let sent = Arc::clone(&begun);
            beginning.spawn(async move {
                let beginning = bare.begin(path);
                sent.notify_one();
                beginning.await.is_ok()
            });
            begun.notified().await;
            // Once this is answered the other has been begun, if it was let in.
            tower_service::Service::call(&mut other, http::Request::new(tonic::body::Body::empty())).await.ok();
        }
        is_healthy(&broker.address("grpc")).await;
        gives_a_token(&broker.endpoint(), NUMBER).await;
    }
}

fn tls(sandbox: &Sandbox, directory: &std::path::Path, ca: &Authority) -> String {
    ca.server().write(directory);
    std::fs::write(directory.join("ca.crt"), &ca.pem).expect("is written");
    let d = directory.display();
    format!(
        "[[callers]]\nid = \"cards.example.org\"\nmerchants = [\"*\"]\n[grpc.tls]\ncertificate_file = \"{d}/tls.crt\"\n\
         key_file = \"{d}/tls.key\"\nclient_ca_file = \"{d}/ca.crt\"\n{}",
        config(sandbox)
    )
}

/// The first words of a client that means it.
fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("it knows them")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("is a name");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("it begins");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("it is written");
    hello
}

#[tokio::test]
async fn handshakes_that_stop_anywhere_hold_up_nobody() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let (ca, directory) = (Authority::new(), tempfile::tempdir().expect("a directory"));
    let broker = Process::serve(&tls(&sandbox, directory.path(), &ca), &[]).await;
    let (address, endpoint) = (broker.address("grpc"), broker.endpoint().replace("http://", "https://"));
    let issued = ca.client(&[Name::Dns("cards.example.org")]);
    let hello = client_hello();
    let mut crowds = Vec::new();
    for say in [&hello[..0], &hello[..1], &hello[..hello.len() / 2], &hello[..]] {
        crowds.push(strangers(&address, 600, say).await);
        let began = Instant::now();
        client(&endpoint, &ca, Some(&issued)).token(MERCHANT, NUMBER).await.expect("it may");
        assert!(began.elapsed() < SOON, "{:?} behind {} bytes", began.elapsed(), say.len());
    }
}

#[tokio::test]
async fn one_address_may_not_shake_hands_in_all_places() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let (ca, directory) = (Authority::new(), tempfile::tempdir().expect("a directory"));
    let broker = Process::with_descriptors(&tls(&sandbox, directory.path(), &ca), 300, 300).await;
    let address = broker.address("grpc");
    let other = tokio::net::TcpSocket::new_v4().expect("a socket");
    other.bind("127.0.0.2:0".parse().expect("is an address")).expect("loopback has many");
    let mut other = other.connect(address.parse().expect("is an address")).await.expect("it listens");
    let mut crowd = strangers(&address, CROWD, &client_hello()[..1]).await;
    // Of the crowd, the older give their places up to the newer, long before their time is over.
    let middle = timeout(SOON, crowd[CROWD / 2].read(&mut [0])).await.expect("it gives its place up");
    assert!(matches!(middle, Ok(0) | Err(_)), "{middle:?}");
    let read = timeout(Duration::from_millis(500), other.read(&mut [0])).await;
    assert!(read.is_err(), "the crowd takes places of its own only: {read:?}");
}

/// A call with so many bytes of metadata beside its own; its status, reason and text.
async fn with_metadata(broker: &Process, path: &str, bytes: usize) -> (String, Vec<u8>) {
    let mut bare = Bare::connect(&broker.endpoint()).await;
    let mut request = http::Request::post(path).header("content-type", "application/grpc").header("x-request-id", "many-words");
    for n in 0..bytes / 1_000 {
        request = request.header(format!("x-{n:06}"), "v".repeat(1_000 - 8 - 32));
    }
    let message =
        http_body_util::BodyExt::map_err(http_body_util::Full::new(bytes::Bytes::from_static(&[0; 5])), |never| match never {});
    let request = request.body(tonic::body::Body::new(message)).expect("is a request");
    let answer = tower_service::Service::call(&mut bare, request).await.expect("it is answered");
    let value = |name: &str| answer.headers().get(name).map(|value| value.as_bytes().to_vec()).unwrap_or_default();
    if answer.headers().contains_key("grpc-status") {
        let details = value("grpc-status-details-bin");
        let details = base64::Engine::decode(&base64::engine::general_purpose::STANDARD_NO_PAD, details).expect("is base64");
        return (String::from_utf8(value("grpc-status")).expect("is text"), details);
    }
    let trailers =
        http_body_util::BodyExt::collect(answer.into_body()).await.expect("it ends").trailers().cloned().unwrap_or_default();
    (trailers.get("grpc-status").map(|status| status.to_str().expect("is text").to_owned()).unwrap_or_default(), Vec::new())
}

#[tokio::test]
async fn more_metadata_than_fits_is_refused_with_a_reason() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let mut broker = Process::serve(&config(&sandbox), &[]).await;
    let ours = "/tokenbroker.v1.TokenBrokerService/GetToken";
    let (status, _) = with_metadata(&broker, ours, 15_000).await;
    assert_eq!(status, "3", "it fits, and its message names no user");
    for path in [ours, "/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"] {
        for bytes in [17_000, 32_000, 60_000] {
            let (status, details) = with_metadata(&broker, path, bytes).await;
            assert_eq!(status, "8", "RESOURCE_EXHAUSTED: {path} {bytes}");
            let details = String::from_utf8_lossy(&details).into_owned();
            for word in ["INVALID_REQUEST", "token-broker", "metadata", "many-words"] {
                assert!(details.contains(word), "{word}: {details:?}");
            }
        }
    }
    let (status, _) = with_metadata(&broker, "/grpc.health.v1.Health/Check", 15_000).await;
    assert_eq!(status, "0");
    let metrics = http(&broker.address("admin"), "/metrics").await;
    let counted = "token_broker_calls_total{code=\"RESOURCE_EXHAUSTED\",reason=\"INVALID_REQUEST\",outcome=\"turned_away\"} 3";
    assert!(metrics.contains(counted), "{metrics}");
    // Once it has ended the log is whole: the trail's lines are another thread's.
    broker.signal(rustix::process::Signal::TERM);
    broker.ended(PATIENCE).await;
    let audited = broker.log().lines().filter(|line| line.contains("\"audit\"") && line.contains("many-words")).count();
    assert_eq!(audited, 4, "each call once: {}", broker.log());
}
