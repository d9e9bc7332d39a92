//! What an operator sees of single users, and does to them.
//!
//! Must never hand out a token, nor have a user signed in by other rules than a caller could. Lists take time with 100,000 users: not
//! to be run on an async worker.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Broker, OVERLOADED_WAIT,
    admission::configured,
    request::answer_by,
    stats::{Judgement, UserStates},
};
use crate::{
    broker::BrokerError,
    caller::CallerId,
    clock::Moment,
    live::Snapshot,
    signin::{Dropped, FlightOutcome, Join, JoinRequest, LiftedWaits, Origin, WaitError},
    tokens::cached_token::CachedToken,
    user::{MerchantId, UserKey},
    users::{Configured, KnownUser, holds::Stop},
};

/// One user, as it is at a moment.
#[derive(Clone, Debug)]
pub struct UserView {
    /// Whose.
    pub key: Arc<UserKey>,
    /// How it is.
    pub states: UserStates,
    /// Its token, if that is good, and whether it is of the credential that counts.
    pub token: Option<(Arc<CachedToken>, bool)>,
    /// How long ago it was asked for, to a second; none where never.
    pub asked_ago: Option<Duration>,
    /// When its last sign-in that succeeded began.
    pub signed_in: Option<Instant>,
    /// The end of its floor, while that lasts.
    pub floor_ends: Option<Instant>,
    /// When its token is renewed, where that is planned.
    pub renews: Option<Instant>,
    /// Whether a sign-in is under way or queued.
    pub signing_in: bool,
    /// What its last sign-in ended with, unless with a token.
    pub failure: Option<Stop>,
    /// Why none of its merchant's users may sign in, if so.
    pub merchant_wait: Option<Stop>,
}

/// Which users are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this merchant's.
    pub merchant: Option<MerchantId>,
    /// Only those of whom this is true.
    pub state: Option<fn(&UserStates) -> bool>,
}

/// Which place a user has in lists: by merchant, and within one by a hash that nobody outside the process can make, so that a place
/// says nothing of a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The merchant.
    pub merchant: MerchantId,
    /// The user within it.
    pub hash: u64,
}

/// Gives users their places, for as long as it lives.
#[derive(Clone, Debug, Default)]
pub struct Order(RandomState);

impl Order {
    /// A user's place.
    #[must_use]
    pub fn position(&self, key: &UserKey) -> Position {
        Position { merchant: key.merchant.clone(), hash: self.0.hash_one(&key.number) }
    }

    /// Tells its places from another's.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.hash_one("the order itself")
    }
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// The users.
    pub users: Vec<UserView>,
    /// The last one's place, where more follow.
    pub next: Option<Position>,
    /// How many there are on all pages.
    pub total: usize,
}

impl Broker {
    /// The users that are wanted, `most` of them after a place.
    #[must_use]
    pub fn list(&self, filter: &Filter, order: &Order, after: Option<&Position>, most: usize) -> Page {
        let snapshot = self.in_force();
        let judgement = self.judgement(&snapshot);
        let wanted = |user: &KnownUser| {
            filter.merchant.as_ref().is_none_or(|merchant| *merchant == user.key.merchant)
                && filter.state.is_none_or(|is_in| is_in(&judgement.states(user)))
        };
        let users = snapshot.users.iter().filter(|configured| wanted(&configured.user));
        let mut users: Vec<_> = users.map(|configured| (order.position(&configured.user.key), configured)).collect();
        let total = users.len();
        users.retain(|(position, _)| after.is_none_or(|after| position > after));
        users.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let more = users.len() > most;
        users.truncate(most);
        let next = users.last().filter(|_| more).map(|(position, _)| position.clone());
        let users = users.into_iter().map(|(_, configured)| self.view(configured, &judgement)).collect();
        Page { users, next, total }
    }

    /// One user.
    ///
    /// # Errors
    /// Where it is not configured.
    pub fn show(&self, key: &UserKey) -> Result<UserView, BrokerError> {
        let snapshot = self.in_force();
        Ok(self.view(configured(&snapshot, key)?, &self.judgement(&snapshot)))
    }

