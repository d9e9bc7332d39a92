//! Pure: when may a user's next sign-in begin? The floor, the back-off and the hold.
//!
//! Must never let a refusal that could lock an account be repeated while its hold lasts, nor let anything but the vault's
//! answers and the operator's configuration shorten a wait. All waits are counted by the monotonic clock, so that a jump of
//! the wall clock shortens none.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{model::TokenId, vault::Failure};

/// Back-off after the first transient failure …
const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
/// … doubling up to this: a vault that is back is found within a minute.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// Least part of a back-off that jitter leaves: full jitter may say nothing at all, which is no pause.
const BACK_OFF_LEAST: f64 = 0.05;
/// A token without any life left is most often the one that ends within this second, and the vault has another as soon as it
/// has ended: to ask before that is in vain.
const ENDED_PAUSE: Duration = Duration::from_secs(1);
/// The doubled floor ends here: even replicas that revoke each other's tokens get one every ten minutes.
const FLOOR_MAX: Duration = Duration::from_secs(600);
/// What doubles where `min_sign_in_interval` is less, or 0.
const FLOOR_DOUBLES_FROM: Duration = Duration::from_secs(1);
/// A token rejected within this many floors after its sign-in was rejected soon.
const SOON_FLOORS: u32 = 2;

/// What the operator set.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// From the beginning of a sign-in that succeeded to the next.
    pub min_sign_in_interval: Duration,
    /// How long a definite refusal is not repeated.
    pub refusal_hold: Duration,
}

/// Why there is no sign-in until some instant: a hold, a throttle or a back-off.
#[derive(Clone, Debug)]
pub struct Stop {
    /// What the vault did.
    pub failure: Arc<Failure>,
    /// No sign-in before this.
    pub until: Instant,
}

impl Stop {
    /// What is left of it.
    #[must_use]
    pub fn left_at(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now)
    }
}

/// What a user's past says of the next sign-in.
#[derive(Debug, Default)]
pub struct Pacing {
    stop: Option<Stop>,
    failures: u32,
    last: Option<LastSignIn>,
    doublings: u32,
    rejected_soon: bool,
    rejected: Option<TokenId>,
}

/// A sign-in that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct LastSignIn {
    /// When it began.
    pub began: Instant,
    /// How much of the token's life was left when it arrived.
    pub gave: Duration,
    /// No other begins before this much has passed since `began`.
    pub floor: Duration,
}

impl LastSignIn {
    /// The end of its floor.
    #[must_use]
    pub fn next(&self) -> Instant {
        self.began + self.floor
    }
}

impl Pacing {
    /// Why no sign-in may begin now, other than for the floor.
    #[must_use]
    pub fn stopped(&self, now: Instant) -> Option<&Stop> {
        self.stop.as_ref().filter(|stop| stop.until > now)
    }

    /// How the last sign-in ended, if it failed and no other has succeeded since, whether or not its wait is over.
    #[must_use]
    pub fn failing(&self) -> Option<&Stop> {
        self.stop.as_ref()
    }

    /// The last sign-in that succeeded, while its floor lasts.
    #[must_use]
    pub fn within_floor(&self, now: Instant) -> Option<&LastSignIn> {
        self.last.as_ref().filter(|last| last.next() > now)
    }

    /// Notes that the vault's API refused `token`, the one now held. Returns whether the floor will double.
    pub fn rejected(&mut self, token: TokenId, now: Instant, rules: &Rules) {
        if self.rejected == Some(token) {
            return;
        }
        self.rejected = Some(token);
        let soon = self.floor(rules).max(FLOOR_DOUBLES_FROM) * SOON_FLOORS;
        self.rejected_soon = self.last.is_some_and(|last| now.saturating_duration_since(last.began) <= soon);
    }

    /// Notes a sign-in that gave a token which lives `lifetime` from `began` on, `gave` of it from now. Returns the new floor
    /// if it has just doubled.
    pub fn succeeded(&mut self, began: Instant, lifetime: Duration, gave: Duration, rules: &Rules) -> Option<Duration> {
        let doubled = self.rejected_soon;
        self.doublings = if doubled { self.doublings.saturating_add(1) } else { 0 };
        self.rejected_soon = false;
        // The same token may be given again, and be rejected again.
        self.rejected = None;
        self.stop = None;
        self.failures = 0;
        // Half the lifetime at most: a floor that outlasts the token would leave the user without.
        let floor = self.floor(rules).min(lifetime / 2);
        self.last = Some(LastSignIn { began, gave, floor });
        doubled.then_some(floor)
    }

    /// Notes a failure. `jitter`: 0 to 1, anew for each.
    pub fn failed(&mut self, failure: Failure, now: Instant, jitter: f64, rules: &Rules) -> Stop {
        let wait = match &failure {
            Failure::Refused { .. } => rules.refusal_hold,
            Failure::Throttled { wait, .. } => *wait,
            Failure::Unavailable { wait, .. } => self.back_off(jitter).max(wait.unwrap_or_default()),
            Failure::Invalid { issued: true, .. } => self.back_off(jitter).max(ENDED_PAUSE),
            Failure::Invalid { issued: false, .. } | Failure::Broken => self.back_off(jitter),
        };
        let stop = Stop { failure: Arc::new(failure), until: now + wait };
        self.stop = Some(stop.clone());
        stop
    }

