//! What an operator did at one replica, told to the others.
//!
//! Must never be written but under the user's lock: what a sign-in that is under way brings counts after it.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{
    Known, Leasing, Tier,
    entry::{DroppedEntry, StopEntry, TokenEntry},
    lease::Publication,
    seal::Subject,
};
use crate::{clock::Moment, secret::Secret};

/// What was done is told for this long at least to those who reach the server now: they hear of it within a second.
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
    /// A wait that the vault asked for is lifted, and no refusal.
    LiftWait,
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
    /// The token that stood there, which is dropped, and its generation: told or not.
    pub dropped: Option<(Secret, u32)>,
}

impl Tier {
    /// Tells the other replicas of an act of `at`: what came later stands.
    pub async fn tell(&self, subject: &Subject, act: Act, at: Instant, timeout: Duration) -> Told {
        let Some(shared) = &self.0 else { return Told::default() };
        // What stands now is meant, not what a sign-in that is under way brings.
        let standing = match act {
            Act::Drop { .. } => self.look(subject).await.and_then(|known| known.token),
            Act::Lift | Act::LiftWait | Act::LiftWaits => None,
        };
        let (act, dropped) = act.on(standing.map(|(entry, _)| entry));
        let until = shared.clock.now().mono + PATIENCE;
        loop {
            match self.lease(subject, timeout).await {
                Leasing::Won(mut lease, known) => {
                    let is_known = match publication(act, at, &known, shared.clock.now()) {
                        Some(publication) => lease.write(publication).await,
                        None => true,
                    };
                    return Told { is_known, dropped };
                }
                Leasing::Alone => return Told { is_known: false, dropped },
                Leasing::Busy(_) => {}
            }
            let now = shared.clock.now().mono;
            if now >= until {
                return Told { is_known: false, dropped };
            }
            sleep_until(now + ASKED_EVERY).await;
        }
    }
}

impl Act {
    /// With the token that stands there, which this replica may not have heard of.
    fn on(self, standing: Option<TokenEntry>) -> (Self, Option<(Secret, u32)>) {
        match (self, standing) {
            (Self::Drop { generation }, Some(entry)) => {
                (Self::Drop { generation: generation.max(entry.generation) }, Some((entry.access_token, entry.generation)))
            }
            (Self::Drop { .. }, None) | (Self::Lift | Self::LiftWait | Self::LiftWaits, _) => (self, None),
        }
    }
}

/// What is to be written for an act of `at` where this stands; none where that came later, or there is nothing to take back.
fn publication(act: Act, at: Instant, known: &Known, now: Moment) -> Option<Publication> {
    let nothing = Publication::nothing(now.mono);
    let began = |ago: Duration| known.asked.mono.checked_sub(ago).unwrap_or(known.asked.mono);
    let standing = known.stop.as_ref().map(|(entry, kept)| {
        let (hold, written) = (entry.hold_of(), entry.age(*kept));
        (hold, *kept, began(hold.map_or(written, |hold| hold.age(known.asked))))
    });
    let is_younger = standing.is_some_and(|(_, _, began)| began > at);
    // Its age is told by how long it is kept yet.
    let ago = now.mono.saturating_duration_since(at);
    let lifted = || StopEntry::lifted(KEPT, ago, known.clock);
    match act {
        Act::Lift => (!is_younger).then(|| Publication { stop: lifted(), ..nothing }),
        Act::LiftWait => {
            let wait = standing.and_then(|(hold, kept, _)| Some((hold.filter(|hold| hold.is_wait())?.clone(), kept)));
            let (wait, kept) = wait.filter(|_| !is_younger)?;
            Some(Publication { stop: Some(StopEntry::wait_lifted(wait, kept, ago, (known.asked, known.clock))), ..nothing })
        }
        Act::Drop { generation } => {
            // All have news of a newer one, which takes the place of what is dropped.
            let is_over = known.token.as_ref().is_some_and(|(token, _)| token.generation > generation);
            (!is_over).then(|| Publication { dropped: Some(DroppedEntry::new(generation, KEPT, known)), ..nothing })
        }
        Act::LiftWaits => {
            let is_younger = known.merchant.as_ref().is_some_and(|(entry, kept)| began(entry.age(*kept)) > at);
            (!is_younger).then(|| Publication { lifted: lifted(), ..nothing })
        }
    }
}
