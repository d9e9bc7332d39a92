//! The configured users: their credentials, and each one's small record of what was learnt at the vault.
//!
//! Bounded by the configuration; a record is never evicted, since a hold that is forgotten locks an account. Must never
//! decide anything: that is `flight`'s.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use crate::{
    config,
    model::{MerchantId, UserKey},
    pacing::{Pacing, Stop},
    renewal::Place,
    secret::Secret,
    ticket::Ticket,
};

/// All configured users, as one snapshot.
#[derive(Debug, Default)]
pub struct Users {
    by_key: HashMap<Arc<UserKey>, Arc<User>>,
    merchants: HashMap<MerchantId, Arc<Merchant>>,
    /// Users configured no more whose last sign-in is under way: should one come back before it lands, there is but one still.
    leaving: HashMap<Arc<UserKey>, Arc<User>>,
}

/// What became of the users between two snapshots.
#[derive(Debug, Default)]
pub struct Changes {
    /// New ones.
    pub added: usize,
    /// Those with another password or attempt: their holds are void, and their tokens due.
    pub changed: Vec<Arc<User>>,
    /// Those who are configured no more: their tokens must go.
    pub removed: Vec<Arc<User>>,
}

impl Users {
    /// Takes the configured users over, with clean records.
    #[must_use]
    pub fn new(configured: Vec<config::User>) -> Self {
        Self::default().reloaded(configured).0
    }

    /// The next snapshot. Users keep their records, merchants their stops; what changed is the caller's to act on.
    #[must_use]
    pub fn reloaded(&self, configured: Vec<config::User>) -> (Self, Changes) {
        let mut next = Self { by_key: HashMap::with_capacity(configured.len()), ..Self::default() };
        let mut changes = Changes::default();
        for config::User { key, password, attempt } in configured {
            let former = self.by_key.get(&key).or_else(|| self.leaving.get(&key));
            let user = match former {
                Some(former) if former.credential.is(&password, attempt) && !former.record().removed => Arc::clone(former),
                Some(former) => {
                    let version = former.credential.version.wrapping_add(1);
                    let credential = Credential { password, attempt, version };
                    let user = Arc::new(User { key: Arc::clone(&former.key), credential, state: Arc::clone(&former.state) });
                    changes.changed.push(Arc::clone(&user));
                    user
                }
                None => {
                    changes.added += 1;
                    let merchant = match self.merchants.get(&key.merchant) {
                        Some(merchant) => Arc::clone(merchant),
                        None => Arc::clone(next.merchants.entry(key.merchant.clone()).or_default()),
                    };
                    let state = State { merchant, record: Mutex::default(), asked: AtomicU64::new(0) };
                    let credential = Credential { password, attempt, version: 0 };
                    Arc::new(User { key: Arc::new(key), credential, state: Arc::new(state) })
                }
            };
            if !next.merchants.contains_key(&user.key.merchant) {
                next.merchants.insert(user.key.merchant.clone(), Arc::clone(&user.state.merchant));
            }
            next.by_key.insert(Arc::clone(&user.key), user);
        }
        let under_way = |(key, user): (&Arc<UserKey>, &Arc<User>)| {
            let keep = !next.by_key.contains_key(key) && user.record().flight.is_some();
            keep.then(|| (Arc::clone(key), Arc::clone(user)))
        };
        next.leaving = self.by_key.iter().chain(&self.leaving).filter_map(under_way).collect();
        changes.removed =
            self.by_key.iter().filter(|(key, _)| !next.by_key.contains_key(*key)).map(|(_, user)| Arc::clone(user)).collect();
        (next, changes)
    }

