//! What surrounds each call of `GetToken`: the guard that tells of its end, its deadline, who calls, and its message.
//!
//! Must never let a call into the handler without a deadline and an identity, nor wait for a message without end.

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::{sync::Semaphore, time::Instant};
use tonic::{Status, body::Body};
use tower_service::Service as _;

use super::{
    deadline,
    generated::token_broker_service_server::TokenBrokerServiceServer,
    guard::{Guard, Observer},
};
use crate::{
    authn::service_accounts::Unverified,
    broker::{Broker, BrokerError, FieldFault, OVERLOADED_WAIT},
    caller::CallerId,
    live::{Serving, Snapshot},
    net::{Session, connection_limit::WaitKind},
    reason::Reason,
    signin::Shed,
};

/// Longest request message, in bytes: most take 100, and sixteen rejected ids of 64 characters of any script take 4,224.
const REQUEST_MAX: usize = 8 * 1024;
/// Largest metadata that is taken, in bytes as HTTP/2 counts them (RFC 9113, 6.5.2): a projected service-account token has about
/// 2 KiB. What is beyond it is dropped at once, so that a connection's calls hold no more.
const METADATA_MAX: usize = 16 * 1024;
/// What HTTP/2 adds for each field.
const FIELD_OVERHEAD: usize = 32;
/// Messages that come in parts, and have more than this already …
const PART_MAX: usize = 1024;
/// … are so many at once, all together: as a rule a message comes whole, and what is sent in parts and never to the end takes 8 MiB at most.
const IN_PARTS_MAX: usize = 1_024;
/// A request's message is here by then: it is one small frame, sent right behind the headers.
pub(super) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// What is wrong with a `grpc-timeout` that can't be read.
const TIMEOUT_FAULT: (&str, &str) = ("grpc-timeout", "is not 1 to 8 digits and a unit, such as 500m");
/// What a client is told whose certificate's CA was taken out since it connected.
const NOT_VOUCHED_FOR: &str =
    "none of the broker's client CAs vouches for your certificate any more: connect again with one of a CA that it trusts";
/// What is wrong with a message that can't be taken.
const MESSAGE_FAULT: (&str, &str) = ("message", "is longer than 8 KiB");

/// More waits than may, whoever calls.
const OVERLOADED: BrokerError = BrokerError::Overloaded { why: Shed::Full, wait: OVERLOADED_WAIT };

/// Why a call did not get through the handler.
enum Stopped {
    Refused(BrokerError),
    /// Its stream was reset: the caller went away.
    Gone,
}

impl From<BrokerError> for Stopped {
    fn from(error: BrokerError) -> Self {
        Self::Refused(error)
    }
}

/// The layer, and what it stands on.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) broker: Arc<Broker>,
    pub(super) observer: Arc<Observer>,
    in_parts: Semaphore,
}

impl Layer {
    pub(super) fn new(broker: Arc<Broker>, observer: Arc<Observer>) -> Self {
        Self { broker, observer, in_parts: Semaphore::new(IN_PARTS_MAX) }
    }

    /// Answers one call.
    pub(super) async fn call(&self, request: Request<Incoming>, session: &Session) -> Response<Body> {
        let snapshot = self.broker.in_force();
        let mut guard = Guard::begin(&self.observer, session, &snapshot.serving, (request.uri(), request.headers()));
        if is_too_large(&request) {
            return guard.refused(BrokerError::MetadataTooLarge);
        }
        guard.addressed(request.uri());
        let handled = {
            let handling = pin!(AssertUnwindSafe(self.handle(request, session, snapshot, &mut guard)).catch_unwind());
            session.connection.counting(WaitKind::Call, handling).await
        };
        match handled {
            Some(Ok(Ok(response))) => guard.answered(response),
            Some(Ok(Err(Stopped::Refused(error)))) => guard.refused(error),
            // The panic's text is in nobody's interest; where it was is in the log.
            Some(Err(_panic)) => guard.refused(BrokerError::Internal),
            None => guard.refused(OVERLOADED),
            // The guard, dropped, tells of it; nobody reads the answer.
            Some(Ok(Err(Stopped::Gone))) => Status::cancelled("the message broke off").into_http(),
        }
    }

