//! The lock on a user's sign-ins, while it is this replica's turn, and what the others are told under it.
//!
//! Must never tell what says nothing of the credential that counts, nor be waited for by a caller.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{shared::FlightContext, untold::UnusedLock};
use crate::{
    clock::Moment,
    tier::{Lease, Publication, StopEntry, TokenEntry},
    tokens::{cached_token::CachedToken, version::Version},
    users::{KnownUser, Record, holds::Rules},
    vault::{Failure, Scope},
};

/// The lock, and what the next token's generation is higher than: the newest of the user's tokens that is known, and the server's clock.
pub(super) struct Held {
    lease: Box<Lease>,
    generation: u32,
}

impl Held {
    pub(super) fn new(lease: Box<Lease>, generation: u32) -> Self {
        Self { lease, generation }
    }

    /// Whether nobody else has the lock before a sign-in that takes `timeout` is over.
    pub(super) fn lasts(&self, timeout: Duration, now: Instant) -> bool {
        self.lease.ends() >= now + timeout
    }

    /// Tells the others what came of the turn, which is settled. Gives the lock back where they are not known to hear of it, and ought to.
    /// Does not wait for anything until it is polled.
    pub(super) fn telling(
        self,
        FlightContext { shared, user, .. }: &FlightContext,
        version: Version,
        result: &Result<Arc<CachedToken>, Arc<Failure>>,
        (began, bounded): (Moment, bool),
        at: Moment,
    ) -> impl Future<Output = Result<(), UnusedLock>> + Send + use<> {
        let Self { mut lease, generation } = self;
        let publication = {
            let mut record = user.record();
            let snapshot = shared.live.load();
            let rules = &snapshot.settings.rules;
            // What says nothing of what counts by now is nobody's news.
            record.holds.counts(version).then(|| match result {
                Ok(cached) => {
                    let next = record.generation.max(generation).saturating_add(1);
                    record.knows(next);
                    let entry = TokenEntry {
                        generation: record.generation,
                        expires: cached.token.expires.wall,
                        left: cached.left_at(at),
                        age: at.mono.saturating_duration_since(began.mono),
                        lifetime: cached.token.lifetime,
                        gave: cached.left_at(at),
                        doublings: record.holds.doublings(),
                        bounded,
                        scope: cached.token.scope.as_str().to_owned(),
                        access_token: cached.token.access_token.clone(),
                    };
                    Publication { token: Some(entry), ..Publication::nothing(at.mono) }
                }
                Err(failure) => stopping(user, &record, version, failure, at, rules),
            })
        };
        async move {
            let Some(publication) = publication else { return Ok(()) };
            if lease.write(publication).await { Ok(()) } else { Err(UnusedLock { version, lease }) }
        }
    }
}

/// What stops the user and its merchant, for others.
pub(super) fn stopping(
    user: &KnownUser,
    record: &Record,
    version: Version,
    failure: &Failure,
    at: Moment,
    rules: &Rules,
) -> Publication {
    let left = record.holds.stopped(at.mono, rules).map(|stop| stop.left_at(at.mono));
    let stop = left.map(|left| match record.holds.shown(at, rules) {
        Some(hold) => StopEntry::hold(hold, left, at),
        None => StopEntry::pause(left),
    });
    let merchant = user.merchant().stopped_since(at.mono, version.upstream);
    let merchant = merchant.and_then(|(stop, since)| {
        let Failure::Throttled { scope: Scope::Merchant, vault_error, .. } = failure else { return None };
        let ago = at.mono.saturating_duration_since(since);
        Some(StopEntry::merchant(vault_error.clone(), stop.left_at(at.mono), ago))
    });
    Publication { stop, merchant, ..Publication::nothing(at.mono) }
}

/// Whether a failure counts against the credential, so that nobody is to try it again, here or elsewhere, now or after a restart.
pub(super) fn is_against_credential(failure: &Failure) -> bool {
    match failure {
        Failure::Refused { .. } | Failure::Undocumented { .. } | Failure::Throttled { .. } => true,
        Failure::Unavailable { .. } | Failure::Invalid { .. } | Failure::Broken => false,
    }
}
