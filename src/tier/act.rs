//! What an operator did at one replica, told to the others.
//!
//! Must never be written but under the user's lock: what a sign-in that is under way brings counts after it.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{
    Leasing, Tier,
    entry::{StopEntry, TokenEntry},
    lease::Publication,
    seal::Subject,
};
use crate::secret::Secret;

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

/// What came of telling.
#[derive(Debug, Default)]
pub struct Told {
    /// The other replicas can know.
    pub is_known: bool,
    /// The token that stood there, which is dropped.
    pub dropped: Option<Secret>,
}

impl Tier {
    /// Tells the other replicas of an act.
    pub async fn tell(&self, subject: &Subject, act: Act, timeout: Duration) -> Told {
        let Some(shared) = &self.0 else { return Told::default() };
        // What stands now is meant, not what a sign-in that is under way brings.
        let standing = match act {
            Act::Drop { .. } => self.look(subject).await.and_then(|known| known.token),
            Act::Lift | Act::LiftWaits => None,
        };
        let (act, dropped) = act.on(standing.map(|(entry, _)| entry));
        let until = shared.clock.now().mono + PATIENCE;
        loop {
            match self.lease(subject, timeout).await {
                Leasing::Won(mut lease, known) => {
                    let newest = known.token.map(|(entry, _)| entry.generation);
                    // All have news of a newer one, which takes the place of what is dropped.
                    let is_over = matches!(act, Act::Drop { generation } if newest.is_some_and(|newest| newest > generation));
                    let is_known = is_over || lease.write(publication(act, shared.clock.now().mono)).await;
                    return Told { is_known, dropped };
                }
                Leasing::Alone => return Told::default(),
                Leasing::Busy(_) => {}
            }
            let now = shared.clock.now().mono;
            if now >= until {
                return Told::default();
            }
            sleep_until(now + ASKED_EVERY).await;
        }
    }
}

impl Act {
    /// With the token that stands there, which this replica may not have heard of.
    fn on(self, standing: Option<TokenEntry>) -> (Self, Option<Secret>) {
        match (self, standing) {
            (Self::Drop { generation }, Some(entry)) => {
                (Self::Drop { generation: generation.max(entry.generation) }, Some(entry.access_token))
            }
            (Self::Drop { .. }, None) | (Self::Lift | Self::LiftWaits, _) => (self, None),
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