    /// The user, if configured.
    #[must_use]
    pub fn get(&self, key: &UserKey) -> Option<&Arc<User>> {
        self.by_key.get(key)
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
#[derive(Clone, Debug)]
pub struct Credential {
    /// Sent as it is.
    pub password: Secret,
    /// Raised by the operator to try again.
    pub attempt: u64,
    /// Another password or attempt is another version.
    pub version: u64,
}

impl Credential {
    fn is(&self, password: &Secret, attempt: u64) -> bool {
        self.attempt == attempt && self.password == *password
    }
}

/// One configured user, as one snapshot has it.
pub struct User {
    /// Whose.
    pub key: Arc<UserKey>,
    /// What signs it in.
    pub credential: Credential,
    /// What outlives the snapshot.
    state: Arc<State>,
}

struct State {
    merchant: Arc<Merchant>,
    record: Mutex<Record>,
    /// When it was last asked for, in whole seconds after a start that the caller of `touch` keeps.
    asked: AtomicU64,
}

impl User {
    /// The record, locked. A panic elsewhere leaves it readable: every field is valid on its own.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.state.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it shares with the merchant's other users.
    #[must_use]
    pub fn merchant(&self) -> &Merchant {
        &self.state.merchant
    }

    /// Notes that it was asked for at `second`; writes only when that is news, to keep the cache line shared.
    pub fn touch(&self, second: u64) {
        if self.asked() != second {
            self.state.asked.store(second, Ordering::Relaxed);
        }
    }

    /// The second it was last asked for.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.state.asked.load(Ordering::Relaxed)
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
#[derive(Debug, Default)]
pub struct Record {
    /// When the next sign-in may begin.
    pub pacing: Pacing,
    /// The sign-in under way, or waiting to begin, if any.
    pub flight: Option<Ticket>,
    /// The user's place in the agenda of renewals.
    pub renewal: Option<Place>,
    /// The version of the credential that counts; what an older one comes to is void.
    pub version: u64,
    /// Configured no more: nothing may be stored for it.
    pub removed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Number, ticket::Ticket};

    fn configured(n: u8, password: &str, attempt: u64) -> config::User {
        let merchant = MerchantId::parse("m".to_owned()).expect("is valid");
        let number = Number::parse(format!("+4478712399{n:02}")).expect("is valid");
        config::User { key: UserKey { merchant, number }, password: Secret::from(password), attempt }
    }

    #[test]
    fn records_outlive_a_reload_and_changes_are_told_apart() {
        let users = Users::new(vec![configured(1, "a", 0), configured(2, "b", 0), configured(3, "c", 0)]);
        let (next, changes) =
            users.reloaded(vec![configured(1, "a", 0), configured(2, "other", 0), configured(3, "c", 1), configured(4, "d", 0)]);
        let versions: Vec<_> =
            (1..=4).map(|n| next.get(&configured(n, "", 0).key).expect("is there").credential.version).collect();
        assert_eq!((versions, changes.added, changes.changed.len(), changes.removed.len()), (vec![0, 1, 1, 0], 1, 2, 0));
        let key = configured(2, "", 0).key;
        users.get(&key).expect("is there").touch(7);
        assert_eq!(next.get(&key).expect("is there").asked(), 7, "one state, whatever the snapshot");
        assert!(Arc::ptr_eq(
            &users.get(&key).expect("is there").state.merchant,
            &next.get(&key).expect("is there").state.merchant
        ));

        let (gone, changes) = next.reloaded(Vec::new());
        assert_eq!((gone.len(), changes.removed.len()), (0, 4));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any instant will do")]
    fn who_comes_back_while_a_sign_in_is_under_way_meets_it_again() {
        let users = Users::new(vec![configured(1, "a", 0)]);
        let user = Arc::clone(users.get(&configured(1, "", 0).key).expect("is there"));
        user.record().flight = Some(Ticket::new(Instant::now()));
        let (gone, _) = users.reloaded(Vec::new());
        user.record().removed = true;
        let (back, changes) = gone.reloaded(vec![configured(1, "a", 0)]);
        assert_eq!((changes.changed.len(), changes.added), (1, 0));
        assert!(back.get(&user.key).expect("is there").record().flight.is_some());
        user.record().flight = None;
        assert!(gone.reloaded(Vec::new()).0.leaving.is_empty(), "and is forgotten once it has landed");
    }
}
