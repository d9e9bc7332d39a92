//! The configured users with their credentials, as one snapshot, and each one's small record of what was learnt at the vault, which
//! outlives snapshots.
//!
//! Bounded by the configuration; a record is never evicted, since a hold that is forgotten locks an account. Must never
//! decide anything: that is `signin`'s.

pub mod hold_file;
pub mod holds;
pub mod refresh_queue;
pub mod shares;
pub mod waiters;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use self::{
    hold_file::HoldFile,
    holds::{Holds, Rules, Stop},
    refresh_queue::QueueSlot,
    waiters::FlightHandle,
};
use crate::{
    config,
    secret::Secret,
    tokens::{
        cache::{Cache, TokenSlot},
        cached_token::CachedToken,
        version::{Upstream, Version, Versions},
    },
    user::{MerchantId, UserKey},
};

/// Users configured no more whose record is kept, at most: each is about 300 bytes, without password or token.
const REMEMBERED_MAX: usize = 100_000;

/// Each hit looks a user up. Keys are the operator's, so nobody else could choose such as collide, and the hash may be a quick one.
type ByKey<T> = HashMap<Arc<UserKey>, T, foldhash::fast::RandomState>;

/// All configured users, as one snapshot, which holds everything that signs them in.
#[derive(Debug, Default)]
pub struct Users {
    by_key: ByKey<Configured>,
    merchants: HashMap<MerchantId, Arc<KnownMerchant>>,
    /// Users configured no more of whom something is to be remembered, should they come back: a sign-in under way, a hold or a
    /// floor. Whoever moves a user from file to file in two steps must not thereby lift its hold.
    remembered: ByKey<Arc<KnownUser>>,
    upstream: Upstream,
    versions: Versions,
    /// What an earlier process learnt of users.
    hold_file: HoldFile,
}

/// A user, and what signs it in.
#[derive(Clone, Debug)]
pub struct Configured {
    /// Who.
    pub user: Arc<KnownUser>,
    /// With what, and where.
    pub credential: Credential,
}

/// What became of the users between two snapshots.
#[derive(Debug, Default)]
pub struct Changes {
    /// How many are new.
    pub added: usize,
    /// Those with another credential, or back again.
    pub changed: Vec<Arc<KnownUser>>,
    /// Those who are configured no more: their tokens must go.
    pub removed: Vec<Arc<KnownUser>>,
}

impl Users {
    /// Takes the configured users over, with clean records.
    #[must_use]
    pub fn new(configured: Vec<config::UserConfig>, upstream: &str) -> Self {
        Self::recalling(HoldFile::default(), None, configured, upstream)
    }

    /// The same, with what an earlier process learnt of them. `versions`: those that other replicas make too, if there are such.
    #[must_use]
    pub fn recalling(
        hold_file: HoldFile,
        versions: Option<Versions>,
        configured: Vec<config::UserConfig>,
        upstream: &str,
    ) -> Self {
        let versions = versions.unwrap_or_else(|| hold_file.versions());
        Self { versions, hold_file, ..Self::default() }.next(configured, upstream, |_| false).0
    }

    /// The next snapshot. Users keep their records, merchants their stops; what changed is the caller's to act on.
    #[must_use]
    pub fn reloaded(&self, configured: Vec<config::UserConfig>, upstream: &str, now: Instant, rules: &Rules) -> (Self, Changes) {
        self.next(configured, upstream, |user| {
            let record = user.record();
            let holds = &record.holds;
            let own = record.flight.is_some() || holds.remembers(now, rules) || holds.within_floor(now, rules).is_some();
            own || user.merchant.is_stopped_anywhere(now)
        })
    }

