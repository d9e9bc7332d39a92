//! A lock on a user's sign-ins, and what is written under it.
//!
//! Must never write when the lock may be another replica's, nor let go of it where what came of the sign-in could not be told: the
//! next would do the same again.

use std::{mem, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Shared, TRIES,
    entry::{DroppedEntry, StopEntry, TokenEntry},
    link::{ANSWER_TIMEOUT, LinkError, Removes, Writing},
    places,
    seal::{Kind, Subject},
};
use crate::telemetry::metrics::{SharedEntry, SharedOperation};

/// A lock is held for as much longer than a sign-in may take: to ask for it, to write what came of it, and for a busy moment.
const LEASE_SLACK: Duration = Duration::from_millis(1_500);
/// A token is kept for so much less than it lives: the server counts from when it has it.
const WAY: Duration = ANSWER_TIMEOUT;

/// How long a lock lasts for a sign-in that takes `timeout` at most.
#[must_use]
pub fn lease_of(timeout: Duration) -> Duration {
    timeout.saturating_add(LEASE_SLACK)
}

/// What is to be told to the other replicas.
#[derive(Debug)]
pub struct Publication {
    /// A new token.
    pub token: Option<TokenEntry>,
    /// In the place of a token, that it was dropped, and for how long that is to be kept.
    pub dropped: Option<(DroppedEntry, Duration)>,
    /// What stops the user, and for how long that is to be kept.
    pub stop: Option<(StopEntry, Duration)>,
    /// What stops the whole merchant, and for how long.
    pub merchant: Option<(StopEntry, Duration)>,
    /// That an operator lifted the merchant's waits, and for how long that is to be kept.
    pub lifted: Option<(StopEntry, Duration)>,
    /// With them the one that stands there.
    pub ends_wait: bool,
    /// When all this was so.
    pub at: Instant,
}

impl Publication {
    /// What was so at this time, which is to be added.
    #[must_use]
    pub fn nothing(at: Instant) -> Self {
        Self { token: None, dropped: None, stop: None, merchant: None, lifted: None, ends_wait: false, at }
    }
}

/// The lock on a subject, until it is written under, dropped, or too old.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    subject: Subject,
    owner: String,
    /// By this machine's clock, from before it was asked for: the server's lasts longer.
    ends: Instant,
    is_over: bool,
}

impl Lease {
    pub(super) fn new(shared: &Arc<Shared>, subject: &Subject, owner: String, ends: Instant) -> Self {
        Self { shared: Arc::clone(shared), subject: *subject, owner, ends, is_over: false }
    }

    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    pub(super) fn lasts_until(&mut self, ends: Instant) {
        self.ends = ends;
    }

    /// It is another's.
    pub(super) fn forget(mut self) {
        self.is_over = true;
    }

    /// Until when nobody else has it.
    #[must_use]
    pub fn ends(&self) -> Instant {
        self.ends
    }

    /// Writes what came of it, for the others, and gives the lock back. Too late, it does neither: another replica may have it. Whether it
    /// is known to be written; if not, it may be tried again as long as the lock lasts, which is kept.
    pub async fn write(&mut self, publication: Publication) -> bool {
        self.is_over = true;
        let shared = Arc::clone(&self.shared);
        for _ in 0..TRIES {
            let Some(connected) = shared.connected(SharedOperation::Write).await else { return false };
            if shared.clock.now().mono >= self.ends {
                shared.metrics.shared.entry(SharedEntry::Late);
                return false;
            }
            let name = if publication.lifted.is_some() { self.subject.merchant_name() } else { self.subject.name() };
            let places = places(&self.subject);
            let (writing, left) = (self.sealed(&publication), self.ends.saturating_duration_since(shared.clock.now().mono));
            let written = connected.link.write(&places, (&self.owner, left), name.text(), &writing);
            match shared.timed(&connected, SharedOperation::Write, written).await {
                Ok((true, _)) => return true,
                Ok((false, _)) => {
                    shared.metrics.shared.entry(SharedEntry::Late);
                    return false;
                }
                // A full server goes on being full: others need not wait for what it can't hold, unless it is a no.
                Err(LinkError::Full) if publication.stop.is_none() => {
                    shared.release(self).await;
                    return false;
                }
                // Written twice it is the same, and only as long as the lock is still held.
                Err(_) => {}
            }
        }
        false
    }

    fn sealed(&self, publication: &Publication) -> Writing {
        let (sealer, subject) = (self.shared.sealer(), &self.subject);
        let stop = |kind, entry: Option<&(StopEntry, Duration)>| {
            entry.and_then(|(entry, kept)| Some((sealer.seal(subject, kind, entry.write()?)?, *kept)))
        };
        let passed = self.shared.clock.now().mono.saturating_duration_since(publication.at);
        let token = publication.token.as_ref().and_then(|entry| {
            let left = entry.left.saturating_sub(passed + WAY);
            let entry = TokenEntry { left, age: entry.age + passed, ..entry.clone() };
            (!left.is_zero()).then_some((sealer.seal(subject, Kind::Token, entry.write())?, left))
        });
        let dropped = publication.dropped.as_ref();
        let dropped = dropped.and_then(|(entry, kept)| Some((sealer.seal(subject, Kind::Token, entry.write()?)?, *kept)));
        Writing {
            removes: match (&token, &dropped) {
                (Some(_), _) => Removes::Stop,
                (None, Some(_)) => Removes::Token,
                (None, None) if publication.ends_wait => Removes::Merchant,
                (None, None) => Removes::Nothing,
            },
            token: token.or(dropped),
            stop: stop(Kind::Stop, publication.stop.as_ref()),
            merchant: stop(Kind::Merchant, publication.merchant.as_ref()),
            lifted: stop(Kind::Lifted, publication.lifted.as_ref()),
        }
    }
}

impl Shared {
    async fn release(&self, lease: &Lease) {
        let Some(connected) = self.connected(SharedOperation::Release).await else { return };
        let (lock, name) = (lease.subject.lock(), lease.subject.name());
        // Else it ends by itself.
        self.timed(&connected, SharedOperation::Release, connected.link.release(&lock, &lease.owner, name.text())).await.ok();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if mem::replace(&mut self.is_over, true) {
            return;
        }
        let (owner, shared) = (mem::take(&mut self.owner), Arc::clone(&self.shared));
        let lease = Self { shared, owner, subject: self.subject, ends: self.ends, is_over: true };
        let shared = Arc::clone(&self.shared);
        // Nobody waits for it: if it is lost, the lock ends by itself.
        self.shared.runtime.spawn(async move { shared.release(&lease).await });
    }
}
