//! However a call ends, it is told of once: one line of the audit trail, one count, and one line of the log.

use std::time::Duration;

use http_body_util::Full;
use serde_json::Value;
use token_broker::proto::v1::{GetTokenRequest, token_broker_service_client::TokenBrokerServiceClient};
use token_broker_sandbox::{Fault, Options, Sandbox};
use tokio::time::{sleep, timeout};
use tonic::{Code, Request, body::Body};
use tower_service::Service as _;

use crate::support::{Bare, MERCHANT, NUMBER, PASSWORD, PATIENCE, http, process::Process, user};

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
            "[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nlevel = \"debug\"\n\
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
