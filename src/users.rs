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
}

impl Users {
    /// Takes the configured users over, with clean records.
    #[must_use]
    pub fn new(configured: Vec<config::User>) -> Self {
        let mut merchants: HashMap<MerchantId, Arc<Merchant>> = HashMap::new();
        let by_key = configured
            .into_iter()
            .map(|user| {
                let merchant = Arc::clone(merchants.entry(user.key.merchant.clone()).or_default());
                let key = Arc::new(user.key);
                let credential = Credential { password: user.password, attempt: user.attempt };
                (
                    Arc::clone(&key),
                    Arc::new(User { key, credential, merchant, record: Mutex::default(), asked: AtomicU64::new(0) }),
                )
            })
            .collect();
        Self { by_key }
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

/// What signs a user in. Another password or attempt is another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Sent as it is.
    pub password: Secret,
    /// Raised by the operator to try again.
    pub attempt: u64,
}

/// One configured user.
pub struct User {
    /// Whose.
    pub key: Arc<UserKey>,
    /// What signs it in.
    pub credential: Credential,
    /// What it shares with the merchant's other users.
    pub merchant: Arc<Merchant>,
    record: Mutex<Record>,
    /// When it was last asked for, in whole seconds after a start that the caller of `touch` keeps.
    asked: AtomicU64,
}

impl User {
    /// The record, locked. A panic elsewhere leaves it readable: every field is valid on its own.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that it was asked for at `second`; writes only when that is news, to keep the cache line shared.
    pub fn touch(&self, second: u64) {
        if self.asked.load(Ordering::Relaxed) != second {
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
#[derive(Debug, Default)]
pub struct Record {
    /// When the next sign-in may begin.
    pub pacing: Pacing,
    /// The sign-in under way, or waiting to begin, if any.
    pub flight: Option<Ticket>,
    /// The user's place in the agenda of renewals.
    pub renewal: Option<Place>,
}
