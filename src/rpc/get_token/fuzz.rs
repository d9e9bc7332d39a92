//! Any request.

use std::time::Duration;

use prost::Message as _;
use tokio::time::Instant;

use super::{MIN_REMAINING_MAX, REJECTED_TOKEN_ID_MAX, REJECTED_TOKEN_IDS_MAX, parse};
use crate::{proto::v1::GetTokenRequest, telemetry::traces::Span};

const FIELDS: [&str; 4] = ["merchant_id", "number", "min_remaining", "rejected_token_ids"];
/// No word of ours.
const MARK: &str = "kt7Zq0wR2x";

/// As the wire has it.
#[allow(clippy::disallowed_methods, reason = "any instant will do")]
pub(crate) fn request(input: &[u8]) {
    let Ok(message) = GetTokenRequest::decode(input) else { return };
    match parse(message.clone(), Instant::now(), &Span::default()) {
        Ok(wanted) => {
            assert_eq!(wanted.key.merchant.as_str(), message.merchant_id);
            assert_eq!(wanted.key.number.expose(), message.number);
            let min_remaining = message.min_remaining.map_or(Some(Duration::ZERO), |duration| duration.try_into().ok());
            assert_eq!(Some(wanted.min_remaining), min_remaining);
            assert!(wanted.min_remaining <= MIN_REMAINING_MAX);
            assert!(
                wanted.rejected_token_ids == message.rejected_token_ids
                    && wanted.rejected_token_ids.len() <= REJECTED_TOKEN_IDS_MAX
            );
            assert!(wanted.rejected_token_ids.iter().all(|id| id.chars().count() <= REJECTED_TOKEN_ID_MAX));
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "no fault, and no request");
            for fault in faults {
                assert!(FIELDS.iter().any(|field| fault.field.starts_with(field)) && !fault.fault.is_empty(), "{}", fault.field);
            }
            repeats_nothing(message);
        }
    }
}

/// No fault repeats what it is about: whatever was given is marked, since some of it may be a sentence of ours.
#[allow(clippy::disallowed_methods, reason = "any instant will do")]
fn repeats_nothing(mut message: GetTokenRequest) {
    [&mut message.merchant_id, &mut message.number]
        .into_iter()
        .chain(&mut message.rejected_token_ids)
        .for_each(|value| value.push_str(MARK));
    for fault in parse(message, Instant::now(), &Span::default()).err().into_iter().flatten() {
        assert!(!fault.fault.contains(MARK), "{}: {}", fault.field, fault.fault);
    }
}
