//! Pure: whether a server that answers, but takes its time, is still of use.
//!
//! Must never judge by one bad moment: a burst of questions that all wait for the same hiccup is one.

use std::time::Duration;

use tokio::time::Instant;

/// An answer that takes so long is slow: a sign-in takes not much longer, and whoever has no token asks twice before one.
pub(super) const SLOW_ANSWER: Duration = Duration::from_millis(100);
/// So many slow answers, without a quick one between them, …
const SLOW_ANSWERS: u32 = 5;
/// … over so long make the server too slow. A snapshot or a failover is mostly over by then.
const SLOW_FOR: Duration = Duration::from_secs(2);
/// A server that was too slow is left alone for so long before it is tried again.
pub(super) const SLOW_PAUSE: Duration = Duration::from_secs(5);

/// The slow answers since the last quick one.
#[derive(Debug, Default)]
pub(super) struct Slowness {
    /// When the first of them was asked for.
    since: Option<Instant>,
    answers: u32,
    is_too_slow: bool,
}

impl Slowness {
    /// Notes an answer that was asked for at `asked` and came now; whether the server is too slow.
    pub(super) fn note(&mut self, is_slow: bool, asked: Instant, now: Instant) -> bool {
        if !is_slow && !self.is_too_slow {
            *self = Self::default();
            return false;
        }
        let since = *self.since.get_or_insert(asked);
        self.answers = self.answers.saturating_add(1);
        self.is_too_slow |= self.answers >= SLOW_ANSWERS && now.saturating_duration_since(since) >= SLOW_FOR;
        self.is_too_slow
    }

    pub(super) fn is_too_slow(&self) -> bool {
        self.is_too_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};

    #[test]
    fn many_slow_answers_over_a_while_are_too_slow_and_one_quick_one_begins_anew() {
        let begin = SystemClock.now().mono;
        for (what, answers, last) in [
            ("each slow", vec![true; 5], Some(4)),
            ("a quick one in between", vec![true, true, true, false, true, true, true, true], None),
            ("afterwards", vec![true, false, true, true, true, true, true], Some(6)),
        ] {
            let mut slowness = Slowness::default();
            // One asked for each 600 ms.
            let found = answers.into_iter().zip(0..).position(|(is_slow, n)| {
                let asked = begin + n * Duration::from_millis(600);
                slowness.note(is_slow, asked, asked + Duration::from_millis(150))
            });
            assert_eq!(found, last, "{what}");
        }
        let (mut burst, mut seldom) = (Slowness::default(), Slowness::default());
        assert!((0..1_000).all(|_| !burst.note(true, begin, begin + Duration::from_millis(450))), "one hiccup of many");
        for n in 0..4 {
            let asked = begin + n * Duration::from_secs(60);
            assert!(!seldom.note(true, asked, asked + Duration::from_millis(150)), "too few");
        }
    }
}
