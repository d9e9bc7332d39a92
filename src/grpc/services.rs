//! What a gRPC port offers: the broker, health and reflection, each call under a deadline.
//!
//! Must never let a call into the broker without a deadline, nor offer more on the health port than health.

use std::{convert::Infallible, fmt, future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use http::{Request, Response};
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
    deadline::{self, CallTimeout, Deadline},
    request_id::{self, RequestId},
    status,
};
use crate::{
    broker::{BrokerError, FieldFault},
    clock::Clock,
    proto::{self, v1::token_broker_service_server::TokenBrokerServiceServer},
};

/// Longest request message, in bytes: its four fields take 300.
const REQUEST_MAX: usize = 4 * 1024;
/// A request's message is here by then: it is one small frame, sent right behind the headers.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// What is wrong with a `grpc-timeout` that can't be read.
const TIMEOUT_FAULT: (&str, &str) = ("grpc-timeout", "is not 1 to 8 digits and a unit, such as 500m");
/// What is wrong with a message that can't be taken.
const MESSAGE_FAULT: (&str, &str) = ("message", "is longer than 4 KiB, or broke off");
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
    broker: Option<Ours>,
    others: Arc<[(&'static str, Handler)]>,
}

/// The broker's service and what it needs.
#[derive(Clone)]
struct Ours {
    server: TokenBrokerServiceServer<Api>,
    clock: Arc<dyn Clock>,
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
        clock: Arc<dyn Clock>,
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
            broker: Some(Ours { server, clock, call_timeout }),
            others: Arc::new([
                handler(HealthServer::new(HealthService::from_health_reporter(health))),
                handler(reflection().build_v1()?),
                handler(reflection().build_v1alpha()?),
            ]),
        })
    }

    /// Health alone, for probes.
    #[must_use]
    pub fn health_only(health: HealthReporter) -> Self {
        Self { broker: None, others: Arc::new([handler(HealthServer::new(HealthService::from_health_reporter(health)))]) }
    }

    /// Answers one call.
    pub(crate) fn respond(&self, request: Request<Incoming>) -> Responding {
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
        match (&self.broker, service) {
            (Some(ours), Some(SERVICE)) => Box::pin(ours.clone().respond(request)),
            (_, Some(service)) => match self.others.iter().find(|(name, _)| *name == service) {
                Some((_, handler)) => handler(request),
                None => unimplemented(),
            },
            (_, None) => unimplemented(),
        }
    }
}

impl Ours {
    async fn respond(mut self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (mut head, body) = request.into_parts();
        let given_id = head.headers.get(request_id::KEY).cloned();
        let result = async {
            let timeout = deadline::timeout(&head.headers, self.call_timeout.get())
                .map_err(|deadline::Malformed| malformed(TIMEOUT_FAULT))?;
            let received = self.clock.now().mono;
            let deadline = received + timeout;
            // Whole before anything else: a message that never comes holds a place for this long and no longer.
            let message = Limited::new(body, REQUEST_MAX).collect();
            let message = match timeout_at(deadline.min(received + MESSAGE_TIMEOUT), message).await {
                Ok(Ok(message)) => message.to_bytes(),
                Ok(Err(_too_long_or_broken)) => return Err(malformed(MESSAGE_FAULT)),
                Err(_elapsed) => return Err(BrokerError::DeadlineExceeded),
            };
            head.extensions.insert(Deadline(deadline));
            let call = AssertUnwindSafe(self.server.call(Request::from_parts(head, Full::new(message)))).catch_unwind();
            match timeout_at(deadline + HANDLER_SLACK, call).await {
                Ok(Ok(Ok(response))) => Ok(response),
                // The panic's text is in nobody's interest; where it was is in the log.
                Ok(Err(_panic)) => Err(BrokerError::Internal),
                Err(_elapsed) => Err(BrokerError::DeadlineExceeded),
            }
        };
        let result = result.await;
        let id = || RequestId::given(given_id.as_ref());
        Ok(match result {
            Ok(response) => status::completed(response, id),
            Err(error) => {
                let id = id();
                info!(request_id = %id, reason = status::reason(&error), %error, "no token");
                status::from_error(&error, &id).into_http()
            }
        })
    }
}

fn malformed((field, fault): (&'static str, &str)) -> BrokerError {
    BrokerError::InvalidRequest(vec![FieldFault { field, fault: fault.to_owned() }])
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
