//! What an operator does to single users: drops a token, lifts a hold or a merchant's waits; here, and at the other replicas where there is
//! a tier that they share.
//!
//! Must never begin a sign-in, nor touch a floor: whoever asks next finds the rules as they are.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use super::{
    Flights,
    refresh::valid_token,
    shared::{Shared, configured, stopped},
};
use crate::{
    live::Snapshot,
    tier::{Act, Told},
    tokens::token::TokenId,
    user::MerchantId,
    users::{Configured, KnownUser, Record, holds::Stop},
    vault::Failure,
};

/// A token that was dropped.
#[derive(Debug)]
pub struct Dropped {
    /// Which.
    pub token_id: TokenId,
    /// It is being ended at the vault.
    pub signs_out: bool,
}

/// What was lifted of a merchant's.
#[derive(Debug, Default)]
pub struct LiftedWaits {
    /// What stopped all of its users.
    pub merchant: Option<Stop>,
    /// Those of them who waited by themselves.
    pub users: Vec<Arc<KnownUser>>,
}

/// Of so many users the others are told that their own wait is lifted: each is a few round trips. The rest try once that is over.
const TOLD_MAX: usize = 1_000;
/// So many at once.
const TOLD_AT_ONCE: usize = 32;

impl Flights {
    /// Drops a user's token, if it has one, and plans no renewal: the next who asks has the user signed in. Whether the others know too.
    pub async fn drop_token(&self, user: &Arc<KnownUser>) -> (Option<Dropped>, bool) {
        let (now, snapshot) = (self.shared.parts.clock.now(), self.shared.live.load_full());
        let (dropped, generation) = {
            let mut record = user.record();
            let dropped = valid_token(user, &snapshot, now);
            self.shared.drop_token(user, &mut record);
            (dropped, record.generation)
        };
        // Before it is ended at the vault: no other replica is to hand it out then. Those may have one that this one hasn't heard of.
        let told = self.shared.tell(user, Act::Drop { generation }, &snapshot).await;
        let token = dropped.map(|cached| cached.token.access_token.clone()).or(told.dropped);
        let settings = &snapshot.settings;
        let dropped = token.map(|token| {
            if settings.sign_out {
                self.shared.sign_outs.put(&settings.sign_in, &user.key, &token);
            }
            Dropped { token_id: TokenId::of(token.expose()), signs_out: settings.sign_out }
        });
        (dropped, told.is_known)
    }

    /// Lifts what stops a user by itself, whatever it is but the floor. Returns what stopped it until now, and whether the others know too.
    pub async fn lift_hold(&self, user: &Arc<KnownUser>) -> (Option<Stop>, bool) {
        let lifted = self.shared.lift_hold(user);
        let snapshot = self.shared.live.load_full();
        // Another may hold what this one hasn't heard of.
        (lifted, self.shared.tell(user, Act::Lift, &snapshot).await.is_known)
    }

    /// Lifts the wait that the vault asked all users of a merchant for, and those that it asked single ones for. Whether the others know
    /// too. None where no user of it is configured.
    pub async fn lift_waits(&self, merchant: &MerchantId) -> Option<(LiftedWaits, bool)> {
        let snapshot = self.shared.live.load_full();
        let any = snapshot.users.iter().find(|configured| configured.user.key.merchant == *merchant)?;
        let lifted = self.shared.lift_waits(&snapshot, merchant);
        let is_told = self.shared.tell(&any.user, Act::LiftWaits, &snapshot).await.is_known;
        if is_told {
            self.shared.tell_of_lifted(&lifted.users, &snapshot).await;
        }
        Some((lifted, is_told))
    }
}

impl Shared {
    /// Hands the user's token out no more.
    pub(super) fn drop_token(&self, user: &KnownUser, record: &mut Record) {
        user.drop_token(&self.parts.cache, record);
        record.lost_token = false;
        self.plan(record, &user.key, None);
    }

    fn lift_hold(&self, user: &Arc<KnownUser>) -> Option<Stop> {
        let now = self.parts.clock.now().mono;
        let lifted = {
            let mut record = user.record();
            let snapshot = self.live.load();
            configured(user, &mut record, &snapshot, now);
            record.holds.lift(now, &snapshot.settings.rules)
        };
        // The file's lock comes before a record's.
        self.parts.hold_file.ease(user);
        lifted
    }

    pub(super) fn lift_waits(&self, snapshot: &Snapshot, merchant: &MerchantId) -> LiftedWaits {
        let now = self.parts.clock.now().mono;
        let mut lifted = LiftedWaits::default();
        for Configured { user, .. } in snapshot.users.iter().filter(|configured| configured.user.key.merchant == *merchant) {
            let stop = user.merchant().lift(snapshot.upstream(), now);
            lifted.merchant = lifted.merchant.or(stop);
            let own = stopped(user, &user.record(), snapshot, now);
            if own.is_some_and(|stop| matches!(*stop.failure, Failure::Throttled { .. })) && self.lift_hold(user).is_some() {
                lifted.users.push(Arc::clone(user));
            }
        }
        lifted
    }

    /// Tells the other replicas of what was done to a user.
    async fn tell(&self, user: &KnownUser, act: Act, snapshot: &Snapshot) -> Told {
        let tier = &self.parts.tier;
        let version = snapshot.user(&user.key).map(|configured| configured.credential.version);
        match version.and_then(|version| tier.subject(&user.key, version)) {
            Some(subject) => tier.tell(&subject, act, snapshot.settings.timeout).await,
            None => Told::default(),
        }
    }

    /// Tells them of users whose own waits are lifted: they would find those on the server again.
    pub(super) async fn tell_of_lifted(&self, users: &[Arc<KnownUser>], snapshot: &Snapshot) {
        let telling = stream::iter(users.iter().take(TOLD_MAX));
        telling
            .for_each_concurrent(TOLD_AT_ONCE, |user| async {
                // Where one can't be told, its wait is the server's to end.
                self.tell(user, Act::Lift, snapshot).await;
            })
            .await;
    }
}
