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