    async fn handle(
        &self,
        mut request: Request<Incoming>,
        session: &Session,
        snapshot: Arc<Snapshot>,
        guard: &mut Guard<'_>,
    ) -> Result<Response<Body>, Stopped> {
        let (serving, received) = (&snapshot.serving, guard.received);
        let timeout =
            deadline::timeout(request.headers(), serving.call_timeout).map_err(|deadline::Malformed| malformed(TIMEOUT_FAULT))?;
        let deadline = received.mono + timeout;
        let caller = {
            let identifying = pin!(identify(serving, session, request.headers(), received.wall));
            let on_trial = snapshot.policy.is_on_trial();
            // On trial there is to be time for an answer without, too.
            let by = if on_trial { received.mono + timeout / 2 } else { deadline };
            match deadline::by(by, identifying).await {
                Ok(Ok(caller)) => (caller, None),
                Ok(Err(would_be)) if on_trial => (let_in(session), Some(would_be.reason())),
                Err(_elapsed) if on_trial => (let_in(session), Some(Reason::IdentityUnavailable)),
                Ok(Err(error)) => return Err(error.into()),
                Err(_elapsed) => return Err(BrokerError::DeadlineExceeded.into()),
            }
        };
        let call = guard.identified(&self.broker, snapshot, caller, deadline);
        let message = self.message(request.body_mut(), session, deadline.min(received.mono + MESSAGE_TIMEOUT)).await?;
        // From here on its connection is not closed for another.
        let _awaited = session.connection.await_answer();
        // Its work is done: the token need not be copied on.
        request.headers_mut().remove(AUTHORIZATION);
        let mut service = TokenBrokerServiceServer::from_arc(call).max_decoding_message_size(REQUEST_MAX);
        let Ok(response) = service.call(request.map(|_read| Full::new(message))).await;
        Ok(response)
    }

    /// A call's message, whole, before anything else: one that never comes holds a place for a moment and no longer.
    async fn message(&self, body: &mut Incoming, session: &Session, by: Instant) -> Result<Bytes, Stopped> {
        let reading = pin!(self.read(body));
        tokio::select! {
            biased;
            message = deadline::by(by, reading) => message.map_err(|_elapsed| BrokerError::DeadlineExceeded)?,
            () = session.too_late() => Err(BrokerError::ShuttingDown.into()),
        }
    }

    /// Reads a message; nearly all come in one frame, which is taken as it is.
    async fn read(&self, body: &mut Incoming) -> Result<Bytes, Stopped> {
        let (mut message, mut in_parts) = (Bytes::new(), None);
        while let Some(frame) = body.frame().await {
            // What a request has behind its message means nothing.
            let Ok(more) = frame.map_err(|_broke_off| Stopped::Gone)?.into_data() else { continue };
            if message.len() + more.len() > REQUEST_MAX {
                return Err(malformed(MESSAGE_FAULT).into());
            }
            message = if message.is_empty() { more } else { joined(message, &more) };
            if message.len() > PART_MAX && in_parts.is_none() && !body.is_end_stream() {
                let place = self.in_parts.try_acquire();
                in_parts = Some(place.map_err(|_full| OVERLOADED)?);
            }
        }
        Ok(message)
    }
}

/// Adds to a message without copying what it has already, as a rule.
fn joined(message: Bytes, more: &[u8]) -> Bytes {
    let mut message = BytesMut::from(message);
    message.extend_from_slice(more);
    message.freeze()
}

/// Whether a request's metadata is more than is taken.
pub(super) fn is_too_large<B>(request: &Request<B>) -> bool {
    metadata_size(request) > METADATA_MAX
}

/// The size of a request's metadata, as HTTP/2 counts it.
fn metadata_size<B>(request: &Request<B>) -> usize {
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD);
    fields.sum::<usize>() + request.uri().path().len() + FIELD_OVERHEAD
}

/// Who makes a call with these headers on this connection, as what is in force has it now.
pub(super) async fn identify(
    serving: &Serving,
    session: &Session,
    headers: &HeaderMap,
    now: SystemTime,
) -> Result<CallerId, BrokerError> {
    if serving.authenticator.required && !session.is_vouched_for(serving.tls.as_ref()) {
        return Err(BrokerError::Unauthenticated { why: NOT_VOUCHED_FOR });
    }
    let identified = serving.authenticator.identify(&session.peer, headers, now).await;
    let caller = identified.map_err(|why| match why {
        Unverified::Refused(why) => BrokerError::Unauthenticated { why },
        Unverified::Unavailable(why) => BrokerError::IdentityUnavailable { why },
    })?;
    session.connection.set_identified();
    Ok(caller)
}

/// Who is not known, and is let in since the policy is on trial: nobody in particular, as where nobody is asked. Where the limits of
/// strangers are for whoever is yet to be judged, it has been.
fn let_in(session: &Session) -> CallerId {
    session.connection.set_identified();
    CallerId::Anonymous
}

fn malformed((field, fault): (&'static str, &str)) -> BrokerError {
    BrokerError::InvalidRequest(vec![FieldFault { field: field.into(), fault: fault.to_owned() }])
}
