//! What is repeated, and what is said where nobody is there.

use tonic::metadata::MetadataValue;

use super::*;

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
        (Status::unavailable("it ends"), "elsewhere"),
        (pushed(Status::unavailable("wait"), "300"), "after 300ms"),
        (pushed(Status::resource_exhausted("wait"), "1"), "after 1ms"),
        (pushed(Status::unavailable("wait for long"), "-1"), "no"),
        (Status::internal("a fault"), "no"),
        (Status::not_found("nobody"), "no"),
        (Status::deadline_exceeded("late"), "no"),
    ];
    for (status, wanted) in table {
        let found = match Again::after(&status) {
            Again::Lost => "elsewhere, this one is lost".to_owned(),
            Again::Elsewhere => "elsewhere".to_owned(),
            Again::Later(wait) => format!("after {wait:?}"),
            Again::No => "no".to_owned(),
        };
        assert_eq!(found, wanted, "{status:?}");
    }
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
#[cfg(feature = "server")]
#[derive(Clone)]
struct Connect<F>(F);

#[cfg(feature = "server")]
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
#[cfg(feature = "server")]
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
        ask(&channel, Request::new(GetTokenRequest::default()), DEFAULT_TIMEOUT).await.expect_err("it is refused");
        let mut names = Vec::new();
        for _ in 0..3 {
            names.push(telling.recv().await.flatten().expect("is told"));
        }
        assert_eq!(names, [&*format!("broker.example.org{dot}"), "broker.example.org", "broker.example.org"]);
    }
}
