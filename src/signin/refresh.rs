//! When tokens are renewed ahead: what goes on the refresh queue, and what becomes of it when another configuration is in force.
//!
//! Must never put a user on it whose token is to be kept to its end, nor let a burst of tokens fall due at once.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::shared::{Shared, configured};
use crate::{
    clock::Moment,
    config::Renewal,
    freshness::{BURST_JITTER, due_left},
    live::Snapshot,
    tokens::cached_token::CachedToken,
    user::UserKey,
    users::{KnownUser, Record},
};

/// So many points to fall due at are drawn for each token, and the quietest taken …
const DRAWS: u32 = 4;
/// … and as many more, further apart, where even that has so many renewals in its second: a third of what the default of 64
/// sign-ins at once does in a second at the vault's slowest.
const BURST: u32 = 20;
/// A renewal that was put off is spread over this part of its token's remaining life …
const RENEW_LATER_PART: u32 = 4;
/// … and at most this long.
const RENEW_LATER_MAX: Duration = Duration::from_secs(15);
/// A token is renewed so many times as long before its margin as the slowest sign-in of late took …
const LEAD_SIGN_INS: u32 = 2;
/// … which is forgotten by this part with each one that is quicker.
const LATELY_PART: u32 = 10;

impl Shared {
    /// Puts a user off whose renewal may not begin before `wait` is over, spread out, since others wait for the same. Who has no token,
    /// since the vault is another one, is to have one before somebody asks.
    pub(super) fn renew_later(&self, user: &KnownUser, wait: Duration) {
        let now = self.parts.clock.now();
        let snapshot = self.live.load();
        let renewal = snapshot.settings.renewal;
        let Some(configured) = snapshot.user(&user.key) else { return };
        let cached = valid_token(user, &snapshot, now);
        let (due, left) = match &cached {
            Some(cached) if cached.version != configured.credential.version => (Duration::ZERO, cached.left_at(now)),
            Some(cached) => match cached.due_in(now, renewal) {
                Some(due) => (due, cached.left_at(now)),
                None => return,
            },
            None if renewal == Renewal::Ahead => (Duration::ZERO, Duration::MAX),
            None => return,
        };
        let spread = (left / RENEW_LATER_PART).min(RENEW_LATER_MAX).mul_f64(self.random());
        // The spread is no reason to come too late.
        let put_off = if left > wait + spread { wait + spread } else { wait };
        let wait = due.max(put_off);
        if left > wait {
            self.plan(&mut user.record(), &user.key, Some(now.mono + wait));
        }
    }

    /// Has a user's calls answer this token from now on, and plans its renewal. What is in force takes it.
    pub(super) fn keep_token(
        &self,
        user: &KnownUser,
        record: &mut Record,
        snapshot: &Snapshot,
        cached: &Arc<CachedToken>,
        at: Moment,
    ) {
        user.store_token(&self.parts.cache, cached, record);
        record.lost_token = false;
        let counts = record.holds.counts(cached.version);
        let due = if counts { cached.due_in(at, snapshot.settings.renewal) } else { Some(Duration::ZERO) };
        self.plan(record, &user.key, due.map(|due| at.mono + due));
    }

    /// Moves a user's renewal to `at`, or takes it off the refresh queue.
    pub(super) fn plan(&self, record: &mut Record, key: &Arc<UserKey>, at: Option<Instant>) {
        record.renewal = match (record.renewal.take(), at) {
            (former, Some(at)) => Some(self.parts.refresh_queue.put(former, at, key)),
            (Some(former), None) => {
                self.parts.refresh_queue.remove(former);
                None
            }
            (None, None) => None,
        };
    }

