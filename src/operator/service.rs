//! `tokenbroker.operator.v1.OperatorService`, and its connections.
//!
//! Must never take more connections than a few, keep one for long, nor hold up the end of the process.

use std::{collections::HashMap, future::Future, pin::pin, sync::Arc, time::Duration};

use hyper::{rt::Executor, server::conn::http2};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};
use tracing::{debug, info, warn};

use super::{
    acts::{About, Operating, told},
    generated::{
        self as proto, Reach,
        operator_service_server::{OperatorService, OperatorServiceServer},
    },
    messages::{Listing, Shown, key, listing, merchant, page_token},
    socket::{OperatorSocket, Peer},
};
use crate::{
    broker::{BrokerError, FieldFault, single_users::UserView},
    net::{accept::Shutdown, log_limiter::LogLimiter},
    rpc::deadline,
    signin::Origin,
    user::UserKey,
    users::holds::Stop,
};

/// Most connections of one user who may act: some people and scripts.
const CONNECTIONS_MAX: usize = 16;
/// And of others, who are told that they are none.
const STRANGERS_MAX: usize = 4;
/// A connection lasts no longer: a command is done in seconds, and waits ten minutes for the vault at most.
const AGE: Duration = Duration::from_secs(660);
/// And a stranger's no longer than it takes to be told.
const STRANGERS_AGE: Duration = Duration::from_secs(5);
/// Calls at once on one connection.
const STREAMS_MAX: u32 = 8;
/// Most metadata of a call, in bytes.
const HEADER_LIST_MAX: u32 = 16 * 1024;
/// Longest request, in bytes: the names in it.
const REQUEST_MAX: usize = 4 * 1024;
/// How long a renewal may take that names no deadline: as callers' calls by default.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Once the broker ends, a connection on which nothing is under way is left open for this long.
const LEAVE: Duration = Duration::from_secs(1);
/// So often the refusals of strangers are told that no other has brought up.
const REFUSALS_TOLD_EVERY: Duration = Duration::from_secs(60);
/// Pause after an accept that failed: what is short, such as descriptors, is not there again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Operating {
    /// Serves the socket until the shutdown begins, and its connections, on `tasks`, until they end.
    pub async fn serve(self: Arc<Self>, socket: OperatorSocket, tasks: TaskTracker, shutdown: Shutdown) {
        info!(path = %socket.path().display(), "an operator can act on users");
        let (mut operators, strangers) = (HashMap::new(), Arc::new(Semaphore::new(STRANGERS_MAX)));
        let mut minute = interval(REFUSALS_TOLD_EVERY);
        minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut failed, mut full) = (LogLimiter::new(&self.clock), LogLimiter::new(&self.clock));
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.goaway.cancelled() => return self.tell_refusals(true),
                _ = minute.tick() => {
                    self.tell_refusals(false);
                    continue;
                }
                accepted = socket.listener.accept() => accepted,
            };
            let found = accepted.and_then(|(stream, _)| Peer::of(&stream).map(|peer| (stream, peer)));
            let (stream, peer) = match found {
                Ok(found) => found,
                Err(error) => {
                    if let Some(times) = failed.happened(1) {
                        warn!(%error, times, "a connection to the operator's socket can't be taken");
                    }
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let is_allowed = socket.allowed.lets(peer.uid);
            // Of those who may, who are few, each has places of its own: none keeps the others out.
            let (places, age) = if is_allowed {
                let own = operators.entry(peer.uid).or_insert_with(|| Arc::new(Semaphore::new(CONNECTIONS_MAX)));
                (Arc::clone(own), AGE)
            } else {
                (Arc::clone(&strangers), STRANGERS_AGE)
            };
            match places.try_acquire_owned() {
                Ok(place) => {
                    let (operating, tasks, abort) = (Arc::clone(&self), tasks.clone(), shutdown.abort.clone());
                    let session = Session { operating, peer, is_allowed, tasks: tasks.clone(), abort };
                    tasks.spawn(session.serve(stream, place, age, shutdown.goaway.clone()));
                }
                Err(_full) => {
                    if let Some(times) = full.happened(1) {
                        warn!(uid = peer.uid, times, "too many connections to the operator's socket: new ones are closed");
                    }
                }
            }
        }
    }
}

/// One connection.
#[derive(Clone)]
struct Session {
    operating: Arc<Operating>,
    peer: Peer,
    is_allowed: bool,
    tasks: TaskTracker,
    abort: CancellationToken,
}

