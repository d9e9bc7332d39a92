//! Of whom the other replicas are to hear, once they can be told.
//!
//! Must never keep more than a constant.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{tier::Lease, tokens::version::Version, user::UserKey, users::KnownUser};

/// Most users of whom there is something to be told afterwards: the cold ones of a bad morning. Of more, others learn for themselves.
const UNTOLD_MAX: usize = 10_000;

/// A lock under which nothing could be written, and whose version it is. While it lasts nobody else has it.
#[derive(Debug)]
pub(super) struct UnusedLock {
    pub(super) version: Version,
    pub(super) lease: Box<Lease>,
}

/// In an order, so that a simulated history is the same each time.
type ByKey = BTreeMap<Arc<UserKey>, (Arc<KnownUser>, Option<UnusedLock>)>;

/// Users who may be held, of which others have not heard.
#[derive(Debug, Default)]
pub(super) struct Untold {
    users: Mutex<ByKey>,
    pub(super) added: Notify,
}

impl Untold {
    pub(super) fn users(&self) -> MutexGuard<'_, ByKey> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it be told once it can be.
    pub(super) fn add(&self, user: &Arc<KnownUser>, lock: Option<UnusedLock>) {
        self.put_back(user, lock);
        self.added.notify_one();
    }

    /// Has it be told another time.
    pub(super) fn put_back(&self, user: &Arc<KnownUser>, lock: Option<UnusedLock>) {
        let mut users = self.users();
        if users.len() < UNTOLD_MAX {
            users.insert(Arc::clone(&user.key), (Arc::clone(user), lock));
        }
    }
}
