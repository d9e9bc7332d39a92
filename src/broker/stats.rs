//! How the users are, counted merchant by merchant: for the operator's eyes.
//!
//! Must never name a user or hold more than a moment's lock on one, nor be run on an async worker: with 100,000 users it takes
//! some time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::failures::error_of;
use crate::{
    clock::Moment,
    config::Renewal,
    live::Snapshot,
    signin::{Flights, LastAnswers},
    tier::Condition,
    user::MerchantId,
    users::{Configured, KnownUser, holds::Stop, refresh_queue::RefreshQueue},
    vault::Failure,
};

/// A renewal whose time passed so long ago should have begun.
const OVERDUE_AFTER: Duration = Duration::from_secs(5);
/// "Lately", where tokens are not renewed ahead, in seconds.
const LATELY: u64 = 60;
/// "Soon", for renewals.
const SOON: Duration = Duration::from_secs(60);

/// How the users are.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Merchant by merchant, by id.
    pub merchants: BTreeMap<MerchantId, MerchantStats>,
    /// Sign-ins under way or queued.
    pub flights: usize,
    /// Calls that wait for one.
    pub waiting: usize,
    /// Whether the vault counts as down.
    pub vault_is_down: bool,
    /// How the tier is that replicas share; none where there is none.
    pub tier: Option<Condition>,
    /// What it answered last.
    pub last_answers: LastAnswers,
    /// Users whose next renewal has its time.
    pub renewals_planned: usize,
    /// Those of them who are due within a minute.
    pub renewals_soon: usize,
    /// Those who should have been renewed.
    pub renewals_overdue: usize,
}

/// How one merchant's users are. One user may count in several.
#[derive(Clone, Debug, Default)]
pub struct MerchantStats {
    /// Configured.
    pub users: usize,
    /// Have a token that is good now.
    pub cached: usize,
    /// Were asked for lately, have none, and aren't held: a sign-in should bring one. Lately is within `idle_after`; where tokens are
    /// not renewed ahead, within a minute, since nobody misses what nobody asks for.
    pub dry: usize,
    /// No sign-in is tried for them, by the contract's reason.
    pub held: BTreeMap<&'static str, Stopped>,
    /// Their last sign-in failed, for no lasting reason, and they are wanted or still backing off.
    pub failing: BTreeMap<&'static str, Stopped>,
    /// The vault lets none of them sign in.
    pub whole: Option<Stopped>,
}

/// Users who are stopped for one reason.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// How many.
    pub users: usize,
    /// What the vault did to one of them, in fixed words.
    pub failure: Arc<Failure>,
    /// The longest of the waits that are left.
    pub wait: Duration,
}

/// How one user is: several of it may be true at once.
#[derive(Clone, Debug)]
pub struct UserStates {
    /// Has a token that is good now.
    pub cached: bool,
    /// See [`MerchantStats::dry`].
    pub dry: bool,
    /// Why no sign-in is tried for it, if so.
    pub held: Option<Stop>,
    /// See [`MerchantStats::failing`].
    pub failing: Option<Stop>,
}

/// What the users are judged by.
pub(super) struct Judgement<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) now: Moment,
    /// The same as users are touched with.
    pub(super) second: u64,
}

/// Users nobody asked for in so long are idle: in seconds, at least one.
pub(super) fn idle_after(snapshot: &Snapshot) -> u64 {
    snapshot.settings.idle_after.as_secs().max(1)
}

impl Stats {
    pub(super) fn new(
        merchants: BTreeMap<MerchantId, MerchantStats>,
        flights: &Flights,
        refresh_queue: &RefreshQueue,
        now: Instant,
    ) -> Self {
        let due_by = |at| refresh_queue.due_by(at);
        Self {
            merchants,
            flights: flights.under_way(),
            waiting: flights.waiting(),
            vault_is_down: flights.vault_is_down(),
            tier: flights.tier(),
            last_answers: flights.last_answers(),
            renewals_planned: refresh_queue.len(),
            renewals_soon: due_by(now + SOON),
            renewals_overdue: now.checked_sub(OVERDUE_AFTER).map_or(0, due_by),
        }
    }
}

impl Judgement<'_> {
    /// Counts the users merchant by merchant.
    pub(super) fn merchants(&self) -> BTreeMap<MerchantId, MerchantStats> {
        let mut merchants = BTreeMap::<MerchantId, MerchantStats>::new();
        for Configured { user, .. } in self.snapshot.users.iter() {
            let merchant = match merchants.get_mut(&user.key.merchant) {
                Some(merchant) => merchant,
                None => merchants.entry(user.key.merchant.clone()).or_default(),
            };
            self.count(user, merchant);
        }
        merchants
    }

    fn count(&self, user: &KnownUser, merchant: &mut MerchantStats) {
        merchant.users += 1;
        if merchant.whole.is_none() {
            let stop = user.merchant().stopped(self.now.mono, self.snapshot.upstream());
            merchant.whole = stop.map(|stop| Stopped { users: 0, wait: stop.left_at(self.now.mono), failure: stop.failure });
        }
        let UserStates { cached, dry, held, failing } = self.states(user);
        merchant.cached += usize::from(cached);
        merchant.dry += usize::from(dry);
        for (stop, counted) in [(held, &mut merchant.held), (failing, &mut merchant.failing)] {
            let Some(Stop { failure, until }) = stop else { continue };
            let wait = until.saturating_duration_since(self.now.mono);
            let reason = error_of(&failure, wait, self.now).reason().as_str();
            let stopped = counted.entry(reason).or_insert(Stopped { users: 0, failure, wait });
            stopped.users += 1;
            stopped.wait = stopped.wait.max(wait);
        }
    }

    /// How a user is.
    pub(super) fn states(&self, user: &KnownUser) -> UserStates {
        let lately = match self.snapshot.settings.renewal {
            Renewal::Ahead => idle_after(self.snapshot),
            Renewal::AtExpiry => LATELY,
        };
        let wanted = user.asked() != 0 && self.second.saturating_sub(user.asked()) < lately;
        let cached = user.token().is_some_and(|cached| self.snapshot.takes(&cached) && !cached.left_at(self.now).is_zero());
        let failed = user.record().holds.failing(&self.snapshot.settings.rules);
        let lasts = |stop: &Stop| stop.until > self.now.mono;
        let (mut held, mut failing) = (None, None);
        match failed.as_ref().map(|stop| &*stop.failure) {
            Some(Failure::Refused { .. } | Failure::Throttled { .. }) => held = failed.filter(lasts),
            Some(Failure::Undocumented { .. } | Failure::Unavailable { .. } | Failure::Invalid { .. } | Failure::Broken) => {
                failing = failed.filter(|stop| wanted || lasts(stop));
            }
            None => {}
        }
        UserStates { cached, dry: wanted && !cached && held.is_none(), held, failing }
    }
}
