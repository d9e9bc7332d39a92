//! The configured users: their credentials, and each one's small record of what was learnt at the vault.
//!
//! Bounded by the configuration; a record is never evicted, since a hold that is forgotten locks an account. Must never
//! decide anything: that is `flight`'s.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use crate::{
    config,
    model::{MerchantId, UserKey},
    pacing::{Pacing, Stop, Version},
    renewal::Place,
    secret::Secret,
    ticket::Ticket,
};

/// Users configured no more whose record is kept, at most: each is about 500 bytes, without password or token.
const DEPARTED_MAX: usize = 100_000;

/// All configured users, as one snapshot.
#[derive(Debug, Default)]
pub struct Users {
    by_key: HashMap<Arc<UserKey>, Arc<User>>,
    merchants: HashMap<MerchantId, Arc<Merchant>>,
    /// Users configured no more of whom something is to be remembered, should they come back: a sign-in under way, a hold or a
    /// floor. Whoever moves a user from file to file in two steps must not thereby lift its hold.
    departed: HashMap<Arc<UserKey>, Arc<User>>,
    /// Makes versions that say nothing outside this process.
    versions: RandomState,
}

/// What became of the users between two snapshots.
#[derive(Debug, Default)]
pub struct Changes {
    /// How many are new.
    pub added: usize,
    /// Those whose credential is to be replaced.
    pub changed: Vec<Changed>,
    /// Those who are configured no more: their credentials and tokens must go.
    pub removed: Vec<Arc<User>>,
}

/// A user whose record is to take another credential over.
#[derive(Debug)]
pub struct Changed {
    /// Whose.
    pub user: Arc<User>,
    /// The credential that counts from now on.
    pub credential: Credential,
}

impl Users {
    /// Takes the configured users over, with clean records.
    #[must_use]
    pub fn new(configured: Vec<config::User>) -> Self {
        Self::default().next(configured, |_| false).0
    }

    /// The next snapshot. Users keep their records, merchants their stops; what changed is the caller's to act on.
    #[must_use]
    pub fn reloaded(&self, configured: Vec<config::User>, now: Instant) -> (Self, Changes) {
        self.next(configured, |user| {
            let record = user.record();
            let own = record.flight.is_some() || record.pacing.remembers(now) || record.pacing.within_floor(now).is_some();
            own || user.merchant.stopped(now).is_some()
        })
    }

    fn next(&self, configured: Vec<config::User>, matters: impl Fn(&User) -> bool) -> (Self, Changes) {
        let by_key = HashMap::with_capacity(configured.len());
        let mut next = Self { by_key, versions: self.versions.clone(), ..Self::default() };
        let mut changes = Changes::default();
        let (mut staying, mut entered) = (0, None::<Arc<Merchant>>);
        for config::User { key, password, attempt } in configured {
            let version = Version(self.versions.hash_one((password.expose(), attempt)));
            let credential = Credential { password, version };
            let current = self.by_key.get(&key).inspect(|_| staying += 1);
            let user = match current.or_else(|| self.departed.get(&key)) {
                Some(former) => {
                    if !former.record().signs_in_with(version) {
                        changes.changed.push(Changed { user: Arc::clone(former), credential });
                    }
                    Arc::clone(former)
                }
                None => {
                    changes.added += 1;
                    let merchant = match self.merchants.get(&key.merchant) {
                        Some(merchant) => Arc::clone(merchant),
                        None => Arc::clone(next.merchants.entry(key.merchant.clone()).or_default()),
                    };
                    Arc::new(User::new(key, merchant, credential))
                }
            };
            // Most users stand beside others of their merchant.
            if !entered.as_ref().is_some_and(|entered| Arc::ptr_eq(entered, &user.merchant)) {
                entered = Some(Arc::clone(&user.merchant));
                next.merchants.entry(user.key.merchant.clone()).or_insert_with(|| Arc::clone(&user.merchant));
            }
            next.by_key.insert(Arc::clone(&user.key), user);
        }
        // Mostly all stay, and nobody has to be looked for.
        let some_left = staying < self.by_key.len() || !self.departed.is_empty();
        let gone = |(key, _): &(&Arc<UserKey>, &Arc<User>)| some_left && !next.by_key.contains_key(*key);
        changes.removed = self.by_key.iter().filter(gone).map(|(_, user)| Arc::clone(user)).collect();
        // Who left just now may still begin a flight until that is published; whether it did is seen the next time.
        let before = self.departed.iter().filter(gone).filter(|(_, user)| matters(user));
        let departed = self.by_key.iter().filter(gone).chain(before).take(DEPARTED_MAX);
        next.departed = departed.map(|(key, user)| (Arc::clone(key), Arc::clone(user))).collect();
        for user in next.departed.values() {
            next.merchants.entry(user.key.merchant.clone()).or_insert_with(|| Arc::clone(&user.merchant));
        }
        (next, changes)
    }

