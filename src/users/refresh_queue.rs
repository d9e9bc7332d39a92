//! The refresh queue: which user's token is due next.
//!
//! One place per user, in order of time, so that nobody ever scans all users; bounded by the configuration. Must never start
//! a sign-in itself, nor hold a token.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{clock::Clock, user::UserKey};

/// A user's place in the refresh queue. Small, since each user has one here and one in its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueSlot {
    /// In nanoseconds since the queue was made.
    at: u64,
    /// Tells users of one instant apart.
    number: NonZeroU32,
}

/// Who is due when.
#[derive(Debug)]
pub struct RefreshQueue {
    clock: Arc<dyn Clock>,
    /// Times are counted from here.
    epoch: Instant,
    entries: Mutex<Entries>,
    /// The first entry has changed.
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    by_time: BTreeMap<QueueSlot, Arc<UserKey>>,
    /// How many there are in each second.
    by_second: HashMap<u64, u32>,
    last_number: Option<NonZeroU32>,
}

impl Entries {
    fn add(&mut self, place: QueueSlot, user: &Arc<UserKey>) {
        self.by_time.insert(place, Arc::clone(user));
        *self.by_second.entry(second(place.at)).or_default() += 1;
    }

    fn take(&mut self, place: QueueSlot) -> Option<Arc<UserKey>> {
        let user = self.by_time.remove(&place)?;
        if let Entry::Occupied(mut count) = self.by_second.entry(second(place.at)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(user)
    }
}

impl RefreshQueue {
    /// An empty refresh queue.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let epoch = clock.now().mono;
        Self { clock, epoch, entries: Mutex::default(), earlier: Notify::new() }
    }

    /// Moves a user from its `former` place, if it has one, to `at`.
    pub fn put(&self, former: Option<QueueSlot>, at: Instant, user: &Arc<UserKey>) -> QueueSlot {
        let mut entries = self.entries();
        if let Some(former) = former {
            entries.take(former);
        }
        let number = entries.last_number.and_then(|last| last.checked_add(1)).unwrap_or(NonZeroU32::MIN);
        entries.last_number = Some(number);
        let place = QueueSlot { at: self.nanos(at), number };
        entries.add(place, user);
        let is_first = entries.by_time.first_key_value().is_some_and(|(first, _)| *first == place);
        drop(entries);
        if is_first {
            self.earlier.notify_one();
        }
        place
    }

    /// When a user with this place is due.
    #[must_use]
    pub fn time_of(&self, place: QueueSlot) -> Instant {
        self.epoch + Duration::from_nanos(place.at)
    }

    /// Takes a user out.
    pub fn remove(&self, place: QueueSlot) {
        self.entries().take(place);
    }

    /// How many users are due in the second of `at`.
    #[must_use]
    pub fn due_in_second(&self, at: Instant) -> u32 {
        self.entries().by_second.get(&second(self.nanos(at))).copied().unwrap_or_default()
    }

    /// Waits until somebody is due, and takes that user out. For one task only.
    pub async fn next(&self) -> Arc<UserKey> {
        loop {
            let first = {
                let mut entries = self.entries();
                let first = entries.by_time.first_key_value().map(|(place, _)| *place);
                if let Some(place) = first.filter(|place| place.at <= self.nanos(self.clock.now().mono))
                    && let Some(user) = entries.take(place)
                {
                    return user;
                }
                first
            };
            match first.map(|place| self.time_of(place)) {
                Some(at) => tokio::select! {
                    biased;
                    () = sleep_until(at) => {}
                    () = self.earlier.notified() => {}
                },
                None => self.earlier.notified().await,
            }
        }
    }

    /// How many users have their place before `at`, within a second.
    #[must_use]
    pub fn due_by(&self, at: Instant) -> usize {
        let last = second(self.nanos(at));
        let due = |(second, count): (&u64, &u32)| (*second <= last).then_some(usize::try_from(*count).unwrap_or(usize::MAX));
        self.entries().by_second.iter().filter_map(due).sum()
    }

    /// How many users have a place.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries().by_time.len()
    }

    /// Whether nobody has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Since the refresh queue was made, which is 585 years at most; what lies before is its first.
    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole second of a place.
fn second(nanos: u64) -> u64 {
    Duration::from_nanos(nanos).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::SystemClock,
        user::{MerchantId, Number},
    };

    fn user(last_digit: u8) -> Arc<UserKey> {
        Arc::new(UserKey {
            merchant: MerchantId::parse("m".to_owned()).expect("is valid"),
            number: Number::parse(format!("+44787123999{last_digit}")).expect("is valid"),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn users_come_in_order_of_time_and_only_once() {
        let refresh_queue = Arc::new(RefreshQueue::new(Arc::new(SystemClock)));
        let start = SystemClock.now().mono;
        let after = |secs| start + Duration::from_secs(secs);
        refresh_queue.put(None, after(30), &user(3));
        let moved = refresh_queue.put(None, after(10), &user(1));
        refresh_queue.put(None, after(20), &user(2));
        refresh_queue.put(Some(moved), after(40), &user(1));
        let gone = refresh_queue.put(None, after(5), &user(9));
        assert_eq!(
            (
                refresh_queue.due_in_second(after(5)),
                refresh_queue.due_in_second(after(10)),
                refresh_queue.due_in_second(after(40))
            ),
            (1, 0, 1)
        );
        refresh_queue.remove(gone);
        assert_eq!(refresh_queue.due_in_second(after(5)), 0);
        for (secs, expected) in [(20, 2), (30, 3), (40, 1)] {
            assert_eq!(refresh_queue.next().await, user(expected));
            assert!(SystemClock.now().mono >= after(secs) && SystemClock.now().mono < after(secs + 1));
        }
        assert!(refresh_queue.is_empty() && refresh_queue.entries().by_second.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_entry_wakes_the_sleeper() {
        let refresh_queue = Arc::new(RefreshQueue::new(Arc::new(SystemClock)));
        let start = SystemClock.now().mono;
        refresh_queue.put(None, start + Duration::from_secs(100), &user(2));
        let (first, ()) = tokio::join!(refresh_queue.next(), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            refresh_queue.put(None, start + Duration::from_secs(2), &user(1));
        });
        assert_eq!(first, user(1));
        assert!(SystemClock.now().mono < start + Duration::from_secs(3));
    }
}
