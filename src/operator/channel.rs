//! The other end of the socket, for commands.
//!
//! Must never ask anywhere but at a Unix socket.

use std::{
    io,
    path::Path,
    task::{Context, Poll},
};

use http::Uri;
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::UnixStream, task::JoinSet};
use tonic::body::Body;
use tower_service::Service;

use super::generated::operator_service_client::OperatorServiceClient;

/// A client, and what its connection runs on, which ends with it.
#[derive(Debug)]
pub struct Connected {
    /// The client.
    pub client: OperatorServiceClient<Wire>,
    _running: JoinSet<()>,
}

/// A connection that calls are made on.
#[derive(Clone, Debug)]
pub struct Wire(SendRequest<Body>);

impl Service<http::Request<Body>> for Wire {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Connects.
///
/// # Errors
/// Where nobody listens at `path`, or whoever does hangs up.
pub async fn connect(path: &Path) -> io::Result<Connected> {
    let stream = UnixStream::connect(path).await?;
    // Nothing has been read yet: whoever listens hung up.
    let hung_up = |error| io::Error::new(io::ErrorKind::ConnectionReset, error);
    let (wire, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(hung_up)?;
    let mut running = JoinSet::new();
    running.spawn(async move {
        // The call that is under way tells why it ended.
        drop(connection.await);
    });
    // HTTP/2 wants a name, which means nothing here.
    let client = OperatorServiceClient::with_origin(Wire(wire), Uri::from_static("http://operator"));
    Ok(Connected { client, _running: running })
}
