//! Tokens in moka, nothing else.
//!
//! Must never judge a token: moka's expiry only frees memory (it lags, and reads a clock of its own); whether a token may be
//! answered is for `cached_token`. Must never be smaller than the configuration, so that no user's token is pushed out.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{Expiry, policy::EvictionPolicy, sync};

use super::cached_token::CachedToken;
use crate::user::UserKey;

/// Smallest capacity, in tokens: users may be added while the process runs, and moka's capacity can't be changed then. Costs
/// nothing until it is used; what bounds the cache is the configuration.
const CAPACITY_MIN: u64 = 10_000_000;

/// The cached tokens, one per user.
#[derive(Clone, Debug)]
pub struct Cache {
    tokens: sync::Cache<Arc<UserKey>, Arc<CachedToken>>,
}

impl Cache {
    /// A cache that holds a token for each of `users` users and more.
    #[must_use]
    pub fn new(users: usize) -> Self {
        let capacity = u64::try_from(users).unwrap_or(u64::MAX).saturating_mul(2).max(CAPACITY_MIN);
        let tokens = sync::Cache::builder()
            .max_capacity(capacity)
            // The default policy may refuse a new key when full; a token just fetched must never be refused.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(AtItsEnd)
            .build();
        Self { tokens }
    }

    /// The token cached for a user, of whatever age.
    #[must_use]
    pub fn get(&self, user: &UserKey) -> Option<Arc<CachedToken>> {
        self.tokens.get(user)
    }

    /// Puts a user's token in the place of the former.
    pub fn put(&self, user: &Arc<UserKey>, token: &Arc<CachedToken>) {
        self.tokens.insert(Arc::clone(user), Arc::clone(token));
    }

    /// Drops a user's token.
    pub fn remove(&self, user: &UserKey) {
        self.tokens.invalidate(user);
    }

    /// Frees what has expired; moka does it only when it is used.
    pub fn tidy(&self) {
        self.tokens.run_pending_tasks();
    }

    /// How many tokens are cached, about.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.tokens.entry_count()
    }

    /// Whether none is cached, about.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Lets moka drop a token once its lifetime has passed since it was put here; that is a little late, never early.
struct AtItsEnd;

impl Expiry<Arc<UserKey>, Arc<CachedToken>> for AtItsEnd {
    fn expire_after_create(&self, _: &Arc<UserKey>, cached: &Arc<CachedToken>, _: Instant) -> Option<Duration> {
        Some(cached.token.lifetime)
    }

    // moka keeps the former entry's end unless this is written too.
    fn expire_after_update(
        &self,
        _: &Arc<UserKey>,
        cached: &Arc<CachedToken>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(cached.token.lifetime)
    }
}
