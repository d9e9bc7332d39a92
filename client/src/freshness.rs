//! Pure: is a token fresh, due, in its margin or expired, by what is left of its life; margins and jitter.
//!
//! Must never call a token valid of whose life nothing is left, nor read a clock itself.

use std::time::Duration;

/// The margin is this part of the lifetime …
const MARGIN_PART: u32 = 10;
/// … and at most this long: a sign-in takes seconds at the worst, however long tokens live.
const MARGIN_MAX: Duration = Duration::from_secs(30);
/// The jitter before the margin is at most this part of the lifetime: wide enough to pull a burst of renewals apart within a few
/// renewals, small enough that renewing early costs about one sign-in in twenty.
const JITTER_PART: u32 = 10;
/// Where too many tokens fall due at once, the jitter may reach over so many times that, up to the middle of the lifetime: a
/// burst, after a restart or an outage, is pulled apart in one renewal instead of in dozens.
pub const BURST_JITTER: f64 = 4.0;
/// Whoever gives the same token again is asked once more when this part of what is left remains, and, if that is inside
/// the margin, not again: a token draws two sign-ins in vain near its end, and no storm.
const SAME_TOKEN_PART: u32 = 4;
/// A caller that keeps tokens comes between this part of the way from the margin to the point at which the token falls due, so
/// that it does not wait in the margin …
const RENEW_NEAREST: f64 = 0.125;
/// … and this one, by when the next token is here: a token falls due so long before its margin that two sign-ins fit in.
const RENEW_FURTHEST: f64 = 0.5;
/// Whoever was given a token that is due already asks again when this part of what is left is over, so that a caller asks ever
/// more often as the end comes near …
const ASK_AGAIN_PART: u32 = 2;
/// … but not sooner than a call in the margin is kept waiting for the next token: it would learn nothing new, and turn round
/// without a pause …
const ASK_AGAIN_MIN: Duration = Duration::from_secs(1);
/// … nor later than this, the longest pause between two sign-ins of a user after failures that may pass.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(60);

/// How good a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// Answer it.
    Fresh,
    /// Answer it, and see to the next.
    Due,
    /// See to the next, wait for it briefly, and answer this one if it does not come.
    Margin,
    /// Never answer it.
    Expired,
}

/// The points in a token's life at which it is judged otherwise, each as what is left then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Points {
    margin: Duration,
    due_left: Duration,
}

impl Points {
    /// Of a new token. `due_left`: as [`due_left`] says; zero for one that is to be kept to its end.
    #[must_use]
    pub fn new(lifetime: Duration, due_left: Duration) -> Self {
        Self { margin: margin(lifetime), due_left }
    }

    /// Of the same token, given once more with so much of its life left: its margin stays, and it is left alone for a while.
    #[must_use]
    pub fn given_again(self, left: Duration) -> Self {
        // Given again even in its margin, it will be until the end.
        let due_left = if left > self.margin { (left / SAME_TOKEN_PART).min(self.due_left) } else { Duration::ZERO };
        Self { due_left, ..self }
    }

    /// With how much of its life left the token falls due, where tokens are renewed ahead.
    #[must_use]
    pub fn due_left(&self) -> Duration {
        self.due_left
    }

    /// How good the token is with so much of its life left, where it falls due with `due_left`.
    #[must_use]
    pub fn freshness(&self, left: Duration, due_left: Duration) -> Freshness {
        if left.is_zero() {
            Freshness::Expired
        } else if left > due_left {
            Freshness::Fresh
        } else if left > self.margin {
            Freshness::Due
        } else {
            Freshness::Margin
        }
    }

    /// When a caller that keeps the token should ask for the next, with so much of its life left: never later than its end.
    /// `jitter`: 0 to 1, anew for each answer.
    ///
    /// Of a fresh token that is once it will have been renewed, and before the margin. One that is due is as good as renewed, or
    /// its renewal has failed: then [`ask_again_in`] is the least.
    #[must_use]
    pub fn renew_in(&self, left: Duration, jitter: f64) -> Duration {
        let Self { margin, due_left } = *self;
        // Kept to its end: before that nobody is given another.
        if due_left.is_zero() {
            return left;
        }
        // One that was given again in its margin's stead falls due within that.
        let near = if due_left >= margin { margin } else { due_left / 2 };
        let part = RENEW_NEAREST + (RENEW_FURTHEST - RENEW_NEAREST) * jitter.clamp(0.0, 1.0);
        let wait = left.saturating_sub(near + (due_left - near).mul_f64(part));
        if left > due_left { wait } else { wait.max(ask_again_in(left, jitter)) }
    }
}

/// When a caller should ask again that was given a token in whose place there should be another by now. Whoever comes sooner
/// learns nothing; in the last second of a token that is its end.
#[must_use]
pub fn ask_again_in(left: Duration, jitter: f64) -> Duration {
    let longest = (left / ASK_AGAIN_PART).min(ASK_AGAIN_MAX);
    longest.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0).max(ASK_AGAIN_MIN).min(left)
}

fn margin(lifetime: Duration) -> Duration {
    (lifetime / MARGIN_PART).min(MARGIN_MAX)
}

