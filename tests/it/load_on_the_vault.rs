//! The broker at scale and while the vault is away, in paused time: a simulated vault, the real broker.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use token_broker::{
    broker::{Answer, BrokerError, Outcome},
    secret::Secret,
    signin::WAITERS_PER_FLIGHT_MAX,
    telemetry::traces::Span,
    tokens::token::TokenId,
    user::UserKey,
    vault::{Failure, Grant, SignIn, SigningIn},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::support::broker_in_memory::{BrokerInMemory, key, settings, user};

/// A vault that can be switched off; then it hangs until the sign-in's timeout.
#[derive(Debug, Default)]
struct Switched {
    off: AtomicBool,
    sign_ins: AtomicU64,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    /// When each sign-in began.
    begun: Mutex<Vec<Instant>>,
}

const TIMEOUT: Duration = Duration::from_secs(10);
const LIFETIME: Duration = Duration::from_secs(300);

impl SignIn for Switched {
    fn sign_in<'a>(&'a self, user: &'a UserKey, _password: &'a Secret, _: &'a Span) -> SigningIn<'a> {
        Box::pin(async move {
            let n = self.sign_ins.fetch_add(1, Ordering::Relaxed);
            self.begun.lock().expect("no panic").push(Instant::now());
            let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
            let off = self.off.load(Ordering::Relaxed);
            sleep(if off { TIMEOUT } else { Duration::from_millis(50) }).await;
            self.at_once.fetch_sub(1, Ordering::Relaxed);
            if off {
                return Err(Failure::Unavailable { cause: "it did not answer in time", wait: None, vault_error: String::new() });
            }
            let access_token = Secret::from(format!("{}-{n}", user.number.expose()));
            Ok(Grant { access_token, scope: String::new(), lifetime: LIFETIME, lifetime_is_bounded: false })
        })
    }
}

/// A broker, and the vault that it and others may use.
struct Replica {
    broker: BrokerInMemory,
    vault: Arc<Switched>,
    users: usize,
}

impl Replica {
    fn new(users: usize) -> Self {
        Self::over(Arc::default(), users, 1)
    }

    /// A broker of its own over a vault that others may use too.
    fn over(vault: Arc<Switched>, users: usize, seed: u64) -> Self {
        let configured = (0..users).map(|n| user(n, "simulated")).collect();
        Self { broker: BrokerInMemory::with_seed(configured, settings("the vault", vault.clone()), seed), vault, users }
    }

    /// A call, and how long it took.
    fn ask(
        &self,
        user: usize,
        patience: Duration,
    ) -> impl Future<Output = (Result<Answer, BrokerError>, Duration)> + Send + use<> {
        let (before, answer) = (Instant::now(), self.broker.answer(user, patience, &[]));
        async move { (answer.await, before.elapsed()) }
    }

    /// All users at once.
    async fn ask_all(&self, patience: Duration) -> Vec<(Result<Answer, BrokerError>, Duration)> {
        self.ask_first(self.users, patience).await
    }

    /// So many of them at once.
    async fn ask_first(&self, users: usize, patience: Duration) -> Vec<(Result<Answer, BrokerError>, Duration)> {
        let asking: JoinSet<_> = (0..users).map(|user| self.ask(user, patience)).collect();
        asking.join_all().await
    }

    /// Reports a user's token as rejected by the vault's API.
    fn complain(
        &self,
        user: usize,
        token_id: &str,
        patience: Duration,
    ) -> impl Future<Output = Result<Answer, BrokerError>> + Send + use<> {
        self.broker.answer(user, patience, &[token_id.to_owned()])
    }

