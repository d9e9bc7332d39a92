//! What a gRPC port offers: the broker, health and reflection, each call under a deadline.
//!
//! Must never let a call into the broker without a deadline, nor offer more on the health port than health.

use std::{convert::Infallible, fmt, future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION, request::Parts};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use tokio::time::{sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body, server::NamedService};
use tower_service::Service;
use tracing::info;

use super::{
    deadline::{self, CallTimeout},
    get_token::Api,
    guard::{Call, Watch},
    health::Health,
    status,
};
use crate::{
    authn::{Identity, Peer},
    broker::{BrokerError, FieldFault, NoToken, Outcome},
    net::places::Guest,
    proto::{self, v1::token_broker_service_server::TokenBrokerServiceServer},
    request_id::{self, RequestId},
    telemetry::audit::Verdict,
};

/// Longest request message, in bytes: most take 100, and sixteen rejected ids of 64 characters of any script take 4,224.
const REQUEST_MAX: usize = 8 * 1024;
/// Largest metadata that is taken, in bytes as HTTP/2 counts them (RFC 9113, 6.5.2): a projected service-account token has about
/// 2 KiB. What is beyond it is dropped at once, so that a connection's calls hold no more.
const METADATA_MAX: usize = 16 * 1024;
/// What HTTP/2 adds for each field.
const FIELD_OVERHEAD: usize = 32;
/// A request's message is here by then: it is one small frame, sent right behind the headers.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// And by then where the connection is to go: it may be on its way.
const LATE_MESSAGE: Duration = Duration::from_millis(500);
/// What is wrong with a `grpc-timeout` that can't be read.
const TIMEOUT_FAULT: (&str, &str) = ("grpc-timeout", "is not 1 to 8 digits and a unit, such as 500m");
/// What is wrong with a message that can't be taken.
const MESSAGE_FAULT: (&str, &str) = ("message", "is longer than 8 KiB, or broke off");
/// The handler answers by its deadline; this much later the call is ended for it.
const HANDLER_SLACK: Duration = Duration::from_millis(2);

/// The method of health that goes on.
const WATCH: &str = "Watch";

/// The full name of the service, as health knows it.
pub const SERVICE: &str = <TokenBrokerServiceServer<Api> as NamedService>::NAME;

/// The answer to one call.
pub(super) type Responding = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
/// A service beside ours, behind one type.
type Handler = Arc<dyn Fn(Request<Incoming>) -> Responding + Send + Sync>;

/// What the calls of one connection have in common.
pub(super) struct Link {
    /// What it says of its client.
    pub(super) peer: Peer,
    /// Its place.
    pub(super) guest: Arc<Guest>,
    /// Cancelled once it is to go: what lasts ends, and what was not asked by then.
    pub(super) over: CancellationToken,
}

impl Link {
    /// Ends when a message that isn't here will not be waited for any more.
    async fn hurried(&self) {
        self.over.cancelled().await;
        sleep(LATE_MESSAGE).await;
    }
}

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
        health: &Health,
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
            health: handler(health.server()),
            reflection: Arc::new([handler(reflection().build_v1()?), handler(reflection().build_v1alpha()?)]),
            broker: Some(Ours { server, identity, watch, call_timeout }),
        })
    }

    /// Health alone, for probes.
    #[must_use]
    pub fn health_only(health: &Health) -> Self {
        Self { health: handler(health.server()), reflection: Arc::default(), broker: None }
    }

    /// Whether a call with this path lasts as long as its client likes.
    pub(super) fn lasts(&self, path: &str) -> bool {
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else { return false };
        (service == self.health.0 && method == WATCH) || self.reflection.iter().any(|(name, _)| *name == service)
    }

    /// Answers one call.
    pub(super) fn respond(&self, request: Request<Incoming>, link: &Arc<Link>) -> Responding {
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
        if metadata_size(&request) > METADATA_MAX {
            let id = RequestId::given(request.headers().get(request_id::KEY));
            let response = match &self.broker {
                Some(ours) if service == Some(SERVICE) => ours.brought_too_much(request.headers()),
                Some(_) | None => status::too_much_metadata(&id).into_http(),
            };
            return Box::pin(std::future::ready(Ok(response)));
        }
        match (&self.broker, service) {
            (Some(ours), Some(SERVICE)) => Box::pin(ours.clone().respond(request, Arc::clone(link))),
            (_, Some(service)) if service == self.health.0 => {
                let (answering, link) = ((self.health.1)(request), Arc::clone(link));
                Box::pin(async move {
                    tokio::select! {
                        biased;
                        response = answering => response,
                        () = link.hurried() => Ok(shutting_down().into_http()),
                    }
                })
            }
            (Some(ours), Some(service)) => match self.reflection.iter().find(|(name, _)| *name == service) {
                Some((_, handler)) => Box::pin(ours.clone().describe(Arc::clone(handler), request, Arc::clone(link))),
                None => unimplemented(),
            },
            (None, _) | (_, None) => unimplemented(),
        }
    }
}

