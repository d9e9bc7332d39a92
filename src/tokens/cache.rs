//! Tokens in moka, and where a user's newest one is found.
//!
//! moka alone keeps tokens alive: a [`TokenSlot`] only points, so that nothing has to be cleared when moka frees a token that has
//! ended, whose secret is wiped with it. Whoever looks for a token looks at the slot, which takes no lock and hashes nothing; moka
//! itself is never read.
//!
//! Must never judge a token: moka's expiry only frees memory (it lags, and reads a clock of its own); whether a token may be
//! answered is for `cached_token`. Must never be smaller than the configuration, so that no user's token is pushed out.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapWeak;
use moka::{Expiry, policy::EvictionPolicy, sync};

use super::cached_token::CachedToken;
use crate::user::UserKey;

/// Smallest capacity, in tokens: users may be added while the process runs, and moka's capacity can't be changed then. Costs
/// nothing until it is used; what bounds the cache is the configuration.
const CAPACITY_MIN: u64 = 10_000_000;
/// What moka has taken out it frees only once no thread can be reading it any more, which it looks for once in each run: this many
/// runs later it has, where nobody else uses it.
const RUNS_TO_FREE: usize = 3;

/// Points to the newest token of one user, while moka keeps it.
#[derive(Default)]
pub struct TokenSlot(ArcSwapWeak<CachedToken>);

impl TokenSlot {
    /// The user's token, of whatever age. Never waits.
    #[must_use]
    pub fn get(&self) -> Option<Arc<CachedToken>> {
        self.0.load().upgrade()
    }
}

