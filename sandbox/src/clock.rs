//! The only reader of time in this crate.
//!
//! The sandbox lives by the machine's clocks, as the vault does: its tokens must not expire by a clock that a test has paused.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock: what a token's `iat` and `exp` are read from.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the wall clock; the sandbox doesn't share the broker's"
)]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// The monotonic clock: how far apart requests came.
#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
pub(crate) fn mono() -> Instant {
    Instant::now()
}

/// Whole seconds since 1970, as in a JWT; 0 before that.
pub(crate) fn unix(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Reads `"250ms"`, `"90s"`, `"5m"`, `"24h"`, `"7d"`: a whole number and one unit.
///
/// # Errors
/// Where the text is anything else, or beyond what fits.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let fault = || format!("`{text}` is not a duration: write it like \"250ms\", \"90s\", \"5m\" or \"24h\"");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(fault)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok().ok_or_else(fault)?;
    let factor = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(fault()),
    };
    number.checked_mul(factor).map(Duration::from_secs).ok_or_else(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, wanted) in
            [("250ms", 250), ("0s", 0), ("90s", 90_000), ("5m", 300_000), ("24h", 86_400_000), ("7d", 604_800_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(wanted)), "{text}");
        }
        for text in ["", "5", "s", "-5s", "1.5s", "5 s", "5S", "5sec", "99999999999999999999s", "18446744073709551615d", "٣s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
