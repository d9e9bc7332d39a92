//! Keeps holds over a restart, in a file, so that a wrong password is not tried once more with each start.
//!
//! Who is meant stands in it as a hash under the directory's key, and each credential as a mark of its version: no number, no password, and
//! no hash of one that would tell it from many others. Must never make a flight wait for the disk, nor keep the broker from starting: a
//! file that can't be used is told, and begun anew.

mod format;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::format::{Entry, FILE_BYTES_MAX, NAME_BYTES};
use super::{
    KnownUser,
    holds::{Rules, SavedHold},
};
use crate::{
    clock::{Clock, Moment},
    keyed_hash::{KeyedHash, first},
    state_directory::{StateDirectory, StateError},
    telemetry::metrics::Metrics,
    tokens::version::{Version, Versions},
    user::UserKey,
};

/// The file's name.
const NAME: &str = "holds";
/// The first change is written at once, those of this long after it together …
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// … or for so many times as long as writing took: a slow disk, or a long file, is not written to all the time.
const WRITE_PAUSES: u32 = 10;
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(5);
/// Most users whose holds are kept: as many as are remembered in memory when they leave the configuration.
const USERS_MAX: usize = super::REMEMBERED_MAX;

/// The file with the holds; by default none, and then nothing is kept.
#[derive(Clone, Debug, Default)]
pub struct HoldFile(Option<Arc<Kept>>);

#[derive(Debug)]
struct Kept {
    directory: StateDirectory,
    names: KeyedHash,
    /// When it was read: from then on only the monotonic clock counts.
    read_at: Moment,
    state: Mutex<State>,
    changed: Notify,
    /// One writes at a time. Whether the last one failed.
    is_failing: Mutex<bool>,
}

#[derive(Debug, Default)]
struct State {
    /// Of whom there may be something to be kept.
    users: HashMap<Arc<UserKey>, Arc<KnownUser>>,
    /// What was read of users who aren't configured, should they be again.
    unclaimed: HashMap<[u8; NAME_BYTES], Vec<SavedHold>>,
    is_changed: bool,
}

impl HoldFile {
    /// Reads what an earlier process left in the directory. Where that can't be used, nothing is kept, which is told.
    #[must_use]
    pub fn open(path: &Path, now: Moment, metrics: &Metrics) -> Self {
        match Self::read(path, now) {
            Ok(kept) => Self(Some(Arc::new(kept))),
            Err(fault) => {
                error!(
                    directory = %path.display(), %fault,
                    "state_directory can't be used, so a restart will forget who was refused: mend it, then restart the broker"
                );
                metrics.holds_unkept.set(1);
                Self::default()
            }
        }
    }

    fn read(path: &Path, now: Moment) -> Result<Kept, StateError> {
        let (directory, is_lost) = StateDirectory::open(path)?;
        let read = match directory.read(NAME, FILE_BYTES_MAX) {
            Ok(Some(bytes)) if !is_lost => format::read(&bytes, directory.key()),
            Ok(Some(_)) => Err("its key was damaged"),
            Ok(None) => Ok(Vec::new()),
            Err(StateError::Foreign(why)) => Err(why),
            Err(error) => return Err(error),
        };
        let entries = read.unwrap_or_else(|why| {
            warn!(
                directory = %path.display(), why,
                "the file with the holds can't be used and is begun anew: users who were refused are tried once more"
            );
            Vec::new()
        });
        if !entries.is_empty() {
            info!(users = entries.len(), "holds of before the start are in force");
        }
        let unclaimed = entries.into_iter().map(|entry| (entry.name, entry.holds)).collect();
        let names = directory.key().derived("names of users");
        let (state, is_failing) = (Mutex::new(State { unclaimed, ..State::default() }), Mutex::default());
        Ok(Kept { directory, names, read_at: now, state, changed: Notify::new(), is_failing })
    }

    /// What makes versions that are the same after a restart, if anything is kept that long.
    pub(super) fn versions(&self) -> Versions {
        let key = |kept: &Arc<Kept>| kept.directory.key().derived("versions of credentials");
        Versions::new(self.0.as_ref().map(key).unwrap_or_default())
    }

    /// Tells a new user what was learnt of it before, if anything.
    pub(super) fn recall(&self, user: &Arc<KnownUser>, version: Version) {
        let Some(kept) = &self.0 else { return };
        let mut state = kept.state();
        if state.unclaimed.is_empty() {
            return;
        }
        if let Some(saved) = state.unclaimed.remove(&kept.name(&user.key)) {
            user.record().holds.recall(version, saved, kept.read_at);
            state.users.insert(Arc::clone(&user.key), Arc::clone(user));
        }
    }

