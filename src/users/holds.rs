//! Pure: when may a user's next sign-in begin? The floor, the back-off and the hold.
//!
//! Must never let a refusal that could lock an account be repeated while its hold lasts, nor let anything but the vault's
//! answers and the operator's configuration shorten a wait. All waits are counted by the monotonic clock, so that a jump of
//! the wall clock shortens none.

mod credential;
mod saved;
mod stop;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::Instant;

use self::credential::CredentialHolds;
pub use self::{
    saved::SavedHold,
    stop::{Circumstances, Rules, Stop},
};
use crate::{
    backoff::Backoff,
    clock::Moment,
    tokens::{
        token::TokenId,
        version::{Mark, Version},
    },
    vault::Failure,
};

/// After transient failures: a vault that is back is found within a minute.
const BACK_OFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// The doubled floor ends here: even replicas that revoke each other's tokens get one every ten minutes.
const FLOOR_MAX: Duration = Duration::from_secs(600);
/// What doubles where `min_sign_in_interval` is less, but for 0.
const FLOOR_DOUBLES_FROM: Duration = Duration::from_secs(1);
/// Former credentials of which it is remembered what the vault said; two files or controllers that disagree have two.
const FORMER_MAX: usize = 8;
/// A token rejected within this many floors after its sign-in was rejected soon.
const SOON_FLOORS: u32 = 2;

/// What a user's past says of the next sign-in, by the rules in force, whichever it happened under.
#[derive(Debug, Default)]
pub struct Holds {
    /// The credential and the upstream that count, or counted last; none before the first look.
    version: Option<Version>,
    /// What is known against that.
    current: CredentialHolds,
    /// When the last sign-in that succeeded began, and how much of the token's life was left when it arrived.
    last: Option<(Instant, Duration)>,
    rare: Option<Box<Rare>>,
}

/// What few users have: apart, since there may be 100,000.
#[derive(Debug, Default)]
struct Rare {
    /// What is known against those credentials that counted before, lest a password that was refused is sent again when it comes back.
    former: Vec<(Version, CredentialHolds)>,
    /// The same of before the process began, when only the marks of their versions are known.
    recalled: Vec<(Mark, CredentialHolds)>,
    /// Which token was rejected since the last sign-in that succeeded, and whether that was soon after its issue.
    rejected: Option<(TokenId, bool)>,
    /// How often such a rejection doubled the floor.
    doublings: u32,
    /// Transient failures since the last sign-in that succeeded.
    failures: u32,
    /// When an operator last lifted what stood against the version that counts: what others know of before is void.
    lifted: Option<Instant>,
}

/// A sign-in that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct LastSignIn {
    /// When it began.
    pub began: Instant,
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

impl Holds {
    /// Has this version count from now on. What stood against another one is void until that comes back; and what was learnt at
    /// another upstream says nothing of this one.
    pub fn follow(&mut self, version: Version, now: Instant, rules: &Rules) {
        let Some(from) = self.version.replace(version).filter(|from| *from != version) else { return };
        let current = self.take_former(version);
        let former = std::mem::replace(&mut self.current, current);
        self.remember(from, former, now, rules);
        let elsewhere = from.upstream != version.upstream;
        if let Some(rare) = &mut self.rare {
            (rare.failures, rare.lifted) = (0, None);
            if elsewhere {
                (rare.doublings, rare.rejected) = (0, None);
            }
        }
        if elsewhere {
            self.last = None;
        }
    }

    /// Why no sign-in may begin now, other than for the floor.
    #[must_use]
    pub fn stopped(&self, now: Instant, rules: &Rules) -> Option<Stop> {
        self.failing(rules).filter(|stop| stop.until > now)
    }

    /// How the last sign-in ended, if it failed and no other has succeeded since, whether or not its wait is over.
    #[must_use]
    pub fn failing(&self, rules: &Rules) -> Option<Stop> {
        self.current.stop(rules)
    }

