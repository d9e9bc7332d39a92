//! Connections: the name looked up, TCP connected and TLS shaken hands, each step in a time of its own.
//!
//! Must never look a name up on tokio's own threads (see [`Apart`]), nor leave a step without an end: a channel that was given
//! up by one call is gone on with by the next.

use std::{
    error::Error,
    fmt,
    future::Future,
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use hyper_util::client::legacy::connect::{HttpConnector, dns::Name};
use tokio::{net::TcpStream, time::timeout};
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::liveness::{ANSWER_TIMEOUT, LiveChannel, Unopened, Word};
use crate::{
    blocking::BlockingPool,
    peer::{self, STEP},
};

/// A look-up that takes longer is given up: the system's resolver may ask for half a minute.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// A broker that can't be reached in this time is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the CA was given.
const CA: &str = "your CA file";

/// The addresses of a name; may block.
type LookUp = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    apart: BlockingPool,
    look_up: Arc<LookUp>,
    answer_timeout: Duration,
}

impl Default for Connector {
    /// Asks the system's resolver.
    fn default() -> Self {
        Self::new(|host| (host, 0).to_socket_addrs().map(Iterator::collect))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("apart", &self.apart).finish_non_exhaustive()
    }
}

impl Connector {
    /// Asks `look_up`, which may block.
    pub(super) fn new(look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self::with_answer_timeout(look_up, ANSWER_TIMEOUT)
    }

    /// The same, where a peer that says nothing for so long is away.
    pub(super) fn with_answer_timeout(
        look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
        answer_timeout: Duration,
    ) -> Self {
        Self { apart: BlockingPool::default(), look_up: Arc::new(look_up), answer_timeout }
    }

    /// The addresses of a name, without a port.
    pub(super) async fn look_up(&self, host: String) -> io::Result<Vec<SocketAddr>> {
        let look_up = Arc::clone(&self.look_up);
        match timeout(LOOKUP_TIMEOUT, self.apart.run(move || look_up(&host))).await {
            Ok(found) => found,
            Err(_late) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        }
    }

    /// Connects, or says why not.
    pub(super) async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, String> {
        let mut connector = HttpConnector::new_with_resolver(self.clone());
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let host = endpoint.uri().host().unwrap_or_default();
        let connected = endpoint.connect_with_connector(connector).await;
        connected.map_err(|error| peer::named(&error, host, CA).unwrap_or_else(|| causes(&error)))
    }

    /// Connects, and hears what the peer says first; or says why not.
    pub(super) async fn reach(&self, endpoint: &Endpoint, connected: impl FnOnce()) -> Result<(LiveChannel, Word), String> {
        let channel = self.connect(endpoint).await?;
        connected();
        match LiveChannel::open(channel, self.answer_timeout).await {
            Ok(opened) => Ok(opened),
            Err(Unopened::Silent(why)) => Err(why),
            Err(Unopened::Broken(why)) => Err(self.spoken(endpoint).await.unwrap_or(why)),
        }
    }

    /// What is spoken there instead of HTTP/2 in plaintext, if that is what was tried.
    async fn spoken(&self, endpoint: &Endpoint) -> Option<String> {
        let uri = endpoint.uri();
        if uri.scheme_str() != Some("http") {
            return None;
        }
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let address = self.look_up(host).await.ok()?.into_iter().next()?;
        let connecting = TcpStream::connect((address.ip(), uri.port_u16().unwrap_or(80)));
        let stream = timeout(STEP, connecting).await.ok()?.ok()?;
        peer::in_plaintext(stream, CA).await.map(|cause| cause.text)
    }
}

/// For hyper's connector.
impl Service<Name> for Connector {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.look_up(name.as_str().to_owned()).await.map(IntoIterator::into_iter) })
    }
}

/// An error and what it comes from, each said once.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