    /// The user, if configured.
    #[must_use]
    pub fn get(&self, key: &UserKey) -> Option<&Arc<User>> {
        self.by_key.get(key)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<User>> {
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

/// What signs a user in.
#[derive(Debug)]
pub struct Credential {
    /// Sent as it is.
    pub password: Secret,
    /// Another password or attempt is another version.
    pub version: Version,
}

/// A user, from the first snapshot that has it on.
pub struct User {
    /// Whose.
    pub key: Arc<UserKey>,
    merchant: Arc<Merchant>,
    record: Mutex<Record>,
    /// When it was last asked for, in whole seconds after a start that the caller of `touch` keeps.
    asked: AtomicU64,
}

impl User {
    fn new(key: UserKey, merchant: Arc<Merchant>, credential: Credential) -> Self {
        Self { key: Arc::new(key), merchant, record: Mutex::new(Record::new(credential)), asked: AtomicU64::new(0) }
    }

    /// The record, locked. A panic elsewhere leaves it readable: every field is valid on its own.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it shares with the merchant's other users.
    #[must_use]
    pub fn merchant(&self) -> &Merchant {
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

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("key", &self.key).finish_non_exhaustive()
    }
}

/// What the users of a merchant share.
#[derive(Debug, Default)]
pub struct Merchant {
    stop: Mutex<Option<Stop>>,
}

impl Merchant {
    /// Why no user of the merchant may sign in now, if so.
    #[must_use]
    pub fn stopped(&self, now: Instant) -> Option<Stop> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|stop| stop.until > now)
    }

    /// Lets no user of the merchant sign in for a while; the longest wait that was named counts.
    pub fn stop(&self, stop: Stop) {
        let mut held = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_none_or(|held| held.until < stop.until) {
            *held = Some(stop);
        }
    }
}

/// What was learnt of one user.
#[derive(Debug)]
pub struct Record {
    /// When the next sign-in may begin.
    pub pacing: Pacing,
    /// The sign-in under way, or waiting to begin, if any.
    pub flight: Option<Ticket>,
    /// The user's place in the agenda of renewals.
    pub renewal: Option<Place>,
    /// None where the user is configured no more: then nothing may be stored for it either.
    credential: Option<Arc<Credential>>,
    /// Of the credential that counts, or counted last; what another one comes to is void.
    version: Version,
}

impl Record {
    fn new(credential: Credential) -> Self {
        let version = credential.version;
        Self { pacing: Pacing::default(), flight: None, renewal: None, credential: Some(Arc::new(credential)), version }
    }

    /// What to sign in with now.
    #[must_use]
    pub fn credential(&self) -> Option<&Arc<Credential>> {
        self.credential.as_ref()
    }

    /// Whether the user is configured, with this very credential.
    #[must_use]
    pub fn signs_in_with(&self, version: Version) -> bool {
        self.credential.is_some() && self.version == version
    }

    /// Whether another credential counts by now than this one.
    #[must_use]
    pub fn has_replaced(&self, version: Version) -> bool {
        self.version != version
    }

    /// Takes the credential over that counts from now on. What stood against another one is void until that comes back; the same
    /// one, of a user who left and came back, is held as before.
    pub fn replace(&mut self, credential: Credential, now: Instant) {
        if self.version != credential.version {
            self.pacing.change(self.version, credential.version, now);
        }
        self.version = credential.version;
        self.credential = Some(Arc::new(credential));
    }

