//! What a gRPC port offers: `GetToken`, health and reflection, found by a call's path.
//!
//! Must never offer more on the health port than health.

use std::{convert::Infallible, fmt, pin::Pin, sync::Arc};

use http::{Request, Response};
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::timeout;
use tonic::{Status, body::Body, server::NamedService};
use tonic_health::pb::health_server::HealthServer;
use tower_service::Service;
use tracing::info;

use super::{
    generated::token_broker_service_server::TokenBrokerServiceServer,
    get_token::Call,
    guard::Observer,
    health::Health,
    layer::{self, Layer, MESSAGE_TIMEOUT, identify},
    status,
    strangers::Kind,
    streams::{AnswerBody, shutting_down},
};
use crate::{
    broker::{Broker, BrokerError, Outcome},
    net::{
        CountedBody, Session,
        connection_limit::{OpenCall, WaitKind},
    },
    request_id::{self, RequestId},
    telemetry::audit::Verdict,
};

/// The method of health that goes on.
const WATCH: &str = "Watch";

/// The messages and services with comments and imports, for reflection.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The full name of the service, as health knows it.
pub const SERVICE: &str = <TokenBrokerServiceServer<Call> as NamedService>::NAME;

type Responding<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Infallible>> + Send>>;
/// A service that a library made, behind one type.
type Handler = Arc<dyn Fn(Request<Incoming>) -> Responding<Body> + Send + Sync>;

/// Reflection can't be built.
#[derive(Debug, Error)]
#[error("the compiled-in descriptors can't be served by reflection")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

/// The services of one port.
#[derive(Clone)]
pub struct Services(Arc<Offered>);

struct Offered {
    /// For everybody: probes have no identity.
    health: HealthServer<Health>,
    /// None on the health port.
    broker: Option<Layer>,
    /// For everybody who is known.
    reflection: Vec<(&'static str, Handler)>,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").field("broker", &self.0.broker.is_some()).finish_non_exhaustive()
    }
}

impl Services {
    /// Everything: `GetToken`, health, reflection.
    ///
    /// # Errors
    /// Where the compiled-in descriptors are broken.
    pub fn all(broker: Arc<Broker>, observer: Arc<Observer>, health: &Health) -> Result<Self, ReflectionError> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // So that a client that shows errors knows their details.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        Ok(Self(Arc::new(Offered {
            health: health.server(),
            broker: Some(Layer::new(broker, observer)),
            reflection: vec![handler(reflection().build_v1()?), handler(reflection().build_v1alpha()?)],
        })))
    }

    /// Health alone, for probes.
    #[must_use]
    pub fn health_only(health: &Health) -> Self {
        Self(Arc::new(Offered { health: health.server(), broker: None, reflection: Vec::new() }))
    }

    /// What answers the calls of a session.
    #[must_use]
    pub fn of(&self, session: Arc<Session>) -> Calls {
        Calls { services: self.clone(), session }
    }
}

/// The calls of one connection.
#[derive(Debug)]
pub struct Calls {
    services: Services,
    session: Arc<Session>,
}

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Responding<AnswerBody>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut open = self.session.connection.begin_call();
        let (offered, session) = (Arc::clone(&self.services.0), Arc::clone(&self.session));
        Box::pin(async move {
            let (service, method) = called(&request);
            let is_health = service == Some(HealthServer::<Health>::NAME);
            let response = match &offered.broker {
                // The layer tells of whatever comes of it.
                Some(layer) if service == Some(SERVICE) => layer.call(request, &session).await,
                _ if layer::is_too_large(&request) => {
                    status::from_error(&BrokerError::MetadataTooLarge, &request_id(&request)).into_http()
                }
                _ if is_health && method == WATCH => {
                    drop(open);
                    return Ok(endless(&session, || offered.watch(request, &session)).await);
                }
                _ if is_health => counting(&session, Box::pin(offered.check(request, &session))).await,
                Some(layer) => match offered.reflection.iter().find(|(name, _)| service == Some(*name)) {
                    Some((_, handler)) => {
                        drop(open);
                        return Ok(endless(&session, || layer.reflect(handler, request, &session)).await);
                    }
                    None => unimplemented(),
                },
                None => unimplemented(),
            };
            open.answered();
            Ok(counted(response, open))
        })
    }
}

fn counted(response: Response<Body>, open: OpenCall) -> Response<AnswerBody> {
    response.map(|body| AnswerBody::Call(CountedBody::new(body, open)))
}

