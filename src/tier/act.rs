//! What an operator did at one replica, told to the others.
//!
//! Must never be written but under the user's lock: what a sign-in that is under way brings counts after it.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Leasing, Tier, entry::StopEntry, lease::Publication, seal::Subject};

/// What was done is told to those who reach the server now: they hear of it within a second. No wait of the vault's is shorter.
const KEPT: Duration = Duration::from_secs(10);
/// The lock is asked for anew so often, while another replica signs in …
const ASKED_EVERY: Duration = Duration::from_millis(100);
/// … and for so long: the operator waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was done.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Whatever stopped the user by itself is lifted.
    Lift,
    /// Its token is dropped: those of this generation and former ones.
    Drop {
        /// The newest that is dropped.
        generation: u32,
    },
    /// What the vault asked the whole merchant to wait for is lifted, and what it asked its users for.
    LiftWaits,
}

impl Tier {
    /// Tells the other replicas of an act. Whether they can know.
    pub async fn tell(&self, subject: &Subject, act: Act, timeout: Duration) -> bool {
        let Some(shared) = &self.0 else { return false };
        let until = shared.clock.now().mono + PATIENCE;
        loop {
            match self.lease(subject, timeout).await {
                Leasing::Won(lease, _) => return lease.write(publication(act, shared.clock.now().mono)).await,
                Leasing::Alone => return false,
                Leasing::Busy(_) => {}
            }
            let now = shared.clock.now().mono;
            if now >= until {
                return false;
            }
            sleep_until(now + ASKED_EVERY).await;
        }
    }
}

fn publication(act: Act, at: Instant) -> Publication {
    let nothing = Publication { token: None, stop: None, merchant: None, at };
    match act {
        Act::Lift => Publication { stop: Some(StopEntry::lifted(KEPT)), ..nothing },
        Act::Drop { generation } => Publication { stop: Some(StopEntry::dropped(generation, KEPT)), ..nothing },
        Act::LiftWaits => Publication { merchant: Some(StopEntry::lifted(KEPT)), ..nothing },
    }
}
