//! `grpc.health.v1`: whether the process lives, and whether it is ready.
//!
//! Must never end a watch by itself, not even one of a service that nobody knows (health.proto: SERVICE_UNKNOWN, and the call goes
//! on); whoever serves the connection ends it with that.

use std::{collections::BTreeMap, pin::Pin};

use futures_util::{Stream, stream::unfold};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{self, HealthServer},
};

/// The process itself.
const PROCESS: &str = "";
/// Longest request, in bytes: it is a service's name.
const REQUEST_MAX: usize = 4 * 1024;

/// The status of each service that is known.
type Known = BTreeMap<&'static str, ServingStatus>;

/// What health says; clones say the same.
#[derive(Clone, Debug)]
pub struct Health(watch::Sender<Known>);

impl Health {
    /// The process lives.
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(Known::from([(PROCESS, ServingStatus::Serving)])))
    }

    /// A service is ready, or not; from now on it is known.
    pub fn set(&self, service: &'static str, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.0.send_modify(|known| {
            known.insert(service, status);
        });
    }

    /// The service of a port.
    pub(super) fn server(&self) -> HealthServer<Self> {
        HealthServer::new(self.clone()).max_decoding_message_size(REQUEST_MAX)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let status = self.0.borrow().get(request.get_ref().service.as_str()).copied();
        status.map(|status| Response::new(response(status))).ok_or_else(|| Status::not_found("no such service"))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let first = (self.0.subscribe(), None, service);
        Ok(Response::new(Box::pin(unfold(first, |(mut news, said, service)| async move {
            loop {
                let status = news.borrow_and_update().get(service.as_str()).copied().unwrap_or(ServingStatus::ServiceUnknown);
                if said != Some(status) {
                    return Some((Ok(response(status)), (news, Some(status), service)));
                }
                // The sender lives as long as the port.
                news.changed().await.ok()?;
            }
        }))))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::{health_server::Health as _, *};

    #[tokio::test]
    async fn a_watch_begins_with_what_is_so_and_tells_each_change_once() {
        let health = Health::new();
        let request = || Request::new(HealthCheckRequest { service: "late".to_owned() });
        assert_eq!(health.check(request()).await.expect_err("nobody knows it").code(), tonic::Code::NotFound);
        let mut watch = health.watch(request()).await.expect("it begins").into_inner();
        let mut next = || watch.next().now_or_never().map(|said| said.expect("it goes on").expect("it is no error").status());
        assert_eq!((next(), next()), (Some(ServingStatus::ServiceUnknown), None));
        health.set("other", true);
        assert_eq!(next(), None);
        health.set("late", false);
        assert_eq!((next(), next()), (Some(ServingStatus::NotServing), None));
        health.set("late", true);
        health.set("late", true);
        assert_eq!((next(), next()), (Some(ServingStatus::Serving), None));
        assert_eq!(health.check(request()).await.expect("is known").get_ref().status(), ServingStatus::Serving);
    }
}
