//! Tokens that were verified a moment ago, by their digests, so that each call need not verify a signature.
//!
//! Must never hold a token, nor one that was refused, nor grow beyond its limit. Must never be asked alone: what is here was so when it
//! was verified, and whether its keys and its times still allow it is for whoever asks to find out with each call.

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
    time::Duration,
};

use super::{keys::Generation, lock, presented::Validity, token_digest::TokenDigest};
use crate::{caller::CallerName, clock::Moment};

/// How long a token need not be verified again. Its keys, beginning and end are looked at with each call, so this is no bound of trust but
/// of memory: tokens that nobody shows any more are let go of. One signature a minute for each of 10,000 pods takes less than a
/// hundredth of a core.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Most tokens remembered, with about 300 bytes each: one for each pod that calls, which in few clusters are so many. Where there are more,
/// the oldest make room and are verified again.
const VERIFIED_MAX: usize = 10_000;
/// Most entries that one more lets go of: more than one, so that what is over becomes less; and few, since calls wait meanwhile.
const LET_GO_MAX: usize = 2;

/// What was found of a token.
#[derive(Clone)]
pub(super) struct Verified {
    /// Whose it is.
    pub(super) account: CallerName,
    /// From when to when it is good.
    pub(super) validity: Validity,
    /// Whose keys it was verified with: the place of its issuer among those whose tokens are taken.
    pub(super) issuer: usize,
    /// Which of that issuer's keys those were.
    pub(super) keys: Generation,
}

/// The tokens. Its lock is held for no longer than it takes to copy one entry, or to put one in.
#[derive(Default)]
pub(super) struct VerifiedTokens(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    by_digest: HashMap<TokenDigest, Entry>,
    /// The digests in the order in which they came, and until when what came with each counts. One that came again has two places, of
    /// which the later counts.
    order: VecDeque<(TokenDigest, Moment)>,
}

struct Entry {
    verified: Verified,
    until: Moment,
}

impl VerifiedTokens {
    /// What was found of the token, if that was lately.
    pub(super) fn find(&self, digest: &TokenDigest, now: Moment) -> Option<Verified> {
        let entries = lock(&self.0);
        let entry = entries.by_digest.get(digest)?;
        (!entry.until.left_at(now).is_zero()).then(|| entry.verified.clone())
    }

    /// Remembers what was found at that moment.
    pub(super) fn remember(&self, digest: TokenDigest, verified: Verified, at: Moment) {
        let mut entries = lock(&self.0);
        entries.make_room(at);
        let until = at.plus(REMEMBERED);
        entries.order.push_back((digest, until));
        entries.by_digest.insert(digest, Entry { verified, until });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.0).by_digest.len()
    }
}

impl Entries {
    /// Lets go of a few that are over, and of the oldest if there is no place for another one.
    fn make_room(&mut self, now: Moment) {
        for _ in 0..LET_GO_MAX {
            let Some((digest, until)) = self.order.front() else { return };
            if !until.left_at(now).is_zero() && self.order.len() < VERIFIED_MAX {
                return;
            }
            if self.by_digest.get(digest).is_some_and(|entry| entry.until == *until) {
                self.by_digest.remove(digest);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};

    const LATER: Duration = Duration::from_secs(1);

    fn verified(name: &str) -> Verified {
        Verified {
            account: CallerName::parse(name).expect(name),
            validity: Validity::for_ever(),
            issuer: 0,
            keys: Generation::default(),
        }
    }

    /// How many are kept, and how many places there are in the order.
    fn sizes(tokens: &VerifiedTokens) -> (usize, usize) {
        let entries = lock(&tokens.0);
        (entries.by_digest.len(), entries.order.len())
    }

    #[test]
    fn there_are_no_more_than_may_be_and_the_oldest_make_room() {
        let now = SystemClock.now();
        let tokens = VerifiedTokens::default();
        for number in 0..=VERIFIED_MAX {
            tokens.remember(TokenDigest::numbered(number), verified("a"), now);
        }
        assert_eq!(sizes(&tokens), (VERIFIED_MAX, VERIFIED_MAX));
        assert!(tokens.find(&TokenDigest::numbered(0), now).is_none());
        assert!(tokens.find(&TokenDigest::numbered(1), now).is_some());
        assert!(tokens.find(&TokenDigest::numbered(VERIFIED_MAX), now).is_some());
        // One token over and over is one token, and no more places than there may be.
        for _ in 0..=2 * VERIFIED_MAX {
            tokens.remember(TokenDigest::numbered(0), verified("b"), now);
        }
        let (kept, places) = sizes(&tokens);
        assert!(kept <= places && places <= VERIFIED_MAX, "{kept} {places}");
        assert_eq!(tokens.find(&TokenDigest::numbered(0), now).map(|found| found.account.to_string()).as_deref(), Some("b"));
    }

    #[test]
    fn what_is_over_is_let_go_of_as_others_come_though_one_is_verified_again_and_again() {
        let mut now = SystemClock.now();
        let tokens = VerifiedTokens::default();
        for number in 0..100 {
            tokens.remember(TokenDigest::numbered(number), verified("a"), now);
        }
        for _ in 0..100 {
            now = now.plus(REMEMBERED);
            assert!(tokens.find(&TokenDigest::numbered(0), now).is_none());
            tokens.remember(TokenDigest::numbered(0), verified("a"), now);
            assert!(tokens.find(&TokenDigest::numbered(0), now.plus(REMEMBERED - LATER)).is_some());
        }
        assert_eq!(sizes(&tokens), (1, 1));
    }

    #[test]
    fn one_that_was_verified_again_stays_when_its_former_place_goes() {
        let start = SystemClock.now();
        let tokens = VerifiedTokens::default();
        tokens.remember(TokenDigest::numbered(0), verified("a"), start);
        tokens.remember(TokenDigest::numbered(0), verified("a"), start.plus(LATER));
        tokens.remember(TokenDigest::numbered(1), verified("a"), start.plus(REMEMBERED));
        assert!(tokens.find(&TokenDigest::numbered(0), start.plus(REMEMBERED)).is_some());
        assert_eq!(sizes(&tokens), (2, 2));
    }

    #[test]
    fn one_more_lets_go_of_few() {
        let start = SystemClock.now();
        let tokens = VerifiedTokens::default();
        for number in 0..100 {
            tokens.remember(TokenDigest::numbered(number), verified("a"), start);
        }
        tokens.remember(TokenDigest::numbered(100), verified("a"), start.plus(REMEMBERED));
        assert_eq!(sizes(&tokens).0, 101 - LET_GO_MAX);
    }
}
