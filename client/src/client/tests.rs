//! What is repeated, and what is said where nobody is there.

use tokio::task::JoinSet;
use tonic::{Code, TimeoutExpired, metadata::MetadataValue};

use super::{retry::PUSHBACK, *};

mod reset_health;
mod silent;

#[test]
fn repeats_only_what_a_repeat_may_help() {
    let pushed = |mut status: Status, millis: &'static str| {
        status.metadata_mut().insert(PUSHBACK, MetadataValue::from_static(millis));
        status
    };
    let lost = |code| {
        let mut status = Status::new(code, "the connection broke");
        status.set_source(Arc::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        status
    };
    let table = [
        (lost(Code::Unavailable), "elsewhere, this one is lost"),
        (lost(Code::Unknown), "elsewhere, this one is lost"),
        (lost(Code::DeadlineExceeded), "no"),
        (Status::from_error(Box::new(TimeoutExpired(()))), "no"),
        (Status::unavailable("it ends"), "elsewhere"),
        (pushed(Status::unavailable("wait"), "300"), "after 300ms"),
        (pushed(Status::resource_exhausted("wait"), "1"), "after 1ms"),
        (pushed(Status::unavailable("wait for long"), "-1"), "no"),
        (Status::internal("a fault"), "no"),
        (Status::not_found("nobody"), "no"),
        (Status::deadline_exceeded("late"), "no"),
    ];
    for (status, wanted) in table {
        let found = match Retry::after(&status) {
            Retry::Lost => "elsewhere, this one is lost".to_owned(),
            Retry::Elsewhere => "elsewhere".to_owned(),
            Retry::Later(wait) => format!("after {wait:?}"),
            Retry::No => "no".to_owned(),
        };
        assert_eq!(found, wanted, "{status:?}");
    }
}

#[test]
fn outside_of_a_runtime_it_says_so() {
    let client = Client::new("http://127.0.0.1:1").expect("is an endpoint");
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let polled = std::pin::pin!(client.token("m", "+447871239999")).poll(&mut context);
    assert!(matches!(polled, std::task::Poll::Ready(Err(ClientError::NoRuntime))), "{polled:?}");
    assert!(matches!(Client::balanced("http://127.0.0.1:1", Security::default()), Err(ClientError::NoRuntime)));
}

#[tokio::test]
async fn a_port_that_cannot_be_is_told() {
    for url in ["http://127.0.0.1:99999", "http://127.0.0.1:0", "http://[::1]:x"] {
        let single = Client::new(url).map(drop);
        let balanced = Client::balanced(url, Security::default()).map(drop);
        let source = crate::TokenSource::builder().endpoint(url).build().map(drop);
        for fault in [single, balanced, source].map(|made| made.expect_err(url).to_string()) {
            assert!(fault.contains(url), "{fault}");
        }
    }
    let fault = Client::new("http://127.0.0.1:99999").expect_err("is no port").to_string();
    assert!(fault.contains("1 to 65535"), "{fault}");
}

#[tokio::test]
async fn says_so_at_once_where_no_replica_can_be_reached() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
    let address = listener.local_addr().expect("has one");
    drop(listener);
    let broker = Client::balanced(&format!("http://{address}"), Security::default()).expect("is an endpoint");
    let error = broker.token("merchant", "+447871239999").await.expect_err("nobody is there");
    assert_eq!(error.status().map(Status::code), Some(Code::Unavailable), "{error}");
    assert!(error.to_string().contains("no replica behind 127.0.0.1"), "{error}");
}

/// A function that connects.
#[derive(Clone)]
struct Connect<F>(F);

impl<F, S> tower_service::Service<Uri> for Connect<F>
where
    F: Fn(Uri) -> std::future::Ready<std::io::Result<S>>,
{
    type Response = S;
    type Error = std::io::Error;
    type Future = std::future::Ready<std::io::Result<S>>;

    fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        (self.0)(uri)
    }
}

