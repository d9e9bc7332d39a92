//! What a gRPC port offers: the broker, health and reflection, each call under a deadline.
//!
//! Must never let a call into the broker without a deadline, nor offer more on the health port than health.

use std::{convert::Infallible, fmt, future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use http::{Request, Response, header::AUTHORIZATION, request::Parts};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use tokio::time::{timeout, timeout_at};
use tonic::{Status, body::Body, server::NamedService};
use tonic_health::{
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tower_service::Service;
use tracing::info;

use super::{
    Api,
    call::{Call, Watch},
    deadline::{self, CallTimeout},
    identity::{Identity, Peer},
    request_id::{self, RequestId},
    status,
};
use crate::{
    audit::{self, Decision, Verdict},
    broker::{BrokerError, FieldFault, NoToken, Outcome},
    proto::{self, v1::token_broker_service_server::TokenBrokerServiceServer},
};

/// Longest request message, in bytes: its four fields take up to 1,400, and 4,500 where ids are no ASCII.
const REQUEST_MAX: usize = 8 * 1024;
/// A request's message is here by then: it is one small frame, sent right behind the headers.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// What is wrong with a `grpc-timeout` that can't be read.
const TIMEOUT_FAULT: (&str, &str) = ("grpc-timeout", "is not 1 to 8 digits and a unit, such as 500m");
/// What is wrong with a message that can't be taken.
const MESSAGE_FAULT: (&str, &str) = ("message", "is longer than 8 KiB, or broke off");
/// The handler answers by its deadline; this much later the call is ended for it.
const HANDLER_SLACK: Duration = Duration::from_millis(2);

/// The full name of the service, as health knows it.
pub const SERVICE: &str = <TokenBrokerServiceServer<Api> as NamedService>::NAME;

/// The answer to one call.
pub(super) type Responding = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
/// A service beside ours, behind one type.
type Handler = Arc<dyn Fn(Request<Incoming>) -> Responding + Send + Sync>;

/// The services of one port.
#[derive(Clone)]
pub struct Services {
    /// For everybody: probes have no identity.
    health: (&'static str, Handler),
    /// For everybody who is known.
    reflection: Arc<[(&'static str, Handler)]>,
    /// For those who may.
    broker: Option<Ours>,
}

/// The broker's service and what it needs.
#[derive(Clone)]
struct Ours {
    server: TokenBrokerServiceServer<Api>,
    identity: Identity,
    watch: Arc<Watch>,
    call_timeout: CallTimeout,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").field("broker", &self.broker.is_some()).finish_non_exhaustive()
    }
}

/// The descriptors compiled in can't be served: a fault of the build.
#[derive(Debug, thiserror::Error)]
#[error("the compiled-in descriptors can't be served by reflection")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

impl Services {
    /// Everything: broker, health, reflection.
    ///
    /// # Errors
    /// Where the compiled-in descriptors are broken.
    pub fn all(
        api: Api,
        health: HealthReporter,
        identity: Identity,
        watch: Arc<Watch>,
        call_timeout: CallTimeout,
    ) -> Result<Self, ReflectionError> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // So that a client that shows errors knows their details.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        let server = TokenBrokerServiceServer::new(api).max_decoding_message_size(REQUEST_MAX);
        Ok(Self {
            health: handler(HealthServer::new(HealthService::from_health_reporter(health))),
            reflection: Arc::new([handler(reflection().build_v1()?), handler(reflection().build_v1alpha()?)]),
            broker: Some(Ours { server, identity, watch, call_timeout }),
        })
    }

    /// Health alone, for probes.
    #[must_use]
    pub fn health_only(health: HealthReporter) -> Self {
        let health = handler(HealthServer::new(HealthService::from_health_reporter(health)));
        Self { health, reflection: Arc::default(), broker: None }
    }

    /// Answers one call.
    pub(crate) fn respond(&self, request: Request<Incoming>, peer: &Arc<Peer>) -> Responding {
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
        match (&self.broker, service) {
            (Some(ours), Some(SERVICE)) => Box::pin(ours.clone().respond(request, Arc::clone(peer))),
            (_, Some(service)) if service == self.health.0 => (self.health.1)(request),
            (Some(ours), Some(service)) => match self.reflection.iter().find(|(name, _)| *name == service) {
                Some((_, handler)) => Box::pin(ours.clone().describe(Arc::clone(handler), request, Arc::clone(peer))),
                None => unimplemented(),
            },
            (None, _) | (_, None) => unimplemented(),
        }
    }
}

impl Ours {
    /// Reflection.
    async fn describe(self, handler: Handler, request: Request<Incoming>, peer: Arc<Peer>) -> Result<Response<Body>, Infallible> {
        let identified = timeout(MESSAGE_TIMEOUT, self.identity.of(&peer, request.headers())).await;
        match identified.unwrap_or(Err(BrokerError::DeadlineExceeded)) {
            Ok(_) => handler(request).await,
            Err(error) => Ok(refused(&error, &RequestId::given(request.headers().get(request_id::KEY)))),
        }
    }

    async fn respond(mut self, request: Request<Incoming>, peer: Arc<Peer>) -> Result<Response<Body>, Infallible> {
        let (head, body) = request.into_parts();
        let call = Call::begin(&self.watch, &head.headers);
        Ok(match self.answer(head, body, &peer, &call).await {
            Ok(response) => {
                let response = status::completed(response, || call.id.clone());
                // Whatever the handler did not see, the library refused: a message that is none, or another method.
                if let Some(status) = Status::from_header_map(response.headers()) {
                    call.end(status.code(), status::MALFORMED, Outcome::TurnedAway);
                }
                response
            }
            Err(error) => {
                let why = NoToken::from(error);
                let unknown = matches!(why.error, BrokerError::Unauthenticated { .. } | BrokerError::IdentityUnavailable { .. });
                audit::decision(&Decision {
                    caller: call.known().map(|(_, caller)| caller),
                    user: None,
                    verdict: if unknown { Verdict::Unauthenticated } else { Verdict::Failed },
                    reason: why.error.reason(),
                    outcome: why.outcome.as_str(),
                    token_id: None,
                    request_id: call.id.as_str(),
                    trace_id: call.trace_id(),
                });
                call.refused(&why);
                refused(&why.error, &call.id)
            }
        })
    }

    /// Asks the broker, once it is known who asks and what.
    async fn answer(
        &mut self,
        mut head: Parts,
        body: Incoming,
        peer: &Peer,
        call: &Arc<Call>,
    ) -> Result<Response<Body>, BrokerError> {
        let timeout =
            deadline::timeout(&head.headers, self.call_timeout.get()).map_err(|deadline::Malformed| malformed(TIMEOUT_FAULT))?;
        let deadline = call.received + timeout;
        let caller = timeout_at(deadline, self.identity.of(peer, &head.headers)).await;
        call.is_known(deadline, caller.unwrap_or(Err(BrokerError::DeadlineExceeded))?);
        // Whole before anything else: a message that never comes holds a place for this long and no longer.
        let message = Limited::new(body, REQUEST_MAX).collect();
        let message = match timeout_at(deadline.min(call.received + MESSAGE_TIMEOUT), message).await {
            Ok(Ok(message)) => message.to_bytes(),
            Ok(Err(_too_long_or_broken)) => return Err(malformed(MESSAGE_FAULT)),
            Err(_elapsed) => return Err(BrokerError::DeadlineExceeded),
        };
        head.extensions.insert(Arc::clone(call));
        // Its work is done: the token need not be copied on.
        head.headers.remove(AUTHORIZATION);
        let asking = AssertUnwindSafe(self.server.call(Request::from_parts(head, Full::new(message)))).catch_unwind();
        match timeout_at(deadline + HANDLER_SLACK, asking).await {
            Ok(Ok(Ok(response))) => Ok(response),
            // The panic's text is in nobody's interest; where it was is in the log.
            Ok(Err(_panic)) => Err(BrokerError::Internal),
            Err(_elapsed) => Err(BrokerError::DeadlineExceeded),
        }
    }
}

/// A call that never got to the broker.
fn refused(error: &BrokerError, id: &RequestId) -> Response<Body> {
    info!(request_id = %id, reason = error.reason(), %error, "no token");
    status::from_error(error, id).into_http()
}

fn malformed((field, fault): (&'static str, &str)) -> BrokerError {
    BrokerError::InvalidRequest(vec![FieldFault { field: field.into(), fault: fault.to_owned() }])
}

fn handler<S>(server: S) -> (&'static str, Handler)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    (S::NAME, Arc::new(move |request| Box::pin(in_time(server.clone().call(request)))))
}

/// An answer that begins in time. Watches and reflection begin at once, and then last as long as their connection.
async fn in_time(
    answering: impl Future<Output = Result<Response<Body>, Infallible>> + Send,
) -> Result<Response<Body>, Infallible> {
    let late = || Status::deadline_exceeded("the request's message did not come in time").into_http();
    timeout(MESSAGE_TIMEOUT, answering).await.unwrap_or_else(|_elapsed| Ok(late()))
}

fn unimplemented() -> Responding {
    let response = Status::unimplemented("no such method: list the services by reflection").into_http();
    Box::pin(std::future::ready(Ok(status::completed(response, || RequestId::given(None)))))
}
