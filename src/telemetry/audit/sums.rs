//! Hits counted instead of told one by one: those of one caller for one user and token.
//!
//! Must never mix two callers, users or tokens, nor what the policy allows with what it would deny, nor keep what it counted from the trail for longer than its time.

use std::{
    collections::HashMap,
    mem,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::Decision;
use crate::{caller::CallerId, reason::Reason, tokens::token::TokenId, user::UserKey};

/// Hits are summed for so long, from the first of them on.
const SUMMED_FOR: Duration = Duration::from_secs(60);
/// Most sums at once: half as many again as the ten thousand users that a large broker has, each asked for by one caller and some by
/// two. Each takes 400 to 900 bytes: 6 to 14 MiB. Beyond it all are told early, and nothing is lost.
const SUMS_MAX: usize = 16_384;

/// Hits that differ in nothing but their time and ids.
#[derive(Debug)]
pub(super) struct Sum {
    /// The first of them.
    pub(super) first: Decision,
    /// When the last one was.
    pub(super) last: SystemTime,
    pub(super) count: u64,
}

type Key = (Option<CallerId>, Option<Arc<UserKey>>, Option<TokenId>, Option<Reason>);

/// The sums that are open, in the order of their beginning.
#[derive(Debug, Default)]
pub(super) struct Sums {
    open: Vec<Sum>,
    /// Where in `open` each is.
    places: HashMap<Key, usize>,
    /// When the first began.
    since: Option<Instant>,
}

impl Sums {
    /// Counts a hit; says whether it began a sum.
    pub(super) fn add(&mut self, hit: Decision, now: Instant) -> bool {
        let key = (hit.caller.clone(), hit.user.clone(), hit.token_id, hit.would_deny);
        if let Some(sum) = self.places.get(&key).and_then(|place| self.open.get_mut(*place)) {
            sum.count += 1;
            // Records of two threads may come in another order than they were made in.
            sum.last = sum.last.max(hit.at);
            sum.first.at = sum.first.at.min(hit.at);
            return false;
        }
        self.since.get_or_insert(now);
        self.places.insert(key, self.open.len());
        self.open.push(Sum { last: hit.at, first: hit, count: 1 });
        true
    }

    /// Whether there is no room for another.
    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= SUMS_MAX
    }

    /// How long until they are to be told; none where there are none.
    pub(super) fn due_in(&self, now: Instant) -> Option<Duration> {
        self.since.map(|since| (since + SUMMED_FOR).saturating_duration_since(now))
    }

    /// All of them, to be told; none is open any more.
    pub(super) fn close(&mut self) -> Vec<Sum> {
        self.places.clear();
        self.since = None;
        mem::take(&mut self.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::{Clock as _, SystemClock},
        telemetry::audit::tests::hit,
    };

    fn closed(sums: &mut Sums) -> Vec<(String, u64, u64, u64)> {
        let second = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).expect("is after 1970").as_secs();
        let told = |sum: Sum| (sum.first.caller.expect("has one").to_string(), sum.count, second(sum.first.at), second(sum.last));
        sums.close().into_iter().map(told).collect()
    }

    #[test]
    fn hits_are_summed_by_caller_user_and_token() {
        const ONE: &str = "+447871239999";
        let (mut sums, now) = (Sums::default(), SystemClock.now().mono);
        let mut begins = |hit| sums.add(hit, now);
        assert!(begins(hit("a", ONE, "1", 100)), "the first");
        assert!(!begins(hit("a", ONE, "1", 103)), "the same");
        assert!(begins(hit("b", ONE, "1", 101)), "another caller");
        assert!(begins(hit("a", "+447871230000", "1", 101)), "another user");
        assert!(begins(hit("a", ONE, "2", 104)), "another token");
        assert!(!begins(hit("a", ONE, "1", 99)), "recorded by another thread, and later");
        assert!(begins(Decision { would_deny: Some(Reason::CallerNotAllowed), ..hit("a", ONE, "1", 105) }), "on trial");
        let expected = [("a", 3, 99, 103), ("b", 1, 101, 101), ("a", 1, 101, 101), ("a", 1, 104, 104), ("a", 1, 105, 105)];
        assert_eq!(closed(&mut sums), expected.map(|(caller, count, first, last)| (caller.to_owned(), count, first, last)));
        assert_eq!(closed(&mut sums), []);
        assert!(sums.add(hit("a", ONE, "1", 200), now), "anew");
    }

    #[test]
    fn sums_are_due_a_minute_after_the_first_of_them_began() {
        let (mut sums, now) = (Sums::default(), SystemClock.now().mono);
        assert_eq!(sums.due_in(now), None);
        sums.add(hit("a", "+447871239999", "1", 0), now);
        sums.add(hit("b", "+447871239999", "1", 50), now + Duration::from_secs(50));
        assert_eq!(sums.due_in(now + Duration::from_secs(50)), Some(Duration::from_secs(10)));
        assert_eq!(sums.due_in(now + Duration::from_secs(61)), Some(Duration::ZERO));
        sums.close();
        assert_eq!(sums.due_in(now), None);
    }

    #[test]
    fn there_are_no_more_than_its_bound() {
        let (mut sums, now) = (Sums::default(), SystemClock.now().mono);
        for n in 0..SUMS_MAX {
            assert!(!sums.is_full());
            sums.add(hit(&n.to_string(), "+447871239999", "1", 0), now);
        }
        assert!(sums.is_full());
        assert_eq!(sums.close().len(), SUMS_MAX);
        assert!(!sums.is_full());
    }
}
