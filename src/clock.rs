//! The only reader of time.
//!
//! Must never be bypassed: a token's end is judged by two clocks at once, and a simulation has to be able to move both.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// One reading of both clocks.
///
/// The monotonic clock can't be set, but stands still while the machine sleeps; the wall clock goes on, but jumps. What must
/// not be past is past as soon as either says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The monotonic clock.
    pub mono: Instant,
    /// The wall clock.
    pub wall: SystemTime,
}

impl Moment {
    /// This moment moved into the future by `by`; where the wall clock's range ends, it stays (and so is past sooner).
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self { mono: self.mono + by, wall: self.wall.checked_add(by).unwrap_or(self.wall) }
    }

    /// How long until this moment, by the clock that reaches it first; zero once it is past by either.
    #[must_use]
    pub fn left_at(self, now: Self) -> Duration {
        let mono = self.mono.saturating_duration_since(now.mono);
        let wall = self.wall.duration_since(now.wall).unwrap_or(Duration::ZERO);
        mono.min(wall)
    }

    /// How long since this moment, by the clock that says more; zero if it lies ahead by both.
    #[must_use]
    pub fn age_at(self, now: Self) -> Duration {
        let mono = now.mono.saturating_duration_since(self.mono);
        let wall = now.wall.duration_since(self.wall).unwrap_or(Duration::ZERO);
        mono.max(wall)
    }
}

/// Since 1970: no text has more than four digits for its year.
#[cfg(feature = "server")]
const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);

/// An instant as people and programs read it (RFC 3339, whole seconds, UTC); `None` outside the years 1970 to 9999.
#[cfg(feature = "server")]
#[must_use]
pub fn rfc3339(at: SystemTime) -> Option<String> {
    let within = at.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since < YEAR_10000);
    within.then(|| humantime::format_rfc3339_seconds(at).to_string())
}

/// The same in microseconds, for records, which have a time in any case: outside those years the nearest instant that has a text.
#[cfg(feature = "server")]
#[must_use]
pub fn rfc3339_micros(at: SystemTime) -> impl fmt::Display {
    humantime::format_rfc3339_micros(with_a_text(at))
}

/// The nearest instant within those years.
#[cfg(feature = "server")]
#[must_use]
pub fn with_a_text(at: SystemTime) -> SystemTime {
    at.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + (YEAR_10000 - Duration::from_micros(1)))
}

/// A source of time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Reads both clocks.
    fn now(&self) -> Moment;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    fn now(&self) -> Moment {
        Moment { mono: Instant::now(), wall: SystemTime::now() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "server")]
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

    #[test]
    fn the_clock_that_ends_first_counts() {
        let start = SystemClock.now();
        let end = start.plus(Duration::from_secs(10));
        assert_eq!(end.left_at(start), Duration::from_secs(10));

        let slept = Moment { mono: start.mono, wall: start.wall + Duration::from_secs(11) };
        assert_eq!(end.left_at(slept), Duration::ZERO, "the machine slept");
        let set_back = Moment { mono: start.mono + Duration::from_secs(11), wall: start.wall - Duration::from_secs(99) };
        assert_eq!(end.left_at(set_back), Duration::ZERO, "the wall clock was set back");
        assert_eq!(start.age_at(slept), Duration::from_secs(11));
        assert_eq!(start.age_at(set_back), Duration::from_secs(11));
    }
}
