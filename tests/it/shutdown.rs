//! From SIGTERM to the end, with calls in flight and clients that say nothing.

use std::{
    future::{Ready, ready},
    io,
    path::Path,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use token_broker::{
    app::{App, Listeners, StopSignal},
    client::{Client, Security},
    clock::{Clock, SystemClock},
    config,
    proto::v1::{GetTokenRequest, token_broker_service_client::TokenBrokerServiceClient},
    telemetry::audit::Audit,
    vault::HttpVault,
};
use token_broker_sandbox::{Fault, Options, Sandbox};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower_service::Service;

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE, Said,
    authority::Authority,
    http,
    process::{Process, written},
    secured::{CARDS, caller},
    user,
};

const SERVICE: &str = "tokenbroker.v1.TokenBrokerService";

fn config_text(sandbox: &Sandbox, lame_duck: &str, drain: &str) -> String {
    format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\nhealth_listen = \"127.0.0.1:0\"\nlame_duck = \"{lame_duck}\"\ndrain = \"{drain}\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n[vault]\nbase_url = \"{}\"\n{}",
        sandbox.url(),
        user(NUMBER, PASSWORD)
    )
}

async fn health(endpoint: &str, service: &str) -> i32 {
    let channel = Endpoint::from_shared(endpoint.to_owned()).expect("is a URL").connect().await.expect("it listens");
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(channel).check(request).await.expect("health is answered").into_inner().status
}

#[tokio::test]
async fn sigterm_drains_in_order_and_loses_no_call() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let mut broker = Process::serve(&config_text(&sandbox, "60s", "60s"), &[]).await;
    let (endpoint, probes, admin) = (broker.endpoint(), format!("http://{}", broker.address("health")), broker.address("admin"));
    assert_eq!((health(&probes, "").await, health(&endpoint, SERVICE).await), (1, 1), "SERVING");
    assert!(http(&admin, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(http(&admin, "/readyz").await.starts_with("HTTP/1.1 200"));

    sandbox.script(Fault::truth().after(Duration::from_millis(1_500)));
    let client = Client::new(&endpoint).expect("is an endpoint");
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.token(MERCHANT, NUMBER).await }
    });
    sandbox.wait_for_sign_ins(1, PATIENCE).await;
    // A watch of health never ends by itself; it must not hold up the end.
    let channel = Endpoint::from_shared(probes.clone()).expect("is a URL").connect().await.expect("it listens");
    let watch = HealthClient::new(channel).watch(HealthCheckRequest { service: SERVICE.to_owned() }).await.expect("is answered");

    broker.signal(Signal::TERM);
    broker.line("shutting down: not ready any more").await;
    assert_eq!((health(&probes, "").await, health(&probes, SERVICE).await), (1, 2), "alive, not ready");
    assert!(http(&admin, "/readyz").await.starts_with("HTTP/1.1 503"));
    assert!(http(&admin, "/livez").await.starts_with("HTTP/1.1 200"));
    let unknown = Said::of(client.token(MERCHANT, "+447871230000").await.expect_err("is unknown"));
    unknown.check(Code::NotFound, "USER_NOT_CONFIGURED"); // The lame duck still answers.

    // A second signal ends the lame duck, and nothing else.
    broker.signal(Signal::TERM);
    let token = call.await.expect("no panic").expect("a call in flight is finished");
    assert!(sandbox.is_live(&token.access_token));
    assert!(broker.ended(PATIENCE).await.success(), "{}", broker.log());
    drop(watch);
}

#[tokio::test]
async fn silent_and_half_open_clients_hold_up_nothing() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let mut broker = Process::serve(&config_text(&sandbox, "100ms", "60s"), &[]).await;
    let address = broker.address("grpc");
    let silent = TcpStream::connect(&address).await.expect("it listens");
    let mut half_open = TcpStream::connect(&address).await.expect("it listens");
    half_open.write_all(b"PRI * HTTP/2.0\r\n").await.expect("it reads");
    let mut mute = TcpStream::connect(&address).await.expect("it listens");
    // A whole preface and empty SETTINGS, then nothing: not even an answer to GOAWAY.
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("it reads");
    let mut settings = [0; 9];
    mute.read_exact(&mut settings).await.expect("it answers");

    broker.signal(Signal::TERM);
    assert!(broker.ended(PATIENCE).await.success(), "idle connections need no drain: {}", broker.log());
    drop((silent, half_open, mute));
}

