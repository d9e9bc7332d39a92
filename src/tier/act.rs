//! What an operator did at one replica, told to the others.
//!
//! Must never be written but under a lock: under the user's, so that what a sign-in that is under way brings counts after it; a merchant's
//! lifted waits under that of any of its users, and what another one's sign-in brings is told apart by when it began.

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
    let is_younger = |(entry, kept): &(StopEntry, Duration)| known.ago(entry.began_ago(*kept)) > at;
    let ago = now.mono.saturating_duration_since(at);
    let lifted = StopEntry::lifted(KEPT, ago, known.clock);
    match act {
        Act::Lift => {
            let came_later = known.stop.as_ref().is_some_and(is_younger);
            (!came_later).then(|| Publication { stop: Some(lifted), ..nothing })
        }
        Act::LiftWait => {
            let (entry, kept) = known.stop.as_ref().filter(|stop| !is_younger(stop))?;
            let wait = entry.hold_of().filter(|hold| hold.is_wait())?.clone();
            let stop = StopEntry::wait_lifted(wait, *kept, ago, (known.asked, known.clock));
            Some(Publication { stop: Some(stop), ..nothing })
        }
        Act::Drop { generation } => {
            // All have news of a newer one, which takes the place of what is dropped.
            let is_over = known.token.as_ref().is_some_and(|(token, _)| token.generation > generation);
            (!is_over).then(|| Publication { dropped: Some(DroppedEntry::new(generation, KEPT, known)), ..nothing })
        }
        // Whatever stands there: others may hold what was lifted.
        Act::LiftWaits => {
            let ends_wait = !known.merchant.as_ref().is_some_and(is_younger);
            Some(Publication { lifted: Some(lifted), ends_wait, ..nothing })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};

    #[test]
    fn a_merchants_waits_are_told_as_lifted_and_one_that_came_since_stays() {
        let (secs, began) = (Duration::from_secs, SystemClock.now());
        let (now, at) = (began.plus(secs(60)), began.mono + secs(58));
        // Lifted two seconds ago; the vault asked for a wait before, or since, as a replica wrote that does not know of the lift.
        for (ago, ends_wait) in [(10, true), (1, false)] {
            let merchant = Some(StopEntry::merchant(String::new(), secs(100), secs(ago)));
            let known =
                Known { asked: now, clock: 0, is_locked: true, token: None, dropped: None, stop: None, merchant, lifted: None };
            let publication = publication(Act::LiftWaits, at, &known, now).expect("is told");
            let (lifted, kept) = publication.lifted.expect("is told");
            assert_eq!((publication.ends_wait, kept, lifted.age(kept)), (ends_wait, KEPT, secs(2)), "{ago}");
        }
    }
}
