//! What an operator does to single users: drops a token, lifts a hold or a merchant's waits.
//!
//! Must never begin a sign-in, nor touch a floor: whoever asks next finds the rules as they are.

use std::sync::Arc;

use super::{
    Flights,
    refresh::valid_token,
    shared::{configured, stopped},
};
use crate::{
    live::Snapshot,
    tokens::cached_token::CachedToken,
    user::MerchantId,
    users::{Configured, KnownUser, holds::Stop},
    vault::Failure,
};

/// What was lifted of a merchant's.
#[derive(Debug, Default)]
pub struct LiftedWaits {
    /// What stopped all of its users.
    pub merchant: Option<Stop>,
    /// How many of them waited by themselves.
    pub users: usize,
}

impl Flights {
    /// Drops a user's token, if it has one, and plans no renewal: the next who asks has the user signed in. Says whether the token, which
    /// was good, is being ended at the vault.
    pub fn drop_token(&self, user: &Arc<KnownUser>) -> Option<(Arc<CachedToken>, bool)> {
        let now = self.shared.parts.clock.now();
        let snapshot = self.shared.live.load_full();
        let dropped = {
            let mut record = user.record();
            let dropped = valid_token(user, &snapshot, now);
            user.drop_token(&self.shared.parts.cache, &mut record);
            record.lost_token = false;
            self.shared.plan(&mut record, &user.key, None);
            dropped?
        };
        let settings = &snapshot.settings;
        if settings.sign_out {
            self.shared.sign_outs.put(&settings.sign_in, &user.key, Arc::clone(&dropped));
        }
        Some((dropped, settings.sign_out))
    }

    /// Lifts what stops a user by itself, whatever it is but the floor. Returns what stopped it until now.
    pub fn lift_hold(&self, user: &Arc<KnownUser>) -> Option<Stop> {
        let now = self.shared.parts.clock.now().mono;
        let lifted = {
            let mut record = user.record();
            let snapshot = self.shared.live.load();
            configured(user, &mut record, &snapshot, now);
            record.holds.lift(now, &snapshot.settings.rules)
        };
        // The file's lock comes before a record's.
        self.shared.parts.hold_file.ease(user);
        lifted
    }

    /// Lifts the wait that the vault asked all users of a merchant for, and those that it asked single ones for.
    pub fn lift_waits(&self, snapshot: &Snapshot, merchant: &MerchantId) -> LiftedWaits {
        let now = self.shared.parts.clock.now().mono;
        let mut lifted = LiftedWaits::default();
        for Configured { user, .. } in snapshot.users.iter().filter(|configured| configured.user.key.merchant == *merchant) {
            let stop = user.merchant().lift(snapshot.upstream(), now);
            lifted.merchant = lifted.merchant.or(stop);
            let own = stopped(user, &user.record(), snapshot, now);
            if own.is_some_and(|stop| matches!(*stop.failure, Failure::Throttled { .. })) && self.lift_hold(user).is_some() {
                lifted.users += 1;
            }
        }
        lifted
    }
}
