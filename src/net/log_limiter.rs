//! What strangers can have happen as often as they like is told at once, and then once a minute with its number.
//!
//! Must never lose a count, nor let more than that be told.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::clock::Clock;

/// What happens again and again is told this often, with its number.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Counts what happens, and lets it be told once in a while.
#[derive(Debug)]
pub struct LogLimiter {
    clock: Arc<dyn Clock>,
    /// Before this nothing is told.
    next: Option<Instant>,
    untold: u64,
}

impl LogLimiter {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(clock: &Arc<dyn Clock>) -> Self {
        Self { clock: Arc::clone(clock), next: None, untold: 0 }
    }

    /// It happened `n` times more: how many times since it was told last, if it is to be told now.
    pub fn happened(&mut self, n: u64) -> Option<u64> {
        self.untold = self.untold.saturating_add(n);
        self.rest()
    }

    /// The same without anything new.
    pub fn rest(&mut self) -> Option<u64> {
        let now = self.clock.now().mono;
        if self.untold == 0 || self.next.is_some_and(|next| now < next) {
            return None;
        }
        self.next = Some(now + TOLD_EVERY);
        Some(std::mem::take(&mut self.untold))
    }

    /// What is left to be told at the end, whatever was told when.
    pub fn last(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.untold)).filter(|untold| *untold > 0)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.next.filter(|_| self.untold > 0)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, sleep_until};

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test(start_paused = true)]
    async fn what_happens_often_is_told_at_once_and_then_once_a_minute_with_its_number() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut seldom = LogLimiter::new(&clock);
        assert_eq!((seldom.happened(0), seldom.due()), (None, None));
        assert_eq!(seldom.happened(1), Some(1));
        for _ in 0..1_000 {
            assert_eq!(seldom.happened(1), None);
        }
        sleep_until(seldom.due().expect("something is left")).await;
        assert_eq!(seldom.rest(), Some(1_000));
        assert_eq!((seldom.rest(), seldom.due()), (None, None));
        sleep(TOLD_EVERY).await;
        assert_eq!(seldom.happened(2), Some(2));
    }
}
