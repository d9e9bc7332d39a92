//! One act: whether whoever asks may, what came of it, and the line in the audit trail.
//!
//! Must never end without that line, be broken off because whoever asked went away, nor let a stranger learn whether a user is
//! configured, or fill a disk.

use std::{
    collections::HashMap,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tracing::{info, warn};

use super::socket::Peer;
use crate::{
    broker::{Broker, BrokerError, single_users::Order},
    clock::Clock,
    net::log_limiter::LogLimiter,
    reason::{DOMAIN, Reason},
    request_id::RequestId,
    rpc::status,
    telemetry::audit::{Audit, OperatorAct, Verdict},
    tokens::token::TokenId,
    user::{MerchantId, UserKey},
    users::shares::Shed,
};

/// Most acts at once: those whose clients went away count too.
const ACTS_MAX: usize = 32;
/// How long an act waits for its place: those who renew may wait for the vault for minutes.
const PLACE_PATIENCE: Duration = Duration::from_secs(1);
/// Most strangers whose refusals are counted each; a machine has few users. All beyond share a count.
const STRANGERS_MAX: usize = 64;

/// Acts of somebody who may not, by user: how many, whose the last was, and what.
type Refusals = HashMap<Option<u32>, (LogLimiter, Peer, &'static str)>;

/// What acts are done with.
#[derive(Debug)]
pub struct Operating {
    pub(super) broker: Arc<Broker>,
    pub(super) audit: Audit,
    pub(super) clock: Arc<dyn Clock>,
    /// Of lists.
    pub(super) order: Order,
    places: Arc<Semaphore>,
    /// None is for users beyond the bound.
    refusals: Mutex<Refusals>,
}

impl Operating {
    /// Acts on the users of this broker, told of there.
    #[must_use]
    pub fn new(broker: Arc<Broker>, audit: Audit, clock: Arc<dyn Clock>) -> Arc<Self> {
        let (order, places, refusals) = (Order::default(), Arc::new(Semaphore::new(ACTS_MAX)), Mutex::default());
        Arc::new(Self { broker, audit, clock, order, places, refusals })
    }

    /// Counts an act of somebody who may not; for how many it is to be told of, if it is: one user's first at once, then once a minute.
    fn count_refusal(&self, peer: Peer, act: &'static str) -> Option<u64> {
        let mut refusals = self.refusals();
        let is_counted = refusals.len() < STRANGERS_MAX || refusals.contains_key(&Some(peer.uid));
        let counted = refusals.entry(is_counted.then_some(peer.uid));
        let (limiter, last_peer, last_act) = counted.or_insert_with(|| (LogLimiter::new(&self.clock), peer, act));
        (*last_peer, *last_act) = (peer, act);
        limiter.happened(1)
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of refusals that were counted and not told yet, where their minute is over; at the end, of all.
    pub(super) fn tell_refusals(&self, at_the_end: bool) {
        let untold: Vec<_> = self
            .refusals()
            .values_mut()
            .filter_map(|(limiter, peer, act)| {
                let count = if at_the_end { limiter.last() } else { limiter.rest() };
                count.map(|count| (count, *peer, *act))
            })
            .collect();
        for (count, peer, act) in untold {
            let mut refused = UnderWay { operating: self, peer, about: About::of(act), is_told: false };
            refused.tell(Verdict::Denied, Reason::CallerNotAllowed.as_str(), count);
        }
    }

    /// Runs an act to its end, whoever waits for it; only `abort`, the end of the process, breaks it off.
    pub(super) async fn detached<T: Send + 'static>(
        &self,
        (tasks, abort): (&TaskTracker, &CancellationToken),
        act: Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>,
    ) -> Result<Response<T>, Status> {
        let Ok(Ok(place)) = timeout(PLACE_PATIENCE, Arc::clone(&self.places).acquire_owned()).await else {
            return Err(status::from_error(
                &BrokerError::Overloaded { why: Shed::Full, wait: PLACE_PATIENCE },
                &RequestId::random(),
            ));
        };
        let abort = abort.clone();
        let running = tasks.spawn(async move {
            let _place = place;
            abort.run_until_cancelled_owned(act).await
        });
        let error = match running.await {
            Ok(Some(done)) => return done,
            Ok(None) => BrokerError::ShuttingDown,
            // The panic's text is in nobody's interest; where it was is in the log.
            Err(_panic) => BrokerError::Internal,
        };
        Err(status::from_error(&error, &RequestId::random()))
    }
}

/// What an act is about: what the audit trail tells of it.
#[derive(Default)]
pub(super) struct About {
    pub(super) act: &'static str,
    pub(super) merchant: Option<MerchantId>,
    pub(super) user: Option<UserKey>,
    pub(super) revealed: bool,
    pub(super) token_id: Option<TokenId>,
}

impl About {
    pub(super) fn of(act: &'static str) -> Self {
        Self { act, ..Self::default() }
    }
}

/// An act under way. Dropped before it is told of, it broke off.
struct UnderWay<'o> {
    operating: &'o Operating,
    peer: Peer,
    about: About,
    is_told: bool,
}

impl UnderWay<'_> {
    fn tell(&mut self, verdict: Verdict, reason: &'static str, count: u64) {
        self.is_told = true;
        let About { act, merchant, user, revealed, token_id } = mem::take(&mut self.about);
        let Self { operating: Operating { audit, clock, .. }, peer: Peer { uid, pid }, .. } = *self;
        if verdict == Verdict::Denied {
            warn!(
                act,
                uid,
                pid,
                times = count,
                "an act of somebody who is no operator was refused: [operator] uids lists who is"
            );
        } else {
            info!(act, uid, pid, reason, "an operator's act");
        }
        let at = clock.now().wall;
        audit.operator(OperatorAct { at, uid, pid, act, merchant, user, revealed, verdict, reason, token_id, count });
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            let reason = if thread::panicking() { Reason::Internal } else { Reason::BrokerShuttingDown };
            self.tell(Verdict::Failed, reason.as_str(), 1);
        }
    }
}

/// Runs an act for whoever asks, and tells of it. What it learns of what it is about, it notes there.
pub(super) async fn told<T>(
    operating: &Operating,
    (peer, is_allowed): (Peer, bool),
    about: About,
    act: impl AsyncFnOnce(&mut About) -> Result<T, BrokerError>,
) -> Result<Response<T>, Status> {
    let id = RequestId::random();
    let mut under_way = UnderWay { operating, peer, about, is_told: false };
    if !is_allowed {
        match operating.count_refusal(peer, under_way.about.act) {
            Some(count) => under_way.tell(Verdict::Denied, Reason::CallerNotAllowed.as_str(), count),
            None => under_way.is_told = true,
        }
        return Err(refused(peer, &id));
    }
    match act(&mut under_way.about).await {
        Ok(done) => {
            under_way.tell(Verdict::Allowed, "", 1);
            Ok(Response::new(done))
        }
        Err(error) => {
            under_way.tell(Verdict::Failed, error.reason().as_str(), 1);
            Err(status::from_error(&error, &id))
        }
    }
}

fn refused(Peer { uid, .. }: Peer, id: &RequestId) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(Reason::CallerNotAllowed.as_str(), DOMAIN, HashMap::new());
    details.set_request_info(id.text().as_str(), "");
    let text =
        format!("user {uid} is no operator of this broker: run it as the broker's own user, or have operator.uids list {uid}");
    Status::with_error_details(tonic::Code::PermissionDenied, text, details)
}
