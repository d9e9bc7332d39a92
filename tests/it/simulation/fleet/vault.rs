//! The vault of a fleet, as one replica sees it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use token_broker::{
    clock::{Clock, Moment},
    secret::Secret,
    telemetry::traces::Span,
    user::UserKey,
    vault::{Failure, Grant, Refusal, Scope, SignIn, SigningIn},
};
use tokio::time::{Instant, sleep_until};

use super::{TIMEOUT, USERS, truth::Truth};
use crate::simulation::world::user;

/// The clocks of one machine.
#[derive(Debug)]
pub(crate) struct MachineClock {
    pub(crate) truth: Arc<Truth>,
    /// What the wall clock is wrong by, in milliseconds.
    pub(crate) skew: AtomicI64,
}

impl Clock for MachineClock {
    fn now(&self) -> Moment {
        self.truth.now(self.skew.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
pub(super) struct FleetVault {
    pub(crate) truth: Arc<Truth>,
    pub(super) clock: Arc<MachineClock>,
    pub(super) replica: u64,
    /// The vault's: all replicas' have it in common.
    pub(super) random: Arc<Mutex<fastrand::Rng>>,
}

enum Outcome {
    Grant(Duration),
    Unavailable(Option<Duration>),
    Throttled(Scope, Duration),
    Refused,
}

impl FleetVault {
    fn draw(&self) -> (u64, Duration, Outcome) {
        let mut random = self.random.lock().expect("nobody panics while holding it");
        let number = random.u64(..);
        if self.truth.is_healthy() {
            return (number, Duration::from_millis(random.u64(10..100)), Outcome::Grant(Duration::from_secs(3_600)));
        }
        let most = if random.u8(..8) == 0 { u64::try_from(TIMEOUT.as_millis()).expect("is small") } else { 300 };
        let mut latency = Duration::from_millis(random.u64(..most));
        // A machine that stood still meanwhile, or its network: the answer is there, later than any may be.
        if random.u8(..40) == 0 {
            latency += TIMEOUT + Duration::from_millis(random.u64(..4_000));
        }
        let outcome = match random.u8(..100) {
            0..75 => Outcome::Grant(Duration::from_secs(random.u64(2..60))),
            75..85 => Outcome::Unavailable((random.u8(..2) == 0).then(|| Duration::from_secs(random.u64(1..20)))),
            85..88 => Outcome::Throttled(Scope::User, Duration::from_secs(random.u64(1..20))),
            88..91 => Outcome::Throttled(Scope::Merchant, Duration::from_secs(random.u64(1..20))),
            _ => Outcome::Refused,
        };
        (number, latency, outcome)
    }
}

impl SignIn for FleetVault {
    fn sign_in<'a>(&'a self, key: &'a UserKey, _: &'a Secret, _: &'a Span) -> SigningIn<'a> {
        Box::pin(async move {
            let Self { truth, clock, replica, .. } = self;
            if truth.is_gone(*replica) {
                return std::future::pending().await;
            }
            let (number, latency, outcome) = self.draw();
            let (began, done) = (clock.now(), Instant::now() + latency);
            let sent = truth.begin(*replica, key, done);
            sleep_until(done).await;
            if truth.is_killed(*replica) {
                return std::future::pending().await;
            }
            let (now, vault_error) = (clock.now(), String::new());
            let same = |scope| {
                (0..USERS).map(user).filter(move |other| match scope {
                    Scope::User => other == key,
                    Scope::Merchant => other.merchant == key.merchant,
                })
            };
            let (name, result) = match outcome {
                Outcome::Grant(lifetime) => {
                    let text = format!("{}-{number:x}", key.number.expose());
                    let end = began.plus(lifetime);
                    truth.issue(key, sent, text.clone(), end, end.left_at(now));
                    let access_token = Secret::from(text);
                    let grant = Grant { access_token, scope: String::new(), lifetime, lifetime_is_bounded: false };
                    ("granted", Ok(grant))
                }
                Outcome::Unavailable(wait) => {
                    truth.stop(std::slice::from_ref(key), sent, "back-off", now.mono + wait.unwrap_or_default());
                    ("unavailable", Err(Failure::Unavailable { cause: "down", wait, vault_error }))
                }
                Outcome::Throttled(scope, wait) => {
                    let why = if scope == Scope::User { "wait" } else { "merchant's wait" };
                    truth.stop(&same(scope).collect::<Vec<_>>(), sent, why, now.mono + wait);
                    ("throttled", Err(Failure::Throttled { scope, wait, vault_error }))
                }
                Outcome::Refused => {
                    truth.stop(std::slice::from_ref(key), sent, "refusal", now.mono + truth.rules.hold);
                    ("refused", Err(Failure::Refused { why: Refusal::Credentials, vault_error }))
                }
            };
            truth.end(key, sent, name);
            result
        })
    }
}