    fn next(&self, configured: Vec<config::UserConfig>, upstream: &str, matters: impl Fn(&KnownUser) -> bool) -> (Self, Changes) {
        let by_key = ByKey::with_capacity_and_hasher(configured.len(), foldhash::fast::RandomState::default());
        let upstream = self.versions.upstream(upstream);
        let (versions, hold_file) = (self.versions.clone(), self.hold_file.clone());
        let mut next = Self { by_key, upstream, versions, hold_file, ..Self::default() };
        let mut changes = Changes::default();
        let (mut staying, mut last_merchant) = (0, None::<Arc<KnownMerchant>>);
        for config::UserConfig { key, password, attempt } in configured {
            let version = self.versions.of(&password, attempt, upstream);
            let former = self.by_key.get(&key).inspect(|_| staying += 1);
            let user = match former.map(|former| &former.user).or_else(|| self.remembered.get(&key)) {
                Some(user) => {
                    if former.is_none_or(|former| former.credential.version != version) {
                        changes.changed.push(Arc::clone(user));
                    }
                    Arc::clone(user)
                }
                None => {
                    changes.added += 1;
                    let known = |users: &Self| {
                        let known = users.merchants.get_key_value(&key.merchant);
                        known.map(|(id, merchant)| (id.clone(), Arc::clone(merchant)))
                    };
                    // With the merchant's text too, which is then in memory once and not once a user.
                    let (id, merchant) =
                        known(self).or_else(|| known(&next)).unwrap_or_else(|| (key.merchant.clone(), Arc::default()));
                    let user = Arc::new(KnownUser::new(UserKey { merchant: id, ..key }, merchant));
                    self.hold_file.recall(&user, version);
                    user
                }
            };
            // Most users stand beside others of their merchant.
            if !last_merchant.as_ref().is_some_and(|last_merchant| Arc::ptr_eq(last_merchant, &user.merchant)) {
                last_merchant = Some(Arc::clone(&user.merchant));
                next.merchants.entry(user.key.merchant.clone()).or_insert_with(|| Arc::clone(&user.merchant));
            }
            let credential = Credential { password, version };
            next.by_key.insert(Arc::clone(&user.key), Configured { user, credential });
        }
        // Mostly all stay, and nobody has to be looked for.
        let some_left = staying < self.by_key.len() || !self.remembered.is_empty();
        let gone = |user: &&Arc<KnownUser>| some_left && !next.by_key.contains_key(&user.key);
        let former = || self.by_key.values().map(|former| &former.user).filter(gone);
        changes.removed = former().map(Arc::clone).collect();
        // Who was removed just now may still begin a flight until that is published; whether it did is seen the next time.
        let before = self.remembered.values().filter(gone).filter(|user| matters(user));
        // Who must not be forgotten comes first; those with a sign-in under way are bounded by themselves.
        let (mut remembered, others): (Vec<_>, Vec<_>) = former().partition(|user| matters(user));
        remembered.extend(before);
        let room = REMEMBERED_MAX.saturating_sub(remembered.len());
        let (most, rest) = remembered.split_at(remembered.len().min(REMEMBERED_MAX));
        let with_flight = rest.iter().filter(|user| user.record().flight.is_some());
        let remembered = most.iter().chain(with_flight).copied().chain(others.into_iter().take(room));
        next.remembered = remembered.map(|user| (Arc::clone(&user.key), Arc::clone(user))).collect();
        for user in next.remembered.values() {
            next.merchants.entry(user.key.merchant.clone()).or_insert_with(|| Arc::clone(&user.merchant));
        }
        (next, changes)
    }

    /// The user, if configured.
    #[must_use]
    pub fn get(&self, key: &UserKey) -> Option<&Configured> {
        self.by_key.get(key)
    }

