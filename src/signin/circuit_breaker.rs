//! Pure: the circuit breaker before the vault. Closed, sign-ins pass; open, none does; half-open, one probe finds out.
//!
//! Must never keep users from a vault that answers: one user's failures say nothing of the vault, and any answer, a refusal
//! too, means that it is there. What concerns one user alone is `holds`'s.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{backoff::Backoff, user::UserKey, users::holds::Stop, vault::Failure};

/// So many different users must have failed, with no answer to anybody in between, before the vault counts as down: a user
/// whom the vault alone can't serve must not take the others along.
const USERS_TO_OPEN: usize = 3;
/// From one probe's end to the next; at its longest the time that callers go without once the vault is back.
const PROBE_PAUSE: Backoff = Backoff::new(Duration::from_secs(1), PROBE_PAUSE_MAX);
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(8);
/// Callers who come while a probe is under way are told to come again this soon: nobody knows how long it takes.
const PROBE_RETRY: Duration = Duration::from_secs(1);
/// Jitter takes at most this part off, so that replicas don't probe in step.
const PROBE_JITTER: f64 = 0.5;
/// A probe that took so long already keeps no other away: it hangs, as one does whose connection nobody answers on, and the vault may be
/// back.
const PROBE_HANGS: Duration = PROBE_PAUSE_MAX;

/// Whether the vault answers, as far as this process knows.
#[derive(Debug, Default)]
pub struct CircuitBreaker {
    /// Who failed since the last answer; as many as it takes to open, and no more.
    failing: Vec<Arc<UserKey>>,
    /// None while it is closed.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// The last failure, and when the next probe may begin.
    stop: Stop,
    probes: u32,
    /// When the probe under way began, which is how it is known.
    probing: Option<Instant>,
}

/// Whether a sign-in may begin.
#[derive(Clone, Debug)]
pub enum Circuit {
    /// It passes: the vault answers.
    Closed,
    /// It passes alone: the vault did not answer lately, and this sign-in finds out whether it does again.
    HalfOpen,
    /// It does not pass: the vault does not answer, and others find out when it does.
    Open(Stop),
}

impl CircuitBreaker {
    /// Whether a sign-in may begin now. Who gets [`Circuit::HalfOpen`] must end with `answered`, or with `failed` or `broke_off` and
    /// `now`.
    pub fn pass(&mut self, now: Instant) -> Circuit {
        match &mut self.open {
            None => Circuit::Closed,
            Some(open) if open.awaits_probe(now) => {
                open.probing = Some(now);
                Circuit::HalfOpen
            }
            Some(open) => Circuit::Open(open.stop_at(now)),
        }
    }

    /// Why no sign-in would pass now, without taking the probe.
    #[must_use]
    pub fn stopped(&self, now: Instant) -> Option<Stop> {
        self.open.as_ref().filter(|open| !open.awaits_probe(now)).map(|open| open.stop_at(now))
    }

    /// The same of a probe that is due, but has no permit: it is to come again in a moment.
    #[must_use]
    pub fn stopped_without_permit(&self, now: Instant) -> Option<Stop> {
        self.open.as_ref().map(|open| open.stop_at(now))
    }

    /// Whether the next to pass would be the probe.
    #[must_use]
    pub fn awaits_probe(&self, now: Instant) -> bool {
        self.open.as_ref().is_some_and(|open| open.awaits_probe(now))
    }

    /// Whether the vault counts as down: open or half-open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The vault answered somebody, which closes it. Returns whether it was open.
    pub fn answered(&mut self) -> bool {
        self.failing.clear();
        self.open.take().is_some()
    }

