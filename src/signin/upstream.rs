//! What is known of the vault: whether it is there, and whose undocumented answers were its own fault.
//!
//! Must never let one upstream's answers say anything of another: what a straggler of a former one brings is ignored.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    circuit_breaker::{Passage, Reach},
    forgiven::Amnesty,
};
use crate::{
    user::UserKey,
    users::{
        User,
        holds::{Stop, Upstream, Version},
    },
    vault::Failure,
};

/// What is known of one upstream: of the one that counts.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    upstream: Option<Upstream>,
    reach: Reach,
    amnesty: Amnesty,
}

impl Outlook {
    /// Of this upstream from now on; nothing is known of one that counted before. Returns whether it is another.
    pub(super) fn follow(&mut self, upstream: Upstream) -> bool {
        let another = self.upstream != Some(upstream);
        if another {
            *self = Self { upstream: Some(upstream), reach: Reach::default(), amnesty: self.amnesty.elsewhere() };
        }
        another
    }

    /// Whether it is this one that is known.
    pub(super) fn is_of(&self, upstream: Upstream) -> bool {
        self.upstream == Some(upstream)
    }

    pub(super) fn pass(&mut self, now: Instant) -> Passage {
        self.reach.pass(now)
    }

    /// Why no sign-in would pass now, without taking the probe.
    pub(super) fn closed(&self, upstream: Upstream, now: Instant) -> Option<Stop> {
        if self.is_of(upstream) { self.reach.closed(now) } else { None }
    }

    /// The same of a probe that is due, but has no permit: it is to come again in a moment.
    pub(super) fn closed_for_now(&self, now: Instant) -> Option<Stop> {
        self.reach.closed_for_now(now)
    }

    pub(super) fn is_down(&self) -> bool {
        self.reach.is_down()
    }

    /// How many tokens it gave so far, to anybody.
    pub(super) fn grants(&self) -> u64 {
        self.amnesty.grants()
    }

    /// It answered somebody. Returns whether it had been down.
    pub(super) fn answered(&mut self) -> bool {
        self.reach.answered()
    }

    /// It gave a token. Returns whose undocumented answers are to be forgotten.
    pub(super) fn granted(&mut self) -> Vec<(Arc<User>, Version)> {
        self.amnesty.granted()
    }

    /// A user got an undocumented answer.
    pub(super) fn undocumented(&mut self, user: &Arc<User>, version: Version) {
        self.amnesty.counted(user, version);
    }

    /// A sign-in found no vault. `probe`: when it began, if it was to find that out. Returns whether the vault counts as down from now on.
    pub(super) fn failed(
        &mut self,
        user: &Arc<UserKey>,
        failure: &Arc<Failure>,
        probe: Option<Instant>,
        now: Instant,
        jitter: f64,
    ) -> bool {
        let went_down = self.reach.failed(user, failure, probe, now, jitter);
        if went_down {
            self.amnesty.outage();
        }
        went_down
    }

    /// The probe that began then ended without a word: somebody else may probe.
    pub(super) fn broke_off(&mut self, probe: Instant) {
        self.reach.broke_off(probe);
    }
}
