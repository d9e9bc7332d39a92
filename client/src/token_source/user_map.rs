//! The users that a source knows, found without a lock.
//!
//! Must never keep more than [`USERS_MAX`], but for those that a call is under way for; nor forget one of these, whose next caller
//! would make a second; nor hold up who looks a user up while another is added.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;

use super::{User, slot::Slot};

/// Most users of one source: their tokens and tasks take about 3 KiB each. Beyond that those are forgotten who were not asked for
/// for longest.
pub(super) const USERS_MAX: usize = 10_000;
/// So many parts are replaced apart from each other: to add a user copies 40 pointers at most.
const SHARDS: usize = 256;
/// Such a part of the users is forgotten at once, since to find out who was not asked for takes a look at all.
const FORGOTTEN: usize = USERS_MAX / 16;

/// Users bring their hash along.
#[derive(Default)]
struct Given(u64);

impl Hasher for Given {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Shard = HashMap<User, Arc<Slot>, BuildHasherDefault<Given>>;

pub(super) struct UserMap {
    shards: Box<[ArcSwap<Shard>]>,
    count: AtomicUsize,
    /// Held while a user is added.
    adding: Mutex<()>,
}

impl Default for UserMap {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| ArcSwap::default()).collect(), count: AtomicUsize::new(0), adding: Mutex::default() }
    }
}

impl UserMap {
    fn shard(&self, user: &User) -> Option<&ArcSwap<Shard>> {
        // The map itself goes by the lowest bits and by the highest seven.
        let part = usize::try_from((user.digest() >> 40) % SHARDS as u64).unwrap_or_default();
        self.shards.get(part)
    }

    /// What `look` makes of this user's slot, if there is one.
    pub(super) fn with<R>(&self, user: &User, look: impl FnOnce(&Arc<Slot>) -> R) -> Option<R> {
        self.shard(user)?.load().get(user).map(look)
    }

    /// This user's slot; `make` makes it where there is none.
    pub(super) fn get_or_add(&self, user: &User, make: impl Fn() -> Slot) -> Arc<Slot> {
        if let Some(found) = self.with(user, Arc::clone) {
            return found;
        }
        let adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = self.with(user, Arc::clone) {
            return found;
        }
        if self.len() >= USERS_MAX {
            self.make_room();
        }
        let slot = Arc::new(make());
        if let Some(shard) = self.shard(user) {
            let mut users = Shard::clone(&shard.load());
            users.insert(user.clone(), Arc::clone(&slot));
            shard.store(Arc::new(users));
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        drop(adding);
        slot
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Forgets who was not asked for for longest, and is of no concern to anybody now.
    fn make_room(&self) {
        let mut asked: Vec<u64> = self.shards.iter().flat_map(|shard| asked(&shard.load())).collect();
        asked.sort_unstable();
        let Some(newest) = asked.get(FORGOTTEN.min(asked.len()).saturating_sub(1)).copied() else { return };
        let mut left = FORGOTTEN;
        for shard in &self.shards {
            let mut users = Shard::clone(&shard.load());
            let before = users.len();
            // Both this map and the one that it is to replace hold each slot.
            users.retain(|_, slot| {
                let goes = left > 0 && slot.asked_at() <= newest && is_idle(slot, 2);
                left -= usize::from(goes);
                !goes
            });
            if users.len() < before {
                self.count.fetch_sub(before - users.len(), Ordering::Relaxed);
                shard.store(Arc::new(users));
            }
        }
    }
}

/// When each of those was asked for who may be forgotten.
fn asked(users: &Shard) -> Vec<u64> {
    users.values().filter(|slot| is_idle(slot, 1)).map(|slot| slot.asked_at()).collect()
}

/// Whether no call is under way, and nobody is about to begin one, who holds the slot then beside so many maps.
fn is_idle(slot: &Arc<Slot>, maps: usize) -> bool {
    Arc::strong_count(slot) <= maps && !slot.is_calling()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: usize) -> User {
        User::new("m", &format!("+44{n:09}"))
    }

    /// Adds a user who is asked for after so many that were.
    fn add(map: &UserMap, n: usize) -> Arc<Slot> {
        map.get_or_add(&user(n), || Slot::new(user(n), 2_000 * u64::try_from(n).expect("is small")))
    }

    fn known(map: &UserMap, n: usize) -> bool {
        map.with(&user(n), |slot| *slot.user() == user(n)) == Some(true)
    }

    #[test]
    fn is_bounded_and_forgets_who_was_not_asked_for() {
        let map = UserMap::default();
        for n in 0..=USERS_MAX {
            add(&map, n);
        }
        assert_eq!(map.len(), USERS_MAX + 1 - FORGOTTEN);
        assert!((0..FORGOTTEN).all(|n| !known(&map, n)) && (FORGOTTEN..=USERS_MAX).all(|n| known(&map, n)));
        let first = map.get_or_add(&user(USERS_MAX), || Slot::new(user(0), 0));
        assert!(*first.user() == user(USERS_MAX), "it was there");
    }

    #[test]
    fn whoever_is_held_is_not_forgotten() {
        let map = UserMap::default();
        let held: Vec<_> = (0..9).map(|n| add(&map, n)).collect();
        for n in 9..=USERS_MAX {
            add(&map, n);
        }
        assert_eq!(map.len(), USERS_MAX + 1 - FORGOTTEN, "others go instead");
        assert!(held.iter().enumerate().all(|(n, slot)| map.with(&user(n), |found| Arc::ptr_eq(found, slot)) == Some(true)));
        // Where that is everybody, there is no room to be made.
        let map = UserMap::default();
        let held: Vec<_> = (0..USERS_MAX + 9).map(|n| add(&map, n)).collect();
        assert_eq!(map.len(), held.len());
    }
}
