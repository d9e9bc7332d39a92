//! What an operator does to single users: drops a token, lifts a hold or a merchant's waits; here, and at the other replicas where there is
//! a tier that they share.
//!
//! Must never begin a sign-in, nor touch a floor: whoever asks next finds the rules as they are.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep};

use super::{
    Flights,
    refresh::valid_token,
    shared::{Shared, configured},
};
use crate::{
    live::Snapshot,
    secret::Secret,
    tier::{Act, Known, Told},
    tokens::token::TokenId,
    user::MerchantId,
    users::{KnownUser, Record, holds::Stop},
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
/// A token is told to the others once those who wait for it have it: it is looked for so often …
const LOOKS: u32 = 10;
/// … with such a pause before the next look: half a second of pauses, which is as long as a write may take.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Flights {
    /// Drops a user's token, if it has one, and plans no renewal: the next who asks has the user signed in. Whether the others know too.
    pub async fn drop_token(&self, user: &Arc<KnownUser>) -> (Option<Dropped>, bool) {
        let (now, snapshot) = (self.shared.parts.clock.now(), self.shared.live.load_full());
        let (dropped, generation) = {
            let mut record = user.record();
            let dropped = valid_token(user, &snapshot, now);
            self.shared.drop_token(user, &mut record);
            let generation = record.generation;
            // What others know of it is of no use here any more: should they not hear of that, it is not taken from them again.
            record.drops(generation);
            (dropped, generation)
        };
        // Before it is ended at the vault: no other replica is to hand it out then. Those may have one that this one hasn't heard of.
        let told = self.shared.tell(user, Act::Drop { generation }, now.mono, &snapshot).await;
        if let Some((theirs, standing)) = &told.dropped {
            let mut record = user.record();
            record.drops(*standing);
            // A flight may have taken it meanwhile.
            if user.token().is_some_and(|held| held.token.access_token.expose() == theirs.expose()) {
                self.shared.drop_token(user, &mut record);
            }
        }
        let (ours, theirs) = (dropped.map(|cached| cached.token.access_token.clone()), told.dropped.map(|(token, _)| token));
        let theirs = theirs.filter(|theirs| ours.as_ref().is_none_or(|ours| ours.expose() != theirs.expose()));
        let settings = &snapshot.settings;
        if settings.sign_out {
            for token in ours.iter().chain(&theirs) {
                self.shared.sign_outs.put(&settings.sign_in, &user.key, token);
            }
        }
        let dropped =
            ours.or(theirs).map(|token| Dropped { token_id: TokenId::of(token.expose()), signs_out: settings.sign_out });
        (dropped, told.is_known)
    }

    /// Whether the other replicas can find the token that the user has here.
    pub async fn is_found_by_others(&self, user: &Arc<KnownUser>) -> bool {
        let (tier, snapshot) = (&self.shared.parts.tier, self.shared.live.load_full());
        let version = snapshot.user(&user.key).map(|configured| configured.credential.version);
        let Some(subject) = version.and_then(|version| tier.subject(&user.key, version)) else { return false };
        for _ in 0..LOOKS {
            let known = tier.look(&subject).await;
            let Some(ours) = user.token() else { return false };
            let is_ours = |theirs: &Secret| theirs.expose() == ours.token.access_token.expose();
            match known {
                Some(Known { token: Some((entry, _)), .. }) if is_ours(&entry.access_token) => return true,
                Some(_) => sleep(LOOK_AGAIN).await,
                None => return false,
            }
        }
        false
    }

    /// Lifts what stops a user by itself, whatever it is but the floor. Returns what stopped it until now, and whether the others know too.
    pub async fn lift_hold(&self, user: &Arc<KnownUser>) -> (Option<Stop>, bool) {
        let (lifted, at) = self.shared.lift_hold(user);
        let snapshot = self.shared.live.load_full();
        // Another may hold what this one hasn't heard of.
        (lifted, self.shared.tell(user, Act::Lift, at, &snapshot).await.is_known)
    }

    /// Lifts the wait that the vault asked all users of a merchant for, and those that it asked single ones for. Whether the others know
    /// too. None where no user of it is configured.
    pub async fn lift_waits(&self, merchant: &MerchantId) -> Option<(LiftedWaits, bool)> {
        let snapshot = self.shared.live.load_full();
        let first = of_merchant(&snapshot, merchant).into_iter().next()?;
        let at = self.shared.parts.clock.now().mono;
        let lifted = self.shared.lift_waits(&snapshot, merchant, at);
        let is_told = self.shared.tell(first, Act::LiftWaits, at, &snapshot).await.is_known;
        let is_told = is_told && self.shared.tell_of_lifted(&lifted.users, at, &snapshot).await;
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

    /// What was lifted, and when.
    fn lift_hold(&self, user: &Arc<KnownUser>) -> (Option<Stop>, Instant) {
        let now = self.parts.clock.now().mono;
        let lifted = {
            let mut record = user.record();
            let snapshot = self.live.load();
            configured(user, &mut record, &snapshot, now);
            record.holds.lift(now, &snapshot.settings.rules)
        };
        // The file's lock comes before a record's.
        self.parts.hold_file.ease(user);
        (lifted, now)
    }

    /// Lifts the waits of a merchant and of its users that the vault asked for by `before`.
    pub(super) fn lift_waits(&self, snapshot: &Snapshot, merchant: &MerchantId, before: Instant) -> LiftedWaits {
        let now = self.parts.clock.now().mono;
        let mut lifted = LiftedWaits::default();
        for user in of_merchant(snapshot, merchant) {
            let stop = user.merchant().lift(snapshot.upstream(), before, now);
            lifted.merchant = lifted.merchant.or(stop);
            let own = {
                let mut record = user.record();
                configured(user, &mut record, snapshot, now);
                record.holds.lift_wait(before, now, &snapshot.settings.rules)
            };
            if own.is_some() {
                self.parts.hold_file.ease(user);
                lifted.users.push(Arc::clone(user));
            }
        }
        lifted
    }

    /// Tells the other replicas of what was done to a user.
    async fn tell(&self, user: &KnownUser, act: Act, at: Instant, snapshot: &Snapshot) -> Told {
        let tier = &self.parts.tier;
        let version = snapshot.user(&user.key).map(|configured| configured.credential.version);
        match version.and_then(|version| tier.subject(&user.key, version)) {
            Some(subject) => tier.tell(&subject, act, at, snapshot.settings.timeout).await,
            None => Told::default(),
        }
    }

    /// Tells them of users whose own waits were lifted at `at`: they would find those on the server again. Whether they know of all. Where
    /// one can't be told, its wait is the server's to end.
    pub(super) async fn tell_of_lifted(&self, users: &[Arc<KnownUser>], at: Instant, snapshot: &Snapshot) -> bool {
        let are_known = AtomicBool::new(users.len() <= TOLD_MAX);
        stream::iter(users.iter().take(TOLD_MAX))
            .for_each_concurrent(TOLD_AT_ONCE, |user| {
                let are_known = &are_known;
                async move {
                    if !self.tell(user, Act::LiftWait, at, snapshot).await.is_known {
                        are_known.store(false, Ordering::Relaxed);
                    }
                }
            })
            .await;
        are_known.into_inner()
    }
}

/// The merchant's users, in an order, so that a simulated history is the same each time.
fn of_merchant<'a>(snapshot: &'a Snapshot, merchant: &MerchantId) -> Vec<&'a Arc<KnownUser>> {
    let mut users: Vec<_> =
        snapshot.users.iter().map(|configured| &configured.user).filter(|user| user.key.merchant == *merchant).collect();
    users.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    users
}
