//! The refusals that are documented, and what a status means where none of them is named.
//!
//! Must never take a no for an outage: a name counts in whatever case, and a status that may be a no is none that passes.

use std::time::Duration;

use crate::vault::{Refusal, Scope};

/// 273 (`LOGIN_ATTEMPTS_EXCEEDED`) is documented with "try again in 1 minute(s)": never less, to keep the account from a lock.
const ATTEMPTS_WAIT: Duration = Duration::from_secs(60);
/// The firewall's lock is documented with "wait 30 minutes"; the country's check is on the same address.
const ADDRESS_WAIT: Duration = Duration::from_secs(30 * 60);
/// HTTP 429 without a wait: not documented, so as long as the longest back-off after other failures.
const BARE_WAIT: Duration = Duration::from_secs(60);

/// What an answer amounts to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Class {
    /// A definite no.
    Refused(Refusal),
    /// A wait.
    Throttled(Throttle),
    /// A no that names nothing which is documented: whose fault it is shows only when it is tried again, sparingly.
    Undocumented,
    /// A failure that passes; the cause in words.
    Transient(&'static str),
    /// No answer to what was asked; the cause in words.
    Senseless(&'static str),
}

/// Whom a wait is about, and how long it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Throttle {
    pub(super) scope: Scope,
    /// The shortest wait, whatever is stated.
    pub(super) least: Duration,
    /// The wait where none is stated.
    pub(super) unsaid: Duration,
}

const CREDENTIALS: Class = Class::Refused(Refusal::Credentials);
const SECOND_FACTOR: Class = Class::Refused(Refusal::SecondFactor);
const REQUEST: Class = Class::Refused(Refusal::Request);
const ATTEMPTS: Class = Class::Throttled(Throttle { scope: Scope::User, least: ATTEMPTS_WAIT, unsaid: ATTEMPTS_WAIT });
const FIREWALL: Class = Class::Throttled(Throttle { scope: Scope::Merchant, least: Duration::ZERO, unsaid: ADDRESS_WAIT });
const COUNTRY: Class = Class::Throttled(Throttle { scope: Scope::Merchant, least: ADDRESS_WAIT, unsaid: ADDRESS_WAIT });
const TOO_MANY: Class = Class::Throttled(Throttle { scope: Scope::User, least: Duration::ZERO, unsaid: BARE_WAIT });
/// OAuth's words for that are no documented ones of the vault, so that with a 4xx they excuse nothing.
pub(super) const BUSY: &str = "it says that it is busy or failed";
const OWN_FAULT: Class = Class::Transient("it says that it failed");

/// By `errorId`, written in decimal.
pub(super) fn by_id(id: &str) -> Option<Class> {
    Some(match id {
        "2" | "3" | "11" | "53" | "267" => CREDENTIALS,
        "307" | "308" | "424" => SECOND_FACTOR,
        "422" => REQUEST,
        "273" => ATTEMPTS,
        "429" => FIREWALL,
        "0" => OWN_FAULT,
        _ => return None,
    })
}

/// By `error`, the vault's or OAuth's, or by v2's key of the same name, in capitals or not.
///
/// `unauthorized` alone is OAuth's in lower case only: `Unauthorized` is what HTTP calls the status, and says nothing of the cause.
pub(super) fn by_name(name: &str) -> Option<Class> {
    if name == "unauthorized" {
        return Some(REQUEST);
    }
    let (upper, lower) = (name.trim().to_ascii_uppercase(), name.trim().to_ascii_lowercase());
    by_vaults_name(&upper).or_else(|| by_oauths_name(&lower))
}

fn by_vaults_name(name: &str) -> Option<Class> {
    Some(match name {
        "WRONG_LOGIN_OR_PASSWORD_EXCEPTION"
        | "CUSTOMER_NOT_FOUND_EXCEPTION"
        | "CUSTOMER_STATUS_INCORRECT"
        | "TEMPORARY_PASSWORD_IS_EXPIRED"
        | "CUSTOMER_EXCEEDED_NUMBER_OF_PIN_ATTEMPTS" => CREDENTIALS,
        "MFA_SESSION_EXPIRED" | "MFA_CODE_ALREADY_USED" => SECOND_FACTOR,
        "NOT_VALID_REQUEST_DATA" => REQUEST,
        "LOGIN_ATTEMPTS_EXCEEDED" => ATTEMPTS,
        "WAF_LOCK_NOT_IN_LIST" => FIREWALL,
        "COUNTRY_BLOCKED_FOR_REGISTRATION" => COUNTRY,
        "COMMON" => OWN_FAULT,
        _ => return None,
    })
}

/// RFC 6749, section 5.2, and two of 4.1.2.1 that some servers have here too.
fn by_oauths_name(name: &str) -> Option<Class> {
    Some(match name {
        "invalid_grant" => CREDENTIALS,
        "invalid_request" | "invalid_client" | "unauthorized_client" | "unsupported_grant_type" | "invalid_scope" => REQUEST,
        "server_error" | "temporarily_unavailable" => Class::Transient(BUSY),
        _ => return None,
    })
}

/// By v2's `status`. `UNAUTHORIZED` doesn't say of what: on a sign-in it is most likely the password, and repeating that
/// locks the account, which is worse than a hold that an operator has to lift.
pub(super) fn by_v2_status(status: &str) -> Option<Class> {
    if status == "UNAUTHORIZED" { Some(CREDENTIALS) } else { by_name(status) }
}

/// By the HTTP status alone.
///
/// 401 says that what was sent was judged. Those that stay an outage say that it was not: there was no place to judge it (404,
/// 405, 410, 421), or it didn't get there (408, 413, 425, 431). Of any other nobody knows.
pub(super) fn by_status(status: u16) -> Class {
    match status {
        200..300 => Class::Senseless("its answer holds no access token"),
        300..400 => Class::Senseless("it redirects, and a password follows no redirect"),
        422 => REQUEST,
        424 => SECOND_FACTOR,
        super::TOO_MANY_REQUESTS => TOO_MANY,
        super::UNAUTHORIZED => CREDENTIALS,
        404 | 405 | 408 | 410 | 413 | 421 | 425 | 431 => Class::Transient("it says that there is nothing that takes sign-ins"),
        400..500 => Class::Undocumented,
        500..600 => Class::Transient("it answered with a server error"),
        _ => Class::Senseless("its answer has a status that HTTP doesn't define"),
    }
}
