//! Pure: instants as people and programs read them.
//!
//! Must never fail on an instant, however absurd: a clock may say anything.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// Since 1970: no text has more than four digits for its year.
const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);

/// An instant as people and programs read it (RFC 3339, whole seconds, UTC); `None` outside the years 1970 to 9999.
#[must_use]
pub(crate) fn rfc3339(at: SystemTime) -> Option<String> {
    let within = at.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since < YEAR_10000);
    within.then(|| humantime::format_rfc3339_seconds(at).to_string())
}

/// The same in microseconds, for records, which have a time in any case: outside those years the nearest instant that has a text.
#[must_use]
pub(crate) fn rfc3339_micros(at: SystemTime) -> impl fmt::Display {
    humantime::format_rfc3339_micros(with_a_text(at))
}

/// The nearest instant within those years.
#[must_use]
pub(crate) fn with_a_text(at: SystemTime) -> SystemTime {
    at.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + (YEAR_10000 - Duration::from_micros(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_times_have_no_text() {
        let at = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        assert_eq!(rfc3339(at(1_709_804_369)).as_deref(), Some("2024-03-07T09:39:29Z"));
        assert_eq!(rfc3339(at(253_402_300_800)), None);
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), None);
        let micros = |at| rfc3339_micros(at).to_string();
        assert_eq!(micros(at(1_709_804_369) + Duration::from_nanos(123_999)), "2024-03-07T09:39:29.000123Z");
        assert_eq!(micros(at(253_402_300_800)), "9999-12-31T23:59:59.999999Z");
        assert_eq!(micros(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000000Z");
    }
}
