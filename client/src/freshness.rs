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
}

fn margin(lifetime: Duration) -> Duration {
    (lifetime / MARGIN_PART).min(MARGIN_MAX)
}

/// What is left of a token's lifetime when it falls due, renewed ahead with this jitter: 0 to 1, for a burst to [`BURST_JITTER`], anew
/// for each token. `lead` before the margin at least, so that the next token is here by then, if the lifetime has room for that.
#[must_use]
pub fn due_left(lifetime: Duration, jitter: f64, lead: Duration) -> Duration {
    let part = lifetime / JITTER_PART;
    margin(lifetime) + part.mul_f64(jitter.clamp(0.0, BURST_JITTER)).max(lead.min(part))
}

#[cfg(test)]
mod tests {
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
}
