//! What a gRPC port offers: the broker, health and reflection, each call under a deadline.
//!
//! Must never let a call into the broker without a deadline, nor offer more on the health port than health.

use std::{convert::Infallible, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::timeout_at;
use tonic::{Status, body::Body, metadata::MetadataMap, server::NamedService};
use tonic_health::{
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tower_service::Service;

use super::{
    Api,
    deadline::{self, Deadline},
    request_id::RequestId,
    status,
};
use crate::{
    broker::{BrokerError, FieldFault},
    clock::Clock,
    proto::{self, v1::token_broker_service_server::TokenBrokerServiceServer},
};

/// Longest request message, in bytes: its four fields take 300.
const REQUEST_MAX: usize = 4 * 1024;
/// The handler answers by its deadline; this much later the call is ended for it, say because its message never came.
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
    call_timeout: Duration,
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
    pub fn all(api: Api, health: HealthReporter, clock: Arc<dyn Clock>, call_timeout: Duration) -> Result<Self, ReflectionError> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
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
    async fn respond(mut self, mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let id_of = |request: &Request<Incoming>| RequestId::of(&MetadataMap::from_headers(request.headers().clone()));
        let timeout = match deadline::timeout(request.headers(), self.call_timeout) {
            Ok(timeout) => timeout,
            Err(deadline::Malformed) => {
                let fault = "is not 1 to 8 digits and a unit, such as 500m".to_owned();
                let error = BrokerError::InvalidRequest(vec![FieldFault { field: "grpc-timeout", fault }]);
                return Ok(status::from_error(&error, &id_of(&request)).into_http());
            }
        };
        let deadline = self.clock.now().mono + timeout;
        request.extensions_mut().insert(Deadline(deadline));
        let given_id = request.headers().get("x-request-id").cloned();
        let metadata = || {
            let mut metadata = http::HeaderMap::new();
            if let Some(id) = given_id {
                metadata.insert("x-request-id", id);
            }
            MetadataMap::from_headers(metadata)
        };
        match timeout_at(deadline + HANDLER_SLACK, self.server.call(request)).await {
            Ok(Ok(response)) => Ok(status::completed(response, metadata)),
            Err(_elapsed) => Ok(status::from_error(&BrokerError::DeadlineExceeded, &RequestId::of(&metadata())).into_http()),
        }
    }
}

fn handler<S>(server: S) -> (&'static str, Handler)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    (S::NAME, Arc::new(move |request| Box::pin(server.clone().call(request))))
}

fn unimplemented() -> Responding {
    Box::pin(std::future::ready(Ok(Status::unimplemented("no such method: list the services by reflection").into_http())))
}