/// What is left of a token's lifetime when it falls due, renewed ahead with this jitter: 0 to 1, for a burst to [`BURST_JITTER`],
/// anew for each token. `lead` before the margin at least, so that the next token is here by then, if the lifetime has room for
/// that.
#[must_use]
pub fn due_left(lifetime: Duration, jitter: f64, lead: Duration) -> Duration {
    let part = lifetime / JITTER_PART;
    margin(lifetime) + part.mul_f64(jitter.clamp(0.0, BURST_JITTER)).max(lead.min(part))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn what_is_left_says_how_good_it_is() {
        let points = Points::new(secs(300), secs(60));
        for (left, freshness) in [
            (secs(300), Freshness::Fresh),
            (secs(61), Freshness::Fresh),
            (secs(60), Freshness::Due),
            (secs(31), Freshness::Due),
            (secs(30), Freshness::Margin),
            (Duration::from_nanos(1), Freshness::Margin),
            (secs(0), Freshness::Expired),
        ] {
            assert_eq!(points.freshness(left, points.due_left()), freshness, "{left:?}");
        }
        assert_eq!(points.freshness(secs(1), Duration::ZERO), Freshness::Fresh, "kept to its end");
        assert_eq!(points.freshness(secs(300), Duration::MAX), Freshness::Due, "due at once");
    }

    #[test]
    fn the_next_is_sought_so_long_before_the_margin_as_sign_ins_take() {
        for (lifetime, jitter, lead, due) in
            [(60, 0.0, 2, 8), (60, 1.0, 2, 12), (60, 0.0, 100, 12), (10, 0.0, 5, 2), (86_400, 0.0, 20, 50)]
        {
            assert_eq!(due_left(secs(lifetime), jitter, secs(lead)), secs(due), "{lifetime} {jitter} {lead}");
        }
    }

    #[test]
    fn a_token_given_again_is_left_alone_for_a_while_and_in_its_margin_for_good() {
        let points = Points::new(secs(300), secs(60));
        assert_eq!(points.given_again(secs(100)), Points { margin: secs(30), due_left: secs(25) });
        assert_eq!(points.given_again(secs(300)).due_left(), secs(60), "never sooner than before");
        assert_eq!(points.given_again(secs(30)).due_left(), Duration::ZERO);
    }

    #[test]
    fn callers_ask_again_once_the_next_token_is_here_and_before_the_margin() {
        // Of 300 s, due with 46 s left, in the margin with 30: asked for with 32 to 38 s left.
        let points = Points::new(secs(300), secs(46));
        let given_again = points.given_again(secs(80));
        for (points, left, jitter, wait) in [
            (points, secs(300), 0.0, secs(268)),
            (points, secs(300), 1.0, secs(262)),
            (points, secs(47), 1.0, secs(9)),
            // Due: the renewal is under way, and done by then.
            (points, secs(46), 0.0, secs(14)),
            // It should have been done: after a half to a quarter of what is left, at least a second.
            (points, secs(32), 0.0, secs(8)),
            (points, secs(20), 1.0, secs(10)),
            (points, secs(3), 0.0, secs(1)),
            (points, Duration::from_millis(400), 0.0, Duration::from_millis(400)),
            // Given again with 80 s left, and so due with 20.
            (given_again, secs(80), 1.0, secs(65)),
            (Points::new(secs(300), Duration::ZERO), secs(123), 0.3, secs(123)),
        ] {
            assert_eq!(points.renew_in(left, jitter), wait, "{points:?} {left:?} {jitter}");
        }
        let day = Points::new(secs(86_400), secs(8_670));
        assert_eq!(day.renew_in(secs(5_000), 0.5), secs(2_270), "the vault is down, but there is time");
        assert_eq!(day.renew_in(secs(1_000), 1.0), secs(60), "as often as it is tried to sign in at least");
    }

    proptest! {
        /// Never past its end; of a fresh one so that it is asked for between due and margin; and nobody asks without a pause.
        #[test]
        fn who_keeps_a_token_neither_misses_its_end_nor_asks_in_a_loop(
            lifetime in 1..604_800_000u64, jitter in 0.0..4.0f64, lead in 0..100_000u64,
            left in 0..=1_000_000u32, draw in 0.0..=1.0f64,
        ) {
            let lifetime = Duration::from_millis(lifetime);
            let points = Points::new(lifetime, due_left(lifetime, jitter, Duration::from_millis(lead)));
            let left = lifetime.mul_f64(f64::from(left) / 1e6);
            let wait = points.renew_in(left, draw);
            prop_assert!(wait <= left);
            match points.freshness(left, points.due_left()) {
                Freshness::Fresh => {
                    prop_assert!(left - wait >= points.margin);
                    prop_assert!(left - wait <= points.margin + (points.due_left - points.margin) / 2 + Duration::from_nanos(1));
                }
                Freshness::Due | Freshness::Margin | Freshness::Expired => {
                    prop_assert!(wait >= ASK_AGAIN_MIN.min(left));
                    prop_assert!(left - wait >= points.margin || wait <= ASK_AGAIN_MAX, "who may get another asks often enough");
                }
            }
            prop_assert!((ASK_AGAIN_MIN.min(left)..=left).contains(&ask_again_in(left, draw)));
        }
    }
}
