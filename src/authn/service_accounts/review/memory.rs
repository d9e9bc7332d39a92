//! What is known of tokens by their digests: reviewed a moment ago, or under review.
//!
//! Must never hold a token, nor grow beyond its limits. moka stays in `tokens::cache`: all that is kept here lives equally long, so a
//! queue in order of arrival is all it takes.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::super::{Unverified, token_digest::TokenDigest};
use crate::{clock::Moment, single_flight::Follower};

/// How long a review counts, whatever it says: so long a deleted pod's token may go on.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Most reviews remembered, with about 150 bytes each; more only makes the API server be asked sooner.
const REVIEWS_MAX: usize = 10_000;
/// Most reviews under way or waiting for their turn: more would not be served before their callers give up.
const UNDER_REVIEW_MAX: usize = 1_024;

/// What the API server says of a token; a refusal in words for its owner.
pub(super) type Verdict = Result<(), &'static str>;

/// What came of a review. Failures are of no use to anybody later.
pub(super) type Outcome = Result<(), Unverified>;

#[derive(Default)]
pub(super) struct Memory {
    reviews: HashMap<TokenDigest, Review>,
    /// The digests in the order in which they were reviewed.
    order: VecDeque<TokenDigest>,
    under_review: HashMap<TokenDigest, Follower<Outcome>>,
}

struct Review {
    verdict: Verdict,
    until: Moment,
}

/// What is known of a token.
pub(super) enum Known {
    Reviewed(Verdict),
    UnderReview(Follower<Outcome>),
    /// Nothing, and no more reviews may begin.
    Full,
    Not,
}

impl Memory {
    pub(super) fn look(&mut self, digest: &TokenDigest, now: Moment) -> Known {
        if let Some(review) = self.reviews.get(digest).filter(|review| !review.until.left_at(now).is_zero()) {
            return Known::Reviewed(review.verdict);
        }
        // One that broke off is over, too.
        if let Some(review) = self.under_review.get(digest).filter(|review| !review.is_over()) {
            return Known::UnderReview(review.clone());
        }
        if self.under_review.len() >= UNDER_REVIEW_MAX {
            self.under_review.retain(|_, review| !review.is_over());
        }
        if self.under_review.len() >= UNDER_REVIEW_MAX { Known::Full } else { Known::Not }
    }

    pub(super) fn begin(&mut self, digest: TokenDigest, review: Follower<Outcome>) {
        self.under_review.insert(digest, review);
    }

    /// The review is over, perhaps with a verdict asked for at some moment.
    pub(super) fn finish(&mut self, digest: TokenDigest, verdict: Option<(Verdict, Moment)>) {
        self.under_review.remove(&digest);
        let Some((verdict, asked)) = verdict else { return };
        self.make_room(asked);
        if self.reviews.insert(digest, Review { verdict, until: asked.plus(REMEMBERED) }).is_none() {
            self.order.push_back(digest);
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
    use crate::{
        clock::{Clock as _, SystemClock},
        single_flight::Leader,
    };

    #[test]
    fn it_keeps_no_more_than_its_limit_and_nothing_that_is_over() {
        let start = SystemClock.now();
        let mut memory = Memory::default();
        for number in 0..=REVIEWS_MAX {
            memory.finish(TokenDigest::numbered(number), Some((Ok(()), start)));
        }
        assert_eq!((memory.reviews.len(), memory.order.len()), (REVIEWS_MAX, REVIEWS_MAX));
        assert!(matches!(memory.look(&TokenDigest::numbered(0), start), Known::Not), "the oldest made room");
        assert!(matches!(memory.look(&TokenDigest::numbered(1), start), Known::Reviewed(Ok(()))));

        let later = start.plus(REMEMBERED);
        assert!(matches!(memory.look(&TokenDigest::numbered(1), later), Known::Not));
        memory.finish(TokenDigest::numbered(1), Some((Err("no"), later)));
        assert!(matches!(memory.look(&TokenDigest::numbered(1), later), Known::Reviewed(Err("no"))));
        memory.finish(TokenDigest::numbered(2), Some((Ok(()), later)));
        assert!(memory.reviews.len() <= REVIEWS_MAX && memory.order.len() == memory.reviews.len());
        memory.finish(TokenDigest::numbered(3), Some((Ok(()), later.plus(REMEMBERED))));
        assert_eq!((memory.reviews.len(), memory.order.len()), (1, 1));
    }

    #[test]
    fn reviews_are_bounded_and_those_that_broke_off_make_room() {
        let now = SystemClock.now();
        let mut memory = Memory::default();
        let mut leaders = Vec::new();
        for number in 0..UNDER_REVIEW_MAX {
            let leader = Leader::new();
            memory.begin(TokenDigest::numbered(number), leader.follower());
            leaders.push(leader);
        }
        assert!(matches!(memory.look(&TokenDigest::numbered(0), now), Known::UnderReview(_)));
        assert!(matches!(memory.look(&TokenDigest::numbered(UNDER_REVIEW_MAX), now), Known::Full));
        leaders.pop();
        assert!(matches!(memory.look(&TokenDigest::numbered(UNDER_REVIEW_MAX), now), Known::Not));
    }
}