    /// Where they sign in.
    #[must_use]
    pub fn upstream(&self) -> Upstream {
        self.upstream
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Configured> {
        self.by_key.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

/// What signs a user in. Clones share the password.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Sent as it is.
    pub password: Secret,
    /// Another password, attempt or upstream is another version.
    pub version: Version,
}

/// A user, from the first snapshot that has it on.
pub struct KnownUser {
    /// Whose.
    pub key: Arc<UserKey>,
    merchant: Arc<KnownMerchant>,
    record: Mutex<Record>,
    token: TokenSlot,
    /// When it was last asked for, in whole seconds after a start that the caller of `touch` keeps.
    asked: AtomicU64,
}

impl KnownUser {
    fn new(key: UserKey, merchant: Arc<KnownMerchant>) -> Self {
        Self { key: Arc::new(key), merchant, record: Mutex::default(), token: TokenSlot::default(), asked: AtomicU64::new(0) }
    }

    /// The record, locked. A panic elsewhere leaves it readable: every field is valid on its own.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its newest token, of whatever age, unless it has ended and is freed already. Takes no lock.
    #[must_use]
    pub fn token(&self) -> Option<Arc<CachedToken>> {
        self.token.get()
    }

    /// Puts a token in the place of the former. Under the lock of this user's record, which is what `record` is for: whoever holds
    /// it and finds no flight finds that flight's token.
    pub fn store_token(&self, cache: &Cache, token: &Arc<CachedToken>, _record: &mut Record) {
        cache.put(&self.key, &self.token, token);
    }

    /// Drops its token, under the same lock.
    pub fn drop_token(&self, cache: &Cache, _record: &mut Record) {
        cache.remove(&self.key, &self.token);
    }

    /// What it shares with the merchant's other users.
    #[must_use]
    pub fn merchant(&self) -> &KnownMerchant {
        &self.merchant
    }

    /// Notes that it was asked for at `second`; writes only when that is news, to keep the cache line shared.
    pub fn touch(&self, second: u64) {
        if self.asked() != second {
            self.asked.store(second, Ordering::Relaxed);
        }
    }

    /// The second it was last asked for.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for KnownUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownUser").field("key", &self.key).finish_non_exhaustive()
    }
}

/// What the users of a merchant share.
#[derive(Debug, Default)]
pub struct KnownMerchant {
    /// Which upstreams let none of them sign in, until when, and since when.
    stops: Mutex<Vec<(Upstream, Stop, Instant)>>,
}

impl KnownMerchant {
    /// Why no user of the merchant may sign in at this upstream now, if so.
    #[must_use]
    pub fn stopped(&self, now: Instant, upstream: Upstream) -> Option<Stop> {
        self.stopped_since(now, upstream).map(|(stop, _)| stop)
    }

    /// The same, and since when.
    #[must_use]
    pub fn stopped_since(&self, now: Instant, upstream: Upstream) -> Option<(Stop, Instant)> {
        let stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, stop, since) = stops.iter().find(|(whose, stop, _)| *whose == upstream && stop.until > now)?;
        Some((stop.clone(), *since))
    }

    /// Whether there is anything to be remembered.
    fn is_stopped_anywhere(&self, now: Instant) -> bool {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|(_, stop, _)| stop.until > now)
    }

    /// Lets its users sign in there again, if what stopped them was said by `before`; returns what that was.
    pub fn lift(&self, upstream: Upstream, before: Instant, now: Instant) -> Option<Stop> {
        let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        let at = stops.iter().position(|(whose, _, since)| *whose == upstream && *since <= before)?;
        Some(stops.swap_remove(at).1).filter(|stop| stop.until > now)
    }

    /// Lets no user of the merchant sign in there for a while, as was said at `since`; the longest wait that was named counts.
    pub fn stop(&self, upstream: Upstream, stop: Stop, since: Instant, now: Instant) {
        let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        // One for each upstream at most, and of upstreams as many as were configured within a wait.
        stops.retain(|(whose, other, _)| other.until > now && (*whose != upstream || other.until >= stop.until));
        if !stops.iter().any(|(whose, ..)| *whose == upstream) {
            stops.push((upstream, stop, since));
        }
    }
}

/// What was learnt of one user.
#[derive(Debug, Default)]
pub struct Record {
    /// When the next sign-in may begin.
    pub holds: Holds,
    /// The sign-in under way, or waiting to begin, if any. Boxed, since few users have one.
    pub flight: Option<Box<FlightHandle>>,
    /// The user's place in the refresh queue.
    pub renewal: Option<QueueSlot>,
    /// It had a token when another vault was configured, and is to have one again before somebody asks.
    pub lost_token: bool,
    /// The newest of its tokens that is known, among all replicas: about when it was issued, in seconds since 1970. 0 where there is no
    /// tier that they share.
    pub generation: u32,
    /// An operator dropped that one, and so those before it.
    pub is_dropped: bool,
}

impl Record {
    /// Notes a generation that is known; the highest counts.
    pub fn knows(&mut self, generation: u32) {
        if generation > self.generation {
            (self.generation, self.is_dropped) = (generation, false);
        }
    }

    /// Notes that an operator dropped the tokens up to this generation: none of them is taken from others again.
    pub fn drops(&mut self, generation: u32) {
        self.knows(generation);
        // But for a newer one's, which has come meanwhile.
        self.is_dropped |= self.generation == generation;
    }
}

#[cfg(test)]
mod tests;