/// The name that is looked up, the one that the handshake asks for, and the one that the call is for.
#[tokio::test]
async fn a_dot_at_the_end_of_a_host_is_for_the_look_up_alone() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::sync::mpsc;
    let key = rcgen::KeyPair::generate().expect("keys can be made");
    let params = rcgen::CertificateParams::new(["broker.example.org".to_owned()]).expect("is a name");
    let certificate = params.self_signed(&key).expect("is good");
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("it knows TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], der.into())
        .expect("they belong together");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    for dot in [".", ""] {
        let (told, mut telling) = mpsc::channel(4);
        let acceptor = acceptor.clone();
        let connector = Connect(move |uri: Uri| {
            let (near, far) = tokio::io::duplex(1 << 16);
            let (told, acceptor) = (told.clone(), acceptor.clone());
            let serving = async move {
                told.send(uri.host().map(str::to_owned)).await.expect("the test waits");
                let stream = acceptor.accept(far).await.expect("it shakes hands");
                told.send(stream.get_ref().1.server_name().map(str::to_owned)).await.expect("the test waits");
                let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (told, host) = (told.clone(), request.uri().host().map(str::to_owned));
                    async move {
                        told.send(host).await.expect("the test waits");
                        Err::<http::Response<String>, _>("no more is wanted")
                    }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.serve_connection(TokioIo::new(stream), service).await.ok();
            };
            #[allow(clippy::disallowed_methods, reason = "it ends with the test")]
            tokio::spawn(serving);
            std::future::ready(Ok::<_, std::io::Error>(TokioIo::new(near)))
        });
        let security = Security { ca_pem: Some(certificate.pem().into_bytes()), ..Security::default() };
        let endpoint = prepare(&format!("https://broker.example.org{dot}:50051"), &security).expect("is one");
        let channel = endpoint.connect_with_connector_lazy(connector);
        ask(&channel, Request::new(GetTokenRequest::default())).await.expect_err("it is refused");
        let mut names = Vec::new();
        for _ in 0..3 {
            names.push(telling.recv().await.flatten().expect("is told"));
        }
        assert_eq!(names, [&*format!("broker.example.org{dot}"), "broker.example.org", "broker.example.org"]);
    }
}

/// The replicas of the tests below: each answers with its own token until it is named, as the contract says.
mod replicas_of_a_vault_that_ended_all_tokens {
    use std::{
        collections::HashSet,
        net::{Ipv4Addr, SocketAddr},
        sync::Mutex,
    };

    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Response, transport::Server};

    use super::*;
    use crate::proto::{
        server::token_broker_service_server::{TokenBrokerService, TokenBrokerServiceServer},
        v1::GetTokenResponse,
    };

    struct Broker {
        name: usize,
        issued: Mutex<u32>,
    }

    #[tonic::async_trait]
    impl TokenBrokerService for Broker {
        async fn get_token(&self, request: Request<GetTokenRequest>) -> Result<Response<GetTokenResponse>, Status> {
            let mut issued = self.issued.lock().expect("no panic");
            let id = |issued: u32| format!("{}-{issued}", self.name);
            if request.into_inner().rejected_token_ids.contains(&id(*issued)) {
                *issued += 1;
            }
            let expires_in = Some(prost_types::Duration { seconds: 600, nanos: 0 });
            let token = Token { token_id: id(*issued), expires_in, ..Token::default() };
            Ok(Response::new(GetTokenResponse { token: Some(token) }))
        }
    }

    async fn heals(replicas: u8) {
        let mut port = 0;
        let mut addresses = Vec::new();
        let mut servers = JoinSet::new();
        for last in 1..=replicas {
            let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), port)).await.expect("the port is free");
            let address = listener.local_addr().expect("is bound");
            port = address.port();
            addresses.push(address);
            let broker = TokenBrokerServiceServer::new(Broker { name: last.into(), issued: Mutex::new(0) });
            servers.spawn(Server::builder().add_service(broker).serve_with_incoming(TcpListenerStream::new(listener)));
        }
        let found: Vec<SocketAddr> = addresses.clone();
        let connector = Connector::new(move |_host| Ok(found.clone()));
        let url = format!("http://replicas.test:{port}");
        let broker = Client::balanced_with(&url, Security::default(), connector).expect("is an endpoint");
        let Route::Balanced(known) = &broker.route else { panic!("is balanced") };
        known.all(addresses.len()).await;
        let mut dead = HashSet::new();
        for _ in 0..replicas {
            let token = broker.token("m", "+447871239999").await.expect("there is a token");
            assert!(token.token_id.ends_with("-0") && dead.insert(token.token_id.clone()), "{token:?} of {dead:?}");
            broker.rejected("m", "+447871239999", &token);
        }
        let token = broker.token("m", "+447871239999").await.expect("there is a token");
        assert!(token.token_id.ends_with("-1"), "{token:?}");
        let others = broker.token("m", "+447871230000").await.expect("there is a token");
        assert!(!dead.contains(&others.token_id) || others.token_id.ends_with("-0"), "another user's are not named");
    }

    #[tokio::test]
    async fn one_caller_has_a_good_token_after_a_call_more_than_there_are_replicas() {
        for replicas in [1, 2, 3] {
            heals(replicas).await;
        }
    }
}

