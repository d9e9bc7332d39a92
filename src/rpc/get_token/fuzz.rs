//! Any request.

use std::time::Duration;

use prost::Message as _;
use tokio::time::Instant;

use super::{MIN_REMAINING_MAX, REJECTED_TOKEN_ID_MAX, REJECTED_TOKEN_IDS_MAX, parse};
use crate::{proto::v1::GetTokenRequest, telemetry::traces::Span};

const FIELDS: [&str; 4] = ["merchant_id", "number", "min_remaining", "rejected_token_ids"];
/// What is shorter may be a word of ours.
const VALUE_LEAST: usize = 6;

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
                let given = [&message.merchant_id, &message.number].into_iter().chain(&message.rejected_token_ids);
                for value in given.filter(|value| value.len() >= VALUE_LEAST && value.chars().any(|char| char.is_ascii_digit())) {
                    assert!(!fault.fault.contains(&**value) || is_example(value), "{} repeats {value:?}", fault.field);
                }
            }
        }
    }
}

/// Whether a value stands in the texts anyway.
fn is_example(value: &str) -> bool {
    "such as +447871239999; is too long: at most 128 characters; is not 7 to 15 digits long; is longer than 64 characters; has more than 16 \
     entries; has nanos outside 0 to 999,999,999; is longer than 7 days, which no token lives; is negative: give 0 to 7 days"
        .contains(value)
}
