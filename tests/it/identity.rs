//! Who may call: real certificates, real handshakes.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use token_broker::{
    client::ClientError,
    proto::v1::{GetTokenRequest, token_broker_service_client::TokenBrokerServiceClient},
};
use token_broker_sandbox::Fault;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    Bare, MERCHANT, NUMBER, PASSWORD, PATIENCE, Said, Setting, Stage,
    authority::{Authority, Issued, Name, client},
    user,
};

const CARDS: &str = "spiffe://example.org/ns/cards/sa/cards";
const TLS: &str =
    "lame_duck = \"0s\"\n[grpc.tls]\ncertificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\nclient_ca_file = \"ca.crt\"\n";

fn caller(id: &str, rest: &str) -> String {
    format!("[[callers]]\nid = \"{id}\"\n{rest}\n")
}

/// A broker that asks for certificates of `ca`, and lets `callers` in.
async fn secured(ca: &Authority, callers: &str) -> Stage {
    let (issued, pem) = (ca.server(), ca.pem.clone());
    let prepare = move |directory: &Path| {
        issued.write(directory);
        fs::write(directory.join("ca.crt"), &pem).expect("is written");
    };
    let rest = format!("{callers}{}", user(NUMBER, PASSWORD));
    Setting { grpc: TLS.to_owned(), rest, prepare: Some(Box::new(prepare)), ..Setting::default() }.start().await
}

/// What a caller with this certificate is told.
async fn ask(stage: &Stage, ca: &Authority, issued: Option<&Issued>) -> Result<(), ClientError> {
    client(&stage.secure_endpoint(), ca, issued).token(MERCHANT, NUMBER).await.map(drop)
}

#[tokio::test]
async fn a_certificate_is_one_name_and_only_listed_names_may() {
    let ca = Authority::new();
    let all = "merchants = [\"*\"]";
    let wild = format!("{}{}", caller("spiffe://example.org/ns/*/sa/cards", all), caller("*.*.wild.internal", all));
    let stage = secured(&ca, &format!("{}{}{wild}", caller(CARDS, all), caller("cards.example.org", all))).await;
    let (unknown, denied) = ("CALLER_UNAUTHENTICATED", "CALLER_NOT_ALLOWED");
    for (names, expected) in [
        (&[Name::Uri(CARDS)][..], None),
        (&[Name::Uri(CARDS), Name::Dns("elsewhere.example.org")], None),
        (&[Name::Dns("cards.example.org")], None),
        (&[Name::Common("cards.example.org")], Some(unknown)),
        (&[Name::Uri(CARDS), Name::Uri("spiffe://example.org/other")], Some(unknown)),
        (&[Name::Uri("https://example.org/cards"), Name::Dns("cards.example.org")], Some(unknown)),
        (&[Name::Dns("cards.example.org"), Name::Dns("other.example.org")], Some(unknown)),
        (&[Name::Dns("*.example.org")], Some(unknown)),
        (&[Name::Uri("spiffe://example.org/ns/cards/sa/card")], Some(denied)),
        (&[Name::Uri("spiffe://example.org/ns/cards/sa/cards2")], Some(denied)),
        (&[Name::Uri("spiffe://example.org/ns/cards/sa/Cards")], Some(denied)),
        (&[Name::Dns("card.example.org")], Some(denied)),
        (&[Name::Dns("Cards.example.org")], Some(unknown)),
        (&[Name::Dns(".example.org")], Some(unknown)),
        (&[Name::Uri("spiffe://example.org/ns//sa/cards")], Some(unknown)),
        (&[Name::Uri("spiffe://example.org/ns/../sa/cards")], Some(unknown)),
        (&[Name::Uri("spiffe://example.org/ns/a%2Fb/sa/cards")], Some(unknown)),
        (&[Name::Uri("spiffe://example.org/ns/*/sa/cards")], Some(unknown)),
        (&[Name::Uri("spiffe://example.org/ns/a\nb/sa/cards")], Some(unknown)),
        (&[Name::Uri("spiffe://example.org/ns/\u{1b}[2J/sa/cards")], Some(unknown)),
    ] {
        let said = ask(&stage, &ca, Some(&ca.client(names))).await.map_err(Said::of);
        match (said, expected) {
            (Ok(()), None) => {}
            (Err(said), Some(reason)) => {
                let code = if reason == denied { Code::PermissionDenied } else { Code::Unauthenticated };
                assert!(!said.check(code, reason).error.to_string().contains(NUMBER), "the number is masked: {said:?}");
            }
            (said, expected) => panic!("{said:?} instead of {expected:?}"),
        }
    }
    let said = Said::of(ask(&stage, &ca, None).await.expect_err("it shows nothing"));
    assert!(said.check(Code::Unauthenticated, unknown).error.to_string().contains("client certificate"));
}

