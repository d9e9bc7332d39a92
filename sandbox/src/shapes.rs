//! The three shapes of the vault's errors, and every refusal that its documentation names.
//!
//! Pure. Must never decide when to refuse: that is `vault`'s for the truth and the test's for a fault.

use bytes::Bytes;
use hyper::{
    HeaderMap, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde_json::{Value, json};

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A whole reply.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(status: StatusCode, body: &Value) -> Self {
        Self { status, headers: HeaderMap::from_iter([(CONTENT_TYPE, JSON)]), body: body.to_string().into() }
    }

    pub(crate) fn refusal(why: &Refusal) -> Self {
        Self::json(StatusCode::BAD_REQUEST, &vendor(why.error_id, why.error, why.message))
    }

    pub(crate) fn spring(status: StatusCode, error: &str, description: &str) -> Self {
        Self::json(status, &spring(error, description))
    }
}

/// A refusal that the vendor documents for a sign-in; all come with HTTP 400 in v1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// `errorId`; the country's refusal has none.
    pub error_id: Option<i64>,
    /// `error`; the second factor's demand has none.
    pub error: Option<&'static str>,
    /// `message`: documented for 273 and 429 (their waits stand only here) and for 0, made up for the others.
    pub message: &'static str,
}

impl Refusal {
    const fn new(error_id: i64, error: &'static str, message: &'static str) -> Self {
        Self { error_id: Some(error_id), error: Some(error), message }
    }
}

pub(crate) const WRONG_PASSWORD: Refusal = Refusal::new(11, "WRONG_LOGIN_OR_PASSWORD_EXCEPTION", "Wrong login or password");
pub(crate) const NO_SUCH_USER: Refusal = Refusal::new(2, "CUSTOMER_NOT_FOUND_EXCEPTION", "Customer not found");
pub(crate) const LOCKED: Refusal = Refusal::new(3, "CUSTOMER_STATUS_INCORRECT", "Customer status is incorrect");
const NOT_VALID: Refusal = Refusal::new(422, "NOT_VALID_REQUEST_DATA", "Not valid request data");
const SECOND_FACTOR: Refusal = Refusal { error_id: Some(424), error: None, message: "Second factor is required" };

/// Every refusal of the documentation, for tests that go through them all with [`crate::Fault::documented`].
pub const DOCUMENTED: [Refusal; 13] = [
    WRONG_PASSWORD,
    NO_SUCH_USER,
    LOCKED,
    Refusal::new(267, "TEMPORARY_PASSWORD_IS_EXPIRED", "Temporary password is expired"),
    Refusal::new(53, "CUSTOMER_EXCEEDED_NUMBER_OF_PIN_ATTEMPTS", "Number of attempts is exceeded"),
    Refusal::new(273, "LOGIN_ATTEMPTS_EXCEEDED", "Login attempts exceeded, try again in 1 minute(s)"),
    Refusal::new(429, "WAF_LOCK_NOT_IN_LIST", "Too many requests, wait 30 minutes"),
    NOT_VALID,
    SECOND_FACTOR,
    Refusal::new(307, "MFA_SESSION_EXPIRED", "MFA session is expired"),
    Refusal::new(308, "MFA_CODE_ALREADY_USED", "MFA code is already used"),
    Refusal { error_id: None, error: Some("COUNTRY_BLOCKED_FOR_REGISTRATION"), message: "Country is blocked for registration" },
    Refusal::new(0, "COMMON", "Sorry for inconvenience"),
];

/// The vendor's shape; an absent `errorId` or `error` is left out.
pub(crate) fn vendor(error_id: Option<i64>, error: Option<&str>, message: &str) -> Value {
    let mut body = json!({ "message": message, "systemId": "core" });
    if let Some(fields) = body.as_object_mut() {
        fields.extend(error_id.map(|id| ("errorId".to_owned(), json!(id))));
        fields.extend(error.map(|error| ("error".to_owned(), json!(error))));
    }
    body
}

/// The vendor's shape for a request that lacks something or has it wrong.
pub(crate) fn not_valid(field: &str) -> Value {
    let mut body = vendor(NOT_VALID.error_id, NOT_VALID.error, NOT_VALID.message);
    if let Some(fields) = body.as_object_mut() {
        fields.insert("field".to_owned(), json!(field));
    }
    body
}

/// The documented demand for a second factor: an `errorId`, but no `error`.
pub(crate) fn second_factor() -> Value {
    json!({
        "message": SECOND_FACTOR.message,
        "errorId": SECOND_FACTOR.error_id,
        "systemId": "core",
        "sessionId": "8f0c6a2e-7d0b-4b9e-9a53-1f4f3f8b2c11",
        "factors": ["SMS"],
    })
}

/// Spring's shape, where the vendor's own handler is bypassed.
pub(crate) fn spring(error: &str, description: &str) -> Value {
    json!({ "error": error, "error_description": description })
}

/// The shape of the vendor's v2.
pub(crate) fn v2(status: &str, message: &str) -> Value {
    json!({
        "status": status,
        "message": message,
        "traceId": "65f0a1b2c3d4e5f60718293a4b5c6d7e",
        "errors": [{ "key": status, "description": message }],
    })
}

/// The documented answer to a dead token, with either message.
pub(crate) fn dead_token(message: &str) -> Value {
    json!({ "error": "invalid_token", "systemId": "core", "errorId": 0, "message": message })
}
