//! Spans as a collector gets them, over OTLP.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::Span,
};
use token_broker::proto::v1::{GetTokenRequest, token_broker_service_client::TokenBrokerServiceClient};
use token_broker_sandbox::{Fault, Options, Sandbox};
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use crate::support::{Bare, MERCHANT, NUMBER, PASSWORD, PATIENCE, process::Process, user};

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    /// What the last message was sent with.
    metadata: Arc<Mutex<MetadataMap>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        *self.metadata.lock().expect("no panic") = request.metadata().clone();
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.spans.lock().expect("no panic").extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// A collector, and its address.
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("is bound"));
        let collector = Self::default();
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, url)
    }

    fn spans(&self) -> Vec<Span> {
        self.spans.lock().expect("no panic").clone()
    }
}

/// A broker that sends its spans to `collector`, and how it ended up: what it logged, trail and all.
async fn broker(sandbox: &Sandbox, collector: &str, ratio: &str) -> Process {
    broker_with(sandbox, collector, ratio, &[]).await
}

/// The same, with these variables in its environment.
async fn broker_with(sandbox: &Sandbox, collector: &str, ratio: &str, environment: &[(&str, &str)]) -> Process {
    let config = format!(
        "[vault]\nbase_url = \"{}\"\n[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[log]\nlevel = \"debug\"\n[traces]\n\
         endpoint = \"{collector}\"\nsample_ratio = {ratio}\n{}",
        sandbox.url(),
        user(NUMBER, PASSWORD)
    );
    Process::serve(&config, environment).await
}

async fn end(mut broker: Process) -> String {
    broker.signal(rustix::process::Signal::TERM);
    broker.ended(PATIENCE).await;
    broker.log()
}

/// A call from within a trace of the caller's own.
async fn call(broker: &str, number: &str, traceparent: Option<&str>) -> Result<String, Status> {
    let bare = Bare::connect(broker).await;
    let mut request = Request::new(GetTokenRequest {
        merchant_id: MERCHANT.to_owned(),
        number: number.to_owned(),
        ..GetTokenRequest::default()
    });
    if let Some(traceparent) = traceparent {
        request.metadata_mut().insert("traceparent", traceparent.parse().expect("is ASCII"));
    }
    let reply = TokenBrokerServiceClient::new(bare).get_token(request).await?.into_inner();
    Ok(reply.token.expect("is there").access_token)
}

fn parent(trace: u128, span: u64, flags: &str) -> String {
    format!("00-{trace:032x}-{span:016x}-{flags}")
}

fn one<'s>(spans: &'s [Span], name: &str, trace: u128) -> &'s Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name.ends_with(name) && span.trace_id == trace.to_be_bytes()).collect();
    let [one] = found[..] else { panic!("{} spans {name} in {trace:x}: {spans:#?}", found.len()) };
    one
}

fn attribute(span: &Span, key: &str) -> String {
    let value = span.attributes.iter().find(|attribute| attribute.key == key).and_then(|attribute| attribute.value.clone());
    format!("{value:?}")
}

