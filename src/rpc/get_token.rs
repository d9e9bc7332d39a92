//! `GetToken`: parses a call, asks the broker, and replies.
//!
//! Must never let a value through that was not checked, nor end a call: what it learns it notes, and the layer around it tells.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use super::{encode::Reply, generated::token_broker_service_server::TokenBrokerService, status};
use crate::{
    broker::{Broker, BrokerError, FieldFault, NoToken, Outcome, Request as Wanted},
    caller::CallerId,
    clock::Moment,
    live::Snapshot,
    proto::v1::GetTokenRequest,
    reason::Reason,
    request_id::RequestId,
    telemetry::traces::Span,
    tokens::token::TokenId,
    user::{MerchantId, Number, UserKey},
};

/// Longest `min_remaining`: the contract's, and no token is taken to live longer.
const MIN_REMAINING_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Most `rejected_token_ids`: the contract's, and many times the replicas that there are.
const REJECTED_TOKEN_IDS_MAX: usize = 16;
/// The longest of them, in characters; ours have 32.
const REJECTED_TOKEN_ID_MAX: usize = 64;

/// One call of `GetToken`: what its handler works on, and where it notes what it learns. It is served as a service of its own, so that
/// the generated code hands the handler all of this, typed.
pub(super) struct Call {
    pub(super) broker: Arc<Broker>,
    /// Who calls.
    pub(super) caller: CallerId,
    /// When the caller stops waiting.
    pub(super) deadline: Instant,
    pub(super) id: RequestId,
    pub(super) span: Span,
    pub(super) notes: Notes,
}

/// What the handler is given once, and what it learns, for the guard that tells of the call's end.
pub(super) struct Notes(Mutex<Learnt>);

struct Learnt {
    /// What was in force when the call began, until it is judged by it.
    snapshot: Option<Arc<Snapshot>>,
    user: Option<Arc<UserKey>>,
    /// Why the call would have been refused, if the policy were not on trial: the first of the reasons.
    would_deny: Option<Reason>,
    end: Option<End>,
}

/// How a call ended.
pub(super) enum End {
    /// With a token.
    Answered { outcome: Outcome, token_id: TokenId, left: Duration, at: Moment },
    /// With an error.
    Refused(NoToken),
    /// The gRPC library said no in the handler's place.
    RefusedBelow(Code),
    /// The caller went away.
    Cancelled,
}

impl End {
    /// When it was decided, where that is known.
    pub(super) fn at(&self) -> Option<Moment> {
        match self {
            Self::Answered { at, .. } => Some(*at),
            Self::Refused(_) | Self::RefusedBelow(_) | Self::Cancelled => None,
        }
    }

    pub(super) fn token_id(&self) -> Option<TokenId> {
        match self {
            Self::Answered { token_id, .. } => Some(*token_id),
            Self::Refused(_) | Self::RefusedBelow(_) | Self::Cancelled => None,
        }
    }
}

impl Notes {
    pub(super) fn new(snapshot: Arc<Snapshot>, would_deny: Option<Reason>) -> Self {
        Self(Mutex::new(Learnt { snapshot: Some(snapshot), user: None, would_deny, end: None }))
    }

    fn take_snapshot(&self) -> Option<Arc<Snapshot>> {
        self.lock().snapshot.take()
    }

    fn user(&self, user: &Arc<UserKey>) {
        self.lock().user = Some(Arc::clone(user));
    }

    /// The policy denies the call, and that is on trial.
    fn on_trial(&self) {
        self.lock().would_deny.get_or_insert(Reason::CallerNotAllowed);
    }

    fn end(&self, end: End) {
        self.lock().end = Some(end);
    }

    /// For whom it was, and why it would have been refused.
    pub(super) fn take_user(&self) -> (Option<Arc<UserKey>>, Option<Reason>) {
        let mut learnt = self.lock();
        (learnt.user.take(), learnt.would_deny)
    }

    pub(super) fn take_end(&self) -> Option<End> {
        self.lock().end.take()
    }

