//! Calls that were let in though they would be refused, since the policy is on trial: counted by the reason that each would be told.
//!
//! Must never miss one: by these counts an operator finds out whether the policy can be enforced.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::reason::Reason;

/// For which a call can be refused before anything is known of the user.
const REASONS: [Reason; 3] = [Reason::CallerUnauthenticated, Reason::IdentityUnavailable, Reason::CallerNotAllowed];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

/// The calls.
#[derive(Debug)]
pub struct WouldDeny(Family<ByReason, Counter>);

impl Default for WouldDeny {
    fn default() -> Self {
        let calls = Self(Family::default());
        // There from the start, so that the first of a kind shows as an increase.
        REASONS.into_iter().for_each(|reason| drop(calls.of(reason)));
        calls
    }
}

impl WouldDeny {
    pub(super) fn register(&self, to: &mut Registry) {
        let help = "GetToken calls that were let in since the policy is on trial, by the reason for which they would be refused";
        to.register("would_deny", help, self.0.clone());
    }

    /// Counts a call that would be refused for this reason.
    pub fn count(&self, reason: Reason) {
        self.of(reason).inc();
    }

    /// How many there were so far.
    #[must_use]
    pub fn so_far(&self) -> u64 {
        REASONS.into_iter().map(|reason| self.of(reason).get()).sum()
    }

    fn of(&self, reason: Reason) -> Counter {
        self.0.get_or_create(&ByReason { reason: reason.as_str() }).clone()
    }
}