#[tokio::test]
async fn a_call_its_flight_and_its_sign_in_are_one_trace_and_the_vault_is_in_it() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let (collector, url) = Collector::start().await;
    let broker = broker(&sandbox, &url, "0.0").await;
    let (endpoint, starter, waiter) = (broker.endpoint(), 0xa1, 0xb2);
    sandbox.script(Fault::truth().after(Duration::from_secs(2)));
    let (first, second) =
        tokio::join!(call(&endpoint, NUMBER, Some("00-000000000000000000000000000000a1-0000000000000a0a-01")), async {
            sandbox.wait_for_sign_ins(1, PATIENCE).await;
            call(&endpoint, NUMBER, Some(&parent(waiter, 0xb0b, "01"))).await
        });
    let token = first.expect("there is a token");
    assert_eq!(second.expect("it is the same"), token);
    call(&endpoint, "+447871230000", Some(&parent(0xc3, 1, "01"))).await.expect_err("nobody knows it");
    let log = end(broker).await;

    let spans = collector.spans();
    let (call, flight, sign_in) =
        (one(&spans, "GetToken", starter), one(&spans, "flight", starter), one(&spans, "POST /oauth/token", starter));
    assert_eq!(call.parent_span_id, 0xa0a_u64.to_be_bytes());
    assert_eq!((&flight.parent_span_id, &sign_in.parent_span_id), (&call.span_id, &flight.span_id));
    let joined = one(&spans, "GetToken", waiter);
    assert_eq!(joined.parent_span_id, 0xb0b_u64.to_be_bytes());
    let links = |span: &Span| span.links.iter().map(|link| link.span_id.clone()).collect::<Vec<_>>();
    assert_eq!((links(flight), links(joined)), (vec![joined.span_id.clone()], vec![flight.span_id.clone()]));
    assert!(
        attribute(call, "token_broker.outcome").contains("signed_in")
            && attribute(joined, "token_broker.outcome").contains("joined")
    );
    let failed = one(&spans, "GetToken", 0xc3);
    // As the conventions for gRPC have it, of this the caller is the cause: the server's span has not failed.
    let method = "tokenbroker.v1.TokenBrokerService/GetToken";
    for (span, code) in [(call, "OK"), (failed, "NOT_FOUND")] {
        for (key, value) in [("rpc.system.name", "grpc"), ("rpc.method", method), ("rpc.response.status_code", code)] {
            assert!(attribute(span, key).contains(&format!("{value:?}")), "{key}: {span:?}");
        }
        assert_eq!(attribute(span, "error.type"), "None");
        assert!(span.status.as_ref().is_none_or(|status| status.code == 0), "{span:?}");
        let old = ["rpc.system", "rpc.service", "rpc.grpc.status_code"];
        assert!(span.attributes.iter().all(|attribute| !old.contains(&attribute.key.as_str())), "{span:?}");
    }
    assert!(attribute(failed, "token_broker.reason").contains("USER_NOT_CONFIGURED"));
    let broker_at: std::net::SocketAddr = endpoint.trim_start_matches("http://").parse().expect("is an address");
    let vault_at: std::net::SocketAddr = sandbox.url().trim_start_matches("http://").parse().expect("is an address");
    for (span, key, value) in [
        (call, "server.address", "\"127.0.0.1\"".to_owned()),
        (call, "server.port", format!("IntValue({})", broker_at.port())),
        (call, "network.peer.address", "\"127.0.0.1\"".to_owned()),
        (sign_in, "http.request.method", "\"POST\"".to_owned()),
        (sign_in, "http.response.status_code", "IntValue(200)".to_owned()),
        (sign_in, "server.address", "\"127.0.0.1\"".to_owned()),
        (sign_in, "server.port", format!("IntValue({})", vault_at.port())),
        (sign_in, "url.full", format!("\"{}/oauth/token\"", sandbox.url())),
    ] {
        assert!(attribute(span, key).contains(&value), "{key} is not {value}: {span:#?}");
    }

    let seen = sandbox.requests().pop().expect("one sign-in");
    let mut span_id = [0; 8];
    span_id.copy_from_slice(&sign_in.span_id);
    assert_eq!(seen.header("traceparent"), Some(parent(starter, u64::from_be_bytes(span_id), "01").as_str()));

    let lines: Vec<serde_json::Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let traced = |what: &str, trace: u128| {
        let trace = format!("{trace:032x}");
        assert!(
            lines.iter().any(|line| (line["message"] == what || line["event"] == what) && line["trace_id"] == trace.as_str()),
            "{what}: {log}"
        );
    };
    traced("decision", waiter);
    traced("sign_in", starter);
    traced("signed in", starter);
    traced("no token", 0xc3);
    let shown = format!("{spans:?}");
    for secret in [NUMBER, "+447871230000", PASSWORD, &token] {
        assert!(!shown.contains(secret) && !log.contains(secret), "{secret} is in {shown} or {log}");
    }
}

#[tokio::test]
async fn a_caller_that_is_not_sampled_is_not_recorded_and_the_vault_is_told_so() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let (collector, url) = Collector::start().await;
    let broker = broker(&sandbox, &url, "1.0").await;
    call(&broker.endpoint(), NUMBER, Some(&parent(0xd4, 1, "00"))).await.expect("there is a token");
    // Without a trace of its own the ratio counts: this one is recorded, and is a hit.
    call(&broker.endpoint(), NUMBER, None).await.expect("there is a token");
    end(broker).await;
    let spans = collector.spans();
    let [hit] = &spans[..] else { panic!("{spans:#?}") };
    assert!(attribute(hit, "token_broker.outcome").contains("hit"), "{hit:?}");
    let told = sandbox.requests().pop().expect("one sign-in").header("traceparent").expect("is there").to_owned();
    assert!(told.starts_with("00-000000000000000000000000000000d4-") && told.ends_with("-00"), "{told}");
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_up_nobody() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    // Takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let broker = broker(&sandbox, &format!("http://{}", silent.local_addr().expect("is bound")), "1.0").await;
    let endpoint = broker.endpoint();
    let calls = async {
        for _ in 0..200 {
            call(&endpoint, NUMBER, None).await.expect("there is a token");
        }
    };
    timeout(PATIENCE, calls).await.expect("nobody waits for the collector");
    timeout(Duration::from_secs(5), end(broker)).await.expect("nor does the end");
}

#[tokio::test]
async fn a_collector_gets_the_headers_of_the_environment() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let (collector, url) = Collector::start().await;
    let headers = [("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=payments,authorization=Bearer%20of-a-test")];
    let broker = broker_with(&sandbox, &url, "1.0", &headers).await;
    call(&broker.endpoint(), NUMBER, None).await.expect("there is a token");
    let log = end(broker).await;
    assert!(!collector.spans().is_empty());
    let metadata = collector.metadata.lock().expect("no panic").clone();
    let header = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok().map(str::to_owned));
    assert_eq!((header("x-tenant").as_deref(), header("authorization").as_deref()), (Some("payments"), Some("Bearer of-a-test")));
    assert!(!log.contains("of-a-test"), "{log}");
}