/// The handshake checks less of a certificate than it takes to know whom it names.
#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_told_so_and_not_that_it_has_ended() {
    let ca = Authority::new();
    let stage = secured(&ca, &caller("cards.example.org", "merchants = [\"*\"]")).await;
    let mut seen = 0;
    for issued in [
        // A DNS name with a byte that is no ASCII; one that ends too soon; no names at all; a serial number of 40 bytes.
        ca.with_names(vec![0x30, 0x05, 0x82, 0x03, b'a', 0xff, b'b']),
        ca.with_names(vec![0x30, 0x05, 0x82, 0x7f, b'a', b'b', b'c']),
        ca.with_names(vec![0x04, 0x01, 0x00]),
        ca.with_names(Vec::new()),
        ca.with_a_long_serial_number("cards.example.org"),
    ] {
        let security = token_broker::client::Security {
            ca_pem: Some(ca.pem.clone().into_bytes()),
            identity_pem: Some((issued.certificate.into_bytes(), issued.key.into_bytes())),
            token_file: None,
        };
        // Some our own client does not show, and some the handshake refuses.
        let Ok(client) = token_broker::client::Client::with_security(&stage.secure_endpoint(), security) else { continue };
        let error = client.token(MERCHANT, NUMBER).await.expect_err("nobody is named");
        let Some(reason) = error.reason() else { continue };
        let text = error.to_string();
        assert_eq!(reason.as_str(), "CALLER_UNAUTHENTICATED", "{text}");
        assert!(text.contains("can't be read") && !text.contains("has ended"), "{text}");
        seen += 1;
    }
    assert!(seen >= 2, "{seen}");
}

#[tokio::test]
async fn strangers_and_certificates_out_of_time_get_no_handshake() {
    let (ca, stranger) = (Authority::new(), Authority::new());
    let stage = secured(&ca, &caller(CARDS, "merchants = [\"*\"]")).await;
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3_600));
    for issued in [
        stranger.client(&[Name::Uri(CARDS)]),
        ca.issue(&[Name::Uri(CARDS)], now - 2 * hour, now - hour),
        ca.issue(&[Name::Uri(CARDS)], now + hour, now + 2 * hour),
    ] {
        let error = ask(&stage, &ca, Some(&issued)).await.expect_err("it can't be trusted");
        assert_eq!(error.reason(), None, "the broker said nothing: {error:?}");
    }
    // Nor does anybody get through in plaintext.
    assert_eq!(stage.token().await.expect_err("is not TLS").reason(), None);
    assert_eq!(stage.sandbox.sign_ins(), 0);
}

