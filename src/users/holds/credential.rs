//! Pure: what is known against one version of a credential: how often it may have been judged, and until when it is not sent.
//!
//! Must never let a password be sent a fourth time to a vault that answers with a no nobody has documented.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    saved::{SavedFailure, SavedHold},
    stop::{Circumstances, Rules, Stop},
};
use crate::{
    backoff::Backoff,
    clock::Moment,
    tokens::version::Mark,
    vault::{Failure, Refusal, UNREADABLE},
};

/// After the first answer that says no and nothing that is documented, the next try is so far off …
const UNDOCUMENTED_FIRST: Duration = Duration::from_secs(60);
/// … after the second so far: by then whoever changed something at the vault has most often seen it …
const UNDOCUMENTED_SECOND: Duration = Duration::from_secs(10 * 60);
/// … and this one in a row is a hold: more tries than that lock accounts.
const UNDOCUMENTED_HELD: u32 = 3;
/// While the vault gives nobody a token, a user's third wait in a row and those after it last at least this long, doubling, up to
/// the hold: some vaults count tries that they don't let through.
const UNGRANTED_FIRST: Duration = Duration::from_secs(60);
/// How long it is remembered that a credential got undocumented answers or waits, from the end of the last pause for them.
const TRIES_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// A token without any life left is most often the one that ends within this second, and the vault has another as soon as it
/// has ended: to ask before that is in vain.
const ENDED_PAUSE: Duration = Duration::from_secs(1);

/// Why a credential is not sent, and since when.
#[derive(Clone, Debug)]
struct Pause {
    failure: Arc<Failure>,
    since: Instant,
    /// After a refusal the hold counts that is in force, or this where it is longer.
    wait: Duration,
    /// For so long the credential would be left alone without a wait that the vault asked for, which covers that.
    beneath: Duration,
    /// Whether it is for undocumented answers alone.
    undocumented: bool,
}

impl Pause {
    fn is_refusal(&self) -> bool {
        matches!(*self.failure, Failure::Refused { .. })
    }

    fn is_wait(&self) -> bool {
        matches!(*self.failure, Failure::Throttled { .. })
    }

    fn until(&self, rules: &Rules) -> Instant {
        self.since + if self.is_refusal() { rules.refusal_hold.max(self.wait) } else { self.wait }
    }

    /// Of two the longer. Where that is a refusal, whose hold may become shorter, the other one's end is kept; and where it is a wait, which
    /// may be lifted, the end of what it covers.
    fn or_longer(self, other: Self, rules: &Rules) -> Self {
        let (mut longer, shorter) = if self.until(rules) > other.until(rules) { (self, other) } else { (other, self) };
        if longer.is_refusal() && !shorter.is_refusal() {
            longer.wait = longer.wait.max(shorter.until(rules).saturating_duration_since(longer.since));
        }
        if longer.is_wait() {
            let covered = if shorter.is_wait() { shorter.since + shorter.beneath } else { shorter.until(rules) };
            longer.beneath = longer.beneath.max(covered.saturating_duration_since(longer.since));
        }
        longer
    }
}

/// What is known against one version of a credential: mostly nothing, and then it takes no room.
#[derive(Clone, Debug, Default)]
pub(super) struct CredentialHolds(Option<Box<Known>>);

#[derive(Clone, Debug, Default)]
struct Known {
    pause: Option<Pause>,
    /// Undocumented answers since the user last got a token.
    undocumented: u32,
    /// Undocumented answers and waits since anybody last got a token …
    ungranted: u32,
    /// … which was this one.
    grants: u64,
    /// Its undocumented answers were forgotten once already.
    forgiven: bool,
}

impl Known {
    /// Counts an answer that may have judged the credential.
    fn count(&mut self, grants: u64) {
        if self.grants != grants {
            (self.grants, self.ungranted) = (grants, 0);
        }
        self.ungranted = self.ungranted.saturating_add(1);
    }
}

impl SavedHold {
    /// The same, read at `read_at`, as it is written down now; none if it does not last so long.
    pub(in crate::users) fn again(&self, read_at: Moment, now: Moment, rules: &Rules) -> Option<Self> {
        CredentialHolds::of_saved(self.clone(), read_at).saved(self.mark, now, rules)
    }
}

impl CredentialHolds {
    /// Whether another credential's coming and going may not wipe it out.
    pub(super) fn lasts(&self, now: Instant, rules: &Rules) -> bool {
        self.pause().is_some_and(|(pause, known)| {
            let kept = if known.undocumented.max(known.ungranted) > 0 { TRIES_KEPT } else { Duration::ZERO };
            let until = pause.until(rules);
            pause.is_refusal() && until > now || until + kept > now && !kept.is_zero()
        })
    }

    /// Why it is not sent, or was not, and until when.
    pub(super) fn stop(&self, rules: &Rules) -> Option<Stop> {
        self.pause().map(|(pause, _)| Stop { failure: Arc::clone(&pause.failure), until: pause.until(rules) })
    }

