//! What the other replicas are told once they can be told again: holds that were learnt meanwhile.
//!
//! Must never tell of what is over, nor stop anybody who was let in since.

use std::{mem, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::sleep};

use super::{
    fleet::{Found, Wanted, judge},
    held::{is_against_credential, stopping},
    shared::{Shared, configured, stopped},
    untold::UnusedLock,
};
use crate::{
    tier::{Condition, Lease, Leasing},
    tokens::version::Version,
    users::KnownUser,
};

/// So many are told at once: a few round trips' worth, as news are looked for.
const AT_ONCE: usize = 32;
/// Where it does not go well, it is tried again after this, if the tier can be used then.
const AGAIN: Duration = Duration::from_secs(1);

impl Shared {
    /// Tells the others of holds that they have not heard of, whenever they can be told. To be spawned once.
    pub(super) async fn tell_afterwards(self: &Arc<Self>) {
        let Self { parts, untold, .. } = &**self;
        loop {
            tokio::select! {
                biased;
                () = parts.tier.back() => {}
                () = untold.added.notified() => {}
            }
            if parts.tier.condition() != Some(Condition::Up) {
                continue;
            }
            let users = mem::take(&mut *untold.users());
            let (mut telling, mut goes_well) = (JoinSet::new(), true);
            for (user, lock) in users.into_values() {
                if telling.len() >= AT_ONCE {
                    goes_well &= telling.join_next().await.is_none_or(|told| told.unwrap_or(false));
                }
                if goes_well {
                    let shared = Arc::clone(self);
                    telling.spawn(async move { shared.tell_hold(&user, lock).await });
                } else {
                    untold.put_back(&user, lock);
                }
            }
            while let Some(told) = telling.join_next().await {
                goes_well &= told.unwrap_or(false);
            }
            if !goes_well {
                sleep(AGAIN).await;
                untold.added.notify_one();
            }
        }
    }

    /// Tells of one, if there is still something to be told. False where that could not be done, and is to be tried again.
    async fn tell_hold(&self, user: &Arc<KnownUser>, lock: Option<UnusedLock>) -> bool {
        let Some((version, timeout)) = self.held(user) else { return true };
        let now = self.parts.clock.now().mono;
        let unused = lock.filter(|lock| lock.version == version && lock.lease.ends() > now).map(|lock| lock.lease);
        let lease = match unused {
            Some(lease) => Ok(lease),
            None => self.lock_to_tell(user, version, timeout).await,
        };
        let mut lease = match lease {
            Ok(lease) => lease,
            Err(is_done) => {
                if !is_done {
                    self.untold.put_back(user, None);
                }
                return is_done;
            }
        };
        let publication = {
            let (record, snapshot, at) = (user.record(), self.live.load(), self.parts.clock.now());
            let rules = &snapshot.settings.rules;
            let stop = record.holds.stopped(at.mono, rules).filter(|_| record.holds.counts(version));
            stop.map(|stop| stopping(user, &record, version, &stop.failure, at, rules))
        };
        let Some(publication) = publication else { return true };
        let is_told = lease.write(publication).await;
        if !is_told {
            self.untold.put_back(user, Some(UnusedLock { version, lease }));
        }
        is_told
    }

    /// A lock to tell of the user under.
    ///
    /// # Errors
    /// Where there is none: whether nothing is to be told any more.
    async fn lock_to_tell(&self, user: &Arc<KnownUser>, version: Version, timeout: Duration) -> Result<Box<Lease>, bool> {
        let Some(subject) = self.parts.tier.subject(&user.key, version) else { return Err(true) };
        let (lease, known) = match self.parts.tier.lease(&subject, timeout).await {
            Leasing::Won(lease, known) => (lease, known),
            // One that was killed writes nothing any more.
            Leasing::Busy(_) | Leasing::Alone => return Err(false),
        };
        let wanted = Wanted { user, version, min_remaining: Duration::ZERO, rejected: &[] };
        if let Found::Token(..) = judge(self, &wanted, &known) {
            // Somebody was let in since then.
            drop(lease);
            self.adopt(user).await;
            return Err(true);
        }
        Ok(lease)
    }

    /// With what the user is held, if it is, and how long a sign-in may take.
    fn held(&self, user: &Arc<KnownUser>) -> Option<(Version, Duration)> {
        let mut record = user.record();
        let (snapshot, now) = (self.live.load(), self.parts.clock.now());
        let version = configured(user, &mut record, &snapshot, now.mono)?.credential.version;
        let stop = stopped(user, &record, &snapshot, now.mono)?;
        // Of a flight under way its own end tells.
        (record.flight.is_none() && is_against_credential(&stop.failure)).then_some((version, snapshot.settings.timeout))
    }
}
