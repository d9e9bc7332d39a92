//! A connection that has shown life, and whether it still does.
//!
//! Must never take silence for a slow sign-in, nor a slow sign-in for silence: whoever waits is told by a question that any peer
//! can answer at once.

use std::{error::Error as _, sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tonic::{Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::now;

/// A peer that doesn't answer in this time is away. A busy one may take a while, but a call of the shortest sort not this long.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer counts for this long, for whoever asks: however many calls wait, a peer is asked ten times a second at most.
const ANSWER_COUNTS: Duration = Duration::from_millis(100);
/// What is asked: it needs no identity, and one that does not serve it says so at once. Both messages are empty here: that there is
/// an answer is all that counts.
const QUESTION: &str = "/grpc.health.v1.Health/Check";

/// What calls go over.
#[derive(Clone, Debug)]
pub(super) struct LiveChannel {
    pub(super) inner: Channel,
    /// When the peer last answered; held while it is asked.
    answered: Arc<Mutex<Instant>>,
    /// A peer that doesn't answer in this time is away.
    answer_timeout: Duration,
}

impl LiveChannel {
    /// Once the peer has answered: that somebody accepts a connection is no sign of life, since a process that is stopped has its
    /// connections accepted by the system.
    pub(super) async fn open(channel: Channel, answer_timeout: Duration) -> Result<Self, String> {
        match timeout(answer_timeout, question(&channel)).await {
            Ok(answer) if is_life(&answer) => Ok(Self { inner: channel, answered: Arc::new(Mutex::new(now())), answer_timeout }),
            Ok(Ok(())) => Err("its answer can't be read".to_owned()),
            Ok(Err(broken)) => Err(broken.message().to_owned()),
            Err(_late) => Err(format!("it accepts connections, and says nothing for {} s", answer_timeout.as_secs())),
        }
    }

    /// Whether the peer answers in time, from now on.
    pub(super) async fn answers_in_time(&self) -> bool {
        timeout(self.answer_timeout, self.answers()).await == Ok(true)
    }

    /// Whether the peer answers, from now on; has no end of its own where it says nothing.
    pub(super) async fn answers(&self) -> bool {
        let asked = now();
        let mut answered = self.answered.lock().await;
        if *answered + ANSWER_COUNTS >= asked {
            return true;
        }
        let lives = is_life(&question(&self.inner).await);
        if lives {
            *answered = now();
        }
        lives
    }
}

/// Whether somebody said that. An error with a source was not sent by anyone: it is the connection's.
fn is_life(answer: &Result<(), Status>) -> bool {
    answer.as_ref().err().is_none_or(|status| status.source().is_none())
}

async fn question(channel: &Channel) -> Result<(), Status> {
    let mut peer = Grpc::new(channel.clone());
    peer.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    let codec = ProstCodec::<(), ()>::default();
    peer.unary(Request::new(()), PathAndQuery::from_static(QUESTION), codec).await.map(drop)
}
