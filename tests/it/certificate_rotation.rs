//! Certificates and CAs that are exchanged while the broker runs: who is served, who is cut off, and that no call fails.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use token_broker::proto::v1::{GetTokenRequest, token_broker_service_client::TokenBrokerServiceClient};
use token_broker_sandbox::Fault;
use tokio::{task::JoinSet, time::timeout};
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE, Said, Setting, Stage,
    authority::{Authority, Issued, Name, client},
    secured::{CARDS, TLS, ask, caller, secured},
    user,
};

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