/// Spawns what hyper has to run beside a connection where the process' end waits for it.
#[derive(Clone)]
struct Beside(TaskTracker);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Beside {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

impl Session {
    async fn serve(self, stream: UnixStream, _place: OwnedSemaphorePermit, age: Duration, goaway: CancellationToken) {
        let (tasks, abort, is_allowed) = (self.tasks.clone(), self.abort.clone(), self.is_allowed);
        let service = OperatorServiceServer::new(self).max_decoding_message_size(REQUEST_MAX);
        let mut builder = http2::Builder::new(Beside(tasks));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADER_LIST_MAX)
            .auto_date_header(false);
        let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "a connection to the operator's socket broke");
                }
                return;
            }
            () = sleep(age) => return,
            () = goaway.cancelled() => {}
        }
        if !is_allowed {
            return;
        }
        serving.as_mut().graceful_shutdown();
        tokio::select! {
            _ended = serving => {}
            // One that says nothing must not hold the process's end up; what was begun goes on without it.
            () = sleep(LEAVE) => {}
            () = abort.cancelled() => {}
        }
    }

    async fn told<T>(
        &self,
        act: &'static str,
        run: impl AsyncFnOnce(&mut About) -> Result<T, BrokerError>,
    ) -> Result<Response<T>, Status> {
        told(&self.operating, (self.peer, self.is_allowed), About::of(act), run).await
    }

    /// Runs an act of this session's whether or not its client waits for it.
    async fn act<T: Send + 'static, F>(&self, act: impl FnOnce(Self) -> F) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send + 'static,
    {
        if !self.is_allowed {
            // It is refused at once, and takes nobody's place.
            return Box::pin(act(self.clone())).await;
        }
        self.operating.detached((&self.tasks, &self.abort), Box::pin(act(self.clone()))).await
    }

    fn shown<T>(&self, reveal: bool, show: impl FnOnce(&Shown<'_>) -> T) -> T {
        let broker = &self.operating.broker;
        show(&Shown { now: broker.now(), told: &|stop| broker.stopped(stop), reveal })
    }

    fn user(&self, view: &UserView, reveal: bool) -> proto::User {
        self.shown(reveal, |shown| shown.user(view))
    }

    fn failure(&self, stop: &Stop) -> proto::Failure {
        self.shown(false, |shown| shown.failure(stop))
    }
}

/// Notes whom an act is about.
fn meant(about: &mut About, merchant_id: String, number: String) -> Result<UserKey, BrokerError> {
    let key = key(merchant_id, number)?;
    about.user = Some(key.clone());
    Ok(key)
}

fn reach(is_told: bool) -> i32 {
    if is_told { Reach::AllReplicas } else { Reach::ThisReplica }.into()
}

/// The acts themselves.
impl Session {
    async fn list(self, request: Request<proto::ListUsersRequest>) -> Result<Response<proto::ListUsersResponse>, Status> {
        self.told("list", async |about| {
            let request = request.into_inner();
            about.revealed = request.reveal;
            let reveal = request.reveal;
            let Listing { filter, after, most } = listing(request, &self.operating.order)?;
            about.merchant.clone_from(&filter.merchant);
            let operating = Arc::clone(&self.operating);
            let list = move || operating.broker.list(&filter, &operating.order, after.as_ref(), most);
            let page = spawn_blocking(list).await.map_err(|_broke| BrokerError::Internal)?;
            Ok(proto::ListUsersResponse {
                users: self.shown(reveal, |shown| page.users.iter().map(|view| shown.user(view)).collect()),
                next_page_token: page.next.map(|position| page_token(&position, &self.operating.order)).unwrap_or_default(),
                total_size: u32::try_from(page.total).unwrap_or(u32::MAX),
            })
        })
        .await
    }

    async fn show(self, request: Request<proto::GetUserRequest>) -> Result<Response<proto::GetUserResponse>, Status> {
        self.told("show", async |about| {
            let proto::GetUserRequest { merchant_id, number, reveal } = request.into_inner();
            about.revealed = reveal;
            let key = meant(about, merchant_id, number)?;
            let view = self.operating.broker.show(&key)?;
            Ok(proto::GetUserResponse { user: Some(self.user(&view, reveal)) })
        })
        .await
    }

