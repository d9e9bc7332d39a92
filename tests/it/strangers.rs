//! Who is not known, or not listed, can't fill log or trail: a few lines each, the rest counted, and none lost. All else has its line.

use std::{fs, path::Path};

use rustix::process::Signal;
use serde_json::Value;
use token_broker::client::Client;
use token_broker_sandbox::{Options, Sandbox};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::{Request, metadata::MetadataValue};
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_client::ServerReflectionClient};

use crate::support::{
    Bare, MERCHANT, NUMBER, PASSWORD, PATIENCE,
    authority::{Authority, Name, client},
    http,
    process::Process,
    user,
};

const LISTED: &str = "spiffe://example.org/ns/cards/sa/cards";
const UNLISTED: &str = "spiffe://example.org/ns/cards/sa/other";
/// Of each kind; and this many lines of each are told at once.
const CALLS: usize = 500;
const TOLD: usize = 10;

/// `CALLS` calls, all refused.
async fn call(client: &Client, merchant: &str) {
    let mut calling = JoinSet::new();
    for _ in 0..20 {
        let (client, merchant) = (client.clone(), merchant.to_owned());
        calling.spawn(async move {
            for _ in 0..CALLS / 20 {
                client.token(&merchant, NUMBER).await.expect_err("it is refused");
            }
        });
    }
    calling.join_all().await;
}

fn lines(log: &str) -> (Vec<Value>, Vec<Value>) {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let (trail, log): (Vec<_>, Vec<_>) = lines.partition(|line| line["target"] == "audit");
    let decisions = trail.into_iter().filter(|line| line["event"] == "decision").collect();
    (decisions, log)
}

/// How many calls these lines stand for, and how many of the lines are sums.
fn counted(lines: &[&Value], name: &str) -> (u64, usize) {
    let calls = lines.iter().map(|line| line[name].as_u64().unwrap_or(1)).sum();
    (calls, lines.iter().filter(|line| !line[name].is_null()).count())
}