#[tokio::test]
async fn a_certificate_that_ends_while_connected_ends_the_calls() {
    let ca = Authority::new();
    let stage = secured(&ca, &caller(CARDS, "merchants = [\"*\"]")).await;
    let end = SystemTime::now() + Duration::from_secs(3);
    let brief = ca.issue(&[Name::Uri(CARDS)], end - Duration::from_secs(60), end);
    let client = client(&stage.secure_endpoint(), &ca, Some(&brief));
    client.token(MERCHANT, NUMBER).await.expect("it holds still");
    let ended = async {
        loop {
            if let Err(error) = client.token(MERCHANT, NUMBER).await {
                return Said::of(error);
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let said = timeout(PATIENCE, ended).await.expect("it ends");
    said.check(Code::Unauthenticated, "CALLER_UNAUTHENTICATED");
    // The certificate's end is a whole second.
    assert!(SystemTime::now() >= end - Duration::from_secs(1));
}

#[tokio::test]
async fn a_denial_says_nothing_of_who_is_configured_and_a_narrowed_policy_counts_at_once() {
    let ca = Authority::new();
    let narrow = caller(CARDS, &format!("merchants = [\"{MERCHANT}\"]\nnumbers = [\"{NUMBER}\"]"));
    let stage = secured(&ca, &narrow).await;
    let issued = ca.client(&[Name::Uri(CARDS)]);
    let client = client(&stage.secure_endpoint(), &ca, Some(&issued));
    client.token(MERCHANT, NUMBER).await.expect("it may");
    for (merchant, number) in [(MERCHANT, "+447871230000"), ("nobody", NUMBER)] {
        let said = Said::of(client.token(merchant, number).await.expect_err("it may not"));
        said.check(Code::PermissionDenied, "CALLER_NOT_ALLOWED");
    }
    stage.reload(&format!("{}{}", caller(CARDS, "merchants = []"), user(NUMBER, PASSWORD)));
    let narrowed = async { while client.token(MERCHANT, NUMBER).await.is_ok() {} };
    timeout(PATIENCE, narrowed).await.expect("the policy is taken over");
    let said = Said::of(client.token(MERCHANT, NUMBER).await.expect_err("not any more"));
    said.check(Code::PermissionDenied, "CALLER_NOT_ALLOWED");
}

#[tokio::test]
async fn health_needs_no_identity_and_reflection_does() {
    let ca = Authority::new();
    let stage = secured(&ca, &caller(CARDS, "merchants = []")).await;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca.pem));
    let endpoint = Endpoint::from_shared(stage.secure_endpoint()).expect("is a URL");
    let channel = endpoint.tls_config(tls).expect("the CA is good").connect().await.expect("it shakes hands");
    let answer = HealthClient::new(channel.clone()).check(HealthCheckRequest { service: String::new() }).await;
    assert_eq!(answer.expect("health is for everybody").into_inner().status, 1);

    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
    };
    let list =
        ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    let asked = ServerReflectionClient::new(channel).server_reflection_info(tokio_stream::once(list)).await;
    assert_eq!(asked.expect_err("nobody is known").code(), Code::Unauthenticated);
}