impl Ours {
    /// Reflection.
    async fn describe(self, handler: Handler, request: Request<Incoming>, link: Arc<Link>) -> Result<Response<Body>, Infallible> {
        let identified = timeout(MESSAGE_TIMEOUT, self.identity.of(&link.peer, request.headers())).await;
        match identified.unwrap_or(Err(BrokerError::DeadlineExceeded)) {
            Ok(_) => handler(request).await,
            Err(error) => Ok(refused(&error, &RequestId::given(request.headers().get(request_id::KEY)))),
        }
    }

    /// A call whose metadata is not looked at any further.
    fn brought_too_much(&self, headers: &HeaderMap) -> Response<Body> {
        let call = Call::begin(&self.watch, headers);
        info!(request_id = %call.id, reason = status::MALFORMED, "no token: the metadata is larger than 16 KiB");
        let outcome = Outcome::TurnedAway;
        call.record(None, Verdict::Failed, status::MALFORMED, outcome, None);
        call.end(Code::ResourceExhausted, status::MALFORMED, outcome);
        status::too_much_metadata(&call.id).into_http()
    }

    async fn respond(mut self, request: Request<Incoming>, link: Arc<Link>) -> Result<Response<Body>, Infallible> {
        let (head, body) = request.into_parts();
        let call = Call::begin(&self.watch, &head.headers);
        Ok(match self.answer(head, body, &link, &call).await {
            Ok(response) => {
                let response = status::completed(response, || call.id);
                // Whatever the handler did not see, the library refused: a message that is none, or another method.
                if let Some(status) = Status::from_header_map(response.headers()) {
                    call.end(status.code(), status::MALFORMED, Outcome::TurnedAway);
                }
                response
            }
            Err(error) => {
                let why = NoToken::from(error);
                let unknown = matches!(why.error, BrokerError::Unauthenticated { .. } | BrokerError::IdentityUnavailable { .. });
                let verdict = if unknown { Verdict::Unauthenticated } else { Verdict::Failed };
                call.record(None, verdict, why.error.reason(), why.outcome, None);
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
        link: &Link,
        call: &Arc<Call>,
    ) -> Result<Response<Body>, BrokerError> {
        let timeout =
            deadline::timeout(&head.headers, self.call_timeout.get()).map_err(|deadline::Malformed| malformed(TIMEOUT_FAULT))?;
        let deadline = call.received + timeout;
        let caller = timeout_at(deadline, self.identity.of(&link.peer, &head.headers)).await;
        call.is_known(deadline, caller.unwrap_or(Err(BrokerError::DeadlineExceeded))?);
        // Whole before anything else: a message that never comes holds a place for this long and no longer.
        let message = Limited::new(body, REQUEST_MAX).collect();
        let in_time = timeout_at(deadline.min(call.received + MESSAGE_TIMEOUT), message);
        let message = tokio::select! {
            biased;
            message = in_time => message,
            () = link.hurried() => return Err(BrokerError::ShuttingDown),
        };
        let message = match message {
            Ok(Ok(message)) => message.to_bytes(),
            Ok(Err(_too_long_or_broken)) => return Err(malformed(MESSAGE_FAULT)),
            Err(_elapsed) => return Err(BrokerError::DeadlineExceeded),
        };
        // From here on it keeps its place.
        let _asked = link.guest.asks();
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

/// The size of a request's metadata, as HTTP/2 counts it.
fn metadata_size<B>(request: &Request<B>) -> usize {
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD);
    fields.sum::<usize>() + request.uri().path().len() + FIELD_OVERHEAD
}

/// A call that never got to the broker.
fn refused(error: &BrokerError, id: &RequestId) -> Response<Body> {
    info!(request_id = %id, reason = error.reason(), %error, "no token");
    status::from_error(error, id).into_http()
}

/// What lasts ends like this when its connection is to go.
pub(super) fn shutting_down() -> Status {
    status::from_error(&BrokerError::ShuttingDown, &RequestId::given(None))
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
