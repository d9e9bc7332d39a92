//! Pure: is this token fresh, due, in its margin or expired; margins and jitter.
//!
//! Must never call a token valid that either clock says is past, nor read a clock itself.

pub mod lifetime;

use std::time::Duration;

use crate::{
    clock::Moment,
    config::Renewal,
    model::{Token, TokenId},
};

/// The margin is this part of the lifetime …
const MARGIN_PART: u32 = 10;
/// … and at most this long: a sign-in takes seconds at the worst, however long tokens live.
const MARGIN_MAX: Duration = Duration::from_secs(30);
/// The jitter before the margin is at most this part of the lifetime: wide enough to pull a herd apart within a few
/// renewals, small enough that renewing early costs about one sign-in in twenty.
const JITTER_PART: u32 = 10;
/// Where too many tokens fall due at once, the jitter may reach over so many times that, up to the middle of the lifetime: a
/// herd, after a restart or an outage, is pulled apart in one renewal instead of in dozens.
pub const HERD_JITTER: f64 = 4.0;
/// A vault that gives the same token again is asked once more when this part of what is left remains, and, if that is inside
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

fn margin(lifetime: Duration) -> Duration {
    (lifetime / MARGIN_PART).min(MARGIN_MAX)
}

/// What is left of a token's lifetime when it falls due, renewed ahead with this jitter.
#[must_use]
pub fn due_left(lifetime: Duration, jitter: f64) -> Duration {
    margin(lifetime) + (lifetime / JITTER_PART).mul_f64(jitter.clamp(0.0, HERD_JITTER))
}

/// A token, and the points in its life that were fixed when it was first seen.
#[derive(Clone, Debug)]
pub struct HeldToken {
    /// The token.
    pub token: Token,
    margin: Duration,
    /// It is due once no more than this is left.
    due_left: Duration,
}

impl HeldToken {
    /// Fixes the points of `token`, which takes the place of `former`.
    ///
    /// `bounded`: the token itself says how long it lives in all, so that seeing it again can't prolong it.
    /// `jitter`: 0 to 1, for a herd to [`HERD_JITTER`], anew for each token.
    #[must_use]
    pub fn new(mut token: Token, bounded: bool, former: Option<&Self>, renewal: Renewal, now: Moment, jitter: f64) -> Self {
        if let Some(same) = former.filter(|former| former.token.id == token.id) {
            // By the monotonic clock alone: what the wall clock said then may have been wrong, and be set right since.
            if bounded && same.token.expires.mono < token.expires.mono {
                let mono = same.token.expires.mono;
                let left = mono.saturating_duration_since(now.mono);
                token.expires = Moment { mono, ..now.plus(left) };
            }
            let left = token.expires.left_at(now);
            let due_left = match renewal {
                Renewal::Ahead if left > same.margin => (left / SAME_TOKEN_PART).min(same.due_left),
                // It gave the same even there: it will until the end.
                Renewal::Ahead | Renewal::AtExpiry => Duration::ZERO,
            };
            return Self { token, margin: same.margin, due_left };
        }
        let margin = margin(token.lifetime);
        let due_left = match renewal {
            Renewal::Ahead => due_left(token.lifetime, jitter),
            Renewal::AtExpiry => Duration::ZERO,
        };
        Self { token, margin, due_left }
    }

    /// The same token, due from now on: it is good, but a newer one is wanted.
    #[must_use]
    pub fn made_due(&self) -> Self {
        Self { due_left: Duration::MAX, ..self.clone() }
    }

    /// How good it is now.
    #[must_use]
    pub fn freshness(&self, now: Moment) -> Freshness {
        let left = self.left_at(now);
        if left.is_zero() {
            Freshness::Expired
        } else if left > self.due_left {
            Freshness::Fresh
        } else if left > self.margin {
            Freshness::Due
        } else {
            Freshness::Margin
        }
    }

    /// What is left of its life; zero once it is expired.
    #[must_use]
    pub fn left_at(&self, now: Moment) -> Duration {
        self.token.expires.left_at(now)
    }

    /// How long until it is due; `None` where it is not renewed ahead.
    #[must_use]
    pub fn due_in(&self, now: Moment) -> Option<Duration> {
        (!self.due_left.is_zero()).then(|| self.left_at(now).saturating_sub(self.due_left))
    }

    /// The token's id.
    #[must_use]
    pub fn id(&self) -> TokenId {
        self.token.id
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;
    use crate::secret::Secret;

    #[allow(clippy::disallowed_methods, reason = "a fixed point to count from")]
    fn start() -> Moment {
        Moment { mono: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) }
    }

