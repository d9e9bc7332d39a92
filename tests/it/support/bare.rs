//! HTTP/2 without a gRPC client on top.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::body::Body;
use tower_service::Service;

/// A connection without a client library's own timers and retries, so that a test sees what the broker says.
#[derive(Clone)]
pub(crate) struct Bare {
    connection: http2::SendRequest<Body>,
    authority: String,
}

impl Bare {
    pub(crate) async fn connect(endpoint: &str) -> Self {
        Self::with(endpoint, &http2::Builder::new(TokioExecutor::new())).await
    }

    /// One that takes no byte of an answer.
    pub(crate) async fn that_never_reads(endpoint: &str) -> Self {
        Self::with(endpoint, http2::Builder::new(TokioExecutor::new()).initial_stream_window_size(0)).await
    }

    async fn with(endpoint: &str, builder: &http2::Builder<TokioExecutor>) -> Self {
        let authority = endpoint.strip_prefix("http://").expect("is plaintext").to_owned();
        let stream = TcpStream::connect(&authority).await.expect("it listens");
        let (connection, driver) = builder.handshake(TokioIo::new(stream)).await.expect("speaks HTTP/2");
        tokio::spawn(driver);
        Self { connection, authority }
    }
}

impl Bare {
    /// Begins a call whose message never comes.
    pub(crate) async fn begin(&mut self, path: &str) -> Result<http::Response<Incoming>, hyper::Error> {
        self.begin_with_id(path, "unnamed").await
    }

    /// The same with an id to find it by.
    pub(crate) async fn begin_with_id(&mut self, path: &str, id: &str) -> Result<http::Response<Incoming>, hyper::Error> {
        let request = http::Request::post(path).header("content-type", "application/grpc").header("x-request-id", id);
        self.call(request.body(Body::new(Never)).expect("is a request")).await
    }
}

/// A message that never comes.
struct Never;

impl http_body::Body for Never {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        Poll::Pending
    }
}

impl Service<http::Request<Body>> for Bare {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let uri = format!("http://{}{}", self.authority, request.uri().path());
        *request.uri_mut() = uri.parse().expect("is a URL");
        let mut connection = self.connection.clone();
        Box::pin(async move { connection.send_request(request).await })
    }
}