    /// The last sign-in that succeeded, while its floor lasts.
    #[must_use]
    pub fn within_floor(&self, now: Instant, rules: &Rules) -> Option<LastSignIn> {
        let (began, gave) = self.last?;
        // Half of what the token has left at most: a floor that outlasts it would leave the user without.
        let last = LastSignIn { began, floor: self.floor(rules).min(gave / 2) };
        (last.next() > now).then_some(last)
    }

    /// How much life the last sign-in that succeeded gave, whatever it was for, if that is less than `wanted`. Another gives no more
    /// while that token is good: it need not be tried before it falls due.
    #[must_use]
    pub fn gave_less(&self, wanted: Duration) -> Option<Duration> {
        self.last.map(|(_, gave)| gave).filter(|gave| *gave < wanted)
    }

    /// Notes that the vault's API refused `token`, the one now cached: soon after its issue, the next sign-in doubles the floor.
    pub fn rejected(&mut self, token: TokenId, now: Instant, rules: &Rules) {
        let within = self.floor(rules).max(FLOOR_DOUBLES_FROM) * SOON_FLOORS;
        let soon = self.last.is_some_and(|(began, _)| now.saturating_duration_since(began) <= within);
        let rejected = &mut self.rare.get_or_insert_default().rejected;
        if rejected.is_none_or(|(known, _)| known != token) {
            *rejected = Some((token, soon));
        }
    }

    /// Notes a sign-in with `version` that began at `began` and gave a token with `gave` of its life left. Returns the new floor if
    /// it has just doubled.
    pub fn succeeded(&mut self, version: Version, began: Instant, gave: Duration, rules: &Rules) -> Option<Duration> {
        if self.counts(version) {
            self.current = CredentialHolds::default();
        } else {
            // It says nothing of the credential that counts; at another upstream, of nothing else either.
            self.take_former(version);
            if self.is_elsewhere(version) {
                return None;
            }
        }
        self.last = Some((began, gave));
        let rare = self.rare.as_deref_mut()?;
        rare.failures = 0;
        // Forgotten: the same token may be given again, and be rejected again.
        let doubles = rare.rejected.take().is_some_and(|(_, soon)| soon);
        rare.doublings = if doubles { rare.doublings.saturating_add(1) } else { 0 };
        (doubles && !rules.min_sign_in_interval.is_zero()).then(|| self.floor(rules).min(gave / 2))
    }

    /// Notes what another replica's sign-in with `version` gave, which began at `began`; what stood against the credential before `granted`
    /// is over.
    pub fn succeeded_elsewhere(
        &mut self,
        version: Version,
        (began, granted): (Instant, Instant),
        gave: Duration,
        doublings: u32,
    ) {
        if self.is_elsewhere(version) {
            return;
        }
        self.told_of_sign_in(began, gave, doublings);
        if self.counts(version) {
            self.current.granted_elsewhere(granted);
        }
        if let Some(rare) = self.rare.as_deref_mut() {
            (rare.failures, rare.rejected) = (0, None);
        }
    }

    /// Notes that another replica has signed in, with which nothing is known yet that would do here: the floor counts for all.
    pub fn told_of_sign_in(&mut self, began: Instant, gave: Duration, doublings: u32) {
        if self.last.is_none_or(|(known, _)| known < began) {
            self.last = Some((began, gave));
            if doublings > 0 || self.doublings() > 0 {
                self.rare.get_or_insert_default().doublings = doublings;
            }
        }
    }

    /// Notes what another replica knows against the version that counts.
    pub fn told(&mut self, saved: SavedHold, now: Moment, rules: &Rules) {
        let since = now.mono.checked_sub(saved.age(now)).unwrap_or(now.mono);
        let is_lifted = self.rare.as_ref().and_then(|rare| rare.lifted).is_some_and(|lifted| since <= lifted);
        if !is_lifted && self.version.is_some_and(|version| version.mark() == saved.mark) {
            self.current.told(CredentialHolds::of_saved(saved, now), rules);
        }
    }

