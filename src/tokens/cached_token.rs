//! A token as it is cached: where it is from, and how good it is by both clocks and what is in force.
//!
//! Must never call a token valid that either clock says is past, nor read a clock itself.

use std::time::Duration;

use super::{
    token::{Token, TokenId},
    version::Version,
};
use crate::{
    clock::Moment,
    config::Renewal,
    freshness::{Freshness, Points, ask_again_in},
};

/// A token, where it is from, and the points in its life that were fixed when it was first seen.
#[derive(Clone, Debug)]
pub struct CachedToken {
    /// The token.
    pub token: Token,
    /// What brought it: it is good at that upstream alone, and due once another credential counts.
    pub version: Version,
    points: Points,
}

impl CachedToken {
    /// Fixes the points of `token`, which takes the place of `former`.
    ///
    /// `bounded`: the token itself says how long it lives in all, so that seeing it again can't prolong it.
    /// `due_left`: as [`due_left`](crate::freshness::due_left) says.
    #[must_use]
    pub fn new(
        mut token: Token,
        version: Version,
        bounded: bool,
        former: Option<&Self>,
        due_left: Duration,
        now: Moment,
    ) -> Self {
        let Some(same) = former.filter(|former| former.token.id == token.id) else {
            let points = Points::new(token.lifetime, due_left);
            return Self { token, version, points };
        };
        // By the monotonic clock alone: what the wall clock said then may have been wrong, and be set right since.
        if bounded && same.token.expires.mono < token.expires.mono {
            let mono = same.token.expires.mono;
            let left = mono.saturating_duration_since(now.mono);
            token.expires = Moment { mono, ..now.plus(left) };
        }
        let points = same.points.given_again(token.expires.left_at(now));
        Self { token, version, points }
    }

    /// How good it is now, where `version` counts and tokens are renewed like this.
    #[must_use]
    pub fn freshness(&self, now: Moment, version: Version, renewal: Renewal) -> Freshness {
        // What another credential brought is due at once.
        let due_left = if self.version == version { self.due_left(renewal) } else { Duration::MAX };
        self.points.freshness(self.left_at(now), due_left)
    }

    /// With how much of its life left it is due; zero where it is not renewed ahead.
    fn due_left(&self, renewal: Renewal) -> Duration {
        match renewal {
            Renewal::Ahead => self.points.due_left(),
            Renewal::AtExpiry => Duration::ZERO,
        }
    }

    /// What is left of its life; zero once it is expired.
    #[must_use]
    pub fn left_at(&self, now: Moment) -> Duration {
        self.token.expires.left_at(now)
    }

    /// How long until it is due; `None` where it is not renewed ahead.
    #[must_use]
    pub fn due_in(&self, now: Moment, renewal: Renewal) -> Option<Duration> {
        let due = self.due_left(renewal);
        (!due.is_zero()).then(|| self.left_at(now).saturating_sub(due))
    }

    /// When a caller that keeps the token should ask again, where `version` counts and tokens are renewed like this: `jitter` is
    /// 0 to 1, anew for each answer. Never more than what is left.
    #[must_use]
    pub fn renew_in(&self, now: Moment, version: Version, renewal: Renewal, jitter: f64) -> Duration {
        let left = self.left_at(now);
        match renewal {
            Renewal::AtExpiry => left,
            Renewal::Ahead if self.version == version => self.points.renew_in(left, jitter),
            Renewal::Ahead => ask_again_in(left, jitter),
        }
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
    use crate::{freshness::due_left, secret::Secret};

    #[allow(clippy::disallowed_methods, reason = "a fixed point to count from")]
    fn start() -> Moment {
        Moment { mono: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) }
    }

    fn token(text: &str, sent: Moment, lifetime: Duration) -> Token {
        Token {
            access_token: Secret::from(text),
            id: TokenId::of(text),
            scope: Arc::default(),
            expires: sent.plus(lifetime),
            lifetime,
        }
    }

    fn cached(token: Token, bounded: bool, former: Option<&CachedToken>, now: Moment, jitter: f64) -> CachedToken {
        let due_left = due_left(token.lifetime, jitter, Duration::ZERO);
        CachedToken::new(token, Version::default(), bounded, former, due_left, now)
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn it_takes_little_room() {
        // With the two counts of an `Arc`, what mimalloc has no smaller place for.
        assert!(size_of::<CachedToken>() + 2 * size_of::<usize>() <= 160, "{} bytes", size_of::<CachedToken>());
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
            let cached = cached(token("a", sent, lifetime), false, None, sent, jitter);
            let tick = Duration::from_nanos(1);
            assert_eq!(cached.freshness(sent, Version::default(), Renewal::Ahead), Freshness::Fresh);
            assert_eq!(cached.freshness(sent.plus(due - tick), Version::default(), Renewal::Ahead), Freshness::Fresh);
            if due < margin {
                assert_eq!(cached.freshness(sent.plus(due), Version::default(), Renewal::Ahead), Freshness::Due);
                assert_eq!(cached.freshness(sent.plus(margin - tick), Version::default(), Renewal::Ahead), Freshness::Due);
            }
            assert_eq!(cached.freshness(sent.plus(margin), Version::default(), Renewal::Ahead), Freshness::Margin);
            assert_eq!(cached.freshness(sent.plus(lifetime - tick), Version::default(), Renewal::Ahead), Freshness::Margin);
            assert_eq!(cached.freshness(sent.plus(lifetime), Version::default(), Renewal::Ahead), Freshness::Expired);
            assert_eq!(cached.due_in(sent, Renewal::Ahead), Some(due));
        }
    }

