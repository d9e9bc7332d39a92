//! Refused calls of strangers: of those who are not identified, and of those whom no entry of `[[callers]]` means. The first few of a
//! peer and kind are told one by one, the others are counted and told in one line a minute, in the log and in the audit trail alike.
//! The log, and that alone, tells likewise of calls that are let in since the policy is on trial.
//!
//! Must never hold more than its bound, lose a call uncounted, nor sum up a call of somebody who is listed.

use std::{
    collections::HashMap,
    fmt, mem,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{
    clock::Clock,
    reason::Reason,
    telemetry::audit::{Audit, SummedCalls, Verdict},
};

/// So many calls of one peer and kind have lines of their own in each minute: enough to see what is wrong.
const TOLD_EACH: u64 = 10;
/// Most peers and kinds that are told apart in a minute, about 150 bytes each; all beyond share a count for each kind. Together they have
/// some 3,000 lines a minute at most, whoever calls how often.
const PEERS_MAX: usize = 256;
/// What was counted is told this often.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// In the place of a peer, for all that are not told apart.
const OTHERS: &str = "others";

/// What a call came to, as far as calls that came to the same are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) verdict: Verdict,
    /// Empty where the caller went away.
    pub(super) reason: &'static str,
    pub(super) outcome: &'static str,
    /// Why it would have been refused, if the policy were not on trial.
    pub(super) would_deny: Option<Reason>,
    /// Whether it is for the audit trail too: reflection is not.
    pub(super) audited: bool,
}

/// The calls of a minute. Clones count together.
#[derive(Clone)]
pub struct Strangers(Arc<Shared>);

struct Shared {
    audit: Audit,
    clock: Arc<dyn Clock>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    by_peer: HashMap<(IpAddr, Kind), Count>,
    others: HashMap<Kind, Count>,
}

/// Calls that are alike.
struct Count {
    all: u64,
    /// When the first and the last of those ended that have no line of their own.
    summed: Option<(SystemTime, SystemTime)>,
}

impl fmt::Debug for Strangers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strangers").finish_non_exhaustive()
    }
}

impl Strangers {
    /// Tells in this trail, and in the log.
    #[must_use]
    pub fn new(audit: Audit, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared { audit, clock, counts: Mutex::default() }))
    }

    /// Counts a call that ended at `at`; whether it is to be told of by itself.
    pub(super) fn count(&self, peer: IpAddr, kind: Kind, at: SystemTime) -> bool {
        self.lock().count(peer, kind, at)
    }

    /// Tells what was counted, every minute until `closing`.
    pub async fn tell_every_minute(self, closing: CancellationToken) {
        while timeout(TOLD_EVERY, closing.cancelled()).await.is_err() {
            self.tell();
        }
    }

    /// Tells what was counted so far; then a minute begins.
    pub fn tell(&self) {
        let Counts { by_peer, others } = mem::take(&mut *self.lock());
        by_peer.into_iter().for_each(|((peer, kind), count)| self.tell_of(&peer, kind, &count));
        others.into_iter().for_each(|(kind, count)| self.tell_of(&OTHERS, kind, &count));
    }

    fn tell_of(&self, peer: &dyn fmt::Display, kind: Kind, count: &Count) {
        let Kind { verdict, reason, outcome, would_deny, audited } = kind;
        let Some((first, last)) = count.summed else { return };
        let more = count.all.saturating_sub(TOLD_EACH);
        let would = would_deny.map(Reason::as_str);
        if verdict == Verdict::Allowed {
            info!(%peer, would_deny = would, outcome, more, "let in on trial: and so many more calls like these");
        } else if reason.is_empty() {
            debug!(%peer, would_deny = would, outcome, more, "and so many more callers went away");
        } else {
            info!(%peer, reason, would_deny = would, outcome, more, "no token: and so many more calls like these");
        }
        if audited {
            let (at, peer) = (self.0.clock.now().wall, peer.to_string());
            self.0.audit.summed(SummedCalls { at, peer, verdict, reason, outcome, would_deny, count: more, first, last });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn count(&mut self, peer: IpAddr, kind: Kind, at: SystemTime) -> bool {
        let room = self.by_peer.len() < PEERS_MAX;
        let count = match self.by_peer.get_mut(&(peer, kind)) {
            Some(count) => count,
            None if room => self.by_peer.entry((peer, kind)).or_insert(Count { all: 0, summed: None }),
            None => self.others.entry(kind).or_insert(Count { all: 0, summed: None }),
        };
        count.all = count.all.saturating_add(1);
        if count.all <= TOLD_EACH {
            return true;
        }
        // Calls on two threads may be counted in another order than they ended in.
        let (first, last) = count.summed.unwrap_or((at, at));
        count.summed = Some((first.min(at), last.max(at)));
        false
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::clock::SystemClock;

    fn peer(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    fn kind(reason: &'static str) -> Kind {
        Kind { verdict: Verdict::Unauthenticated, reason, outcome: "turned_away", would_deny: None, audited: true }
    }

    #[test]
    fn the_first_are_told_each_and_all_others_are_counted_by_peer_and_reason() {
        let (mut counts, at) = (Counts::default(), SystemClock.now().wall);
        let second = Duration::from_secs(1);
        let mut told = |n, reason, at| counts.count(peer(n), kind(reason), at);
        assert_eq!((0..1_000).filter(|_| told(1, "a", at)).count(), 10);
        assert!(told(1, "b", at) && told(2, "a", at), "another reason, another peer");
        assert!(!told(1, "a", at + second) && !told(1, "a", at - second));
        let summed = |n, reason| counts.by_peer.get(&(peer(n), kind(reason))).map(|count| (count.all, count.summed));
        assert_eq!(summed(1, "a"), Some((1_002, Some((at - second, at + second)))));
        assert_eq!((summed(1, "b"), summed(2, "a")), (Some((1, None)), Some((1, None))));
    }

    #[test]
    fn peers_beyond_the_bound_are_counted_together() {
        let (mut counts, at) = (Counts::default(), SystemClock.now().wall);
        let told = (0..100_000).filter(|n| counts.count(peer(*n), kind("a"), at)).count();
        assert_eq!((told, counts.by_peer.len(), counts.others.len()), (PEERS_MAX + 10, PEERS_MAX, 1));
        assert_eq!(counts.others[&kind("a")].all, 100_000 - u64::try_from(PEERS_MAX).expect("is small"));
        assert!(counts.count(peer(0), kind("a"), at), "those known keep their own");
    }

    #[test]
    fn a_minute_begins_once_it_is_told() {
        let clock = Arc::new(SystemClock);
        let strangers = Strangers::new(Audit::default(), clock.clone());
        let told = || (0..100).filter(|_| strangers.count(peer(1), kind("a"), clock.now().wall)).count();
        assert_eq!((told(), told()), (10, 0));
        strangers.tell();
        assert_eq!((told(), told()), (10, 0));
    }
}
