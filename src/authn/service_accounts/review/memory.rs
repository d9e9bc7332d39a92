//! What is known of tokens by their hashes: reviewed a moment ago, or under review.
//!
//! Must never hold a token, nor grow beyond its limits. moka stays in `cache`: all that is kept here lives equally long, so a
//! queue in order of arrival is all it takes.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::sync::watch;

use super::{Outcome, Verdict};
use crate::clock::Moment;

/// How long a review counts, whatever it says: so long a deleted pod's token may go on.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Most reviews remembered, with about 150 bytes each; more only makes the API server be asked sooner.
const REVIEWS_MAX: usize = 10_000;
/// Most reviews under way or waiting for their turn: more would not be served before their callers give up.
const FLIGHTS_MAX: usize = 1_024;

/// SHA-256 of a token.
pub(super) type TokenHash = [u8; 32];

type Flight = watch::Receiver<Option<Outcome>>;

#[derive(Default)]
pub(super) struct Memory {
    reviews: HashMap<TokenHash, Review>,
    /// The hashes in the order in which they were reviewed.
    order: VecDeque<TokenHash>,
    flights: HashMap<TokenHash, Flight>,
}

struct Review {
    verdict: Verdict,
    until: Moment,
}

/// What is known of a token.
pub(super) enum Known {
    Reviewed(Verdict),
    Flying(Flight),
    /// Nothing, and no more reviews may begin.
    Full,
    Not,
}

impl Memory {
    pub(super) fn look(&mut self, hash: &TokenHash, now: Moment) -> Known {
        if let Some(review) = self.reviews.get(hash).filter(|review| !review.until.left_at(now).is_zero()) {
            return Known::Reviewed(review.verdict);
        }
        // One that broke off has closed its end.
        if let Some(flight) = self.flights.get(hash).filter(|flight| flight.has_changed().is_ok()) {
            return Known::Flying(flight.clone());
        }
        if self.flights.len() >= FLIGHTS_MAX {
            self.flights.retain(|_, flight| flight.has_changed().is_ok());
        }
        if self.flights.len() >= FLIGHTS_MAX { Known::Full } else { Known::Not }
    }

    pub(super) fn board(&mut self, hash: TokenHash, flight: Flight) {
        self.flights.insert(hash, flight);
    }

    /// The flight is over, perhaps with a verdict asked for at some moment.
    pub(super) fn land(&mut self, hash: TokenHash, verdict: Option<(Verdict, Moment)>) {
        self.flights.remove(&hash);
        let Some((verdict, asked)) = verdict else { return };
        self.make_room(asked);
        if self.reviews.insert(hash, Review { verdict, until: asked.plus(REMEMBERED) }).is_none() {
            self.order.push_back(hash);
        }
    }

    /// Lets go of the oldest: all that count no more, and more if there is no place for another one.
    fn make_room(&mut self, now: Moment) {
        while let Some(oldest) = self.order.front() {
            let over = self.reviews.get(oldest).is_none_or(|review| review.until.left_at(now).is_zero());
            if !over && self.order.len() < REVIEWS_MAX {
                return;
            }
            self.reviews.remove(oldest);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};

    fn hash(number: usize) -> TokenHash {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_le_bytes());
        hash
    }

    #[test]
    fn it_keeps_no_more_than_its_limit_and_nothing_that_is_over() {
        let start = SystemClock.now();
        let mut memory = Memory::default();
        for number in 0..=REVIEWS_MAX {
            memory.land(hash(number), Some((Ok(()), start)));
        }
        assert_eq!((memory.reviews.len(), memory.order.len()), (REVIEWS_MAX, REVIEWS_MAX));
        assert!(matches!(memory.look(&hash(0), start), Known::Not), "the oldest made room");
        assert!(matches!(memory.look(&hash(1), start), Known::Reviewed(Ok(()))));

        let later = start.plus(REMEMBERED);
        assert!(matches!(memory.look(&hash(1), later), Known::Not));
        memory.land(hash(1), Some((Err("no"), later)));
        assert!(matches!(memory.look(&hash(1), later), Known::Reviewed(Err("no"))));
        memory.land(hash(2), Some((Ok(()), later)));
        assert!(memory.reviews.len() <= REVIEWS_MAX && memory.order.len() == memory.reviews.len());
        memory.land(hash(3), Some((Ok(()), later.plus(REMEMBERED))));
        assert_eq!((memory.reviews.len(), memory.order.len()), (1, 1));
    }

    #[test]
    fn flights_are_bounded_and_those_that_broke_off_make_room() {
        let now = SystemClock.now();
        let mut memory = Memory::default();
        let mut senders = Vec::new();
        for number in 0..FLIGHTS_MAX {
            let (sender, flight) = watch::channel(None);
            senders.push(sender);
            memory.board(hash(number), flight);
        }
        assert!(matches!(memory.look(&hash(0), now), Known::Flying(_)));
        assert!(matches!(memory.look(&hash(FLIGHTS_MAX), now), Known::Full));
        senders.pop();
        assert!(matches!(memory.look(&hash(FLIGHTS_MAX), now), Known::Not));
    }
}
