//! How the users are, counted merchant by merchant: for the operator's eyes.
//!
//! Must never name a user or hold more than a moment's lock on one, nor be run on an async worker: with 100,000 users it takes
//! some time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::Broker;
use crate::{
    clock::Moment,
    live::Snapshot,
    signin::Heard,
    user::MerchantId,
    users::{Configured, User},
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
    /// What was last heard of it.
    pub heard: Heard,
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

impl Broker {
    /// Counts. Takes a microsecond or two a user.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let now = self.clock.now();
        let mut merchants = BTreeMap::<MerchantId, MerchantStats>::new();
        let snapshot = self.live.load_full();
        for Configured { user, .. } in snapshot.users.iter() {
            let merchant = match merchants.get_mut(&user.key.merchant) {
                Some(merchant) => merchant,
                None => merchants.entry(user.key.merchant.clone()).or_default(),
            };
            self.count(user, now, &snapshot, merchant);
        }
        let due_by = |at| self.refresh_queue.due_by(at);
        Stats {
            merchants,
            flights: self.flights.under_way(),
            waiting: self.flights.waiting(),
            vault_is_down: self.flights.vault_is_down(),
            heard: self.flights.heard(),
            renewals_planned: self.refresh_queue.len(),
            renewals_soon: due_by(now.mono + SOON),
            renewals_overdue: now.mono.checked_sub(OVERDUE_AFTER).map_or(0, due_by),
        }
    }

    fn count(&self, user: &User, now: Moment, snapshot: &Snapshot, merchant: &mut MerchantStats) {
        merchant.users += 1;
        let lately = if self.flights.renews_ahead() { self.idle_after() } else { LATELY };
        let wanted = user.asked() != 0 && self.second(now.mono).saturating_sub(user.asked()) < lately;
        // Nobody has a token who was never asked for; most users of a large configuration never are.
        let has_token = user.asked() != 0
            && self.cache.get(&user.key).is_some_and(|held| snapshot.takes(&held) && !held.left_at(now).is_zero());
        merchant.cached += usize::from(has_token);
        let held = self.count_stop(user, now, wanted, snapshot, merchant);
        merchant.dry += usize::from(wanted && !has_token && !held);
    }

    /// Counts what stands against a user's next sign-in; says whether it is held.
    fn count_stop(&self, user: &User, now: Moment, wanted: bool, snapshot: &Snapshot, merchant: &mut MerchantStats) -> bool {
        if merchant.whole.is_none() {
            let stop = user.merchant().stopped(now.mono, snapshot.upstream());
            merchant.whole = stop.map(|stop| Stopped { users: 0, wait: stop.left_at(now.mono), failure: stop.failure });
        }
        let (wait, failure) = {
            let record = user.record();
            let Some(stop) = record.holds.failing(&snapshot.settings.rules) else { return false };
            (stop.left_at(now.mono), Arc::clone(&stop.failure))
        };
        let lasts = !wait.is_zero();
        let counted = match *failure {
            Failure::Refused { .. } | Failure::Throttled { .. } if lasts => &mut merchant.held,
            Failure::Undocumented { .. } | Failure::Unavailable { .. } | Failure::Invalid { .. } | Failure::Broken
                if lasts || wanted =>
            {
                &mut merchant.failing
            }
            // Its wait is over, and the next who asks finds out.
            Failure::Refused { .. }
            | Failure::Throttled { .. }
            | Failure::Undocumented { .. }
            | Failure::Unavailable { .. }
            | Failure::Invalid { .. }
            | Failure::Broken => return false,
        };
        let reason = self.no_token(&failure, wait).reason().as_str();
        let stopped = counted.entry(reason).or_insert(Stopped { users: 0, failure, wait });
        stopped.users += 1;
        stopped.wait = stopped.wait.max(wait);
        matches!(*stopped.failure, Failure::Refused { .. } | Failure::Throttled { .. })
    }
}
