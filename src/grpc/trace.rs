//! The caller's trace, as W3C Trace Context has it.
//!
//! Must never take what is none: it goes into lines that people search by it.

use http::HeaderMap;

const HEADER: &str = "traceparent";
/// `00-` + 32 digits + `-` + 16 digits + `-` + 2 digits.
const LENGTH: usize = 55;

/// The trace id of a call: 32 hex digits, none where there is no trace (Trace Context, 3.2).
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(HEADER).iter();
    let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let mut parts = value.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    // Later versions may say more behind this.
    let whole = version != "00" || value.len() == LENGTH;
    let good = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && whole;
    (good && !zero(trace) && !zero(parent)).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_taken_as_it_is_written_or_not_at_all() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (value, expected) in [
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some(trace)),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", Some(trace)),
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
            assert_eq!(trace_id(&headers), expected, "{value}");
        }
        assert_eq!(trace_id(&HeaderMap::new()), None);
    }
}