/// Calls without end: on one connection, or on a new one each time. Counts the calls that failed.
async fn call_on(
    stage_endpoint: String,
    ca: Arc<Authority>,
    issued: Arc<Issued>,
    anew: bool,
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicU64>,
) -> u64 {
    let kept = client(&stage_endpoint, &ca, Some(&issued));
    let mut calls = 0;
    while !stop.load(Ordering::Relaxed) {
        let client = if anew { client(&stage_endpoint, &ca, Some(&issued)) } else { kept.clone() };
        if client.token(MERCHANT, NUMBER).await.is_err() {
            failed.fetch_add(1, Ordering::Relaxed);
        }
        calls += 1;
    }
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_rotations_under_load_fail_no_call() {
    const ROTATIONS: usize = 100;
    let ca = Arc::new(Authority::new());
    let stage = secured(&ca, &caller(CARDS, "merchants = [\"*\"]")).await;
    let issued = Arc::new(ca.client(&[Name::Uri(CARDS)]));
    let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut calling = JoinSet::new();
    for n in 0..4 {
        let (ca, issued, stop, failed) = (Arc::clone(&ca), Arc::clone(&issued), Arc::clone(&stop), Arc::clone(&failed));
        calling.spawn(call_on(stage.secure_endpoint(), ca, issued, n % 2 == 0, stop, failed));
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..ROTATIONS {
        let next = ca.server();
        next.write(stage.files.path());
        let written = Instant::now();
        stage.hup.notify_one();
        let shown = async { while !shows(&stage, &ca, &next).await {} };
        timeout(PATIENCE, shown).await.expect("the new certificate is shown");
        slowest = slowest.max(written.elapsed());
    }
    let next = ca.server();
    next.write(stage.files.path());
    let written = Instant::now();
    let shown = async { while !shows(&stage, &ca, &next).await {} };
    // Within five seconds, which the tests of `reload` show in paused time.
    timeout(PATIENCE, shown).await.expect("it is seen without a signal too");
    let by_itself = written.elapsed();
    stop.store(true, Ordering::Relaxed);
    let calls: u64 = calling.join_all().await.into_iter().sum();
    println!(
        "{ROTATIONS} rotations, {calls} calls, {} failed; SIGHUP to use {slowest:?} at most, without {by_itself:?}",
        failed.load(Ordering::Relaxed)
    );
    assert_eq!(failed.load(Ordering::Relaxed), 0);
}

/// Whether the broker shows this certificate to whoever connects now.
async fn shows(stage: &Stage, ca: &Authority, issued: &Issued) -> bool {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
    let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("is PEM");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("is PEM")).expect("is a CA");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("it knows TLS 1.2")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(stage.endpoint.trim_start_matches("http://")).await.expect("it listens");
    let name = ServerName::try_from("localhost").expect("is a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("it speaks TLS 1.2");
    stream.get_ref().1.peer_certificates().and_then(<[_]>::first) == Some(&der)
}

#[tokio::test]
async fn a_pair_that_does_not_fit_is_refused_and_the_old_one_stays() {
    let ca = Authority::new();
    let stage = secured(&ca, &caller(CARDS, "merchants = [\"*\"]")).await;
    let issued = ca.client(&[Name::Uri(CARDS)]);
    fs::write(stage.files.path().join("tls.key"), ca.server().key).expect("is written");
    stage.hup.notify_one();
    let counted = async {
        while !crate::support::http(&stage.admin, "/metrics").await.contains("token_broker_reloads_total{result=\"refused\"} 1") {
        }
    };
    timeout(PATIENCE, counted).await.expect("the refusal is counted");
    ask(&stage, &ca, Some(&issued)).await.expect("the old pair serves");
}

#[tokio::test]
async fn a_ca_that_is_removed_ends_the_connections_it_vouched_for_and_no_others() {
    let (ca, leaving) = (Authority::new(), Authority::new());
    let stage = secured(&ca, &caller(CARDS, "merchants = [\"*\"]")).await;
    let bundle = stage.files.path().join("ca.crt");
    fs::write(&bundle, format!("{}{}", ca.pem, leaving.pem)).expect("is written");
    stage.hup.notify_one();
    let (stays, goes) = (ca.client(&[Name::Uri(CARDS)]), leaving.client(&[Name::Uri(CARDS)]));
    let welcome = async { while ask(&stage, &ca, Some(&goes)).await.is_err() {} };
    timeout(PATIENCE, welcome).await.expect("both are trusted");
    let (staying, going) =
        (client(&stage.secure_endpoint(), &ca, Some(&stays)), client(&stage.secure_endpoint(), &ca, Some(&goes)));
    staying.token(MERCHANT, NUMBER).await.expect("it may");
    going.token(MERCHANT, NUMBER).await.expect("it may");
    fs::write(&bundle, &ca.pem).expect("is written");
    stage.hup.notify_one();
    let gone = async { while going.token(MERCHANT, NUMBER).await.is_ok() {} };
    timeout(PATIENCE, gone).await.expect("its connection ends, and it gets no other");
    staying.token(MERCHANT, NUMBER).await.expect("it may");
}

/// It is old, and has time for the call that is under way; but not once nobody vouches for it.
#[tokio::test]
async fn a_ca_that_is_removed_ends_a_connection_that_drains_too() {
    let (ca, leaving) = (Authority::new(), Authority::new());
    let (issued, both) = (ca.server(), format!("{}{}", ca.pem, leaving.pem));
    let prepare = move |directory: &Path| {
        issued.write(directory);
        fs::write(directory.join("ca.crt"), &both).expect("is written");
    };
    let rest = format!("{}{}", caller(CARDS, "merchants = [\"*\"]"), user(NUMBER, PASSWORD));
    let grpc = format!("drain = \"60s\"\nmax_connection_age = \"1s\"\n{TLS}");
    let setting = Setting { grpc, rest, prepare: Some(Box::new(prepare)), ..Setting::vault("timeout = \"60s\"") };
    let stage = setting.start().await;
    stage.sandbox.script(Fault::truth().after(Duration::from_secs(60)));
    let goes = leaving.client(&[Name::Uri(CARDS)]);
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&ca.pem))
        .identity(Identity::from_pem(&goes.certificate, &goes.key));
    let endpoint = Endpoint::from_shared(stage.secure_endpoint()).expect("is a URL").tls_config(tls).expect("is good");
    let channel = endpoint.connect().await.expect("it shakes hands");
    let mut watch = HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await.expect("begins").into_inner();
    let request = GetTokenRequest { merchant_id: MERCHANT.to_owned(), number: NUMBER.to_owned(), ..GetTokenRequest::default() };
    let waits = tokio::spawn(async move { TokenBrokerServiceClient::new(channel).get_token(request).await.map(drop) });
    stage.sign_ins(1).await;
    watch.message().await.expect("says that it lives");
    timeout(PATIENCE, watch.message()).await.expect("it is old").expect_err("and drains");
    fs::write(stage.files.path().join("ca.crt"), &ca.pem).expect("is written");
    stage.hup.notify_one();
    timeout(PATIENCE, waits).await.expect("long before the drain is over").expect("no panic").expect_err("it is cut off");
}