#[tokio::test]
async fn a_call_that_outlasts_the_drain_is_told_so_and_the_end_comes_in_time() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let text = config_text(&sandbox, "0s", "500ms").replace("[vault]\n", "[vault]\ntimeout = \"120s\"\n");
    let mut broker = Process::serve(&text.replace("[grpc]\n", "[grpc]\ncall_timeout = \"120s\"\n"), &[]).await;
    sandbox.script(Fault::Hang);
    let client = Client::new(&broker.endpoint()).expect("is an endpoint").timeout(Duration::from_secs(120));
    let call = tokio::spawn(async move { client.token(MERCHANT, NUMBER).await });
    sandbox.wait_for_sign_ins(1, PATIENCE).await;
    broker.signal(Signal::TERM);
    let said = Said::of(call.await.expect("no panic").expect_err("the vault never answers"));
    said.check(Code::Unavailable, "BROKER_SHUTTING_DOWN");
    assert!(broker.ended(PATIENCE).await.success(), "{}", broker.log());
}

#[tokio::test]
async fn sigint_or_a_second_sigterm_skips_the_lame_duck() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    for signals in [&[Signal::INT][..], &[Signal::TERM, Signal::TERM], &[Signal::TERM, Signal::INT]] {
        let mut broker = Process::serve(&config_text(&sandbox, "60s", "2s"), &[]).await;
        for (n, signal) in signals.iter().enumerate() {
            broker.signal(*signal);
            if n == 0 {
                broker.line("shutting down: not ready any more").await;
            }
        }
        assert!(broker.ended(PATIENCE).await.success(), "{signals:?}: {}", broker.log());
    }
}

async fn channel(endpoint: &str) -> tonic::transport::Channel {
    Endpoint::from_shared(endpoint.to_owned()).expect("is a URL").connect().await.expect("it listens")
}

#[tokio::test]
async fn what_lasts_as_long_as_its_client_likes_does_not_hold_up_the_end() {
    use tonic_reflection::pb::{
        v1::server_reflection_client::ServerReflectionClient, v1alpha::server_reflection_client::ServerReflectionClient as Older,
    };
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let mut broker = Process::serve(&config_text(&sandbox, "0s", "60s"), &[]).await;
    let (endpoint, probes) = (broker.endpoint(), format!("http://{}", broker.address("health")));
    let mut newer = ServerReflectionClient::new(channel(&endpoint).await);
    let mut newer = newer.server_reflection_info(tokio_stream::pending()).await.expect("it begins").into_inner();
    let mut older = Older::new(channel(&endpoint).await);
    let older = older.server_reflection_info(tokio_stream::pending()).await.expect("it begins").into_inner();
    let mut watches = Vec::new();
    for (endpoint, service) in [(&endpoint, ""), (&endpoint, SERVICE), (&endpoint, "nobody"), (&probes, ""), (&probes, SERVICE)] {
        let mut watch = HealthClient::new(channel(endpoint).await);
        let watch = watch.watch(HealthCheckRequest { service: service.to_owned() }).await.expect("it begins").into_inner();
        watches.push(watch);
    }
    // Calls whose message never comes, and half a request on the admin port.
    let mut unsaid = Vec::new();
    for path in ["/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/Check", "/tokenbroker.v1.TokenBrokerService/GetToken"] {
        let mut bare = crate::support::Bare::connect(&endpoint).await;
        unsaid.push(tokio::spawn(async move { bare.begin(path).await }));
    }
    let mut half = TcpStream::connect(broker.address("admin")).await.expect("it listens");
    half.write_all(b"GET /livez HTTP/1.1\r\nhost:").await.expect("it reads");
    half.flush().await.expect("it reads");

    broker.signal(Signal::TERM);
    let said = newer.message().await.expect_err("it is ended");
    assert_eq!(said.code(), Code::Unavailable, "{said:?}");
    assert!(broker.ended(PATIENCE).await.success(), "none of it is a call: {}", broker.log());
    for call in unsaid {
        let answer = call.await.expect("no panic").expect("it is answered");
        assert_eq!(answer.headers().get("grpc-status").expect("it is refused"), "14", "{answer:?}");
    }
    drop((older, watches, half));
}