    /// Forgets the credential, since the user is configured no more.
    pub fn forget(&mut self) {
        self.credential = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        model::Number,
        pacing::{Circumstances, Rules},
        ticket::Ticket,
        traces::Span,
        vault::{Failure, Refusal},
    };

    fn configured(n: u8, password: &str, attempt: u64) -> config::User {
        let merchant = MerchantId::parse("m".to_owned()).expect("is valid");
        let number = Number::parse(format!("+4478712399{n:02}")).expect("is valid");
        config::User { key: UserKey { merchant, number }, password: Secret::from(password), attempt }
    }

    #[allow(clippy::disallowed_methods, reason = "any instant will do")]
    fn now() -> Instant {
        Instant::now()
    }

    fn refuse(user: &User) {
        let failure = Failure::Refused { why: Refusal::Credentials, vault_error: String::new() };
        let rules = Rules { min_sign_in_interval: Duration::ZERO, refusal_hold: Duration::from_secs(60) };
        user.record().pacing.failed(failure, Circumstances { now: now(), jitter: 1.0, grants: 0 }, &rules);
    }

    #[test]
    fn records_outlive_a_reload_and_changes_are_told_apart() {
        let users = Users::new(vec![configured(1, "a", 0), configured(2, "b", 0), configured(3, "c", 0)]);
        let again = vec![configured(1, "a", 0), configured(2, "other", 0), configured(3, "c", 1), configured(4, "d", 0)];
        let (next, changes) = users.reloaded(again, now());
        let changed: Vec<_> = changes.changed.iter().map(|changed| changed.user.key.number.expose().to_owned()).collect();
        assert_eq!((changed, changes.added), (vec!["+447871239902".to_owned(), "+447871239903".to_owned()], 1));
        assert!(changes.removed.is_empty());
        for n in 1..=3 {
            let key = configured(n, "", 0).key;
            assert!(Arc::ptr_eq(users.get(&key).expect("is there"), next.get(&key).expect("is there")), "one record, ever");
        }
        let (gone, changes) = next.reloaded(Vec::new(), now());
        assert_eq!((gone.len(), changes.removed.len()), (0, 4));
    }

    #[test]
    fn who_comes_back_meets_its_sign_in_under_way_and_its_hold_unless_the_credential_is_another() {
        let users = Users::new((1..=4).map(|n| configured(n, "a", 0)).collect());
        let each: Vec<_> = (1..=4).map(|n| Arc::clone(users.get(&configured(n, "", 0).key).expect("is there"))).collect();
        each[0].record().flight = Some(Ticket::new(now(), Span::default()));
        refuse(&each[1]);
        refuse(&each[2]);
        let (gone, changes) = users.reloaded(Vec::new(), now());
        changes.removed.iter().for_each(|user| user.record().forget());
        assert!(each.iter().all(|user| user.record().credential().is_none()), "the passwords are gone");
        // Once more, since who left just now is kept anyhow.
        let (gone, _) = gone.reloaded(Vec::new(), now());
        assert_eq!(gone.departed.len(), 3, "of the fourth there is nothing to remember");

        let again = vec![configured(1, "a", 0), configured(2, "a", 0), configured(3, "b", 0), configured(4, "a", 0)];
        let (back, changes) = gone.reloaded(again, now());
        assert_eq!((changes.changed.len(), changes.added), (3, 1));
        for Changed { user, credential } in changes.changed {
            user.record().replace(credential, now());
        }
        let stopped = |n: usize| each[n].record().pacing.stopped(now()).is_some();
        assert!(back.get(&each[0].key).expect("is there").record().flight.is_some());
        assert!(stopped(1) && !stopped(2), "the hold is the credential's");

        each[0].record().flight = None;
        let (gone, _) = back.reloaded(Vec::new(), now() + Duration::from_secs(120));
        assert!(gone.reloaded(Vec::new(), now() + Duration::from_secs(120)).0.departed.is_empty(), "and forgotten in the end");
    }
}
