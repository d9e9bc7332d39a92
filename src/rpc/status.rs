//! The only error → `Status` map.
//!
//! Must never let an error out without its reason, nor with a text of the vault's or of a library's.

use std::{collections::HashMap, time::Duration};

use http::Response;
use tonic::{Code, Status, body::Body, metadata::MetadataMap};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::{
    broker::{BrokerError, FieldFault},
    reason::{DOMAIN, Reason},
    request_id::RequestId,
    timestamp,
};

/// The trailer that gRPC's own retry policy reads (gRFC A6): milliseconds, or −1 for "don't".
pub const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// A longer wait than this is none to sit out inside a call.
const PUSHBACK_MAX: Duration = Duration::from_secs(5);

/// After this the cluster's API server is worth another try.
const IDENTITY_WAIT: Duration = Duration::from_secs(1);

/// The code that stands for an error.
pub(super) fn code(error: &BrokerError) -> Code {
    // It is what gRPC's own libraries say.
    if *error == BrokerError::MetadataTooLarge { Code::ResourceExhausted } else { error.reason().code() }
}

/// A code's name, as the specification writes it.
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The wait to tell, where repeating helps.
fn wait(error: &BrokerError) -> Option<Duration> {
    match error {
        BrokerError::Throttled { wait, .. }
        | BrokerError::VaultUnavailable { wait, .. }
        | BrokerError::VaultResponseInvalid { wait, .. }
        | BrokerError::SignInTooSoon { wait }
        | BrokerError::Overloaded { wait, .. } => Some(*wait),
        BrokerError::IdentityUnavailable { .. } => Some(IDENTITY_WAIT),
        BrokerError::InvalidRequest(_)
        | BrokerError::MetadataTooLarge
        | BrokerError::Unauthenticated { .. }
        | BrokerError::NotAllowed { .. }
        | BrokerError::NotConfigured(_)
        | BrokerError::Refused { .. }
        | BrokerError::MinRemainingUnattainable { .. }
        | BrokerError::DeadlineExceeded
        | BrokerError::ShuttingDown
        | BrokerError::Internal => None,
    }
}

fn details_metadata(error: &BrokerError) -> HashMap<String, String> {
    let pairs = match error {
        BrokerError::Refused { vault_error, held_until, .. } => {
            vec![("vault_error", vault_error.clone()), ("held_until", timestamp::rfc3339(*held_until).unwrap_or_default())]
        }
        BrokerError::MinRemainingUnattainable { longest } => vec![("longest_seconds", longest.as_secs().to_string())],
        BrokerError::Throttled { vault_error, .. } if !vault_error.is_empty() => vec![("vault_error", vault_error.clone())],
        BrokerError::Throttled { .. }
        | BrokerError::InvalidRequest(_)
        | BrokerError::MetadataTooLarge
        | BrokerError::Unauthenticated { .. }
        | BrokerError::IdentityUnavailable { .. }
        | BrokerError::NotAllowed { .. }
        | BrokerError::NotConfigured(_)
        | BrokerError::VaultUnavailable { .. }
        | BrokerError::VaultResponseInvalid { .. }
        | BrokerError::SignInTooSoon { .. }
        | BrokerError::DeadlineExceeded
        | BrokerError::Overloaded { .. }
        | BrokerError::ShuttingDown
        | BrokerError::Internal => Vec::new(),
    };
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// An error as the wire contract has it.
#[must_use]
pub(crate) fn from_error(error: &BrokerError, request_id: &RequestId) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(error.reason().as_str(), DOMAIN, details_metadata(error));
    details.set_request_info(request_id.text().as_str(), "");
    if let BrokerError::InvalidRequest(faults) = error {
        let violations: Vec<_> =
            faults.iter().map(|FieldFault { field, fault }| FieldViolation::new(field.as_ref(), fault)).collect();
        details.set_bad_request(violations);
    } else if *error == BrokerError::MetadataTooLarge {
        details.set_bad_request(vec![FieldViolation::new("metadata", "is larger than 16 KiB: send less")]);
    }
    let mut metadata = MetadataMap::new();
    if let Some(wait) = wait(error) {
        // Whole milliseconds, rounded up: who waits them out must not come too early.
        let millis = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1);
        details.set_retry_info(Some(Duration::from_millis(millis)));
        let pushback = if wait <= PUSHBACK_MAX { millis.to_string() } else { "-1".to_owned() };
        if let Ok(pushback) = pushback.parse() {
            metadata.insert(PUSHBACK, pushback);
        }
    }
    Status::with_error_details_and_metadata(code(error), error.to_string(), details, metadata)
}

/// Gives the errors that the gRPC library makes by itself the contract's shape: those without details come from a message that
/// could not be read, or a method that is none.
pub(crate) fn completed(response: Response<Body>, id: impl FnOnce() -> RequestId) -> Response<Body> {
    let headers = response.headers();
    if !headers.contains_key(Status::GRPC_STATUS) || headers.contains_key("grpc-status-details-bin") {
        return response;
    }
    let Some(status) = Status::from_header_map(headers) else { return response };
    if matches!(status.code(), Code::Internal | Code::OutOfRange | Code::Unknown | Code::Cancelled) {
        let fault = "could not be read as one tokenbroker.v1.GetTokenRequest".to_owned();
        return from_error(&BrokerError::InvalidRequest(vec![FieldFault { field: "message".into(), fault }]), &id()).into_http();
    }
    // Another method, or a compression that is not offered.
    let mut details = ErrorDetails::new();
    details.set_error_info(Reason::InvalidRequest.as_str(), DOMAIN, HashMap::new());
    details.set_request_info(id().text().as_str(), "");
    let text = if status.message().is_empty() { "no such method: list them by reflection" } else { status.message() };
    Status::with_error_details(status.code(), text, details).into_http()
}