/// What must not outlast a call, and must not hold the process either.
mod deadlines {
    use std::{net::Ipv4Addr, sync::mpsc::sync_channel, thread};

    use super::*;

    const TIME: Duration = Duration::from_millis(200);
    /// No call of the ones here takes nearly as long, however busy the machine is.
    const FAR_TOO_LONG: Duration = Duration::from_secs(20);

    /// Ends with the error of `call`; fails if that or the end of its runtime takes far too long.
    fn in_time<F, C>(call: C) -> ClientError
    where
        C: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Token, ClientError>>,
    {
        let (done, ended) = sync_channel(1);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("there is one");
            let result = runtime.block_on(call());
            // As `#[tokio::main]` does: it waits for tokio's own threads.
            drop(runtime);
            done.send(result).expect("somebody waits");
        });
        ended.recv_timeout(FAR_TOO_LONG).expect("ends in time").expect_err("there is no token")
    }

    #[test]
    fn a_resolver_that_hangs_holds_neither_a_call_nor_the_process() {
        for balanced in [false, true] {
            let (_held, hangs) = sync_channel::<()>(0);
            let hangs = std::sync::Mutex::new(hangs);
            let connector = Connector::new(move |_host| {
                drop(hangs.lock().map(|hangs| hangs.recv()));
                Ok(Vec::new())
            });
            let error = in_time(move || async move {
                let url = "http://slow.test:50051";
                let broker = if balanced {
                    Client::balanced_with(url, Security::default(), connector)?
                } else {
                    let one = Single::new(prepare(url, &Security::default())?, connector);
                    Client::over(Route::Single(Arc::new(one)), None)
                };
                broker.timeout(TIME).token("m", "+447871239999").await
            });
            assert_eq!(error.status().map(Status::code), Some(Code::DeadlineExceeded), "{error}");
            assert!(error.is_temporary() && error.to_string().contains("look-up"), "{error}");
        }
    }

    #[test]
    fn a_peer_that_accepts_and_stays_silent_is_not_waited_for() {
        // It accepts by the system's queue, and never says a word.
        let silent = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = silent.local_addr().expect("is bound");
        let ca = rcgen::KeyPair::generate().and_then(|key| rcgen::CertificateParams::default().self_signed(&key));
        let ca = ca.expect("is made").pem().into_bytes();
        for (scheme, ca_pem) in [("http", None), ("https", Some(ca))] {
            for balanced in [false, true] {
                let (url, security) =
                    (format!("{scheme}://{address}"), Security { ca_pem: ca_pem.clone(), ..Security::default() });
                let error = in_time(move || async move {
                    let make = if balanced { Client::balanced } else { Client::with_security };
                    make(&url, security)?.timeout(TIME).token("m", "+447871239999").await
                });
                assert_eq!(error.status().map(Status::code), Some(Code::DeadlineExceeded), "{scheme} {balanced}: {error}");
            }
        }
    }

    #[test]
    fn a_token_file_that_blocks_is_not_waited_for() {
        let silent = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let url = format!("http://{}", silent.local_addr().expect("is bound"));
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("token");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("there is mkfifo").success());
        let error = in_time(move || async move {
            let security = Security { token_file: Some(pipe), ..Security::default() };
            Client::with_security(&url, security)?.timeout(TIME).token("m", "+447871239999").await
        });
        assert_eq!(error.status().map(Status::code), Some(Code::DeadlineExceeded), "{error}");
    }
}
