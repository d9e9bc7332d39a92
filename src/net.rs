//! Connections: accepted, secured, and ended. gRPC, health and the admin port all stand on it.
//!
//! Must never know what is asked on a connection, nor let one outlive the end of the process.

pub mod accept;
pub mod connection_limit;
mod frames;
pub mod http1;
pub mod http2;
mod in_place;
pub mod log_limiter;
pub mod memory_budget;
pub mod read_turns;
pub mod tls;
mod transport;
mod vouch;
pub mod workers;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::{
    connection_limit::{Connection, OpenCall},
    tls::{ServerTls, Trust},
};
use crate::authn::certificate::Peer;

/// Once a connection is closing, a request whose message is not here yet has this long to arrive: it may be on its way.
const LATE_MESSAGE: Duration = Duration::from_millis(500);

/// What the calls of one connection have in common.
#[derive(Debug)]
pub struct Session {
    /// What it says of its client.
    pub peer: Peer,
    /// Who vouched for its client's certificate; none where it showed none, or one that nobody vouched for.
    pub trust: Option<Trust>,
    /// Its slot, and what is under way on it.
    pub connection: Arc<Connection>,
    /// Cancelled once it is to be closed: streams without an end of their own end, and requests that are not here yet.
    pub closing: CancellationToken,
}

impl Session {
    /// A session that begins.
    #[must_use]
    pub fn new(peer: Peer, trust: Option<Trust>, connection: Arc<Connection>) -> Arc<Self> {
        if trust.is_some() {
            connection.set_identified();
        }
        Arc::new(Self { peer, trust, connection, closing: CancellationToken::new() })
    }

    /// Whether the CAs that are in force now vouch for its client's certificate, if it showed one.
    #[must_use]
    pub fn is_vouched_for(&self, current: Option<&Arc<ServerTls>>) -> bool {
        self.trust.as_ref().is_none_or(|trust| current.is_some_and(|current| trust.holds(current)))
    }

    /// Ends when a message that is not here will not be waited for any more.
    pub async fn too_late(&self) {
        self.closing.cancelled().await;
        sleep(LATE_MESSAGE).await;
    }
}

/// An answer's body that counts as a call under way until the last of it was taken.
#[derive(Debug)]
pub struct CountedBody<B> {
    body: B,
    _call: OpenCall,
}

impl<B> CountedBody<B> {
    /// The body of the answer to `call`.
    pub fn new(body: B, call: OpenCall) -> Self {
        Self { body, _call: call }
    }
}

impl<B: Body + Unpin> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
