//! Pure: how long to wait between tries, doubling from one to the next.
//!
//! Must never read a clock or draw a random number: both are given, so that a simulation can be repeated.

use std::time::Duration;

/// Least part of a pause that jitter leaves: full jitter may say nothing at all, which is no pause.
const JITTER_LEAST: f64 = 0.05;

/// A pause that doubles with each failure in a row.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// `first` after the first failure, and never more than `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The pause after so many failures before this one, without jitter.
    #[must_use]
    pub fn widest(&self, failures: u32) -> Duration {
        self.first.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.longest)
    }

    /// The same with full jitter: `jitter` is 0 to 1, drawn anew for each.
    #[must_use]
    pub fn pause(&self, failures: u32, jitter: f64) -> Duration {
        self.widest(failures).mul_f64(jitter.clamp(JITTER_LEAST, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_to_the_longest_however_often_it_fails() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for (failures, secs) in [(0, 1), (1, 2), (5, 32), (6, 60), (31, 60), (32, 60), (u32::MAX, 60)] {
            assert_eq!(backoff.widest(failures), Duration::from_secs(secs), "{failures}");
            assert_eq!(backoff.pause(failures, 1.0), backoff.widest(failures));
        }
        assert_eq!(backoff.pause(1, 0.5), Duration::from_secs(1));
        assert_eq!(Backoff::new(Duration::MAX, Duration::MAX).widest(3), Duration::MAX);
    }

    #[test]
    fn whatever_the_jitter_there_is_a_pause() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for jitter in [0.0, -1.0, 1e-9] {
            assert_eq!(backoff.pause(0, jitter), Duration::from_millis(50), "{jitter}");
        }
        assert_eq!(backoff.pause(0, 2.0), Duration::from_secs(1));
    }
}
