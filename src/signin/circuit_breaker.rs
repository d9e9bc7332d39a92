//! Pure: can the vault be reached? And if not, who may find out.
//!
//! Must never keep users from a vault that answers: one user's failures say nothing of the vault, and any answer, a refusal
//! too, means that it is there. What concerns one user alone is `holds`'s.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{user::UserKey, users::holds::Stop, vault::Failure};

/// So many different users must have failed, with no answer to anybody in between, before the vault counts as down: a user
/// whom the vault alone can't serve must not take the others along.
const USERS_TO_GO_DOWN: usize = 3;
/// From one probe's end to the next, at first …
const PROBE_FIRST: Duration = Duration::from_secs(1);
/// … doubling up to this: the time that callers go without once the vault is back.
const PROBE_MAX: Duration = Duration::from_secs(8);
/// Jitter takes at most this part off, so that replicas don't probe in step.
const PROBE_JITTER: f64 = 0.5;
/// A probe that took so long already keeps no other away: it hangs, as one does whose connection nobody answers on, and the vault may be
/// back.
const PROBE_HANGS: Duration = PROBE_MAX;

/// Whether the vault answers, as far as this process knows.
#[derive(Debug, Default)]
pub struct Reach {
    /// Who failed since the last answer; as many as it takes, and no more.
    failing: Vec<Arc<UserKey>>,
    down: Option<Down>,
}

#[derive(Debug)]
struct Down {
    /// The last failure, and when the next probe may begin.
    stop: Stop,
    probes: u32,
    /// When the probe under way began, which is how it is known.
    probing: Option<Instant>,
}

/// Whether a sign-in may begin.
#[derive(Clone, Debug)]
pub enum Passage {
    /// The vault answers.
    Open,
    /// It did not lately; this sign-in finds out whether it does again.
    Probe,
    /// It does not, and others find out.
    Closed(Stop),
}

impl Reach {
    /// Whether a sign-in may begin now. Who gets [`Passage::Probe`] must end with `answered`, or with `failed` or `broke_off` and `now`.
    pub fn pass(&mut self, now: Instant) -> Passage {
        match &mut self.down {
            None => Passage::Open,
            Some(down) if !down.is_probing(now) && down.stop.until <= now => {
                down.probing = Some(now);
                Passage::Probe
            }
            Some(down) => Passage::Closed(down.stop_at(now)),
        }
    }

    /// Why no sign-in would pass now, without taking the probe.
    #[must_use]
    pub fn closed(&self, now: Instant) -> Option<Stop> {
        self.down.as_ref().filter(|down| down.is_probing(now) || down.stop.until > now).map(|down| down.stop_at(now))
    }

    /// Why none passes at this moment, whoever it is.
    #[must_use]
    pub fn closed_for_now(&self, now: Instant) -> Option<Stop> {
        self.down.as_ref().map(|down| down.stop_at(now))
    }

    /// Whether the vault counts as down.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.down.is_some()
    }

    /// The vault answered somebody. Returns whether it had been down.
    pub fn answered(&mut self) -> bool {
        self.failing.clear();
        self.down.take().is_some()
    }

    /// A sign-in of `user` found no vault, or none that makes sense. `probe`: when it began, if it was to find that out. `jitter`: 0
    /// to 1. Returns whether that took the vault down.
    pub fn failed(
        &mut self,
        user: &Arc<UserKey>,
        failure: &Arc<Failure>,
        probe: Option<Instant>,
        now: Instant,
        jitter: f64,
    ) -> bool {
        let next = |probes: u32| {
            let widest = PROBE_FIRST.saturating_mul(1u32.checked_shl(probes).unwrap_or(u32::MAX)).min(PROBE_MAX);
            Stop { failure: Arc::clone(failure), until: now + widest.mul_f64(1.0 - PROBE_JITTER * jitter.clamp(0.0, 1.0)) }
        };
        if let Some(down) = &mut self.down {
            // A straggler that began before the vault went down says nothing new.
            if probe.is_some() && down.probing == probe {
                down.probes = down.probes.saturating_add(1);
                down.probing = None;
                down.stop = next(down.probes);
            }
            return false;
        }
        if !self.failing.contains(user) {
            self.failing.push(Arc::clone(user));
        }
        if self.failing.len() < USERS_TO_GO_DOWN {
            return false;
        }
        self.failing.clear();
        self.down = Some(Down { stop: next(0), probes: 0, probing: None });
        true
    }

    /// The probe that began then ended without a word: somebody else may probe.
    pub fn broke_off(&mut self, probe: Instant) {
        if let Some(down) = self.down.as_mut().filter(|down| down.probing == Some(probe)) {
            down.probing = None;
        }
    }
}