    #[test]
    fn what_another_version_brought_is_due_and_as_long_lived_as_before() {
        let (sent, other) = (start(), Version { credential: 1, ..Version::default() });
        let cached = cached(token("a", sent, secs(300)), false, None, sent, 0.0);
        for renewal in [Renewal::Ahead, Renewal::AtExpiry] {
            assert_eq!(cached.freshness(sent, Version::default(), renewal), Freshness::Fresh);
            assert_eq!(cached.freshness(sent, other, renewal), Freshness::Due);
            assert_eq!(cached.freshness(sent.plus(secs(280)), other, renewal), Freshness::Margin);
            assert_eq!(cached.freshness(sent.plus(secs(300)), other, renewal), Freshness::Expired);
        }
        let renew_in = |version, renewal| cached.renew_in(sent, version, renewal, 1.0);
        assert_eq!(renew_in(Version::default(), Renewal::Ahead), secs(270), "before its margin");
        assert_eq!(renew_in(other, Renewal::Ahead), secs(60), "the next is being fetched");
        assert_eq!(renew_in(Version::default(), Renewal::AtExpiry), secs(300));
        assert_eq!(renew_in(other, Renewal::AtExpiry), secs(300));
    }

    #[test]
    fn at_expiry_is_fresh_to_the_end() {
        let sent = start();
        let cached = cached(token("a", sent, secs(10)), false, None, sent, 0.7);
        assert_eq!(
            cached.freshness(sent.plus(Duration::from_millis(9_999)), Version::default(), Renewal::AtExpiry),
            Freshness::Fresh
        );
        assert_eq!(cached.freshness(sent.plus(secs(10)), Version::default(), Renewal::AtExpiry), Freshness::Expired);
        assert_eq!(cached.due_in(sent, Renewal::AtExpiry), None);
        let late = sent.plus(Duration::from_millis(9_500));
        assert_eq!(cached.freshness(late, Version::default(), Renewal::Ahead), Freshness::Margin, "what is in force counts");
    }

    #[test]
    fn the_same_token_again_keeps_its_margin_and_is_left_alone_for_a_while() {
        let sent = start();
        let first = cached(token("a", sent, secs(200)), true, None, sent, 0.0);
        let later = sent.plus(secs(170));
        let again = cached(token("a", later, secs(30)), true, Some(&first), later, 0.0);
        assert_eq!(again.freshness(later, Version::default(), Renewal::Ahead), Freshness::Fresh, "no storm");
        let late = later.plus(secs(23));
        assert_eq!(
            again.freshness(late, Version::default(), Renewal::Ahead),
            Freshness::Margin,
            "a quarter is left: try once more"
        );
        let last = cached(token("a", late, secs(7)), true, Some(&again), late, 0.0);
        assert_eq!(last.freshness(later.plus(secs(29)), Version::default(), Renewal::Ahead), Freshness::Fresh, "and not again");
        assert_eq!(last.due_in(late, Renewal::Ahead), None);
        assert_eq!(again.token.expires, sent.plus(secs(200)));

        // A vault that forgets to shrink `expires_in`: the token's own word counts, where there is one.
        let bounded = cached(token("a", later, secs(200)), true, Some(&first), later, 0.0);
        assert_eq!(bounded.token.expires, sent.plus(secs(200)));
        // The wall clock was two days behind at first: the token is good, whatever it seemed to be.
        let set_right = Moment { wall: later.wall + secs(172_800), ..later };
        assert_eq!(first.freshness(set_right, Version::default(), Renewal::Ahead), Freshness::Expired);
        let again = cached(token("a", set_right, secs(30)), true, Some(&first), set_right, 0.0);
        assert_eq!(again.left_at(set_right), secs(30));

        let free = cached(token("a", later, secs(200)), false, Some(&first), later, 0.0);
        assert_eq!(free.token.expires, later.plus(secs(200)));
    }

    proptest! {
        /// Whatever the clocks do: past by either is expired, and nothing else is.
        #[test]
        fn expired_exactly_when_either_clock_says_so(lifetime in 1..604_800u64, mono in 0..700_000u64, wall in -700_000..700_000i64, jitter in 0.0..1.0f64) {
            let sent = start();
            let cached = cached(token("a", sent, secs(lifetime)), false, None, sent, jitter);
            let wall_now = if wall < 0 { sent.wall - secs(wall.unsigned_abs()) } else { sent.wall + secs(wall.unsigned_abs()) };
            let now = Moment { mono: sent.mono + secs(mono), wall: wall_now };
            let past = mono >= lifetime || wall >= i64::try_from(lifetime).unwrap();
            prop_assert_eq!(cached.freshness(now, Version::default(), Renewal::Ahead) == Freshness::Expired, past);
        }
    }
}