    /// There is something new against a user.
    pub fn note(&self, user: &Arc<KnownUser>) {
        let Some(kept) = &self.0 else { return };
        let mut state = kept.state();
        if state.users.len() < USERS_MAX || state.users.contains_key(&user.key) {
            state.users.insert(Arc::clone(&user.key), Arc::clone(user));
            kept.change(state);
        }
    }

    /// There may be less against a user than before.
    pub fn ease(&self, user: &KnownUser) {
        let Some(kept) = &self.0 else { return };
        let state = kept.state();
        if state.users.contains_key(&user.key) {
            kept.change(state);
        }
    }

    /// Writes what changes, until `closing`. To be spawned once.
    pub async fn keep(
        self,
        clock: Arc<dyn Clock>,
        rules: impl Fn() -> Rules + Send,
        metrics: Arc<Metrics>,
        closing: CancellationToken,
    ) {
        let Some(kept) = self.0 else { return };
        loop {
            tokio::select! {
                () = kept.changed.notified() => {}
                () = closing.cancelled() => return,
            }
            let began = clock.now();
            let pause = if write(&kept, began, rules(), &metrics).await {
                clock.now().mono.saturating_duration_since(began.mono).saturating_mul(WRITE_PAUSES).max(WRITE_EVERY)
            } else {
                kept.changed.notify_one();
                RETRY
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = closing.cancelled() => return,
            }
        }
    }

    /// Writes what has changed since, at the end.
    pub async fn end(&self, now: Moment, rules: Rules, metrics: &Arc<Metrics>, patience: Duration) {
        if let Some(kept) = &self.0
            && timeout(patience, write(kept, now, rules, metrics)).await.is_err()
        {
            warn!("the last holds may not have been written: the disk takes too long");
        }
    }
}

/// Writes on a thread that may wait. Says whether that went well.
async fn write(kept: &Arc<Kept>, now: Moment, rules: Rules, metrics: &Arc<Metrics>) -> bool {
    let (kept, metrics) = (Arc::clone(kept), Arc::clone(metrics));
    spawn_blocking(move || kept.write(now, &rules, &metrics)).await.unwrap_or(false)
}

impl Kept {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, key: &UserKey) -> [u8; NAME_BYTES] {
        first(&self.names.of(&[key.merchant.as_str().as_bytes(), key.number.expose().as_bytes()]))
    }

    fn change(&self, mut state: MutexGuard<'_, State>) {
        state.is_changed = true;
        drop(state);
        self.changed.notify_one();
    }

    /// Writes all that is to be kept, if anything has changed, and tells if that begins or ceases to fail. Says whether it went well.
    fn write(&self, now: Moment, rules: &Rules, metrics: &Metrics) -> bool {
        let mut is_failing = self.is_failing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entries) = self.take_changes(now, rules) else { return true };
        let (bytes, left_out) = format::write(&entries, self.directory.key());
        if left_out > 0 {
            warn!(left_out, "there are more holds than the file takes: a restart will forget some");
        }
        match self.directory.replace(NAME, &bytes) {
            Ok(()) => {
                if std::mem::take(&mut *is_failing) {
                    info!("the file with the holds is written again");
                }
            }
            Err(fault) => {
                self.state().is_changed = true;
                if !std::mem::replace(&mut *is_failing, true) {
                    error!(%fault, "the file with the holds can't be written, so a restart will forget who was refused");
                }
            }
        }
        metrics.holds_unkept.set(i64::from(*is_failing));
        !*is_failing
    }

    /// What is to be kept, if anything has changed. Who has nothing to be kept is forgotten.
    fn take_changes(&self, now: Moment, rules: &Rules) -> Option<Vec<Entry>> {
        let (users, mut entries) = {
            let mut state = self.state();
            if !std::mem::take(&mut state.is_changed) {
                return None;
            }
            state.unclaimed.values_mut().for_each(|holds| holds.retain(|saved| saved.again(self.read_at, now, rules).is_some()));
            state.unclaimed.retain(|_, holds| !holds.is_empty());
            let again = |saved: &SavedHold| saved.again(self.read_at, now, rules);
            let unclaimed = state
                .unclaimed
                .iter()
                .map(|(name, holds)| Entry { name: *name, holds: holds.iter().filter_map(again).collect() });
            let unclaimed: Vec<_> = unclaimed.collect();
            (state.users.values().map(Arc::clone).collect::<Vec<_>>(), unclaimed)
        };
        let saved = |user: &KnownUser| user.record().holds.saved(now, rules).collect::<Vec<_>>();
        for user in users {
            let holds = saved(&user);
            if !holds.is_empty() {
                entries.push(Entry { name: self.name(&user.key), holds });
                continue;
            }
            let mut state = self.state();
            // It may have got something meanwhile.
            if saved(&user).is_empty() {
                state.users.remove(&user.key);
            }
        }
        Some(entries)
    }
}