    /// What is known against the version that counts, for other replicas.
    #[must_use]
    pub fn shown(&self, now: Moment, rules: &Rules) -> Option<SavedHold> {
        self.current.saved(self.version?.mark(), now, rules)
    }

    /// When the last sign-in that succeeded began, wherever.
    #[must_use]
    pub fn began(&self) -> Option<Instant> {
        self.last.map(|(began, _)| began)
    }

    /// How often the floor has doubled.
    #[must_use]
    pub fn doublings(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.doublings)
    }

    /// Notes a failure of a sign-in with `version`. Returns what it comes to, unless it says nothing of the version that counts,
    /// which may then be tried at once: a judgement of a credential that was replaced while the vault judged it, or whatever another
    /// upstream did. It is remembered, should that version come back.
    pub fn failed(&mut self, version: Version, failure: Failure, now: Circumstances, rules: &Rules) -> Option<Stop> {
        let judged = matches!(failure, Failure::Refused { .. } | Failure::Undocumented { .. });
        if !self.counts(version) && (judged || self.is_elsewhere(version)) {
            let mut former = self.take_former(version);
            former.failed(failure, Duration::ZERO, now, rules);
            self.remember(version, former, now.now, rules);
            return None;
        }
        let back_off = self.back_off(&failure, now.jitter);
        Some(self.current.failed(failure, back_off, now, rules))
    }

    /// Notes that a sign-in ended without a word, by a fault of ours.
    pub fn broke(&mut self, now: Circumstances, rules: &Rules) -> Stop {
        let back_off = self.back_off(&Failure::Broken, now.jitter);
        self.current.failed(Failure::Broken, back_off, now, rules)
    }

    /// Lifts whatever stops the version that counts, and forgets what was counted against it, as a raised `attempt` does. Returns what
    /// stopped it until now. The floor stays.
    pub fn lift(&mut self, now: Instant, rules: &Rules) -> Option<Stop> {
        let lifted = self.stopped(now, rules);
        self.current = CredentialHolds::default();
        let rare = self.rare.get_or_insert_default();
        (rare.failures, rare.lifted) = (0, Some(now));
        lifted
    }

    /// Lifts a wait that the vault asked for before `before`, and nothing else: what was counted against the credential stays so. Returns
    /// what it was.
    pub fn lift_wait(&mut self, before: Instant, now: Instant, rules: &Rules) -> Option<Stop> {
        let lifted = self.stopped(now, rules).filter(|stop| matches!(*stop.failure, Failure::Throttled { .. }))?;
        self.current.lift_wait(before).then_some(lifted)
    }

    /// The same, told by another replica: an operator lifted it at `lifted`, and what came later stands.
    pub fn lifted_elsewhere(&mut self, lifted: Instant) {
        // It is heard of again and again while it stands, and counts once.
        let is_news = self.current.granted_elsewhere(lifted);
        let rare = self.rare.get_or_insert_default();
        rare.lifted = rare.lifted.max(Some(lifted));
        if is_news {
            rare.failures = 0;
        }
    }

    /// It was the vault that was out of order, or a box before it, and not this user: what its undocumented answers were counted
    /// for is forgotten. But once only until there is a token, so that no refused password is sent without end.
    pub fn forgive(&mut self, version: Version) {
        if self.counts(version) {
            self.current.forgive();
        } else if let Some((_, holds)) =
            self.rare.iter_mut().flat_map(|rare| &mut rare.former).find(|(former, _)| *former == version)
        {
            holds.forgive();
        }
    }

    /// Whether there is something against a credential that must outlast the user's absence from the configuration.
    #[must_use]
    pub fn remembers(&self, now: Instant, rules: &Rules) -> bool {
        self.stopped(now, rules).is_some() || self.all().any(|(_, holds)| holds.lasts(now, rules))
    }

    /// What is to outlast the process.
    pub fn saved(&self, now: Moment, rules: &Rules) -> impl Iterator<Item = SavedHold> {
        // The one that counts comes first.
        self.all().filter_map(move |(mark, holds)| holds.saved(mark, now, rules)).take(1 + FORMER_MAX)
    }

    /// Takes over what was saved by an earlier process, where `version` counts and nothing is known yet.
    pub fn recall(&mut self, version: Version, saved: Vec<SavedHold>, now: Moment) {
        self.version = Some(version);
        for saved in saved {
            let (mark, holds) = (saved.mark, CredentialHolds::of_saved(saved, now));
            if mark == version.mark() {
                self.current = holds;
            } else {
                self.rare.get_or_insert_default().recalled.push((mark, holds));
            }
        }
    }

    /// What is known against each credential, with the mark of its version.
    fn all(&self) -> impl Iterator<Item = (Mark, &CredentialHolds)> {
        let current = self.version.map(|version| (version.mark(), &self.current));
        let former = self.rare.iter().flat_map(|rare| &rare.former).map(|(version, holds)| (version.mark(), holds));
        let recalled = self.rare.iter().flat_map(|rare| &rare.recalled).map(|(mark, holds)| (*mark, holds));
        current.into_iter().chain(former).chain(recalled)
    }

    /// Whether this version counts, or counted last.
    #[must_use]
    pub fn counts(&self, version: Version) -> bool {
        self.version.is_none_or(|counts| counts == version)
    }

    fn is_elsewhere(&self, version: Version) -> bool {
        self.version.is_some_and(|counts| counts.upstream != version.upstream)
    }

    fn take_former(&mut self, version: Version) -> CredentialHolds {
        let Some(Rare { former, recalled, .. }) = self.rare.as_deref_mut() else { return CredentialHolds::default() };
        if let Some(at) = former.iter().position(|(former, _)| *former == version) {
            return former.swap_remove(at).1;
        }
        let at = recalled.iter().position(|(mark, _)| *mark == version.mark());
        at.map(|at| recalled.swap_remove(at).1).unwrap_or_default()
    }

    fn remember(&mut self, version: Version, holds: CredentialHolds, now: Instant, rules: &Rules) {
        if let Some(rare) = &mut self.rare {
            rare.former.retain(|(_, holds)| holds.lasts(now, rules));
            rare.recalled.retain(|(_, holds)| holds.lasts(now, rules));
        }
        if !holds.lasts(now, rules) {
            return;
        }
        let former = &mut self.rare.get_or_insert_default().former;
        former.push((version, holds));
        if former.len() > FORMER_MAX {
            let soonest = former.iter().enumerate().min_by_key(|(_, (_, holds))| holds.until(rules)).map(|(at, _)| at);
            soonest.map(|at| former.swap_remove(at));
        }
    }

    /// One more transient failure: full jitter over 1 s, doubling to 60 s.
    fn back_off(&mut self, failure: &Failure, jitter: f64) -> Duration {
        match failure {
            Failure::Refused { .. } | Failure::Undocumented { .. } | Failure::Throttled { .. } => return Duration::ZERO,
            Failure::Unavailable { .. } | Failure::Invalid { .. } | Failure::Broken => {}
        }
        let failures = &mut self.rare.get_or_insert_default().failures;
        let pause = BACK_OFF.pause(*failures, jitter);
        *failures = failures.saturating_add(1);
        pause
    }

    fn floor(&self, rules: &Rules) -> Duration {
        let doublings = self.doublings();
        // Where the operator says that there is no floor, nothing doubles.
        if doublings == 0 || rules.min_sign_in_interval.is_zero() {
            return rules.min_sign_in_interval;
        }
        let base = rules.min_sign_in_interval.max(FLOOR_DOUBLES_FROM);
        Backoff::new(base, FLOOR_MAX.max(rules.min_sign_in_interval)).widest(doublings)
    }
}