    fn lock(&self) -> MutexGuard<'_, Learnt> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl TokenBrokerService for Call {
    async fn get_token(&self, request: Request<GetTokenRequest>) -> Result<Response<Reply>, Status> {
        let result = match parse(request.into_inner(), self.deadline, &self.span) {
            Ok(wanted) => {
                self.notes.user(&wanted.key);
                let snapshot = self.notes.take_snapshot().unwrap_or_else(|| self.broker.in_force());
                self.broker.get_token(snapshot, &self.caller, &wanted, || self.notes.on_trial()).await
            }
            Err(faults) => Err(BrokerError::InvalidRequest(faults).into()),
        };
        match result {
            Ok(answer) => {
                let left = answer.cached.left_at(answer.at);
                // The record's own, so that the request's is freed on this thread, and not by the audit trail's.
                self.notes.user(&answer.user);
                self.notes.end(End::Answered { outcome: answer.outcome, token_id: answer.cached.id(), left, at: answer.at });
                Ok(Response::new(Reply::new(answer, left)))
            }
            Err(why) => {
                let status = status::from_error(&why.error, &self.id);
                self.notes.end(End::Refused(why));
                Err(status)
            }
        }
    }
}

/// Checks a message; all faults at once.
fn parse(message: GetTokenRequest, deadline: Instant, span: &Span) -> Result<Wanted, Vec<FieldFault>> {
    let mut faults = Vec::new();
    let merchant = or_fault(MerchantId::parse(message.merchant_id), "merchant_id", &mut faults);
    let number = or_fault(Number::parse(message.number), "number", &mut faults);
    let min_remaining = or_fault(parse_min_remaining(message.min_remaining), "min_remaining", &mut faults);
    check_rejected(&message.rejected_token_ids, &mut faults);
    match (merchant, number, min_remaining) {
        (Some(merchant), Some(number), Some(min_remaining)) if faults.is_empty() => Ok(Wanted {
            key: Arc::new(UserKey { merchant, number }),
            min_remaining,
            rejected_token_ids: message.rejected_token_ids,
            deadline,
            span: span.clone(),
        }),
        _ => Err(faults),
    }
}

fn check_rejected(ids: &[String], faults: &mut Vec<FieldFault>) {
    if ids.len() > REJECTED_TOKEN_IDS_MAX {
        let fault = "has more than 16 entries: leave out those of tokens that would have ended by now".to_owned();
        faults.push(FieldFault { field: "rejected_token_ids".into(), fault });
        return;
    }
    for (at, id) in ids.iter().enumerate() {
        if id.chars().count() > REJECTED_TOKEN_ID_MAX {
            let fault = "is longer than 64 characters: give the token_id of the answer, not the token".to_owned();
            faults.push(FieldFault { field: format!("rejected_token_ids[{at}]").into(), fault });
        }
    }
}

fn or_fault<T>(result: Result<T, &'static str>, field: &'static str, faults: &mut Vec<FieldFault>) -> Option<T> {
    result.map_err(|fault| faults.push(FieldFault { field: field.into(), fault: fault.to_owned() })).ok()
}

fn parse_min_remaining(value: Option<prost_types::Duration>) -> Result<Duration, &'static str> {
    let Some(value) = value else { return Ok(Duration::ZERO) };
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        (Ok(seconds), Ok(nanos @ 0..=999_999_999)) => {
            let duration = Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()));
            if duration <= MIN_REMAINING_MAX { Ok(duration) } else { Err("is longer than 7 days, which no token lives") }
        }
        (Ok(_), _) => Err("has nanos outside 0 to 999,999,999"),
        (Err(_), _) => Err("is negative: give 0 to 7 days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn min_remaining_is_zero_to_seven_days() {
        let parse = |seconds, nanos| parse_min_remaining(Some(prost_types::Duration { seconds, nanos }));
        assert_eq!(parse_min_remaining(None), Ok(Duration::ZERO));
        assert_eq!(parse(0, 0), Ok(Duration::ZERO));
        assert_eq!(parse(90, 500_000_000), Ok(Duration::from_millis(90_500)));
        assert_eq!(parse(604_800, 0), Ok(MIN_REMAINING_MAX));
        for (seconds, nanos) in [(604_800, 1), (-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, i32::MAX), (i64::MIN, i32::MIN)] {
            assert!(parse(seconds, nanos).is_err(), "{seconds} s {nanos} ns");
        }
    }
}