    /// The operator changed the credential: whatever stood against the former says nothing of it.
    pub fn lift(&mut self) {
        self.stop = None;
        self.failures = 0;
    }

    /// One more transient failure: full jitter over 1 s, doubling to 60 s.
    fn back_off(&mut self, jitter: f64) -> Duration {
        let widest = BACK_OFF_FIRST.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(BACK_OFF_MAX);
        self.failures = self.failures.saturating_add(1);
        widest.mul_f64(jitter.clamp(BACK_OFF_LEAST, 1.0))
    }

    fn floor(&self, rules: &Rules) -> Duration {
        if self.doublings == 0 {
            return rules.min_sign_in_interval;
        }
        let base = rules.min_sign_in_interval.max(FLOOR_DOUBLES_FROM);
        let doubled = base.saturating_mul(1u32.checked_shl(self.doublings).unwrap_or(u32::MAX));
        doubled.min(FLOOR_MAX.max(rules.min_sign_in_interval))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vault::{Refusal, Scope};

    const RULES: Rules = Rules { min_sign_in_interval: Duration::from_secs(5), refusal_hold: Duration::from_secs(24 * 3_600) };

    #[allow(clippy::disallowed_methods, reason = "a fixed point to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn down() -> Failure {
        Failure::Unavailable { cause: "down", wait: None, vault_error: String::new() }
    }

    #[test]
    fn back_off_doubles_to_a_minute_and_ends_with_success() {
        let (mut pacing, now) = (Pacing::default(), start());
        for widest in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(pacing.failed(down(), now, 1.0, &RULES).left_at(now), secs(widest));
        }
        assert!(pacing.failed(down(), now, 0.0, &RULES).left_at(now) >= secs(3), "a pause, whatever the jitter");
        pacing.succeeded(now, secs(60), secs(60), &RULES);
        assert!(pacing.stopped(now).is_none());
        assert_eq!(pacing.failed(down(), now, 1.0, &RULES).left_at(now), secs(1));
    }

    #[test]
    fn the_upstreams_own_wait_counts() {
        let (mut pacing, now) = (Pacing::default(), start());
        let busy = Failure::Unavailable { cause: "busy", wait: Some(secs(120)), vault_error: String::new() };
        assert_eq!(pacing.failed(busy, now, 1.0, &RULES).left_at(now), secs(120));
        let throttled = Failure::Throttled { scope: Scope::User, wait: secs(60), vault_error: String::new() };
        assert_eq!(pacing.failed(throttled, now, 0.1, &RULES).left_at(now), secs(60));
        let refused = Failure::Refused { why: Refusal::Credentials, vault_error: String::new() };
        assert_eq!(pacing.failed(refused, now, 0.1, &RULES).left_at(now), RULES.refusal_hold);
        assert!(pacing.stopped(now + RULES.refusal_hold - secs(1)).is_some());
        assert!(pacing.stopped(now + RULES.refusal_hold).is_none());
    }

    #[test]
    fn the_floor_is_half_the_lifetime_where_that_is_shorter() {
        let (mut pacing, now) = (Pacing::default(), start());
        assert!(pacing.within_floor(now).is_none());
        pacing.succeeded(now, secs(60), secs(60), &RULES);
        assert_eq!(pacing.within_floor(now).expect("just began").next(), now + secs(5));
        assert!(pacing.within_floor(now + secs(5)).is_none());
        pacing.succeeded(now, secs(4), secs(4), &RULES);
        assert_eq!(pacing.within_floor(now).expect("just began").next(), now + secs(2));
    }

    #[test]
    fn the_floor_doubles_while_tokens_are_rejected_soon() {
        let (mut pacing, mut now) = (Pacing::default(), start());
        pacing.succeeded(now, secs(86_400), secs(86_400), &RULES);
        for (round, floor) in [10, 20, 40, 80, 160, 320, 600, 600].into_iter().enumerate() {
            let token = TokenId::of(&round.to_string());
            pacing.rejected(token, now + secs(1), &RULES);
            pacing.rejected(token, now + secs(86_000), &RULES); // late reporters of the same token change nothing
            now = pacing.within_floor(now).expect("the floor holds").next();
            assert_eq!(pacing.succeeded(now, secs(86_400), secs(86_400), &RULES), Some(secs(floor)));
        }
        pacing.rejected(TokenId::of("late"), now + secs(3_600), &RULES);
        assert_eq!(pacing.succeeded(now + secs(3_600), secs(86_400), secs(86_400), &RULES), None, "it lived long enough");
        assert_eq!(pacing.within_floor(now + secs(3_600)).expect("just began").floor, secs(5));
    }

    proptest! {
        /// No history of failures makes a back-off longer than a minute, or none at all.
        #[test]
        fn back_off_stays_within_its_bounds(failures in 0..200u32, jitter in -1.0..2.0f64) {
            let (mut pacing, now) = (Pacing::default(), start());
            for _ in 0..failures {
                pacing.failed(down(), now, 1.0, &RULES);
            }
            let left = pacing.failed(down(), now, jitter, &RULES).left_at(now);
            prop_assert!(left >= Duration::from_millis(50) && left <= secs(60), "{left:?}");
        }
    }
}