impl Down {
    fn is_probing(&self, now: Instant) -> bool {
        self.probing.is_some_and(|began| now.saturating_duration_since(began) < PROBE_HANGS)
    }

    /// While a probe is under way nobody knows how long it takes: come again in a moment.
    fn stop_at(&self, now: Instant) -> Stop {
        Stop { failure: Arc::clone(&self.stop.failure), until: self.stop.until.max(now + PROBE_FIRST) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::{MerchantId, Number};

    fn user(n: u8) -> Arc<UserKey> {
        Arc::new(UserKey {
            merchant: MerchantId::parse("m".to_owned()).expect("is valid"),
            number: Number::parse(format!("+4478712399{n:02}")).expect("is valid"),
        })
    }

    fn down() -> Arc<Failure> {
        Arc::new(Failure::Unavailable { cause: "down", wait: None, vault_error: String::new() })
    }

    #[allow(clippy::disallowed_methods, reason = "a fixed point to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn one_users_failures_close_nothing_and_any_answer_forgets_them() {
        let (mut reach, now) = (Reach::default(), start());
        for _ in 0..100 {
            assert!(!reach.failed(&user(1), &down(), None, now, 0.0));
        }
        assert!(!reach.failed(&user(2), &down(), None, now, 0.0));
        assert!(!reach.answered());
        for n in [1, 2] {
            assert!(!reach.failed(&user(n), &down(), None, now, 0.0));
        }
        assert!(matches!(reach.pass(now), Passage::Open));
        assert!(reach.failed(&user(3), &down(), None, now, 0.0));
        assert!(reach.is_down() && matches!(reach.pass(now), Passage::Closed(_)));
    }

    #[test]
    fn one_probe_at_a_time_and_the_pauses_double() {
        let (mut reach, mut now) = (Reach::default(), start());
        for n in 0..3 {
            reach.failed(&user(n), &down(), None, now, 0.0);
        }
        for pause in [1, 2, 4, 8, 8] {
            assert!(reach.closed(now + Duration::from_millis(pause * 1_000 - 1)).is_some());
            now += Duration::from_secs(pause);
            assert!(reach.closed(now).is_none());
            assert!(matches!(reach.pass(now), Passage::Probe));
            assert!(matches!(reach.pass(now), Passage::Closed(stop) if stop.until > now), "one at a time");
            let began = now;
            now += Duration::from_secs(5);
            assert!(!reach.failed(&user(9), &down(), None, now, 0.0));
            assert!(matches!(reach.pass(now), Passage::Closed(_)), "a straggler changes nothing");
            assert!(!reach.failed(&user(9), &down(), Some(began), now, 0.0));
        }
        now += Duration::from_secs(8);
        assert!(matches!(reach.pass(now), Passage::Probe));
        reach.broke_off(now);
        assert!(matches!(reach.pass(now), Passage::Probe), "a lost probe is no end");
        let lost = now;
        now += Duration::from_secs(8);
        assert!(reach.closed(now).is_none() && matches!(reach.pass(now), Passage::Probe), "nor is one that hangs");
        reach.failed(&user(9), &down(), Some(lost), now, 0.0);
        reach.broke_off(lost);
        assert!(matches!(reach.pass(now), Passage::Closed(_)), "and the end of another is not this one's");
        assert!(reach.answered());
        assert!(matches!(reach.pass(now), Passage::Open));
    }
}