    /// Plans a user's renewal by the rules that count now. Who has no token keeps the place that it has, where tokens are renewed ahead.
    pub(super) fn replan(&self, user: &KnownUser, snapshot: &Snapshot, now: Moment) {
        let mut record = user.record();
        let renewal = snapshot.settings.renewal;
        let due = match valid_token(user, snapshot, now) {
            Some(cached) if !record.holds.counts(cached.version) => Some(Duration::ZERO),
            Some(cached) => cached.due_in(now, renewal),
            None if renewal == Renewal::Ahead => return,
            None => None,
        };
        self.plan(&mut record, &user.key, due.map(|due| now.mono + due));
    }

    /// Has a user's token be due, since another credential counts by now, or drops it, since none does or another vault. Whoever had a
    /// token is to have one again before somebody asks; who was not asked for lately, the refresh queue passes over. Returns the good token of
    /// a user who is configured no more.
    pub(super) fn outdate(&self, user: &KnownUser, now: Moment) -> Option<Arc<CachedToken>> {
        let mut record = user.record();
        // Under the lock: a flight that ends later looks later at what is in force.
        let snapshot = self.live.load();
        let configured = configured(user, &mut record, &snapshot, now.mono);
        let former = user.token().filter(|cached| configured.is_none() || !snapshot.takes(cached));
        let was_good = former.as_ref().is_some_and(|former| !former.left_at(now).is_zero());
        if former.is_some() {
            record.lost_token = configured.is_some() && was_good;
            user.drop_token(&self.parts.cache, &mut record);
        }
        let cached = valid_token(user, &snapshot, now);
        let due = match (configured, cached) {
            (None, _) => None,
            // It came since, or is that of a credential which is back.
            (Some(configured), Some(cached)) if configured.credential.version == cached.version => {
                cached.due_in(now, snapshot.settings.renewal)
            }
            (Some(_), Some(_)) => Some(Duration::ZERO),
            (Some(_), None) => {
                let wanted = snapshot.settings.renewal == Renewal::Ahead && record.lost_token;
                // Spread out, since all others may be without as well.
                wanted.then(|| RENEW_LATER_MAX.mul_f64(self.random()))
            }
        };
        self.plan(&mut record, &user.key, due.map(|due| now.mono + due));
        former.filter(|_| was_good && configured.is_none())
    }

    /// How long before its margin a token is to be renewed that a sign-in brought which took so long.
    pub(super) fn lead(&self, took: Duration) -> Duration {
        let slowest = *self.slowest.lock().unwrap_or_else(PoisonError::into_inner);
        slowest_of_late(slowest, took).saturating_mul(LEAD_SIGN_INS)
    }

    /// Notes how long a sign-in took that brought a token.
    pub(super) fn took(&self, took: Duration) {
        let mut slowest = self.slowest.lock().unwrap_or_else(PoisonError::into_inner);
        *slowest = slowest_of_late(*slowest, took);
    }

    /// With how much of its life left a token falls due, so that it does in the quietest second of a few that are drawn.
    pub(super) fn quiet_due_left(&self, began: Instant, lifetime: Duration, lead: Duration) -> Duration {
        let mut quietest = (u32::MAX, Duration::ZERO);
        for draw in 0..2 * DRAWS {
            let jitter = match draw {
                0..DRAWS => self.random(),
                // No burst, so nothing is renewed earlier than usual.
                DRAWS.. if quietest.0 < BURST => break,
                DRAWS.. => self.random() * BURST_JITTER,
            };
            let left = due_left(lifetime, jitter, lead);
            let due = self.parts.refresh_queue.due_in_second(began + lifetime.saturating_sub(left));
            if due < quietest.0 {
                quietest = (due, left);
            }
        }
        quietest.1
    }
}

/// The user's token, if it is good for anything. Whether one that has ended is freed already makes no difference.
pub(super) fn valid_token(user: &KnownUser, snapshot: &Snapshot, now: Moment) -> Option<Arc<CachedToken>> {
    user.token().filter(|cached| snapshot.takes(cached) && !cached.left_at(now).is_zero())
}

/// How long the slowest sign-in took, with this one.
fn slowest_of_late(slowest: Duration, took: Duration) -> Duration {
    took.max(slowest - slowest / LATELY_PART)
}