    /// How long a failure stops the credential, and what it comes to.
    pub(super) fn failed(&mut self, failure: Failure, back_off: Duration, now: Circumstances, rules: &Rules) -> Stop {
        let mut failure = failure;
        let known = self.0.get_or_insert_default();
        let undocumented = matches!(failure, Failure::Undocumented { .. });
        let wait = match &failure {
            Failure::Refused { .. } => rules.refusal_hold,
            Failure::Undocumented { status, wait, vault_error } => {
                known.count(now.grants);
                known.undocumented = known.undocumented.saturating_add(1).max(known.ungranted);
                let pause = match known.undocumented {
                    1 => UNDOCUMENTED_FIRST,
                    2 => UNDOCUMENTED_SECOND,
                    more => Backoff::new(UNDOCUMENTED_SECOND, rules.refusal_hold).widest(more - 2),
                };
                // What is no HTTP may have been no no either: it is asked ever more rarely, but held by nothing that it said.
                if known.undocumented >= UNDOCUMENTED_HELD && *status != UNREADABLE {
                    failure = Failure::Refused { why: Refusal::Request, vault_error: vault_error.clone() };
                    rules.refusal_hold
                } else {
                    pause.max(wait.unwrap_or_default())
                }
            }
            Failure::Throttled { wait, .. } => {
                known.count(now.grants);
                let doublings = known.ungranted.checked_sub(UNDOCUMENTED_HELD);
                let least = doublings.map(|doublings| Backoff::new(UNGRANTED_FIRST, rules.refusal_hold).widest(doublings));
                (*wait).max(least.unwrap_or_default())
            }
            Failure::Unavailable { wait, .. } => back_off.max(wait.unwrap_or_default()),
            Failure::Invalid { issued: true, .. } => back_off.max(ENDED_PAUSE),
            Failure::Invalid { issued: false, .. } | Failure::Broken => back_off,
        };
        let mut next = Pause { failure: Arc::new(failure), since: now.now, wait, beneath: Duration::ZERO, undocumented };
        if next.is_refusal() {
            next.wait = Duration::ZERO;
        }
        // What another credential ran into, on its way when this one came back, shortens no hold of this one's.
        let pause = match known.pause.take() {
            Some(before) => before.or_longer(next, rules),
            None => next,
        };
        let pause = known.pause.insert(pause);
        Stop { failure: Arc::clone(&pause.failure), until: pause.until(rules) }
    }

    /// Another replica's sign-in, which began then, gave a token: what was known before is over. Whether anything was.
    pub(super) fn granted_elsewhere(&mut self, began: Instant) -> bool {
        let is_over = self.0.is_some() && self.pause().is_none_or(|(pause, _)| pause.since < began);
        if is_over {
            *self = Self::default();
        }
        is_over
    }

    /// An operator lifts a wait of the vault's that began by `before`, and neither what it covers nor what was counted; whether there was one.
    pub(super) fn lift_wait(&mut self, before: Instant) -> bool {
        let pause = self.0.as_deref_mut().and_then(|known| known.pause.as_mut());
        let lifted = pause.filter(|pause| pause.is_wait() && pause.since <= before && pause.wait > pause.beneath);
        lifted.map(|pause| pause.wait = pause.beneath).is_some()
    }

    /// What another replica knows: the longer wait counts, and the higher counts.
    pub(super) fn told(&mut self, theirs: Self, rules: &Rules) {
        let Some(theirs) = theirs.0 else { return };
        let known = self.0.get_or_insert_default();
        known.pause = match (theirs.pause, known.pause.take()) {
            (Some(theirs), Some(ours)) => Some(theirs.or_longer(ours, rules)),
            (theirs, ours) => ours.or(theirs),
        };
        known.undocumented = known.undocumented.max(theirs.undocumented);
        known.ungranted = known.ungranted.max(theirs.ungranted);
        known.forgiven |= theirs.forgiven;
    }

    /// Forgets the undocumented answers, and what stopped the credential for them, once.
    pub(super) fn forgive(&mut self) {
        let Some(known) = self.0.as_deref_mut().filter(|known| known.undocumented > 0 && !known.forgiven) else { return };
        let mut pause = known.pause.take().filter(|pause| !pause.undocumented);
        if let Some(refusal) = pause.as_mut().filter(|pause| pause.is_refusal()) {
            // What it was lengthened by.
            refusal.wait = Duration::ZERO;
        }
        *known = Known { pause, forgiven: true, ..Known::default() };
    }

    /// As it is written down for the version with this mark, if it lasts.
    pub(super) fn saved(&self, mark: Mark, now: Moment, rules: &Rules) -> Option<SavedHold> {
        let (pause, known) = self.pause().filter(|_| self.lasts(now.mono, rules))?;
        let age = now.mono.saturating_duration_since(pause.since);
        Some(SavedHold {
            mark,
            failure: SavedFailure::of(&pause.failure),
            // By the wall clock as it is now, which may have been wrong then.
            since: now.wall.checked_sub(age).unwrap_or(now.wall),
            wait: pause.wait,
            beneath: pause.beneath,
            undocumented: pause.undocumented,
            tries: known.undocumented,
            ungranted: known.ungranted,
            forgiven: known.forgiven,
        })
    }

    /// What was written down. What began in the future by the wall clock, which was set back meanwhile, begins now: no wait is longer
    /// than it was, and none ends before its time unless that clock was set forward.
    pub(super) fn of_saved(saved: SavedHold, now: Moment) -> Self {
        let age = now.wall.duration_since(saved.since).unwrap_or_default();
        let failure = Arc::new(saved.failure.failure(saved.wait));
        // Where the monotonic clock doesn't reach back so far, it is late rather than early.
        let since = now.mono.checked_sub(age).unwrap_or(now.mono);
        let SavedHold { wait, beneath, undocumented, .. } = saved;
        let pause = Some(Pause { failure, since, wait, beneath, undocumented });
        let SavedHold { tries, ungranted, forgiven, .. } = saved;
        Self(Some(Box::new(Known { pause, undocumented: tries, ungranted, grants: 0, forgiven })))
    }

    /// When its pause ends, if it has one.
    pub(super) fn until(&self, rules: &Rules) -> Option<Instant> {
        self.pause().map(|(pause, _)| pause.until(rules))
    }

    fn pause(&self) -> Option<(&Pause, &Known)> {
        let known = self.0.as_deref()?;
        known.pause.as_ref().map(|pause| (pause, known))
    }
}
