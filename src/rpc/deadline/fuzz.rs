//! Any `grpc-timeout`.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::{HEADER, Malformed, TIMEOUT_MAX, timeout};

/// The header's value.
pub(crate) fn header(input: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(input) else { return };
    let found = timeout(&HeaderMap::from_iter([(HEADER, value)]), Duration::MAX);
    assert_eq!(found, expected(input).ok_or(Malformed));
}

/// The same, told in another way: in nanoseconds.
fn expected(value: &[u8]) -> Option<Duration> {
    const UNITS: [(char, u128); 6] =
        [('H', 3_600_000_000_000), ('M', 60_000_000_000), ('S', 1_000_000_000), ('m', 1_000_000), ('u', 1_000), ('n', 1)];
    let text = str::from_utf8(value).ok()?;
    let (digits, nanos) = UNITS.iter().find_map(|(unit, nanos)| Some((text.strip_suffix(*unit)?, nanos)))?;
    let count: u128 = digits.parse().ok().filter(|_| digits.len() <= 8 && !digits.starts_with('+'))?;
    let nanos = (count * nanos).min(TIMEOUT_MAX.as_nanos());
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}