    fn token(text: &str, sent: Moment, lifetime: Duration) -> Token {
        Token {
            access_token: Secret::from(text),
            id: TokenId::of(text),
            scope: Arc::from(""),
            expires: sent.plus(lifetime),
            lifetime,
        }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn margins_are_a_tenth_and_at_most_thirty_seconds() {
        for (lifetime, jitter, due, margin) in [
            (secs(300), 0.0, secs(270), secs(270)),
            (secs(300), 1.0, secs(240), secs(270)),
            (secs(100), 0.5, secs(85), secs(90)),
            (secs(86_400), 1.0, secs(86_400 - 30 - 8_640), secs(86_370)),
        ] {
            let sent = start();
            let held = HeldToken::new(token("a", sent, lifetime), false, None, Renewal::Ahead, sent, jitter);
            let tick = Duration::from_nanos(1);
            assert_eq!(held.freshness(sent), Freshness::Fresh);
            assert_eq!(held.freshness(sent.plus(due - tick)), Freshness::Fresh);
            if due < margin {
                assert_eq!(held.freshness(sent.plus(due)), Freshness::Due);
                assert_eq!(held.freshness(sent.plus(margin - tick)), Freshness::Due);
            }
            assert_eq!(held.freshness(sent.plus(margin)), Freshness::Margin);
            assert_eq!(held.freshness(sent.plus(lifetime - tick)), Freshness::Margin);
            assert_eq!(held.freshness(sent.plus(lifetime)), Freshness::Expired);
            assert_eq!(held.due_in(sent), Some(due));
        }
    }

    #[test]
    fn what_is_made_due_is_due_and_as_long_lived_as_before() {
        let sent = start();
        let held = HeldToken::new(token("a", sent, secs(300)), false, None, Renewal::AtExpiry, sent, 0.0).made_due();
        assert_eq!(
            (held.freshness(sent), held.left_at(sent), held.due_in(sent)),
            (Freshness::Due, secs(300), Some(Duration::ZERO))
        );
        assert_eq!(held.freshness(sent.plus(secs(300))), Freshness::Expired);
    }

    #[test]
    fn at_expiry_is_fresh_to_the_end() {
        let sent = start();
        let held = HeldToken::new(token("a", sent, secs(10)), false, None, Renewal::AtExpiry, sent, 0.7);
        assert_eq!(held.freshness(sent.plus(Duration::from_millis(9_999))), Freshness::Fresh);
        assert_eq!(held.freshness(sent.plus(secs(10))), Freshness::Expired);
        assert_eq!(held.due_in(sent), None);
    }

    #[test]
    fn the_same_token_again_keeps_its_margin_and_is_left_alone_for_a_while() {
        let sent = start();
        let first = HeldToken::new(token("a", sent, secs(200)), true, None, Renewal::Ahead, sent, 0.0);
        let later = sent.plus(secs(170));
        let again = HeldToken::new(token("a", later, secs(30)), true, Some(&first), Renewal::Ahead, later, 0.0);
        assert_eq!(again.freshness(later), Freshness::Fresh, "no storm");
        let late = later.plus(secs(23));
        assert_eq!(again.freshness(late), Freshness::Margin, "a quarter is left: try once more");
        let last = HeldToken::new(token("a", late, secs(7)), true, Some(&again), Renewal::Ahead, late, 0.0);
        assert_eq!(last.freshness(later.plus(secs(29))), Freshness::Fresh, "and not again");
        assert_eq!(last.due_in(late), None);
        assert_eq!(again.token.expires, sent.plus(secs(200)));

        // A vault that forgets to shrink `expires_in`: the token's own word counts, where there is one.
        let bounded = HeldToken::new(token("a", later, secs(200)), true, Some(&first), Renewal::Ahead, later, 0.0);
        assert_eq!(bounded.token.expires, sent.plus(secs(200)));
        // The wall clock was two days behind at first: the token is good, whatever it seemed to be.
        let set_right = Moment { wall: later.wall + secs(172_800), ..later };
        assert_eq!(first.freshness(set_right), Freshness::Expired);
        let again = HeldToken::new(token("a", set_right, secs(30)), true, Some(&first), Renewal::Ahead, set_right, 0.0);
        assert_eq!(again.left_at(set_right), secs(30));

        let free = HeldToken::new(token("a", later, secs(200)), false, Some(&first), Renewal::Ahead, later, 0.0);
        assert_eq!(free.token.expires, later.plus(secs(200)));
    }

    proptest! {
        /// Whatever the clocks do: past by either is expired, and nothing else is.
        #[test]
        fn expired_exactly_when_either_clock_says_so(lifetime in 1..604_800u64, mono in 0..700_000u64, wall in -700_000..700_000i64, jitter in 0.0..1.0f64) {
            let sent = start();
            let held = HeldToken::new(token("a", sent, secs(lifetime)), false, None, Renewal::Ahead, sent, jitter);
            let wall_now = if wall < 0 { sent.wall - secs(wall.unsigned_abs()) } else { sent.wall + secs(wall.unsigned_abs()) };
            let now = Moment { mono: sent.mono + secs(mono), wall: wall_now };
            let past = mono >= lifetime || wall >= i64::try_from(lifetime).unwrap();
            prop_assert_eq!(held.freshness(now) == Freshness::Expired, past);
        }
    }
}
