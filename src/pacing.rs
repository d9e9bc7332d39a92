//! Pure: when may a user's next sign-in begin? The floor, the back-off and the hold.
//!
//! Must never let a refusal that could lock an account be repeated while its hold lasts, nor let anything but the vault's
//! answers and the operator's configuration shorten a wait. All waits are counted by the monotonic clock, so that a jump of
//! the wall clock shortens none.

mod against;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use self::against::Against;
use crate::{model::TokenId, vault::Failure};

/// Back-off after the first transient failure …
const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
/// … doubling up to this: a vault that is back is found within a minute.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// Least part of a back-off that jitter leaves: full jitter may say nothing at all, which is no pause.
const BACK_OFF_LEAST: f64 = 0.05;
/// The doubled floor ends here: even replicas that revoke each other's tokens get one every ten minutes.
const FLOOR_MAX: Duration = Duration::from_secs(600);
/// What doubles where `min_sign_in_interval` is less, or 0.
const FLOOR_DOUBLES_FROM: Duration = Duration::from_secs(1);
/// Former credentials of which it is remembered what the vault said; two files or controllers that disagree have two.
const FORMER_MAX: usize = 8;
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

/// Tells one credential from another, within this process: its maker hashes with a key of its own, so that it gives no password
/// away. That two differ and look the same happens once in 2⁶⁴.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(pub(crate) u64);

/// What is true around a failure.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// When it is noted.
    pub now: Instant,
    /// 0 to 1, anew for each.
    pub jitter: f64,
    /// How many tokens the vault gave so far, to anybody.
    pub grants: u64,
}

/// What a user's past says of the next sign-in.
#[derive(Debug, Default)]
pub struct Pacing {
    /// What stands against the credential that counts.
    against: Against,
    /// And against those that counted before, lest one that was refused is sent again when it comes back.
    former: Vec<(Version, Against)>,
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
        self.against.stop.as_ref().filter(|stop| stop.until > now)
    }

    /// How the last sign-in ended, if it failed and no other has succeeded since, whether or not its wait is over.
    #[must_use]
    pub fn failing(&self) -> Option<&Stop> {
        self.against.stop.as_ref()
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
        self.against = Against::default();
        self.signed_in(began, lifetime, gave, rules)
    }

    /// The same of a credential that was replaced meanwhile: it says nothing of the one that counts.
    pub fn former_succeeded(
        &mut self,
        version: Version,
        began: Instant,
        lifetime: Duration,
        gave: Duration,
        rules: &Rules,
    ) -> Option<Duration> {
        self.take_former(version);
        self.signed_in(began, lifetime, gave, rules)
    }

    fn signed_in(&mut self, began: Instant, lifetime: Duration, gave: Duration, rules: &Rules) -> Option<Duration> {
        let doubles = self.rejected_soon;
        self.doublings = if doubles { self.doublings.saturating_add(1) } else { 0 };
        self.rejected_soon = false;
        // The same token may be given again, and be rejected again.
        self.rejected = None;
        self.failures = 0;
        // Half the lifetime at most: a floor that outlasts the token would leave the user without.
        let floor = self.floor(rules).min(lifetime / 2);
        self.last = Some(LastSignIn { began, gave, floor });
        doubles.then_some(floor)
    }

    /// Notes a failure of the credential that counts.
    pub fn failed(&mut self, failure: Failure, now: Circumstances, rules: &Rules) -> Stop {
        let back_off = self.back_off(&failure, now.jitter);
        self.against.failed(failure, back_off, now, rules)
    }

    /// Notes a failure of a credential that was replaced while the vault judged it: it says nothing of the one that counts, which
    /// may be tried at once, but is remembered, should that credential come back.
    pub fn former_failed(&mut self, version: Version, failure: Failure, now: Circumstances, rules: &Rules) -> Stop {
        let mut against = self.take_former(version);
        let stop = against.failed(failure, Duration::ZERO, now, rules);
        self.remember(version, against, now.now);
        Stop { until: now.now, ..stop }
    }

    /// The operator changed the credential: whatever stood against the former says nothing of this one, unless it was tried before.
    pub fn change(&mut self, from: Version, to: Version, now: Instant) {
        let against = self.take_former(to);
        let former = std::mem::replace(&mut self.against, against);
        self.remember(from, former, now);
        self.failures = 0;
    }

    /// It was the vault that was out of order, or a box before it, and not this user: what its undocumented answers were counted
    /// for is forgotten. But once only until there is a token, so that no refused password is sent without end.
    pub fn forgive(&mut self) {
        self.against.forgive();
    }

    /// Whether there is something against a credential that must outlast the user's absence from the configuration.
    #[must_use]
    pub fn remembers(&self, now: Instant) -> bool {
        self.stopped(now).is_some() || self.against.lasts(now) || self.former.iter().any(|(_, against)| against.lasts(now))
    }

    fn take_former(&mut self, version: Version) -> Against {
        let at = self.former.iter().position(|(former, _)| *former == version);
        at.map(|at| self.former.swap_remove(at).1).unwrap_or_default()
    }

    fn remember(&mut self, version: Version, against: Against, now: Instant) {
        self.former.retain(|(_, against)| against.lasts(now));
        if !against.lasts(now) {
            return;
        }
        if self.former.len() >= FORMER_MAX {
            let soonest = self.former.iter().enumerate().min_by_key(|(_, (_, against))| against.until()).map(|(at, _)| at);
            soonest.map(|at| self.former.swap_remove(at));
        }
        self.former.push((version, against));
    }

    /// One more transient failure: full jitter over 1 s, doubling to 60 s.
    fn back_off(&mut self, failure: &Failure, jitter: f64) -> Duration {
        match failure {
            Failure::Refused { .. } | Failure::Undocumented { .. } | Failure::Throttled { .. } => return Duration::ZERO,
            Failure::Unavailable { .. } | Failure::Invalid { .. } | Failure::Broken => {}
        }
        let widest = doubled(BACK_OFF_FIRST, self.failures).min(BACK_OFF_MAX);
        self.failures = self.failures.saturating_add(1);
        widest.mul_f64(jitter.clamp(BACK_OFF_LEAST, 1.0))
    }

    fn floor(&self, rules: &Rules) -> Duration {
        if self.doublings == 0 {
            return rules.min_sign_in_interval;
        }
        let base = rules.min_sign_in_interval.max(FLOOR_DOUBLES_FROM);
        doubled(base, self.doublings).min(FLOOR_MAX.max(rules.min_sign_in_interval))
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1u32.checked_shl(times).unwrap_or(u32::MAX))
}