impl fmt::Debug for TokenSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSlot").finish_non_exhaustive()
    }
}

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

    /// Puts a user's token in the place of the former. For one at a time of a user, whose slot this is.
    pub fn put(&self, user: &Arc<UserKey>, slot: &TokenSlot, token: &Arc<CachedToken>) {
        // First, so that there is no moment at which the former is gone and this one not found.
        slot.0.store(Arc::downgrade(token));
        self.tokens.insert(Arc::clone(user), Arc::clone(token));
    }

    /// Drops a user's token. For one at a time of a user, whose slot this is.
    pub fn remove(&self, user: &UserKey, slot: &TokenSlot) {
        slot.0.store(Weak::new());
        self.tokens.invalidate(user);
    }

    /// Frees what has expired, was replaced or dropped; moka does it only when it is used.
    pub fn tidy(&self) {
        (0..RUNS_TO_FREE).for_each(|_| self.tokens.run_pending_tasks());
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

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicBool, Ordering},
        },
        thread,
        time::SystemTime,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::{
        clock::Moment,
        secret::Secret,
        tokens::{
            token::{Token, TokenId},
            version::Version,
        },
        user::{MerchantId, Number},
    };

    /// Long after this a test that waits for moka's own clock has failed.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[allow(clippy::disallowed_methods, reason = "moka's clock can't be paused")]
    fn now() -> Instant {
        Instant::now()
    }

    fn user(n: u8) -> Arc<UserKey> {
        let merchant = MerchantId::parse("m".to_owned()).expect("is valid");
        Arc::new(UserKey { merchant, number: Number::parse(format!("+4478712399{n:02}")).expect("is valid") })
    }

    /// The `n`th token, which says so by its version.
    fn token(n: u64, lifetime: Duration) -> Arc<CachedToken> {
        let now = Moment { mono: now().into(), wall: SystemTime::UNIX_EPOCH };
        let access_token = Secret::from("a");
        let id = TokenId::of(access_token.expose());
        let token = Token { access_token, id, scope: Arc::default(), expires: now.plus(lifetime), lifetime };
        Arc::new(CachedToken::new(token, Version { credential: n, ..Version::default() }, false, None, Duration::ZERO, now))
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    fn agree(cache: &Cache, user: &Arc<UserKey>, slot: &TokenSlot) -> bool {
        let (found, kept) = (slot.get(), cache.tokens.get(user));
        found.as_ref().map(Arc::as_ptr) == kept.as_ref().map(Arc::as_ptr)
    }

    /// Whether what `token` points to goes within a while, with nobody but moka to hold it.
    fn goes(cache: &Cache, token: &Weak<CachedToken>) -> bool {
        let began = now();
        while token.strong_count() > 0 && began.elapsed() < PATIENCE {
            cache.tidy();
            thread::sleep(Duration::from_millis(5));
        }
        token.strong_count() == 0
    }

    #[test]
    fn a_token_that_ended_or_was_replaced_or_dropped_goes_though_its_slot_stays() {
        let (cache, slot, user) = (Cache::new(1), TokenSlot::default(), user(1));
        let put = |n, lifetime| {
            let token = token(n, lifetime);
            cache.put(&user, &slot, &token);
            Arc::downgrade(&token)
        };
        let ended = put(1, Duration::ZERO);
        assert!(slot.get().is_some_and(|token| token.version.credential == 1), "it is for others to judge");
        assert!(goes(&cache, &ended) && slot.get().is_none());
        let replaced = put(2, HOUR);
        let dropped = put(3, HOUR);
        assert!(slot.get().is_some_and(|token| token.version.credential == 3));
        assert!(goes(&cache, &replaced));
        assert_eq!(dropped.strong_count(), 1, "nobody but moka holds it");
        cache.remove(&user, &slot);
        assert!(slot.get().is_none(), "at once");
        assert!(goes(&cache, &dropped));
    }

    proptest! {
        /// Whatever is done in whatever order: the slots point to what moka keeps.
        #[test]
        fn slots_and_moka_agree(steps in proptest::collection::vec((0..4_u8, 0..3_usize), 1..40)) {
            let users: Vec<_> = (0..3).map(|n| (user(n), TokenSlot::default())).collect();
            let cache = Cache::new(users.len());
            for (n, (step, which)) in (0..).zip(steps) {
                let (user, slot) = &users[which];
                match step {
                    0 | 1 => {
                        cache.put(user, slot, &token(n, HOUR));
                        prop_assert_eq!(slot.get().map(|token| token.version.credential), Some(n));
                    }
                    2 => {
                        cache.remove(user, slot);
                        prop_assert!(slot.get().is_none());
                    }
                    _ => cache.tidy(),
                }
                prop_assert!(users.iter().all(|(user, slot)| agree(&cache, user, slot)));
            }
        }
    }

    /// Two threads store and drop one user's tokens, one at a time as the record's lock has it; two others look, and one tidies. Some
    /// tokens end at once, so that moka frees them as it likes.
    #[test]
    fn nobody_ever_finds_an_older_token_than_before() {
        const TOKENS: u64 = 20_000;
        let (cache, slot, user) = (Cache::new(1), TokenSlot::default(), user(1));
        let (next, over) = (Mutex::new(0), AtomicBool::new(false));
        let write = || {
            loop {
                let mut next = next.lock().expect("no writer panics");
                if *next == TOKENS {
                    return;
                }
                *next += 1;
                match *next % 8 {
                    0 => cache.remove(&user, &slot),
                    n => {
                        cache.put(&user, &slot, &token(*next, if n == 1 { Duration::ZERO } else { HOUR }));
                        let found = slot.get();
                        assert!(found.is_none_or(|token| token.version.credential == *next), "it is the newest");
                    }
                }
            }
        };
        let read = || {
            let mut newest = 0;
            while !over.load(Ordering::Relaxed) {
                let found = slot.get().map_or(newest, |token| token.version.credential);
                assert!(found >= newest, "{found} after {newest}");
                newest = found;
            }
        };
        thread::scope(|threads| {
            let others = [threads.spawn(read), threads.spawn(read)];
            let tidying = threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    cache.tidy();
                }
            });
            let writers = [threads.spawn(write), threads.spawn(write)].map(thread::ScopedJoinHandle::join);
            over.store(true, Ordering::Relaxed);
            let rest = others.into_iter().chain([tidying]).map(thread::ScopedJoinHandle::join).collect::<Vec<_>>();
            assert!(writers.into_iter().chain(rest).all(|end| end.is_ok()));
        });
        cache.put(&user, &slot, &token(TOKENS + 1, HOUR));
        assert!(agree(&cache, &user, &slot) && slot.get().is_some());
    }
}
