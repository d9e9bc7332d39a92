//! What is known of the vault: whether it is there, and whose undocumented answers were its own fault.
//!
//! Must never let one upstream's answers say anything of another: what a straggler of a former one brings is ignored.

use std::sync::Arc;

use tokio::time::Instant;

use super::{circuit_breaker::CircuitBreaker, undocumented::UndocumentedAnswers};
use crate::{
    tokens::version::{Upstream, Version},
    users::{KnownUser, holds::Stop},
    vault::Failure,
};

/// What is known of one upstream: of the one that counts.
#[derive(Debug, Default)]
pub(super) struct UpstreamState {
    upstream: Option<Upstream>,
    pub(super) breaker: CircuitBreaker,
    pub(super) undocumented: UndocumentedAnswers,
}

impl UpstreamState {
    /// Of this upstream from now on; nothing is known of one that counted before. Returns whether it is another.
    pub(super) fn follow(&mut self, upstream: Upstream) -> bool {
        let another = self.upstream != Some(upstream);
        if another {
            let undocumented = self.undocumented.of_another();
            *self = Self { upstream: Some(upstream), breaker: CircuitBreaker::default(), undocumented };
        }
        another
    }

    /// Whether it is this one that is known.
    pub(super) fn is_of(&self, upstream: Upstream) -> bool {
        self.upstream == Some(upstream)
    }

    /// Why no sign-in there would pass now, without taking the probe.
    pub(super) fn stopped(&self, upstream: Upstream, now: Instant) -> Option<Stop> {
        if self.is_of(upstream) { self.breaker.stopped(now) } else { None }
    }

    /// A sign-in of `user` found no vault, or none that makes sense. `probe`: when it began, if it was to find that out. Returns
    /// whether the vault counts as down from now on.
    pub(super) fn failed(
        &mut self,
        (user, version): (&Arc<KnownUser>, Version),
        failure: &Arc<Failure>,
        probe: Option<Instant>,
        now: Instant,
        jitter: f64,
    ) -> bool {
        if matches!(**failure, Failure::Undocumented { .. }) {
            self.undocumented.add(user, version);
        }
        let opened = self.breaker.failed(&user.key, failure, probe, now, jitter);
        if opened {
            self.undocumented.outage();
        }
        opened
    }
}
