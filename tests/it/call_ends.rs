//! However a call ends, it is told of once: one line of the audit trail, one count, and one line of the log.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::Full;
use serde_json::Value;
use token_broker::{
    app::{App, Listeners, StopSignal},
    clock::{Clock, Moment, SystemClock},
    config::{self, Hits},
    proto::v1::{GetTokenRequest, token_broker_service_client::TokenBrokerServiceClient},
    secret::Secret,
    telemetry::{
        audit::Audit,
        metrics::{Format, gauges::Gauges},
        traces::Span,
    },
    user::UserKey,
    vault::{Grant, SignIn, SigningIn},
};
use token_broker_sandbox::{Fault, Options, Sandbox};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tonic::{Code, Request, body::Body};
use tower_service::Service as _;

use crate::support::{
    Bare, MERCHANT, NUMBER, PASSWORD, PATIENCE, http,
    process::{Process, written},
    user,
};

const GET_TOKEN: &str = "/tokenbroker.v1.TokenBrokerService/GetToken";

/// A broker whose log tells of all, and its vault.
struct Setup {
    sandbox: Sandbox,
    broker: Process,
}

/// What is told of a call: verdict, reason, outcome, masked number; and the code it is counted under.
type Told = (&'static str, &'static str, &'static str, Option<&'static str>, &'static str);

impl Setup {
    async fn start(rest: &str) -> Self {
        let sandbox = Sandbox::start(Options::default()).await.expect("starts");
        let (url, users) = (sandbox.url(), user(NUMBER, PASSWORD));
        let config = format!(
            "[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\ndrain = \"2s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nlevel = \"debug\"\n\
             [vault]\nbase_url = \"{url}\"\n{rest}{users}"
        );
        Self { broker: Process::serve(&config, &[]).await, sandbox }
    }

    async fn client(&self) -> TokenBrokerServiceClient<Bare> {
        TokenBrokerServiceClient::new(Bare::connect(&self.broker.endpoint()).await)
    }

    /// Everything that was told of the call with this id, once the trail has it.
    async fn told(&self, id: &str) -> (Vec<Value>, Vec<Value>) {
        let of = |line: &Value| line["request_id"] == id;
        let found = async {
            loop {
                let log = self.broker.log();
                let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(of);
                let (trail, log): (Vec<_>, Vec<_>) = lines.partition(|line| line["target"] == "audit");
                if !trail.is_empty() && !log.is_empty() {
                    return (trail, log);
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("nothing of {id} in {}", self.broker.log()))
    }

    /// Sees that the call was told of like this, and once each.
    async fn check(&self, id: &str, (verdict, reason, outcome, number, code): Told) {
        let (trail, log) = self.told(id).await;
        assert_eq!((trail.len(), log.len()), (1, 1), "{id}: {trail:?} {log:?}");
        let line = &trail[0];
        assert_eq!(
            (&line["event"], &line["verdict"], &line["reason"], &line["outcome"]),
            (&"decision".into(), &verdict.into(), &reason.into(), &outcome.into()),
            "{id}: {line}"
        );
        assert_eq!(line["number"].as_str(), number, "{id}: {line}");
        assert_eq!(line["caller"], "anonymous", "{id}: {line}");
        let metrics = http(&self.broker.address("admin"), "/metrics").await;
        let count = format!("token_broker_calls_total{{code=\"{code}\",reason=\"{reason}\",outcome=\"{outcome}\"}} 1\n");
        assert!(metrics.contains(&count), "{id}: {count}{metrics}");
        // And not a second time, later.
        let (trail, log) = self.told(id).await;
        assert_eq!((trail.len(), log.len()), (1, 1), "{id}: {trail:?} {log:?}");
    }
}

fn asking(id: &'static str, number: &str) -> Request<GetTokenRequest> {
    let message = GetTokenRequest { merchant_id: MERCHANT.to_owned(), number: number.to_owned(), ..Default::default() };
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-request-id", id.parse().expect("is text"));
    request
}

/// A call below the client library.
fn raw(path: &str, id: &str, message: &'static [u8]) -> http::Request<Body> {
    let request = http::Request::post(path).header("content-type", "application/grpc").header("x-request-id", id);
    request.body(Body::new(Full::new(message.into()))).expect("is a request")
}

#[tokio::test]
async fn answered_and_refused() {
    let setup = Setup::start("").await;
    let mut client = setup.client().await;
    client.get_token(asking("first", NUMBER)).await.expect("there is a token");
    client.get_token(asking("second", NUMBER)).await.expect("there is a token");
    client.get_token(asking("unknown", "+447871230000")).await.expect_err("nobody knows it");
    client.get_token(asking("faulty", "")).await.expect_err("is malformed");
    setup.check("first", ("allowed", "", "signed_in", Some("+44…9999"), "OK")).await;
    setup.check("second", ("allowed", "", "hit", Some("+44…9999"), "OK")).await;
    setup.check("unknown", ("failed", "USER_NOT_CONFIGURED", "turned_away", Some("+44…0000"), "NOT_FOUND")).await;
    setup.check("faulty", ("failed", "INVALID_REQUEST", "turned_away", None, "INVALID_ARGUMENT")).await;
}

#[tokio::test]
async fn out_of_time_with_its_user() {
    let setup = Setup::start("").await;
    setup.sandbox.script(Fault::Hang);
    let mut request = asking("late", NUMBER);
    request.set_timeout(Duration::from_millis(200));
    let status = setup.client().await.get_token(request).await.expect_err("the vault is slow");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    setup.check("late", ("failed", "DEADLINE_EXCEEDED", "timed_out", Some("+44…9999"), "DEADLINE_EXCEEDED")).await;
}

#[tokio::test]
async fn cancelled_with_its_user() {
    let setup = Setup::start("").await;
    setup.sandbox.script(Fault::Hang);
    let mut client = setup.client().await;
    tokio::select! {
        _ = client.get_token(asking("gone", NUMBER)) => panic!("the vault is slow"),
        // The sign-in is on its way, so the call was read.
        () = setup.sandbox.wait_for_sign_ins(1, PATIENCE) => {}
    }
    setup.check("gone", ("failed", "", "cancelled", Some("+44…9999"), "CANCELLED")).await;
}

#[tokio::test]
async fn cancelled_before_its_message_came() {
    let setup = Setup::start("").await;
    let mut bare = Bare::connect(&setup.broker.endpoint()).await;
    let begun = timeout(Duration::from_millis(300), bare.begin_with_id(GET_TOKEN, "unsaid"));
    assert!(begun.await.is_err(), "the broker waits for the message");
    setup.check("unsaid", ("failed", "", "cancelled", None, "CANCELLED")).await;
}

/// What the gRPC library refuses by itself never gets to the handler.
#[tokio::test]
async fn refused_by_the_library_below() {
    let setup = Setup::start("").await;
    let mut bare = Bare::connect(&setup.broker.endpoint()).await;
    // A frame of four bytes that are no message.
    bare.call(raw(GET_TOKEN, "nonsense", b"\0\0\0\0\x04\xff\xff\xff\xff")).await.expect("is answered");
    setup.check("nonsense", ("failed", "INVALID_REQUEST", "turned_away", None, "INVALID_ARGUMENT")).await;
    bare.call(raw("/tokenbroker.v1.TokenBrokerService/GetPassword", "method", b"")).await.expect("is answered");
    setup.check("method", ("failed", "INVALID_REQUEST", "turned_away", None, "UNIMPLEMENTED")).await;
}

#[tokio::test]
async fn refused_before_the_handler() {
    let setup = Setup::start("").await;
    let mut request = asking("hurried", NUMBER);
    request.metadata_mut().insert("grpc-timeout", "soon".parse().expect("is text"));
    setup.client().await.get_token(request).await.expect_err("that is no time");
    let (trail, log) = setup.told("hurried").await;
    assert_eq!((trail.len(), log.len()), (1, 1));
    assert_eq!((&trail[0]["reason"], &trail[0]["outcome"]), (&"INVALID_REQUEST".into(), &"turned_away".into()));
    let mut request = asking("laden", NUMBER);
    request.metadata_mut().insert("x-more", "x".repeat(20_000).parse().expect("is text"));
    let status = setup.client().await.get_token(request).await.expect_err("it is too much");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let (trail, log) = setup.told("laden").await;
    assert_eq!((trail.len(), log.len()), (1, 1));
    assert_eq!((&trail[0]["reason"], &trail[0]["outcome"]), (&"INVALID_REQUEST".into(), &"turned_away".into()));
}

/// While the broker ends, whoever still waits is told so, and that is told of.
#[tokio::test]
async fn cut_short_by_the_end_of_the_process() {
    let mut setup = Setup::start("timeout = \"60s\"\n").await;
    setup.sandbox.script(Fault::truth().after(Duration::from_secs(60)));
    let mut client = setup.client().await;
    let waiting = tokio::spawn(async move { client.get_token(asking("waiting", NUMBER)).await });
    setup.sandbox.wait_for_sign_ins(1, PATIENCE).await;
    setup.broker.signal(rustix::process::Signal::TERM);
    let status = waiting.await.expect("no panic").expect_err("the broker ends");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let (trail, log) = setup.told("waiting").await;
    assert_eq!((trail.len(), log.len()), (1, 1), "{trail:?} {log:?}");
    assert_eq!((&trail[0]["reason"], &trail[0]["number"]), (&"BROKER_SHUTTING_DOWN".into(), &"+44…9999".into()));
    // The sign-in is dropped at the very end, and its password was on its way.
    setup.broker.ended(PATIENCE).await;
    let sign_ins: Vec<_> =
        setup.broker.log().lines().filter(|line| line.contains("\"event\":\"sign_in\"")).map(str::to_owned).collect();
    assert!(sign_ins.len() == 1 && sign_ins[0].contains("\"verdict\":\"failed\""), "{sign_ins:?}");
}

/// The machine's clocks, but one of the readings to come on a thread that serves calls breaks: others read them whenever they like.
#[derive(Debug, Default)]
struct Breaking(AtomicUsize);

impl Clock for Breaking {
    fn now(&self) -> Moment {
        if !std::thread::current().name().is_some_and(|name| name.starts_with("calls-")) {
            return SystemClock.now();
        }
        // 0: none any more.
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).unwrap_or_default();
        assert!(left != 1, "a clock that breaks");
        SystemClock.now()
    }
}

#[derive(Debug)]
struct Grants;

impl SignIn for Grants {
    fn sign_in<'a>(&'a self, _user: &'a UserKey, _password: &'a Secret, _: &'a Span) -> SigningIn<'a> {
        let lifetime = Duration::from_secs(60);
        let grant = Grant { access_token: Secret::from("sound"), scope: String::new(), lifetime, lifetime_is_bounded: false };
        Box::pin(std::future::ready(Ok(grant)))
    }
}

/// A fault of ours is INTERNAL to the caller, and told of like every other end.
#[tokio::test]
async fn broken_by_a_panic() {
    let (files, path) = written(&format!("[vault]\nbase_url = \"http://127.0.0.1:1\"\n{}", user(NUMBER, PASSWORD)));
    let trail = files.path().join("trail.jsonl");
    let config = config::load(&path).expect("is in order").config;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("is bound"));
    let (clock, audit) = (Arc::new(Breaking::default()), Audit::in_file(&trail, Hits::Each).expect("is opened"));
    let app = App::with_sign_in(config, audit, Arc::new(Grants), clock.clone(), 1).expect("can be wired");
    let (metrics, stop) = (app.metrics(), StopSignal::default());
    tokio::spawn(app.run(Listeners { grpc: vec![listener], ..Listeners::default() }, stop.clone()));
    let mut client = TokenBrokerServiceClient::new(Bare::connect(&endpoint).await);
    client.get_token(asking("first", NUMBER)).await.expect("there is a token");

    // The first reading is the guard's own, before there is anything to tell; the next is the broker's.
    clock.0.store(2, Ordering::Relaxed);
    let status = client.get_token(asking("broken", NUMBER)).await.expect_err("it broke");
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    client.get_token(asking("last", NUMBER)).await.expect("it goes on");
    let lines = async {
        loop {
            let text = fs::read_to_string(&trail).expect("is there");
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect();
            if lines.iter().any(|line| line["request_id"] == "last") {
                return lines;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let lines = timeout(PATIENCE, lines).await.expect("the trail is written");
    let of: Vec<_> = lines.iter().filter(|line| line["request_id"] == "broken").collect();
    let [line] = of[..] else { panic!("{of:?}") };
    let told = (&line["reason"], &line["outcome"], &line["number"]);
    assert_eq!(told, (&"INTERNAL".into(), &"broken".into(), &"+44…9999".into()));
    let text = metrics.text(Gauges::default(), Format::OpenMetrics).expect("can be written");
    assert!(text.contains("token_broker_calls_total{code=\"INTERNAL\",reason=\"INTERNAL\",outcome=\"broken\"} 1\n"), "{text}");
    stop.begin.cancel();
}
