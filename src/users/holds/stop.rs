//! Why there is no sign-in for a while, and what decides how long.
//!
//! Must never hold a credential.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::vault::Failure;

/// What the operator set.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// From the beginning of a sign-in that succeeded to the next.
    pub min_sign_in_interval: Duration,
    /// How long a definite refusal is not repeated.
    pub refusal_hold: Duration,
}

/// Why there is no sign-in until some instant: a hold, a throttle or a back-off.
#[derive(Clone, Debug)]
pub struct Stop {
    /// What the vault did.
    pub failure: Arc<Failure>,
    /// No sign-in before this.
    pub until: Instant,
}

impl Stop {
    /// What is left of it.
    #[must_use]
    pub fn left_at(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now)
    }
}

/// What is true around a failure.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// When it is noted.
    pub now: Instant,
    /// 0 to 1, anew for each.
    pub jitter: f64,
    /// How many tokens the vault gave so far, to anybody.
    pub grants: u64,
}