    fn sign_ins(&self) -> u64 {
        self.vault.sign_ins.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_cold_users_at_once_are_all_served_by_sixty_four_sign_ins_at_a_time() {
    let replica = Replica::new(10_000);
    let answers = replica.ask_all(Duration::from_secs(30)).await;
    assert!(answers.iter().all(|(answer, _)| answer.is_ok()));
    assert_eq!((replica.sign_ins(), replica.vault.most_at_once.load(Ordering::Relaxed)), (10_000, 64));
}

#[tokio::test(start_paused = true)]
async fn once_the_vault_is_known_to_be_down_nobody_waits_for_it_and_one_at_a_time_probes() {
    let replica = Replica::new(1_000);
    replica.vault.off.store(true, Ordering::Relaxed);
    // The first ones find out, at the cost of a timeout; those queued behind them learn it as soon as it is known.
    let answers = replica.ask_all(Duration::from_secs(30)).await;
    assert!(answers.iter().all(|(answer, waited)| answer.is_err() && *waited < TIMEOUT + Duration::from_secs(1)));
    let before = replica.sign_ins();
    replica.vault.most_at_once.store(0, Ordering::Relaxed);

    let down = Instant::now();
    let mut user = 0;
    while down.elapsed() < Duration::from_secs(300) {
        user = (user + 1) % replica.users;
        let (answer, waited) = replica.ask(user, Duration::from_secs(30)).await;
        assert!(matches!(answer, Err(BrokerError::VaultUnavailable { .. })), "{answer:?}");
        assert!(waited <= Duration::from_secs(1), "{waited:?}");
        sleep(Duration::from_millis(100)).await;
    }
    let probes = replica.sign_ins() - before;
    assert!((10..=40).contains(&probes), "{probes} probes in 300 s");
    // One that hangs for eight of its ten seconds keeps the next away no longer.
    assert!(replica.vault.most_at_once.load(Ordering::Relaxed) <= 2);

    // Back: found within a probe's pause, and everybody is served without a stampede.
    replica.vault.off.store(false, Ordering::Relaxed);
    let back = Instant::now();
    timeout(Duration::from_secs(60), async {
        while replica.ask(0, Duration::from_secs(30)).await.0.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("it is found");
    assert!(back.elapsed() < Duration::from_secs(25), "{:?}", back.elapsed());
    let mut served = 0;
    for _ in 0..100 {
        served = replica.ask_all(Duration::from_secs(30)).await.iter().filter(|(answer, _)| answer.is_ok()).count();
        if served == replica.users {
            break;
        }
        sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(served, replica.users);
    assert!(replica.vault.most_at_once.load(Ordering::Relaxed) <= 64);
}

#[tokio::test(start_paused = true)]
async fn busy_users_never_wait_while_their_tokens_are_renewed_and_idle_ones_are_left_alone() {
    let replica = Replica::new(200);
    replica.ask_all(Duration::from_secs(30)).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2_400) {
        for user in 0..20 {
            let (answer, waited) = replica.ask(user, Duration::from_secs(30)).await;
            assert!(answer.is_ok() && waited.is_zero(), "{waited:?} {answer:?}");
        }
        sleep(Duration::from_secs(7)).await;
    }
    let before = replica.sign_ins();
    // An hour after they were asked for, the others are not renewed any more.
    sleep(Duration::from_secs(2_400)).await;
    let idle_after = replica.sign_ins();
    assert!(idle_after > before);
    sleep(Duration::from_secs(3_600)).await;
    let left = replica.sign_ins();
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(replica.sign_ins(), left, "nobody asks for anybody");
}

#[tokio::test(start_paused = true)]
async fn a_full_flight_sheds_the_caller_and_never_a_hit() {
    let replica = Replica::new(2);
    assert!(replica.ask(1, Duration::from_secs(30)).await.0.is_ok());
    replica.vault.off.store(true, Ordering::Relaxed);
    let mut waiting = JoinSet::new();
    for _ in 0..=WAITERS_PER_FLIGHT_MAX {
        waiting.spawn(replica.ask(0, Duration::from_secs(30)));
    }
    let (first, waited) = waiting.join_next().await.expect("somebody is shed").expect("no panic");
    assert!(matches!(first, Err(BrokerError::Overloaded { .. })) && waited.is_zero(), "{waited:?} {first:?}");
    let (hit, waited) = replica.ask(1, Duration::from_secs(30)).await;
    assert!(hit.is_ok_and(|answer| answer.outcome == Outcome::Hit) && waited.is_zero());
    assert_eq!(replica.broker.waiting(), WAITERS_PER_FLIGHT_MAX);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_complaints_cost_one_sign_in_and_late_reporters_get_the_new_token() {
    let replica = Replica::new(1);
    let dead = replica.ask(0, Duration::from_secs(30)).await.0.expect("there is a token").cached.id().to_string();
    let complain = |patience| replica.complain(0, &dead, patience);
    let mut complaining = JoinSet::new();
    for _ in 0..10_000 {
        complaining.spawn(complain(Duration::from_secs(30)));
    }
    let answers = complaining.join_all().await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.cached.id().to_string() != dead)));
    assert_eq!(replica.sign_ins(), 2);
    let late = complain(Duration::ZERO).await.expect("there is a token");
    assert_eq!((late.outcome, replica.sign_ins()), (Outcome::Hit, 2));
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_hangs_holds_a_good_token_back_for_a_second_once() {
    let replica = Replica::new(1);
    let cached = replica.ask(0, Duration::from_secs(30)).await.0.expect("there is a token").cached;
    replica.vault.off.store(true, Ordering::Relaxed);
    // Into the margin, the last 30 s, and past what the renewals before it left behind.
    sleep(LIFETIME - Duration::from_secs(29)).await;
    let mut held_back = Duration::ZERO;
    for _ in 0..200 {
        let (answer, waited) = replica.ask(0, Duration::from_secs(30)).await;
        assert_eq!(answer.expect("it lives").cached.id(), cached.id());
        held_back += waited;
        sleep(Duration::from_millis(100)).await;
    }
    let sign_ins = u32::try_from(replica.sign_ins()).expect("is small");
    assert!(held_back <= Duration::from_secs(1) * sign_ins && sign_ins <= 8, "{held_back:?}, {sign_ins} sign-ins");
    assert!(held_back > Duration::ZERO, "the margin was reached");
}

#[tokio::test(start_paused = true)]
async fn replicas_that_revoke_each_others_tokens_slow_down() {
    let vault = Arc::new(Switched::default());
    let replicas = [Replica::over(Arc::clone(&vault), 1, 1), Replica::over(Arc::clone(&vault), 1, 2)];
    let mut complaints = 0;
    // An hour in which a caller of each uses its token every second; each sign-in has killed all earlier tokens.
    for _ in 0..3_600 {
        for replica in &replicas {
            let cached = replica.ask(0, Duration::from_secs(30)).await.0.expect("there is a token").cached;
            let newest = format!("{}-{}", key(0).number.expose(), replica.sign_ins() - 1);
            if cached.id() != TokenId::of(&newest) {
                complaints += 1;
                drop(replica.complain(0, &cached.id().to_string(), Duration::from_millis(100)).await);
            }
        }
        sleep(Duration::from_secs(1)).await;
    }
    let (sign_ins, doublings) =
        (replicas[0].sign_ins(), replicas.each_ref().map(|replica| replica.broker.metrics.floor_doublings.get()));
    println!("{sign_ins} sign-ins in an hour, {complaints} complaints, the floors doubled {doublings:?} times");
    // Each replica's floor grows to half a lifetime, 150 s: 24 an hour, and the few before that; at the floor of 5 s it would be 720.
    assert!((40..=2 * 32).contains(&sign_ins), "{sign_ins}");
    assert!(doublings.iter().all(|doublings| *doublings >= 5), "{doublings:?}");
}

#[tokio::test(start_paused = true)]
async fn the_renewals_of_twenty_thousand_users_spread_out() {
    const BUSY: usize = 20_000;
    let replica = Replica::new(100_000);
    assert!(replica.ask_first(BUSY, Duration::from_secs(60)).await.iter().all(|(answer, _)| answer.is_ok()));
    let began = Instant::now();
    let mut asked = 0;
    while began.elapsed() < Duration::from_secs(3_000) {
        for _ in 0..100 {
            asked += 7;
            let (answer, waited) = replica.ask(asked % BUSY, Duration::from_secs(30)).await;
            let at_once = answer.is_ok_and(|answer| matches!(answer.outcome, Outcome::Hit | Outcome::Due));
            assert!(at_once && waited.is_zero(), "a busy user's caller waits once, at first");
        }
        sleep(Duration::from_secs(5)).await;
    }
    let begun = replica.vault.begun.lock().expect("no panic").clone();
    // The last third: by then every token has been renewed about eight times.
    let mut seconds = vec![0u32; 1_000];
    for at in begun.iter().filter_map(|at| at.checked_duration_since(began + Duration::from_secs(2_000))) {
        if let Some(second) = usize::try_from(at.as_secs()).ok().and_then(|second| seconds.get_mut(second)) {
            *second += 1;
        }
    }
    let (most, mean) = (seconds.iter().max().copied().unwrap_or_default(), f64::from(seconds.iter().sum::<u32>()) / 1_000.0);
    println!("renewals a second: {most} at most, {mean:.1} on average");
    assert!(f64::from(most) < 2.0 * mean, "{most} against {mean}");
    // As late as they may be: 300 s less the margin of 30 s and some of the jitter of 30 s.
    assert!((20_000.0 / 270.0..20_000.0 / 240.0).contains(&mean), "{mean}");
}