/// An answer that goes on, if its connection may have one more.
async fn endless<A: Future<Output = Response<Body>>>(session: &Session, answer: impl FnOnce() -> A) -> Response<AnswerBody> {
    let stream = session.connection.begin_endless();
    let response = match &stream {
        Some(_) => Box::pin(answer()).await,
        None => too_much(),
    };
    response.map(|body| AnswerBody::stream(body, session.closing.clone(), stream))
}

/// An answer that may have to wait.
async fn counting<A: Future<Output = Response<Body>>>(session: &Session, mut answering: Pin<Box<A>>) -> Response<Body> {
    session.connection.counting(WaitKind::Probe, answering.as_mut()).await.unwrap_or_else(too_much)
}

fn too_much() -> Response<Body> {
    let fault = "too much waits, or this connection has as many watches and reflections as one may: end some, or try again later";
    Status::resource_exhausted(fault).into_http()
}

/// The service and the method that a path names; the first that is looked for is ours, as in nearly all calls.
fn called<B>(request: &Request<B>) -> (Option<&str>, &str) {
    let Some(path) = request.uri().path().strip_prefix('/') else { return (None, "") };
    match path.strip_prefix(SERVICE).and_then(|rest| rest.strip_prefix('/')) {
        Some(method) => (Some(SERVICE), method),
        None => path.split_once('/').map_or((None, ""), |(service, method)| (Some(service), method)),
    }
}

impl Offered {
    /// Health, once.
    async fn check(&self, request: Request<Incoming>, session: &Session) -> Response<Body> {
        tokio::select! {
            biased;
            response = in_time(self.health.clone().call(request)) => response,
            () = session.too_late() => shutting_down().into_http(),
        }
    }

    /// Health, until the connection is to be closed.
    async fn watch(&self, request: Request<Incoming>, session: &Session) -> Response<Body> {
        tokio::select! {
            biased;
            response = in_time(self.health.clone().call(request)) => response,
            () = session.closing.cancelled() => shutting_down().into_http(),
        }
    }
}

impl Layer {
    /// Reflection, for whoever may be asked who they are and is known; for everybody while all of the policy is on trial.
    async fn reflect(&self, handler: &Handler, request: Request<Incoming>, session: &Session) -> Response<Body> {
        let id = request_id(&request);
        let answering = async {
            let (snapshot, now) = (self.broker.in_force(), self.observer.clock.now().wall);
            let identified = timeout(MESSAGE_TIMEOUT, identify(&snapshot.serving, session, request.headers(), now)).await;
            let on_trial = snapshot.policy.is_on_trial();
            drop(snapshot);
            match identified {
                Ok(Ok(_)) => in_time(handler(request)).await,
                Ok(Err(_)) | Err(_) if on_trial => in_time(handler(request)).await,
                Ok(Err(error)) => self.refused(&error, &id, session),
                Err(_elapsed) => self.refused(&BrokerError::DeadlineExceeded, &id, session),
            }
        };
        tokio::select! {
            biased;
            response = answering => response,
            () = session.closing.cancelled() => shutting_down().into_http(),
        }
    }

    /// A call beside `GetToken` whose caller is not known.
    fn refused(&self, error: &BrokerError, id: &RequestId, session: &Session) -> Response<Body> {
        let (reason, outcome) = (error.reason().as_str(), Outcome::TurnedAway.as_str());
        let kind = Kind { verdict: Verdict::Unauthenticated, reason, outcome, would_deny: None, audited: false };
        let Observer { strangers, clock, .. } = &*self.observer;
        if strangers.count(session.connection.address(), kind, clock.now().wall) {
            info!(request_id = %id, reason, %error, "no token");
        }
        status::from_error(error, id).into_http()
    }
}

fn request_id<B>(request: &Request<B>) -> RequestId {
    RequestId::given(request.headers().get(request_id::KEY))
}

fn handler<S>(server: S) -> (&'static str, Handler)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    (S::NAME, Arc::new(move |request| Box::pin(server.clone().call(request))))
}

/// An answer that begins in time. Watches and reflection begin at once, and then last as long as their connection.
async fn in_time(answering: impl Future<Output = Result<Response<Body>, Infallible>>) -> Response<Body> {
    let late = || Status::deadline_exceeded("the request's message did not come in time").into_http();
    timeout(MESSAGE_TIMEOUT, answering).await.map_or_else(|_elapsed| late(), |Ok(response)| response)
}

fn unimplemented() -> Response<Body> {
    let response = Status::unimplemented("no such method: list the services by reflection").into_http();
    status::completed(response, || RequestId::given(None))
}