#[tokio::test]
async fn a_connection_ends_at_its_age_and_no_call_with_it() {
    let setting = Setting { grpc: "lame_duck = \"0s\"\nmax_connection_age = \"1s\"\n".to_owned(), ..Setting::default() };
    let stage = setting.start().await;
    let began = Instant::now();
    let mut bare = Bare::connect(&stage.endpoint).await;
    let aged = async {
        use tower_service::Service as _;
        while bare.call(http::Request::new(tonic::body::Body::empty())).await.is_ok() {
            stage.good_token().await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, aged).await.expect("it ends");
    let age = began.elapsed();
    assert!(age > Duration::from_millis(850), "{age:?}");
    stage.good_token().await;
}

#[tokio::test]
async fn a_client_that_does_not_shake_hands_is_cut_off() {
    use tokio::io::AsyncReadExt as _;
    let ca = Authority::new();
    let stage = secured(&ca, &caller(CARDS, "merchants = []")).await;
    let mut silent = tokio::net::TcpStream::connect(stage.endpoint.trim_start_matches("http://")).await.expect("it listens");
    let began = Instant::now();
    let read = timeout(PATIENCE, silent.read(&mut [0])).await.expect("it does not wait for ever");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(began.elapsed() > Duration::from_secs(5), "{:?}: a slow client has its time", began.elapsed());
}

#[tokio::test]
async fn clients_that_say_nothing_keep_nobody_from_shaking_hands() {
    let ca = Authority::new();
    let stage = secured(&ca, &caller(CARDS, "merchants = [\"*\"]")).await;
    let address = stage.endpoint.trim_start_matches("http://");
    let mut silent = Vec::new();
    // More than may shake hands at once.
    for _ in 0..300 {
        silent.push(tokio::net::TcpStream::connect(address).await.expect("it listens"));
    }
    let began = Instant::now();
    ask(&stage, &ca, Some(&ca.client(&[Name::Uri(CARDS)]))).await.expect("it may");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// How many reloads were refused.
async fn refusals(stage: &Stage) -> u64 {
    let metrics = crate::support::http(&stage.admin, "/metrics").await;
    let counted = metrics.lines().find_map(|line| line.strip_prefix("token_broker_reloads_total{result=\"refused\"} "));
    counted.map_or(0, |count| count.parse().expect("is a number"))
}

#[tokio::test]
async fn a_reload_opens_nothing_where_the_broker_has_listened_since_its_start() {
    let ca = Authority::new();
    let (issued, pem) = (ca.server(), ca.pem.clone());
    let prepare = move |directory: &Path| {
        issued.write(directory);
        fs::write(directory.join("ca.crt"), &pem).expect("is written");
    };
    // The test's own listener is on loopback; what the configuration says counts.
    let grpc = format!("listen = \"0.0.0.0:50051\"\n{TLS}");
    let rest = format!("{}{}", caller(CARDS, "merchants = [\"*\"]"), user(NUMBER, PASSWORD));
    let stage = Setting { grpc, rest, prepare: Some(Box::new(prepare)), ..Setting::default() }.start().await;
    let vault = format!("[vault]\nbase_url = \"{}\"\n{}", stage.sandbox.url(), user(NUMBER, PASSWORD));
    let tls = "[grpc.tls]\ncertificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\n";
    // Each is in order for a start: it listens on loopback then.
    for (n, text) in [(1, vault.clone()), (2, format!("{tls}{vault}"))] {
        // As a whole: half of a file would be waited for.
        crate::support::replace(&stage.files.path().join("config.toml"), &text);
        stage.hup.notify_one();
        // What stays refused is counted each time it is read again.
        let counted = async { while refusals(&stage).await < n {} };
        timeout(PATIENCE, counted).await.expect("the refusal is counted");
        let said = Said::of(ask(&stage, &ca, None).await.expect_err("it shows nothing"));
        said.check(Code::Unauthenticated, "CALLER_UNAUTHENTICATED");
    }
}
