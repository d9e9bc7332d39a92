//! What is said of a value of a wrong TOML type.
//!
//! Must never repeat the value, but for a short number of seconds.

use toml::de::{DeInteger, DeValue};

use super::findings::{At, Findings};

/// Says that a value is of another type than the expected one.
pub(super) fn wrong_type(findings: &Findings<'_>, at: At, key: String, value: &DeValue<'_>, expected: &str, remedy: &str) {
    let is = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    findings.wrong_type(at, key, format!("is {is}, but must be {expected}: {remedy}"));
}

/// Where a bare number stands for a duration, most likely seconds are meant.
pub(super) fn duration_remedy(value: &DeValue<'_>) -> String {
    /// Longer numbers are no seconds, and not worth repeating.
    const DIGITS: usize = 6;
    match value.as_integer().map(DeInteger::as_str) {
        Some(digits) if digits.len() <= DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("if seconds are meant, write \"{digits}s\"")
        }
        _ => "write a number with its unit, such as \"90s\"".to_owned(),
    }
}