/// Runs a broker that is told to end before it has looked at what its listeners hold.
async fn run_to_the_end(path: &Path, listeners: Listeners) {
    let config = config::load(path).expect("is in order").config;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let vault = Arc::new(HttpVault::new(&config.vault, Arc::clone(&clock)).expect("there is TLS"));
    let app = App::with_sign_in(config, Audit::default(), vault, clock, 1).expect("can be wired");
    let stop = StopSignal::default();
    stop.begin.cancel();
    stop.hurry.cancel();
    app.run(listeners, stop).await;
}

/// On a test's one thread: what its tasks have to send has been sent after some turns.
async fn all_is_sent() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Its clients have connected and asked, and nothing of that was looked at when the end begins: the kernel holds it.
#[tokio::test]
async fn what_was_sent_before_the_end_is_answered_though_it_was_not_read_by_then() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let (_files, path) = written(&config_text(&sandbox, "60s", "60s"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("is bound"));
    let mut unsaid = Vec::new();
    for _ in 0..16 {
        let mut bare = crate::support::Bare::connect(&endpoint).await;
        unsaid.push(tokio::spawn(async move { bare.begin("/tokenbroker.v1.TokenBrokerService/GetToken").await }));
    }
    let mut client = TokenBrokerServiceClient::new(channel(&endpoint).await);
    let request = GetTokenRequest { merchant_id: MERCHANT.to_owned(), number: NUMBER.to_owned(), ..GetTokenRequest::default() };
    let whole = tokio::spawn(async move { client.get_token(request).await });
    let admin = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut probe = TcpStream::connect(admin.local_addr().expect("is bound")).await.expect("it listens");
    probe.write_all(b"GET /livez HTTP/1.1\r\nhost: broker\r\n\r\n").await.expect("it is sent");
    all_is_sent().await;
    run_to_the_end(&path, Listeners { grpc: vec![listener], admin: vec![admin], ..Listeners::default() }).await;

    let mut said = String::new();
    probe.read_to_string(&mut said).await.expect("it is answered");
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    let answer = whole.await.expect("no panic").expect("it was asked before the end").into_inner();
    assert!(sandbox.is_live(&answer.token.expect("it has one").access_token));
    for call in unsaid {
        let answer = call.await.expect("no panic").expect("it is answered");
        assert_eq!(answer.headers().get("grpc-status").expect("it is refused"), "14", "{answer:?}");
    }
}

/// Connected before anybody asks for it.
struct Connected(Option<TcpStream>);

impl Service<Uri> for Connected {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::ErrorKind::AlreadyExists.into()))
    }
}

#[tokio::test]
async fn a_handshake_that_began_before_the_end_is_finished_and_its_call_answered() {
    let (sandbox, ca) = (Sandbox::start(Options::default()).await.expect("starts"), Authority::new());
    let tls = "[grpc]\ntls = { certificate_file = \"tls.crt\", key_file = \"tls.key\", client_ca_file = \"ca.crt\" }\n";
    let text = config_text(&sandbox, "60s", "60s").replace("[grpc]\n", tls);
    let (files, path) = written(&format!("{text}{}", caller(CARDS, "merchants = []")));
    ca.server().write(files.path());
    std::fs::write(files.path().join("ca.crt"), &ca.pem).expect("is written");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("is bound");
    let mut asked = Vec::new();
    for _ in 0..4 {
        let stream = TcpStream::connect(address).await.expect("it listens");
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca.pem));
        let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("is a URL").tls_config(tls).expect("is a CA");
        asked.push(tokio::spawn(async move {
            let channel = endpoint.connect_with_connector(Connected(Some(stream))).await?;
            Ok::<_, tonic::transport::Error>(HealthClient::new(channel).check(HealthCheckRequest::default()).await)
        }));
    }
    all_is_sent().await;
    run_to_the_end(&path, Listeners { grpc: vec![listener], ..Listeners::default() }).await;
    for call in asked {
        call.await.expect("no panic").expect("it shakes hands").expect("it is answered");
    }
}