async fn secured(directory: &Path, ca: &Authority, sandbox: &Sandbox) -> Process {
    ca.server().write(directory);
    fs::write(directory.join("ca.crt"), &ca.pem).expect("is written");
    let path = |name: &str| directory.join(name).display().to_string();
    let (url, users) = (sandbox.url(), user(NUMBER, PASSWORD));
    let config = format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[grpc.tls]\ncertificate_file = \"{}\"\nkey_file = \"{}\"\nclient_ca_file = \"{}\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n[vault]\nbase_url = \"{url}\"\n[[callers]]\nid = \"{LISTED}\"\nmerchants = [\"{MERCHANT}\"]\n{users}",
        path("tls.crt"),
        path("tls.key"),
        path("ca.crt")
    );
    Process::serve(&config, &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_calls_of_strangers_are_summed_and_those_of_listed_callers_have_a_line_each() {
    let (sandbox, ca, directory) = (Sandbox::start(Options::default()).await, Authority::new(), tempfile::tempdir());
    let (sandbox, directory) = (sandbox.expect("starts"), directory.expect("a directory"));
    let mut broker = secured(directory.path(), &ca, &sandbox).await;
    let endpoint = broker.endpoint().replace("http://", "https://");
    let with = |name: &str| client(&endpoint, &ca, Some(&ca.client(&[Name::Uri(name)])));
    call(&client(&endpoint, &ca, None), MERCHANT).await;
    let unlisted = with(UNLISTED);
    call(&unlisted, MERCHANT).await;
    // It is no word to anybody, whatever is asked.
    call(&unlisted, "").await;
    let listed = with(LISTED);
    listed.token(MERCHANT, NUMBER).await.expect("signs in");
    call(&listed, "another-merchant").await;
    call(&listed, "").await;
    let metrics = http(&broker.address("admin"), "/metrics").await;
    broker.signal(Signal::TERM);
    assert!(broker.ended(PATIENCE).await.success());

    let (trail, log) = lines(&broker.log());
    let n = u64::try_from(CALLS).expect("is small");
    for (caller, reason, code) in [
        (None, "CALLER_UNAUTHENTICATED", "UNAUTHENTICATED"),
        (Some(UNLISTED), "CALLER_NOT_ALLOWED", "PERMISSION_DENIED"),
        (Some(UNLISTED), "INVALID_REQUEST", "INVALID_ARGUMENT"),
    ] {
        let is_it = |line: &&Value| line["reason"] == reason && line["caller"] != LISTED;
        let (trail, log): (Vec<_>, Vec<_>) = (trail.iter().filter(is_it).collect(), log.iter().filter(is_it).collect());
        assert_eq!((trail.len(), counted(&trail, "count")), (TOLD + 1, (n, 1)), "{reason}: {trail:?}");
        assert_eq!((log.len(), counted(&log, "more")), (TOLD + 1, (n, 1)), "{reason}: {log:?}");
        let sum = trail.iter().find(|line| !line["count"].is_null()).expect("was found");
        assert_eq!(
            (&sum["peer"], &sum["outcome"], &sum["request_id"]),
            (&"127.0.0.1".into(), &"turned_away".into(), &Value::Null)
        );
        assert!(trail.iter().filter(|line| line["count"].is_null()).all(|line| line["caller"].as_str() == caller), "{trail:?}");
        // What a listed caller was told for the same reason is counted there too.
        let times = if reason == "CALLER_UNAUTHENTICATED" { n } else { 2 * n };
        let count = format!("token_broker_calls_total{{code=\"{code}\",reason=\"{reason}\",outcome=\"turned_away\"}} {times}\n");
        assert!(metrics.contains(&count), "{count}{metrics}");
    }
    for reason in ["CALLER_NOT_ALLOWED", "INVALID_REQUEST"] {
        let is_it = |line: &&Value| line["reason"] == reason && line["caller"] == LISTED;
        assert_eq!((trail.iter().filter(is_it).count(), log.iter().filter(is_it).count()), (CALLS, CALLS), "{reason}");
    }
    assert!(!broker.log().contains("were lost") && !broker.log().contains("were dropped"));
}

/// Whatever else may be sent by whoever reaches the port.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_stranger_sends_has_lines_without_end() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let config = format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"60s\"\n[vault]\nbase_url = \"{}\"\n[[callers]]\nid = \"{LISTED}\"\n\
         merchants = [\"*\"]\n{}",
        sandbox.url(),
        user(NUMBER, PASSWORD)
    );
    let mut broker = Process::serve(&config, &[]).await;
    let bare = Bare::connect(&broker.endpoint()).await;
    let get_token = "/tokenbroker.v1.TokenBrokerService/GetToken";
    let send = async |path: &'static str, header: &'static str, value: String| {
        for _ in 0..CALLS {
            let request = http::Request::post(path).header("content-type", "application/grpc").header(header, value.as_str());
            let request = request.body(tonic::body::Body::empty()).expect("is a request");
            tower_service::Service::call(&mut bare.clone(), request).await.expect("is answered");
        }
    };
    send(get_token, "grpc-timeout", "soon".to_owned()).await;
    send(get_token, "x-large", "x".repeat(20_000)).await;
    send("/tokenbroker.v1.TokenBrokerService/Other", "x-some", "x".to_owned()).await;
    send("/no.Service/Method", "x-some", "x".to_owned()).await;
    send("/grpc.health.v1.Health/Check", "x-some", "x".to_owned()).await;
    let mut reflection = ServerReflectionClient::new(bare.clone());
    for _ in 0..CALLS {
        let mut request = Request::new(tokio_stream::once(ServerReflectionRequest::default()));
        request.metadata_mut().insert("x-some", MetadataValue::from_static("x"));
        let error = reflection.server_reflection_info(request).await.expect_err("who calls is not known");
        assert_eq!(error.code(), Code::Unauthenticated);
    }
    // No handshake, no preface, no HTTP/2.
    for _ in 0..CALLS {
        let stream = tokio::net::TcpStream::connect(broker.address("grpc")).await.expect("it listens");
        stream.writable().await.expect("it is open");
        stream.try_write(b"GET / HTTP/1.1\r\n\r\n").expect("is written");
    }
    // Those that come while the broker is about to end are counted too.
    broker.signal(Signal::TERM);
    broker.line("shutting down: not ready any more").await;
    send(get_token, "grpc-timeout", "soon".to_owned()).await;
    broker.signal(Signal::TERM);
    assert!(broker.ended(PATIENCE).await.success());
    let (trail, log) = lines(&broker.log());
    let n = u64::try_from(CALLS).expect("is small");
    assert!(trail.len() <= 3 * (TOLD + 1), "{}", trail.len());
    assert_eq!(counted(&trail.iter().collect::<Vec<_>>(), "count").0, 4 * n, "{trail:?}");
    let refused: Vec<_> = log.iter().filter(|line| !line["reason"].is_null()).collect();
    assert_eq!(counted(&refused, "more").0, 5 * n, "reflection is in the log alone: {refused:?}");
    assert!(log.len() <= 4 * (TOLD + 1) + 20, "{}: {log:?}", log.len());
}