    async fn renew(self, request: Request<proto::RenewTokenRequest>) -> Result<Response<proto::RenewTokenResponse>, Status> {
        self.told("renew", async |about| {
            let malformed = |_| {
                let fault = "is no timeout: 1 to 8 digits and a unit".to_owned();
                BrokerError::InvalidRequest(vec![FieldFault { field: "grpc-timeout".into(), fault }])
            };
            let headers = request.metadata().clone().into_headers();
            let timeout = deadline::timeout(&headers, TIMEOUT_DEFAULT).map_err(malformed)?;
            let proto::RenewTokenRequest { merchant_id, number } = request.into_inner();
            let key = meant(about, merchant_id, number)?;
            let broker = &self.operating.broker;
            let origin = broker.renew_now(&key, broker.now().mono + timeout).await?;
            let view = broker.show(&key)?;
            about.token_id = view.token.as_ref().map(|(cached, _)| cached.id());
            let (user, reach) = (Some(self.user(&view, false)), reach(broker.is_found_by_others(&key).await));
            Ok(proto::RenewTokenResponse { user, taken_from_another: origin == Origin::Shared, reach })
        })
        .await
    }

    async fn drop_one(self, request: Request<proto::DropTokenRequest>) -> Result<Response<proto::DropTokenResponse>, Status> {
        self.told("drop", async |about| {
            let proto::DropTokenRequest { merchant_id, number } = request.into_inner();
            let key = meant(about, merchant_id, number)?;
            let (dropped, is_told) = self.operating.broker.drop_token(&key).await?;
            about.token_id = dropped.as_ref().map(|dropped| dropped.token_id);
            let token_id = about.token_id.map(|id| id.as_str().to_owned()).unwrap_or_default();
            let signs_out = dropped.is_some_and(|dropped| dropped.signs_out);
            Ok(proto::DropTokenResponse { token_id, signs_out, reach: reach(is_told) })
        })
        .await
    }

    async fn lift(self, request: Request<proto::LiftHoldRequest>) -> Result<Response<proto::LiftHoldResponse>, Status> {
        self.told("lift_hold", async |about| {
            let proto::LiftHoldRequest { merchant_id, number } = request.into_inner();
            let key = meant(about, merchant_id, number)?;
            let (lifted, is_told) = self.operating.broker.lift_hold(&key).await?;
            Ok(proto::LiftHoldResponse { lifted: lifted.map(|stop| self.failure(&stop)), reach: reach(is_told) })
        })
        .await
    }

    async fn lift_all(self, request: Request<proto::LiftWaitsRequest>) -> Result<Response<proto::LiftWaitsResponse>, Status> {
        self.told("lift_waits", async |about| {
            let merchant = merchant(request.into_inner().merchant_id)?;
            about.merchant = Some(merchant.clone());
            let lifted = self.operating.broker.lift_waits(&merchant).await;
            let (lifted, is_told) = lifted.ok_or_else(|| {
                let fault = "has no users in the configuration: check it for a typing error".to_owned();
                BrokerError::InvalidRequest(vec![FieldFault { field: "merchant_id".into(), fault }])
            })?;
            Ok(proto::LiftWaitsResponse {
                lifted: lifted.merchant.map(|stop| self.failure(&stop)),
                users: u32::try_from(lifted.users.len()).unwrap_or(u32::MAX),
                reach: reach(is_told),
            })
        })
        .await
    }
}

#[tonic::async_trait]
impl OperatorService for Session {
    async fn list_users(&self, request: Request<proto::ListUsersRequest>) -> Result<Response<proto::ListUsersResponse>, Status> {
        self.act(|session| session.list(request)).await
    }

    async fn get_user(&self, request: Request<proto::GetUserRequest>) -> Result<Response<proto::GetUserResponse>, Status> {
        self.act(|session| session.show(request)).await
    }

    async fn renew_token(
        &self,
        request: Request<proto::RenewTokenRequest>,
    ) -> Result<Response<proto::RenewTokenResponse>, Status> {
        self.act(|session| session.renew(request)).await
    }

    async fn drop_token(&self, request: Request<proto::DropTokenRequest>) -> Result<Response<proto::DropTokenResponse>, Status> {
        self.act(|session| session.drop_one(request)).await
    }

    async fn lift_hold(&self, request: Request<proto::LiftHoldRequest>) -> Result<Response<proto::LiftHoldResponse>, Status> {
        self.act(|session| session.lift(request)).await
    }

    async fn lift_waits(&self, request: Request<proto::LiftWaitsRequest>) -> Result<Response<proto::LiftWaitsResponse>, Status> {
        self.act(|session| session.lift_all(request)).await
    }
}
