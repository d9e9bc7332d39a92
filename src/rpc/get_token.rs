//! proto ↔ model: parses a call, asks the broker, and answers.
//!
//! Must never let a value through that was not checked, nor put a number or a token where a person reads it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tracing::{debug, error, info};

use super::{guard::Call, request_id::RequestId, status};
use crate::{
    broker::{Answer, Broker, BrokerError, FieldFault, NoToken, Request as Wanted},
    caller::CallerId,
    proto::v1::{GetTokenRequest, GetTokenResponse, Token, token_broker_service_server::TokenBrokerService},
    telemetry::{
        audit::{self, Decision, Verdict},
        traces::Span,
    },
    user::{MerchantId, Number, UserKey},
};

/// Longest `min_remaining`: the contract's, and no token is taken to live longer.
const MIN_REMAINING_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Most `rejected_token_ids`: the contract's, and many times the replicas that there are.
const REJECTED_TOKEN_IDS_MAX: usize = 16;
/// The longest of them, in characters; ours have 32.
const REJECTED_TOKEN_ID_MAX: usize = 64;
/// How every token is presented (RFC 6750), whatever case the vault writes it in.
const TOKEN_TYPE: &str = "Bearer";

/// The service of the wire contract.
#[derive(Clone, Debug)]
pub struct Api {
    broker: Arc<Broker>,
}

impl Api {
    /// The service over `broker`.
    #[must_use]
    pub fn new(broker: Arc<Broker>) -> Self {
        Self { broker }
    }
}

#[tonic::async_trait]
impl TokenBrokerService for Api {
    async fn get_token(&self, request: Request<GetTokenRequest>) -> Result<Response<GetTokenResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        let call = extensions.get::<Arc<Call>>();
        let Some((call, (deadline, caller))) = call.and_then(|call| Some((call, call.known()?))) else {
            // Every way here leads through `services`.
            return Err(status::from_error(&BrokerError::Internal, &RequestId::given(None)));
        };
        let (key, result) = match parse(message, deadline, &call.span) {
            Ok(wanted) => {
                let result = self.broker.get_token(caller, &wanted).await;
                (Some(wanted.key), result)
            }
            Err(faults) => (None, Err(BrokerError::InvalidRequest(faults).into())),
        };
        audit(&result, call, caller, key.as_ref());
        match result {
            Ok(answer) => {
                let (id, token_id) = (&call.id, answer.cached.id());
                debug!(request_id = %id, %caller, user = key.map(tracing::field::display), outcome = answer.outcome.as_str(), %token_id, "answered");
                call.answered(&answer);
                Ok(Response::new(reply(&answer)))
            }
            Err(why) => {
                log(&why.error, call, caller, key.as_ref());
                call.refused(&why);
                Err(status::from_error(&why.error, &call.id))
            }
        }
    }
}

fn audit(result: &Result<Answer, NoToken>, call: &Call, caller: &CallerId, key: Option<&UserKey>) {
    let (verdict, reason) = match result.as_ref().map_err(|why| &why.error) {
        Ok(_) => (Verdict::Allowed, ""),
        Err(error @ BrokerError::NotAllowed { .. }) => (Verdict::Denied, error.reason()),
        Err(error) => (Verdict::Failed, error.reason()),
    };
    audit::decision(&Decision {
        caller: Some(caller),
        user: key.map(|key| (&key.merchant, &key.number)),
        verdict,
        reason,
        outcome: result.as_ref().map_or_else(|why| why.outcome, |answer| answer.outcome).as_str(),
        token_id: result.as_ref().ok().map(|answer| answer.cached.id()),
        request_id: call.id.as_str(),
        trace_id: call.trace_id(),
    });
}

/// One line per call that got no token; the queue before standard output bounds what a bad day may cost.
fn log(error: &BrokerError, call: &Call, caller: &CallerId, key: Option<&UserKey>) {
    let (reason, request_id, trace_id) = (error.reason(), &call.id, call.trace_id().map(tracing::field::display));
    let merchant_id = key.map(|key| tracing::field::display(&key.merchant));
    let number = key.map(|key| tracing::field::display(&key.number));
    if *error == BrokerError::Internal {
        error!(%request_id, trace_id, %caller, merchant_id, number, reason, "no token");
    } else {
        info!(%request_id, trace_id, %caller, merchant_id, number, reason, %error, "no token");
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
            key: UserKey { merchant, number },
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

fn reply(answer: &Answer) -> GetTokenResponse {
    let token = &answer.cached.token;
    let left = answer.cached.left_at(answer.at);
    // A wall clock that was set back since the sign-in must not make it look longer than it is.
    let expires =
        answer.at.wall.checked_add(left).map_or(token.expires.wall, |by_what_is_left| by_what_is_left.min(token.expires.wall));
    GetTokenResponse {
        token: Some(Token {
            access_token: token.access_token.expose().to_owned(),
            token_type: TOKEN_TYPE.to_owned(),
            expires_at: Some(prost_types::Timestamp::from(expires)),
            scope: token.scope.as_ref().to_owned(),
            token_id: token.id.to_string(),
            expires_in: prost_types::Duration::try_from(left).ok(),
        }),
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