    /// A sign-in of `user` found no vault, or none that makes sense. `probe`: when it began, if it was to find that out. `jitter`: 0
    /// to 1. Returns whether that opened it.
    pub fn failed(
        &mut self,
        user: &Arc<UserKey>,
        failure: &Arc<Failure>,
        probe: Option<Instant>,
        now: Instant,
        jitter: f64,
    ) -> bool {
        let next = |probes: u32| {
            let pause = PROBE_PAUSE.widest(probes).mul_f64(1.0 - PROBE_JITTER * jitter.clamp(0.0, 1.0));
            Stop { failure: Arc::clone(failure), until: now + pause }
        };
        if let Some(open) = &mut self.open {
            // A straggler that began before it opened says nothing new.
            if probe.is_some() && open.probing == probe {
                open.probes = open.probes.saturating_add(1);
                open.probing = None;
                open.stop = next(open.probes);
            }
            return false;
        }
        if !self.failing.contains(user) {
            self.failing.push(Arc::clone(user));
        }
        if self.failing.len() < USERS_TO_OPEN {
            return false;
        }
        self.failing.clear();
        self.open = Some(Open { stop: next(0), probes: 0, probing: None });
        true
    }

    /// The probe that began then ended without a word: somebody else may probe.
    pub fn broke_off(&mut self, probe: Instant) {
        if let Some(open) = self.open.as_mut().filter(|open| open.probing == Some(probe)) {
            open.probing = None;
        }
    }
}

impl Open {
    fn awaits_probe(&self, now: Instant) -> bool {
        let probing = self.probing.is_some_and(|began| now.saturating_duration_since(began) < PROBE_HANGS);
        !probing && self.stop.until <= now
    }

    /// While a probe is under way nobody knows how long it takes: come again in a moment.
    fn stop_at(&self, now: Instant) -> Stop {
        Stop { failure: Arc::clone(&self.stop.failure), until: self.stop.until.max(now + PROBE_RETRY) }
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
    fn one_users_failures_open_nothing_and_any_answer_forgets_them() {
        let (mut breaker, now) = (CircuitBreaker::default(), start());
        for _ in 0..100 {
            assert!(!breaker.failed(&user(1), &down(), None, now, 0.0));
        }
        assert!(!breaker.failed(&user(2), &down(), None, now, 0.0));
        assert!(!breaker.answered());
        for n in [1, 2] {
            assert!(!breaker.failed(&user(n), &down(), None, now, 0.0));
        }
        assert!(matches!(breaker.pass(now), Circuit::Closed));
        assert!(breaker.failed(&user(3), &down(), None, now, 0.0));
        assert!(breaker.is_open() && matches!(breaker.pass(now), Circuit::Open(_)));
    }

    #[test]
    fn one_probe_at_a_time_and_the_pauses_double() {
        let (mut breaker, mut now) = (CircuitBreaker::default(), start());
        for n in 0..3 {
            breaker.failed(&user(n), &down(), None, now, 0.0);
        }
        for pause in [1, 2, 4, 8, 8] {
            assert!(breaker.stopped(now + Duration::from_millis(pause * 1_000 - 1)).is_some());
            now += Duration::from_secs(pause);
            assert!(breaker.stopped(now).is_none());
            assert!(matches!(breaker.pass(now), Circuit::HalfOpen));
            assert!(matches!(breaker.pass(now), Circuit::Open(stop) if stop.until > now), "one at a time");
            let began = now;
            now += Duration::from_secs(5);
            assert!(!breaker.failed(&user(9), &down(), None, now, 0.0));
            assert!(matches!(breaker.pass(now), Circuit::Open(_)), "a straggler changes nothing");
            assert!(!breaker.failed(&user(9), &down(), Some(began), now, 0.0));
        }
        now += Duration::from_secs(8);
        assert!(matches!(breaker.pass(now), Circuit::HalfOpen));
        breaker.broke_off(now);
        assert!(matches!(breaker.pass(now), Circuit::HalfOpen), "a lost probe is no end");
        let lost = now;
        now += Duration::from_secs(8);
        assert!(breaker.stopped(now).is_none() && matches!(breaker.pass(now), Circuit::HalfOpen), "nor is one that hangs");
        breaker.failed(&user(9), &down(), Some(lost), now, 0.0);
        breaker.broke_off(lost);
        assert!(matches!(breaker.pass(now), Circuit::Open(_)), "and the end of another is not this one's");
        assert!(breaker.answered());
        assert!(matches!(breaker.pass(now), Circuit::Closed));
    }
}
