//! One act: whether whoever asks may, what came of it, and the line in the audit trail.
//!
//! Must never end without that line, nor let a stranger learn whether a user is configured.

use std::{collections::HashMap, sync::Arc};

use tonic::{Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tracing::{info, warn};

use super::socket::Peer;
use crate::{
    broker::{Broker, BrokerError, single_users::Order},
    reason::{DOMAIN, Reason},
    request_id::RequestId,
    rpc::status,
    telemetry::audit::{Audit, OperatorAct, Verdict},
    tokens::token::TokenId,
    user::{MerchantId, UserKey},
};

/// What acts are done with.
#[derive(Debug)]
pub struct Operating {
    pub(super) broker: Arc<Broker>,
    pub(super) audit: Audit,
    /// Of lists.
    pub(super) order: Order,
}

impl Operating {
    /// Acts on the users of this broker, told of there.
    #[must_use]
    pub fn new(broker: Arc<Broker>, audit: Audit) -> Arc<Self> {
        Arc::new(Self { broker, audit, order: Order::default() })
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

/// Runs an act for whoever asks, and tells of it. What it learns of what it is about, it notes there.
pub(super) async fn told<T>(
    operating: &Operating,
    (peer, is_allowed): (Peer, bool),
    mut about: About,
    act: impl AsyncFnOnce(&mut About) -> Result<T, BrokerError>,
) -> Result<Response<T>, Status> {
    let id = RequestId::random();
    let done = if is_allowed { act(&mut about).await.map_err(Some) } else { Err(None) };
    let (verdict, reason) = match &done {
        Ok(_) => (Verdict::Allowed, ""),
        Err(Some(error)) => (Verdict::Failed, error.reason().as_str()),
        Err(None) => (Verdict::Denied, Reason::CallerNotAllowed.as_str()),
    };
    let About { act, merchant, user, revealed, token_id } = about;
    let Peer { uid, pid } = peer;
    let at = operating.broker.now().wall;
    if is_allowed {
        info!(act, uid, pid, reason, "an operator's act");
    } else {
        warn!(act, uid, pid, "an act of somebody who is no operator was refused: [operator] uids lists who is");
    }
    operating.audit.operator(OperatorAct { at, uid, pid, act, merchant, user, revealed, verdict, reason, token_id });
    done.map(Response::new).map_err(|error| match error {
        Some(error) => status::from_error(&error, &id),
        None => refused(peer, &id),
    })
}

fn refused(Peer { uid, .. }: Peer, id: &RequestId) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(Reason::CallerNotAllowed.as_str(), DOMAIN, HashMap::new());
    details.set_request_info(id.text().as_str(), "");
    let text =
        format!("user {uid} is no operator of this broker: run it as the broker's own user, or have operator.uids list {uid}");
    Status::with_error_details(tonic::Code::PermissionDenied, text, details)
}
