//! The id that ties a call to its log lines, its audit line and its error.
//!
//! Must never carry what a log could choke on: a caller's own id is taken only where it is short and plain. Must never allocate:
//! each call has one.

use std::fmt;

use http::{HeaderName, HeaderValue};

use crate::hex;

/// The metadata key of the caller's own id.
pub const KEY: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id taken from a caller: a UUID has 36 characters, a trace id 32.
const LENGTH_MAX: usize = 64;
/// Digits of one that is drawn.
const DRAWN_LENGTH: u8 = 32;

/// A caller's `x-request-id`, or 128 random bits. Those are written in hex only where somebody reads them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RequestId {
    /// The caller's own.
    Given(Text),
    /// Drawn, since the caller gave none.
    Drawn([u8; 16]),
}

/// An id's text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// ASCII; zeros behind its end.
    text: [u8; LENGTH_MAX],
    length: u8,
}

impl RequestId {
    /// The id of the call whose caller gave this one, if it did.
    #[must_use]
    pub fn given(value: Option<&HeaderValue>) -> Self {
        value.and_then(|value| Text::taken(value.as_bytes())).map_or_else(Self::random, Self::Given)
    }

    /// An id that no caller gave.
    #[must_use]
    pub fn random() -> Self {
        Self::Drawn(fastrand::u128(..).to_be_bytes())
    }

    /// The id as it is read.
    #[must_use]
    pub fn text(&self) -> Text {
        match self {
            Self::Given(text) => *text,
            Self::Drawn(bits) => {
                let mut text = [0; LENGTH_MAX];
                text.iter_mut().zip(hex::of(*bits)).for_each(|(to, digit)| *to = digit);
                Text { text, length: DRAWN_LENGTH }
            }
        }
    }
}

impl Text {
    /// A caller's own, where it can be taken.
    fn taken(given: &[u8]) -> Option<Self> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        let length = u8::try_from(given.len()).ok().filter(|length| *length > 0)?;
        let mut text = [0; LENGTH_MAX];
        // Too long a one finds no place.
        text.get_mut(..given.len())?.copy_from_slice(given);
        given.iter().all(plain).then_some(Self { text, length })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Plain, and therefore UTF-8.
        self.text.get(..usize::from(self.length)).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.text().as_str(), f)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_id_is_taken_where_it_is_short_and_plain() {
        let given = |value: &[u8]| RequestId::given(Some(&HeaderValue::from_bytes(value).expect("is a value"))).to_string();
        for good in ["a", "4bf92f35-77b3.4da6_a3:E", &"x".repeat(64)] {
            assert_eq!(given(good.as_bytes()), good);
        }
        for bad in [&b""[..], &[b'x'; 65], &[b'x'; 300], b"a b", b"a\"b", "é".as_bytes(), b"a/b"] {
            let id = given(bad);
            assert!(id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{id}");
        }
        assert_ne!(RequestId::given(None), RequestId::given(None));
    }
}