/// Its calls have their answers; that it does not read them is its own affair.
#[tokio::test]
async fn a_client_that_never_reads_its_answer_does_not_hold_up_the_end() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let mut broker = Process::serve(&config_text(&sandbox, "0s", "60s"), &[]).await;
    let deaf = crate::support::Bare::that_never_reads(&broker.endpoint()).await;
    let asked = tokio::spawn(async move { HealthClient::new(deaf).check(HealthCheckRequest::default()).await });
    assert_eq!(health(&broker.endpoint(), "").await, 1);
    broker.signal(Signal::TERM);
    assert!(broker.ended(PATIENCE).await.success(), "{}", broker.log());
    asked.await.expect("no panic").expect_err("it never read");
}

#[tokio::test]
async fn a_watch_of_an_unknown_service_says_so_and_goes_on() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let mut broker = Process::serve(&config_text(&sandbox, "1s", "2s"), &[]).await;
    let (unknown, known) = ("tokenbroker.v2.TokenBrokerService", SERVICE);
    for endpoint in [broker.endpoint(), format!("http://{}", broker.address("health"))] {
        let mut health = HealthClient::new(channel(&endpoint).await);
        let asked = HealthCheckRequest { service: unknown.to_owned() };
        let mut watch = health.watch(asked.clone()).await.expect("it begins").into_inner();
        let first = timeout(PATIENCE, watch.message()).await.expect("at once").expect("no error").expect("it goes on");
        assert_eq!(first.status, 3, "SERVICE_UNKNOWN");
        timeout(Duration::from_millis(300), watch.message()).await.expect_err("nothing has changed, and it goes on");
        assert_eq!(health.check(asked).await.expect_err("Check has a code for it").code(), Code::NotFound);
    }
    let mut health = HealthClient::new(channel(&broker.endpoint()).await);
    let mut watch = health.watch(HealthCheckRequest { service: known.to_owned() }).await.expect("it begins").into_inner();
    assert_eq!(watch.message().await.expect("no error").expect("it goes on").status, 1);
    broker.signal(Signal::TERM);
    assert_eq!(watch.message().await.expect("no error").expect("it goes on").status, 2, "NOT_SERVING");
    assert_eq!(watch.message().await.expect_err("the end").code(), Code::Unavailable);
    assert!(broker.ended(PATIENCE).await.success(), "{}", broker.log());
}

/// As they ask steadily, they learn it from its health: the lame duck itself answers as ever.
#[tokio::test]
async fn callers_leave_a_lame_duck_before_it_closes() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let configured = config_text(&sandbox, "60s", "60s");
    let (ends, stays) = (Process::serve(&configured, &[]).await, Process::serve(&configured, &[]).await);
    let client = Client::balanced_over(&[ends.endpoint(), stays.endpoint()], Security::default()).expect("are endpoints");
    let admins = [ends.address("admin"), stays.address("admin")];
    let answered = async |admin: &String| {
        let text = http(admin, "/metrics").await;
        let counts =
            text.lines().filter(|line| line.starts_with("token_broker_calls_total{")).filter_map(|line| line.rsplit(' ').next());
        counts.filter_map(|count| count.parse::<u64>().ok()).sum::<u64>()
    };
    let call = async || client.token(MERCHANT, NUMBER).await.expect("there is a token");
    let both = async {
        while answered(&admins[0]).await == 0 || answered(&admins[1]).await == 0 {
            call().await;
        }
    };
    timeout(PATIENCE, both).await.expect("both get calls");
    ends.signal(Signal::TERM);
    ends.line("shutting down: not ready any more").await;
    let left = async {
        loop {
            let before = answered(&admins[0]).await;
            for _ in 0..20 {
                call().await;
            }
            // It still tells: it has not closed.
            if answered(&admins[0]).await == before {
                return;
            }
        }
    };
    timeout(PATIENCE, left).await.expect("it is left");
}
