//! Who is to hear of news: flights that wait for another replica's, and users whose tokens are held here.
//!
//! Must never keep a user or a flight alive, nor grow beyond those that there are.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::seal::Name;
use crate::users::KnownUser;

/// Those who are gone are looked for when there are twice as many as were left the last time, and so many at least.
const SWEEP_LEAST: usize = 1_024;

/// Whom news concerns, by name.
#[derive(Default)]
pub(super) struct Watchers {
    waiting: Mutex<HashMap<Name, Arc<Notify>>>,
    held: Mutex<Held>,
    /// One user of each merchant that is known.
    merchants: Mutex<HashMap<Name, Weak<KnownUser>>>,
}

/// Whom news is about.
#[derive(Debug)]
pub enum News {
    /// One user.
    User(Arc<KnownUser>),
    /// All of the merchant that this one is of.
    Merchant(Arc<KnownUser>),
}

#[derive(Default)]
struct Held {
    /// With how many names had been followed when it was.
    users: HashMap<Name, (Weak<KnownUser>, u64)>,
    followed: u64,
    sweep_at: usize,
}

impl Held {
    /// Lets go of who is gone, and of former names: a user whose credential changed has another.
    fn sweep(&mut self) {
        let mut newest = HashMap::new();
        for (user, count) in self.users.values() {
            let last = newest.entry(user.as_ptr()).or_insert(*count);
            *last = (*last).max(*count);
        }
        self.users.retain(|_, (user, count)| user.strong_count() > 0 && newest.get(&user.as_ptr()) == Some(count));
        self.sweep_at = self.users.len().saturating_mul(2);
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watchers")
    }
}

impl Watchers {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Name, Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn merchants(&self) -> MutexGuard<'_, HashMap<Name, Weak<KnownUser>>> {
        self.merchants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has this user's news, and its merchant's, be told of.
    pub(super) fn follow(&self, name: Name, merchant: Name, user: &Arc<KnownUser>) {
        {
            let mut merchants = self.merchants();
            let known = merchants.len();
            merchants.insert(merchant, Arc::downgrade(user));
            // A name that is new: those of merchants that are gone go.
            if merchants.len() > known {
                merchants.retain(|_, user| user.strong_count() > 0);
            }
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.followed = held.followed.saturating_add(1);
        let count = held.followed;
        held.users.insert(name, (Arc::downgrade(user), count));
        if held.users.len() >= held.sweep_at.max(SWEEP_LEAST) {
            held.sweep();
        }
    }

    /// Wakes whoever waits for this news; gives the user whose token is held, if one is.
    pub(super) fn tell(&self, name: &Name) -> Option<News> {
        if let Some(user) = self.merchants().get(name).and_then(Weak::upgrade) {
            return Some(News::Merchant(user));
        }
        if let Some(notify) = self.waiting().get(name) {
            notify.notify_one();
        }
        self.held.lock().unwrap_or_else(PoisonError::into_inner).users.get(name)?.0.upgrade().map(News::User)
    }
}

/// Is woken by news. Of one subject there is one in a process, since that has one flight at a time.
pub struct Waiter {
    watchers: Arc<Watchers>,
    name: Name,
    notify: Arc<Notify>,
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiter")
    }
}

impl Waiter {
    pub(super) fn new(watchers: &Arc<Watchers>, name: Name) -> Self {
        let notify = Arc::<Notify>::default();
        watchers.waiting().insert(name, Arc::clone(&notify));
        Self { watchers: Arc::clone(watchers), name, notify }
    }

    /// Waits for news since it was made, or since it last did; for so long at most.
    pub async fn wait(&self, most: Duration) {
        timeout(most, self.notify.notified()).await.ok();
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.watchers.waiting();
        if waiting.get(&self.name).is_some_and(|notify| Arc::ptr_eq(notify, &self.notify)) {
            waiting.remove(&self.name);
        }
    }
}