    /// Renews a user's token now, whatever is left of it, and waits for that until `deadline`. Says where the next is from.
    ///
    /// # Errors
    /// As for a caller who complains of the token.
    pub async fn renew_now(&self, key: &UserKey, deadline: Instant) -> Result<Origin, BrokerError> {
        let user = self.user(key)?;
        let former = user.token().map(|cached| cached.id());
        let serves = |cached: &CachedToken, now: Moment| {
            Some(cached.id()) != former && self.live.load().takes(cached) && !cached.left_at(now).is_zero()
        };
        let want = JoinRequest {
            serves: &serves,
            begin_by: Some(deadline),
            min_remaining: Duration::ZERO,
            rejected: &[],
            urgent: true,
            span: None,
            caller: None,
        };
        let flight = match self.flights.join(&user, want) {
            Join::Joined(flight) | Join::Started(flight) => flight,
            // It has come since.
            Join::Cached(_) => return Ok(Origin::Shared),
            Join::Stopped(stop) => return Err(self.stopped(&stop)),
            Join::TooSoon(wait) => return Err(BrokerError::SignInTooSoon { wait }),
            Join::Unattainable(longest) => return Err(BrokerError::MinRemainingUnattainable { longest }),
            Join::Shed(why, wait) => return Err(BrokerError::Overloaded { why, wait: wait.unwrap_or(OVERLOADED_WAIT) }),
            Join::Gone => return Err(BrokerError::NotConfigured(key.clone())),
        };
        let until = answer_by(deadline, self.clock.now().mono);
        match self.wait(flight, &CallerId::Anonymous, until).await? {
            Ok(FlightOutcome::Token(_, origin)) => Ok(origin),
            Ok(FlightOutcome::Stopped(stop)) => Err(self.stopped(&stop)),
            Ok(FlightOutcome::Gone) => Err(BrokerError::NotConfigured(key.clone())),
            Ok(FlightOutcome::Void) => Err(BrokerError::VaultUnavailable { cause: super::REPLACED, wait: OVERLOADED_WAIT }),
            Err(WaitError::Deadline) => Err(BrokerError::DeadlineExceeded),
            Err(WaitError::BrokeOff) => Err(BrokerError::Internal),
        }
    }

    /// Drops a user's token; returns it, if there was a good one, and whether the other replicas know.
    ///
    /// # Errors
    /// Where the user is not configured.
    pub async fn drop_token(&self, key: &UserKey) -> Result<(Option<Dropped>, bool), BrokerError> {
        Ok(self.flights.drop_token(&self.user(key)?).await)
    }

    /// Lifts what stops a user by itself; returns that, if anything did, and whether the other replicas know.
    ///
    /// # Errors
    /// Where the user is not configured.
    pub async fn lift_hold(&self, key: &UserKey) -> Result<(Option<Stop>, bool), BrokerError> {
        Ok(self.flights.lift_hold(&self.user(key)?).await)
    }

    /// Lifts the vault's waits of a merchant and of its users, and says whether the other replicas know. None where no user of it is
    /// configured.
    pub async fn lift_waits(&self, merchant: &MerchantId) -> Option<(LiftedWaits, bool)> {
        self.flights.lift_waits(merchant).await
    }

    /// Whether the other replicas can find the token that the user has here, after a sign-in, which tells them.
    pub async fn is_found_by_others(&self, key: &UserKey) -> bool {
        match self.user(key) {
            Ok(user) => self.flights.is_found_by_others(&user).await,
            Err(_) => false,
        }
    }

    /// Both clocks, for what is shown.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    pub(super) fn judgement<'a>(&self, snapshot: &'a Snapshot) -> Judgement<'a> {
        let now = self.clock.now();
        Judgement { snapshot, now, second: self.second(now.mono) }
    }

    fn view(&self, Configured { user, credential }: &Configured, judgement: &Judgement<'_>) -> UserView {
        let Judgement { snapshot, now, second } = *judgement;
        let rules = &snapshot.settings.rules;
        let states = judgement.states(user);
        let token = user.token().filter(|_| states.cached);
        let asked = Some(user.asked()).filter(|asked| *asked != 0);
        let record = user.record();
        UserView {
            key: Arc::clone(&user.key),
            token: token.map(|cached| {
                let counts = cached.version == credential.version;
                (cached, counts)
            }),
            asked_ago: asked.map(|asked| Duration::from_secs(second.saturating_sub(asked))),
            signed_in: record.holds.began(),
            floor_ends: record.holds.within_floor(now.mono, rules).map(|last| last.next()),
            renews: record.renewal.map(|place| self.refresh_queue.time_of(place)),
            signing_in: record.flight.is_some(),
            failure: record.holds.failing(rules),
            merchant_wait: user.merchant().stopped(now.mono, snapshot.upstream()),
            states,
        }
    }
}
