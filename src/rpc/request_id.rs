//! The id that ties a call to its log lines and its error.
//!
//! Must never carry what a log could choke on: a caller's own id is taken only where it is short and plain.

use std::fmt;

use http::HeaderValue;

/// The metadata key of the caller's own id.
pub(crate) const KEY: &str = "x-request-id";
/// Longest id taken from a caller: a UUID has 36 characters, a trace id 32.
const LENGTH_MAX: usize = 64;

/// A caller's `x-request-id`, or 128 random bits in hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(String);

impl RequestId {
    /// The id of the call whose caller gave this one, if it did.
    pub(crate) fn given(value: Option<&HeaderValue>) -> Self {
        let plain = |id: &&str| {
            (1..=LENGTH_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
        };
        match value.and_then(|value| value.to_str().ok()).filter(plain) {
            Some(id) => Self(id.to_owned()),
            None => Self(format!("{:032x}", fastrand::u128(..))),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
