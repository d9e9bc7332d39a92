//! A vault that does anything a vault may do, as its seed says.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use token_broker::{
    secret::Secret,
    telemetry::traces::Span,
    user::UserKey,
    vault::{Failure, Grant, Refusal, Scope, SignIn, SigningIn},
};
use tokio::time::{Instant, sleep};

use super::world::{Facts, Shown, World};

pub(crate) const SCRIPTED_PANIC: &str = "the simulation says so";

#[derive(Debug)]
pub(crate) struct SimulatedVault {
    world: Arc<World>,
    /// Which of several it is.
    number: u64,
    random: Mutex<fastrand::Rng>,
    /// No two tokens are alike.
    issued: AtomicU64,
    /// Some vaults return the unexpired token again.
    same_token: bool,
    /// Between these, after the beginning, the vault or a box before it answers with 4xx and lets nobody in.
    closed: std::ops::Range<Duration>,
    began: Instant,
}

/// What one sign-in comes to.
enum Outcome {
    Grant(Duration),
    Unavailable(Option<Duration>),
    Invalid,
    Throttled(Scope, Duration),
    Refused,
    Undocumented,
    Panic,
}

impl SimulatedVault {
    /// Whether it gives the token again that has not ended.
    pub(crate) fn returns_the_same(&self) -> bool {
        self.same_token
    }

    pub(crate) fn new(world: Arc<World>, number: u64, mut random: fastrand::Rng) -> Self {
        let same_token = random.u8(..4) == 0;
        let mut second = || Duration::from_secs(random.u64(..240));
        let closed = match second().as_secs() % 4 {
            0 => Duration::ZERO..Duration::MAX,
            1 => second()..second(),
            _ => Duration::MAX..Duration::MAX,
        };
        Self { world, number, random: Mutex::new(random), issued: AtomicU64::new(0), same_token, closed, began: Instant::now() }
    }

    fn draw(&self) -> (Duration, Outcome) {
        let mut random = self.random.lock().expect("nobody panics while holding it");
        if self.world.is_healthy() {
            return (Duration::from_millis(random.u64(10..100)), Outcome::Grant(Duration::from_secs(random.u64(30..90))));
        }
        let latency = match random.u8(..100) {
            0 => random.u64(10_000..60_000),
            1..13 => random.u64(..10_000),
            _ => random.u64(..300),
        };
        let latency = Duration::from_millis(latency);
        let outcome = match random.u8(..100) {
            draw if self.closed.contains(&self.began.elapsed()) => match draw {
                0..70 => Outcome::Undocumented,
                70..80 => Outcome::Throttled(Scope::User, Duration::from_secs(random.u64(1..60))),
                80..85 => Outcome::Throttled(Scope::Merchant, Duration::from_secs(random.u64(1..60))),
                85..95 => Outcome::Unavailable(None),
                _ => Outcome::Refused,
            },
            0..63 => Outcome::Grant(Duration::from_secs(random.u64(1..90))),
            63..66 => Outcome::Undocumented,
            66..80 => Outcome::Unavailable((random.u8(..4) == 0).then(|| Duration::from_secs(random.u64(..100)))),
            80..88 => Outcome::Invalid,
            88..91 => Outcome::Throttled(Scope::User, Duration::from_secs(random.u64(1..60))),
            91..93 => Outcome::Throttled(Scope::Merchant, Duration::from_secs(random.u64(1..60))),
            93..96 => Outcome::Refused,
            _ => Outcome::Panic,
        };
        (latency, outcome)
    }

    /// The token, which the broker has from this instant on.
    fn grant(&self, user: &UserKey, (began, under): (token_broker::clock::Moment, (u64, i64)), lifetime: Duration) -> Grant {
        let now = self.world.now();
        let counts = self.world.force().upstream == self.number;
        let same_token = self.same_token;
        // Nothing is kept for who is configured no more.
        let (configured, _) = self.world.configured(user);
        let (text, lifetime) = self.world.with(user, |facts| {
            let (text, lifetime) = match facts.newest(now).filter(|_| same_token) {
                Some((text, end)) => (text.clone(), end.left_at(began)),
                None => {
                    let issued = self.issued.fetch_add(1, Ordering::Relaxed);
                    (format!("{}-{}-{issued}", user.number.expose(), self.number), lifetime)
                }
            };
            // What was said last counts: after a jump of one clock, the same token's end is another.
            let end = began.plus(lifetime);
            // One that ended on the way is no token.
            let left = end.left_at(now);
            if !left.is_zero() && counts {
                (facts.not_before, facts.last) = (None, Some((began.mono, left)));
                facts.shown = Some(Shown::new(under, lifetime, end, now));
                if configured {
                    facts.has(text.clone(), end);
                }
            }
            (text, lifetime)
        });
        Grant { access_token: Secret::from(text), scope: String::new(), lifetime, lifetime_is_bounded: self.same_token }
    }

    fn stop(
        &self,
        user: &UserKey,
        wait: Duration,
        why: &'static str,
        of: impl Fn(&mut Facts) -> &mut Option<(Instant, &'static str)>,
    ) {
        if self.world.force().upstream != self.number {
            return;
        }
        let until = Instant::now() + wait;
        self.world.with(user, |facts| {
            // What is longer holds on.
            let not_before = of(facts);
            if not_before.is_none_or(|(not_before, _)| not_before < until) {
                *not_before = Some((until, why));
            }
        });
    }
}

impl SignIn for SimulatedVault {
    fn sign_in<'a>(&'a self, user: &'a UserKey, password: &'a Secret, _: &'a Span) -> SigningIn<'a> {
        Box::pin(async move {
            let (began, under) = (self.world.now(), self.world.under());
            self.world.begin(self.number, user, password);
            let (latency, outcome) = self.draw();
            sleep(latency).await;
            let vault_error = String::new();
            let (name, result) = match outcome {
                Outcome::Grant(lifetime) => {
                    self.world.granted(self.number, user, password);
                    ("granted", Ok(self.grant(user, (began, under), lifetime)))
                }
                Outcome::Undocumented => {
                    self.world.may_have_judged(self.number, user, password, true);
                    ("undocumented", Err(Failure::Undocumented { status: 403, wait: None, vault_error }))
                }
                Outcome::Unavailable(wait) => {
                    self.stop(user, wait.unwrap_or_default(), "back-off", |facts| &mut facts.not_before);
                    ("unavailable", Err(Failure::Unavailable { cause: "down", wait, vault_error }))
                }
                Outcome::Invalid => ("invalid", Err(Failure::Invalid { cause: "nonsense", issued: false })),
                Outcome::Throttled(scope, wait) => {
                    self.stop(user, wait, "wait", |facts| &mut facts.not_before);
                    if scope == Scope::Merchant {
                        let users = (0..super::USERS).map(super::world::user).filter(|other| other.merchant == user.merchant);
                        users.for_each(|user| self.stop(&user, wait, "merchant's wait", |facts| &mut facts.merchant_not_before));
                    }
                    self.world.may_have_judged(self.number, user, password, false);
                    ("throttled", Err(Failure::Throttled { scope, wait, vault_error }))
                }
                Outcome::Refused => {
                    self.world.refused(self.number, user, password);
                    ("refused", Err(Failure::Refused { why: Refusal::Credentials, vault_error }))
                }
                Outcome::Panic => {
                    self.world.with(user, |facts| facts.broken = Some(Instant::now()));
                    self.world.end(user, "panic");
                    std::panic::panic_any(SCRIPTED_PANIC);
                }
            };
            self.world.end(user, name);
            result
        })
    }
}
