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
/// What is asked: it needs no identity, and one that does not serve it says so at once.
const QUESTION: &str = "/grpc.health.v1.Health/Check";
/// Of which service.
const SERVICE: &str = "tokenbroker.v1.TokenBrokerService";
/// The answer of who ends, or is not ready yet (grpc.health.v1).
const NOT_SERVING: i32 = 2;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct Question {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// What a peer that lives says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It takes calls; or does not say.
    Serves,
    /// It is about to end, or not ready yet: it answers, but calls had better go elsewhere.
    Ends,
}

/// Why a connection is of no use.
pub(super) enum Unopened {
    /// The peer says nothing.
    Silent(String),
    /// It was lost, or what is said there is no gRPC.
    Broken(String),
}

/// What calls go over.
#[derive(Clone, Debug)]
pub(super) struct LiveChannel {
    pub(super) inner: Channel,
    /// When the peer last answered, and what; held while it is asked.
    answered: Arc<Mutex<(Instant, Word)>>,
    /// A peer that doesn't answer in this time is away.
    answer_timeout: Duration,
}

impl LiveChannel {
    /// Once the peer has answered: that somebody accepts a connection is no sign of life, since a process that is stopped has its
    /// connections accepted by the system.
    pub(super) async fn open(channel: Channel, answer_timeout: Duration) -> Result<(Self, Word), Unopened> {
        match timeout(answer_timeout, question(&channel)).await {
            Ok(Ok(word)) => Ok((Self { inner: channel, answered: Arc::new(Mutex::new((now(), word))), answer_timeout }, word)),
            Ok(Err(broken)) => Err(Unopened::Broken(broken.message().to_owned())),
            Err(_late) => {
                let why = format!("it accepts connections, and says nothing for {} s", answer_timeout.as_secs());
                Err(Unopened::Silent(why))
            }
        }
    }

    /// What the peer says from now on, in time; none if it says nothing.
    pub(super) async fn word_in_time(&self) -> Option<Word> {
        timeout(self.answer_timeout, self.word()).await.unwrap_or_default()
    }

    /// What the peer says from now on, none if the connection is lost; has no end of its own where it says nothing.
    pub(super) async fn word(&self) -> Option<Word> {
        let asked = now();
        let mut answered = self.answered.lock().await;
        if answered.0 + ANSWER_COUNTS >= asked {
            return Some(answered.1);
        }
        let word = question(&self.inner).await.ok()?;
        *answered = (now(), word);
        Some(word)
    }
}

async fn question(channel: &Channel) -> Result<Word, Status> {
    let mut peer = Grpc::new(channel.clone());
    peer.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    let codec = ProstCodec::<Question, Answer>::default();
    let question = Question { service: SERVICE.to_owned() };
    match peer.unary(Request::new(question), PathAndQuery::from_static(QUESTION), codec).await {
        Ok(answer) if answer.get_ref().status == NOT_SERVING => Ok(Word::Ends),
        Ok(_) => Ok(Word::Serves),
        // An error with a source was not sent by anyone: it is the connection's. Any other is a sign of life.
        Err(status) if status.source().is_some() => Err(status),
        Err(_) => Ok(Word::Serves),
    }
}
