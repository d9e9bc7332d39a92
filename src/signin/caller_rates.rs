//! Pure but for a lock: how many sign-ins the calls of each caller may begin in a minute.
//!
//! Must never be asked for a call that finds its token or joins a flight; nor keep more of callers than its bound, however many names a
//! wildcard means.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{caller::CallerId, live::CallerLimits};

/// What a caller did not use it may use at once, up to what it may in so long.
const SPAN: Duration = Duration::from_secs(60);
/// Most callers of whom it is known what they used, about 100 bytes each: as many as a large cluster has services. Of those beyond, who
/// come while all of them use theirs, all together count as one.
const KNOWN_MAX: usize = 4_096;

/// What callers have used.
#[derive(Debug, Default)]
pub(super) struct CallerRates(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_caller: HashMap<CallerId, Used>,
    others: Used,
}

/// When a caller has all again that it may use.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    any: Option<Instant>,
    forced: Option<Instant>,
}

impl CallerRates {
    /// Uses one sign-in of a caller's; `forced`: there is a good token, and the caller wants another.
    ///
    /// # Errors
    /// How long until it may begin one, if it may not now; then nothing is used.
    pub(super) fn take(&self, caller: &CallerId, forced: bool, limits: &CallerLimits, now: Instant) -> Result<(), Duration> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = known.of(caller, now);
        let any = next(used.any, limits.sign_ins_per_minute, now);
        let next_forced = if forced { Some(next(used.forced, limits.forced_sign_ins_per_minute, now)) } else { None };
        let wait = |all_again: Instant| all_again.saturating_duration_since(now + SPAN);
        let longest = next_forced.map_or(Duration::ZERO, wait).max(wait(any));
        if !longest.is_zero() {
            return Err(longest);
        }
        *used = Used { any: Some(any), forced: next_forced.or(used.forced) };
        Ok(())
    }
}

impl Known {
    fn of(&mut self, caller: &CallerId, now: Instant) -> &mut Used {
        if self.by_caller.len() >= KNOWN_MAX && !self.by_caller.contains_key(caller) {
            // Who may use all again is as good as unknown.
            self.by_caller.retain(|_, used| used.any.max(used.forced).is_some_and(|again| again > now));
            if self.by_caller.len() >= KNOWN_MAX {
                return &mut self.others;
            }
        }
        self.by_caller.entry(caller.clone()).or_default()
    }
}

/// When all may be used again, if one more is used now.
fn next(all_again: Option<Instant>, per_minute: u32, now: Instant) -> Instant {
    all_again.map_or(now, |at| at.max(now)) + SPAN / per_minute.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[allow(clippy::disallowed_methods, reason = "a fixed point to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn named(n: usize) -> CallerId {
        CallerId::Named(crate::caller::CallerName::parse(&format!("c{n}.example.org")).expect("is a name"))
    }

    fn limits(sign_ins: u32, forced: u32) -> CallerLimits {
        CallerLimits { sign_ins_per_minute: sign_ins, forced_sign_ins_per_minute: forced }
    }

    #[test]
    fn a_caller_may_use_a_minutes_worth_at_once_and_then_as_many_as_come_back() {
        let (rates, now, limits) = (CallerRates::default(), start(), limits(60, 6));
        let take = |caller: usize, forced, after| rates.take(&named(caller), forced, &limits, now + Duration::from_secs(after));
        for _ in 0..6 {
            assert_eq!(take(0, true, 0), Ok(()));
        }
        assert_eq!(take(0, true, 0), Err(Duration::from_secs(10)), "one in ten seconds");
        assert_eq!(take(0, true, 10), Ok(()));
        for _ in 0..59 {
            assert_eq!(take(0, false, 10), Ok(()), "misses are let through");
        }
        assert_eq!(take(0, false, 10), Err(Duration::from_secs(1)));
        assert_eq!(take(0, true, 10), Err(Duration::from_secs(10)), "the longer wait");
        assert_eq!(take(1, true, 10), Ok(()), "another caller's are its own");
        assert_eq!(take(0, true, 1_000), Ok(()));
    }

    #[test]
    fn names_beyond_the_bound_share_and_who_used_nothing_lately_is_forgotten() {
        let (rates, now, limits) = (CallerRates::default(), start(), limits(60, 60));
        let known = || rates.0.lock().expect("no panic").by_caller.len();
        for n in 0..KNOWN_MAX + 60 {
            assert_eq!(rates.take(&named(n), false, &limits, now), Ok(()));
        }
        assert_eq!(known(), KNOWN_MAX);
        assert!(rates.take(&named(9_999), false, &limits, now).is_err(), "those beyond have one minute's worth together");
        assert_eq!(rates.take(&named(0), false, &limits, now), Ok(()), "those known have their own");
        assert_eq!(rates.take(&named(9_999), false, &limits, now + Duration::from_secs(2)), Ok(()));
        assert_eq!(known(), 1);
    }

    proptest! {
        /// In no stretch of time does a caller get more than a minute's worth and what comes back meanwhile; and whoever waits as long
        /// as it was told gets one.
        #[test]
        fn no_caller_gets_more_than_its_rate(per_minute in 1..200u32, pauses in prop::collection::vec(0..5_000u64, 1..300)) {
            let (rates, began, limits) = (CallerRates::default(), start(), limits(u32::MAX, per_minute));
            let (mut now, mut got) = (began, 0u32);
            for pause in pauses {
                now += Duration::from_millis(pause);
                match rates.take(&named(0), true, &limits, now) {
                    Ok(()) => got += 1,
                    Err(wait) => {
                        prop_assert!(rates.take(&named(0), true, &limits, now + wait.saturating_sub(Duration::from_micros(1))).is_err() || wait < Duration::from_micros(1));
                        now += wait;
                        prop_assert_eq!(rates.take(&named(0), true, &limits, now), Ok(()));
                        got += 1;
                    }
                }
                let may = f64::from(per_minute) * (1.0 + (now - began).as_secs_f64() / 60.0);
                prop_assert!(f64::from(got) <= may + 1e-3, "{} of {}", got, may);
            }
        }
    }
}
