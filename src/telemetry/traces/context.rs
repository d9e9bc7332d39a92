//! A place in a trace, as W3C Trace Context writes it.
//!
//! Must never take what is none: it goes into lines that people search by it, and to the vault.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::fmt;

use http::{HeaderMap, HeaderName};

/// The header that carries it.
pub const HEADER: HeaderName = HeaderName::from_static("traceparent");
/// `00-` + 32 digits + `-` + 16 digits + `-` + 2 digits.
const LENGTH: usize = 55;
/// The flag that says that the caller's own span is recorded (Trace Context, 3.2.2.5.1).
const SAMPLED: u8 = 1;

/// Which trace: 32 hex digits, not all of them 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub(in crate::telemetry) u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A span in a trace, and whether it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    pub(super) span: u64,
    pub(super) sampled: bool,
}

/// As the header has it (version 00).
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

impl Context {
    /// The span of whoever sent these headers; none where there is none (Trace Context, 3.2).
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(HEADER).iter();
        let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
        let mut parts = value.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex =
            |part: &str, length: usize| part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        // Later versions may say more behind this.
        let whole = version != "00" || value.len() == LENGTH;
        if !(hex(version, 2) && version != "ff" && hex(trace, 32) && hex(span, 16) && hex(flags, 2) && whole) {
            return None;
        }
        let trace = TraceId(u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?);
        let span = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & SAMPLED != 0;
        Some(Self { trace, span, sampled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_taken_as_it_is_written_or_not_at_all() {
        let (trace, sampled) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        for (value, expected) in [
            (sampled, Some(true)),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", Some(false)),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-more", Some(true)),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", None),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, value.parse().expect("is a value"));
            let context = Context::of(&headers);
            assert_eq!(
                context.map(|context| (context.trace.to_string(), context.sampled)),
                expected.map(|s| (trace.to_owned(), s))
            );
            if value == sampled {
                assert_eq!(context.map(|context| context.to_string()).as_deref(), Some(sampled));
            }
        }
        assert_eq!(Context::of(&HeaderMap::new()), None);
    }
}
