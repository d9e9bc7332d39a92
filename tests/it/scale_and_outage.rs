//! The broker at scale and while the vault is away, in paused time: a simulated vault, the real broker.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use token_broker::{
    broker::{Answer, Broker, BrokerError, Outcome, Request},
    caller::CallerId,
    clock::SystemClock,
    config::{Renewal, User},
    live::{Configuration, Settings},
    policy::Policy,
    secret::Secret,
    signin::{Parts, WAITERS_PER_FLIGHT_MAX},
    telemetry::{
        metrics::Metrics,
        traces::{Context, Span, Traces},
    },
    tokens::{cache::Cache, token::TokenId},
    user::{MerchantId, Number, UserKey},
    users::{holds::Rules, refresh_queue::RefreshQueue},
    vault::{Failure, Grant, SignIn, SigningIn},
};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

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
    fn sign_in<'a>(&'a self, user: &'a UserKey, _password: &'a Secret, _: Option<Context>) -> SigningIn<'a> {
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

struct House {
    broker: Arc<Broker>,
    vault: Arc<Switched>,
    metrics: Arc<Metrics>,
    users: Vec<UserKey>,
    closing: CancellationToken,
}

impl House {
    fn new(users: usize) -> Self {
        Self::over(Arc::default(), users, 1)
    }

    /// A broker of its own over a vault that others may use too.
    fn over(vault: Arc<Switched>, users: usize, seed: u64) -> Self {
        let users: Vec<_> = (0..users)
            .map(|n| UserKey {
                merchant: MerchantId::parse("m".to_owned()).expect("is valid"),
                number: Number::parse(format!("+4478{n:08}")).expect("is valid"),
            })
            .collect();
        let configured = users.iter().map(|key| User { key: key.clone(), password: Secret::from("simulated"), attempt: 0 });
        let (metrics, clock) = (Arc::new(Metrics::default()), Arc::new(SystemClock));
        let settings = Settings {
            upstream: Arc::from("the vault"),
            sign_in: vault.clone(),
            rules: Rules { min_sign_in_interval: Duration::from_secs(5), refusal_hold: Duration::from_secs(86_400) },
            renewal: Renewal::Ahead,
            max_concurrent_sign_ins: 64,
            idle_after: Duration::from_secs(3_600),
        };
        let parts = Parts {
            clock: clock.clone(),
            cache: Cache::new(users.len()),
            refresh_queue: Arc::new(RefreshQueue::new(clock)),
            metrics: Arc::clone(&metrics),
            traces: Traces::default(),
            runtime: Handle::current(),
            seed,
        };
        let closing = CancellationToken::new();
        let configuration = Configuration { users: configured.collect(), policy: Policy::Everyone, settings };
        let broker = Arc::new(Broker::new(parts, configuration, closing.clone()));
        let renewing = Arc::clone(&broker);
        tokio::spawn(async move { renewing.renew_ahead().await });
        Self { broker, vault, metrics, users, closing }
    }

    async fn ask(&self, user: usize, patience: Duration) -> (Result<Answer, BrokerError>, Duration) {
        ask(Arc::clone(&self.broker), self.users[user].clone(), patience).await
    }

    /// All users at once.
    async fn ask_all(&self, patience: Duration) -> Vec<(Result<Answer, BrokerError>, Duration)> {
        self.ask_first(self.users.len(), patience).await
    }

    /// So many of them at once.
    async fn ask_first(&self, users: usize, patience: Duration) -> Vec<(Result<Answer, BrokerError>, Duration)> {
        let mut asking = JoinSet::new();
        for user in self.users.iter().take(users) {
            asking.spawn(ask(Arc::clone(&self.broker), user.clone(), patience));
        }
        asking.join_all().await
    }

    /// Reports a user's token as rejected by the vault's API.
    fn complain(
        &self,
        user: usize,
        token_id: &str,
        patience: Duration,
    ) -> impl Future<Output = Result<Answer, BrokerError>> + Send + use<> {
        let (broker, key, rejected_token_ids) = (Arc::clone(&self.broker), self.users[user].clone(), vec![token_id.to_owned()]);
        let request = Request {
            key,
            min_remaining: Duration::ZERO,
            rejected_token_ids,
            deadline: Instant::now() + patience,
            span: Span::default(),
        };
        async move { broker.get_token(&CallerId::Anonymous, &request).await.map_err(|why| why.error) }
    }

    fn sign_ins(&self) -> u64 {
        self.vault.sign_ins.load(Ordering::Relaxed)
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

async fn ask(broker: Arc<Broker>, key: UserKey, patience: Duration) -> (Result<Answer, BrokerError>, Duration) {
    let before = Instant::now();
    let request = Request {
        key,
        min_remaining: Duration::ZERO,
        rejected_token_ids: Vec::new(),
        deadline: before + patience,
        span: Span::default(),
    };
    (broker.get_token(&CallerId::Anonymous, &request).await.map_err(|why| why.error), before.elapsed())
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_cold_users_at_once_are_all_served_by_sixty_four_sign_ins_at_a_time() {
    let house = House::new(10_000);
    let answers = house.ask_all(Duration::from_secs(30)).await;
    assert!(answers.iter().all(|(answer, _)| answer.is_ok()));
    assert_eq!((house.sign_ins(), house.vault.most_at_once.load(Ordering::Relaxed)), (10_000, 64));
}

#[tokio::test(start_paused = true)]
async fn once_the_vault_is_known_to_be_down_nobody_waits_for_it_and_one_at_a_time_probes() {
    let house = House::new(1_000);
    house.vault.off.store(true, Ordering::Relaxed);
    // The first ones find out, at the cost of a timeout; those queued behind them learn it as soon as it is known.
    let answers = house.ask_all(Duration::from_secs(30)).await;
    assert!(answers.iter().all(|(answer, waited)| answer.is_err() && *waited < TIMEOUT + Duration::from_secs(1)));
    let before = house.sign_ins();
    house.vault.most_at_once.store(0, Ordering::Relaxed);

    let down = Instant::now();
    let mut user = 0;
    while down.elapsed() < Duration::from_secs(300) {
        user = (user + 1) % house.users.len();
        let (answer, waited) = house.ask(user, Duration::from_secs(30)).await;
        assert!(matches!(answer, Err(BrokerError::VaultUnavailable { .. })), "{answer:?}");
        assert!(waited <= Duration::from_secs(1), "{waited:?}");
        sleep(Duration::from_millis(100)).await;
    }
    let probes = house.sign_ins() - before;
    assert!((10..=40).contains(&probes), "{probes} probes in 300 s");
    // One that hangs for eight of its ten seconds keeps the next away no longer.
    assert!(house.vault.most_at_once.load(Ordering::Relaxed) <= 2);

    // Back: found within a probe's pause, and everybody is served without a stampede.
    house.vault.off.store(false, Ordering::Relaxed);
    let back = Instant::now();
    timeout(Duration::from_secs(60), async {
        while house.ask(0, Duration::from_secs(30)).await.0.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("it is found");
    assert!(back.elapsed() < Duration::from_secs(25), "{:?}", back.elapsed());
    let mut served = 0;
    for _ in 0..100 {
        served = house.ask_all(Duration::from_secs(30)).await.iter().filter(|(answer, _)| answer.is_ok()).count();
        if served == house.users.len() {
            break;
        }
        sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(served, house.users.len());
    assert!(house.vault.most_at_once.load(Ordering::Relaxed) <= 64);
}

#[tokio::test(start_paused = true)]
async fn busy_users_never_wait_while_their_tokens_are_renewed_and_idle_ones_are_left_alone() {
    let house = House::new(200);
    house.ask_all(Duration::from_secs(30)).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2_400) {
        for user in 0..20 {
            let (answer, waited) = house.ask(user, Duration::from_secs(30)).await;
            assert!(answer.is_ok() && waited.is_zero(), "{waited:?} {answer:?}");
        }
        sleep(Duration::from_secs(7)).await;
    }
    let before = house.sign_ins();
    // An hour after they were asked for, the others are not renewed any more.
    sleep(Duration::from_secs(2_400)).await;
    let idle_after = house.sign_ins();
    assert!(idle_after > before);
    sleep(Duration::from_secs(3_600)).await;
    let left = house.sign_ins();
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(house.sign_ins(), left, "nobody asks for anybody");
}

#[tokio::test(start_paused = true)]
async fn a_full_flight_sheds_the_caller_and_never_a_hit() {
    let house = House::new(2);
    assert!(house.ask(1, Duration::from_secs(30)).await.0.is_ok());
    house.vault.off.store(true, Ordering::Relaxed);
    let mut waiting = JoinSet::new();
    for _ in 0..=WAITERS_PER_FLIGHT_MAX {
        waiting.spawn(ask(Arc::clone(&house.broker), house.users[0].clone(), Duration::from_secs(30)));
    }
    let (first, waited) = waiting.join_next().await.expect("somebody is shed").expect("no panic");
    assert!(matches!(first, Err(BrokerError::Overloaded { .. })) && waited.is_zero(), "{waited:?} {first:?}");
    let (hit, waited) = house.ask(1, Duration::from_secs(30)).await;
    assert!(hit.is_ok_and(|answer| answer.outcome == Outcome::Hit) && waited.is_zero());
    assert_eq!(house.broker.waiting(), WAITERS_PER_FLIGHT_MAX);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_complaints_cost_one_sign_in_and_late_reporters_get_the_new_token() {
    let house = House::new(1);
    let dead = house.ask(0, Duration::from_secs(30)).await.0.expect("there is a token").cached.id().to_string();
    let complain = |patience| house.complain(0, &dead, patience);
    let mut complaining = JoinSet::new();
    for _ in 0..10_000 {
        complaining.spawn(complain(Duration::from_secs(30)));
    }
    let answers = complaining.join_all().await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.cached.id().to_string() != dead)));
    assert_eq!(house.sign_ins(), 2);
    let late = complain(Duration::ZERO).await.expect("there is a token");
    assert_eq!((late.outcome, house.sign_ins()), (Outcome::Hit, 2));
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_hangs_holds_a_good_token_back_for_a_second_once() {
    let house = House::new(1);
    let held = house.ask(0, Duration::from_secs(30)).await.0.expect("there is a token").cached;
    house.vault.off.store(true, Ordering::Relaxed);
    // Into the margin, the last 30 s, and past what the renewals before it left behind.
    sleep(LIFETIME - Duration::from_secs(29)).await;
    let mut held_back = Duration::ZERO;
    for _ in 0..200 {
        let (answer, waited) = house.ask(0, Duration::from_secs(30)).await;
        assert_eq!(answer.expect("it lives").cached.id(), held.id());
        held_back += waited;
        sleep(Duration::from_millis(100)).await;
    }
    let sign_ins = u32::try_from(house.sign_ins()).expect("is small");
    assert!(held_back <= Duration::from_secs(1) * sign_ins && sign_ins <= 8, "{held_back:?}, {sign_ins} sign-ins");
    assert!(held_back > Duration::ZERO, "the margin was reached");
}

#[tokio::test(start_paused = true)]
async fn replicas_that_revoke_each_others_tokens_slow_down() {
    let vault = Arc::new(Switched::default());
    let replicas = [House::over(Arc::clone(&vault), 1, 1), House::over(Arc::clone(&vault), 1, 2)];
    let mut complaints = 0;
    // An hour in which a caller of each uses its token every second; each sign-in has killed all earlier tokens.
    for _ in 0..3_600 {
        for replica in &replicas {
            let held = replica.ask(0, Duration::from_secs(30)).await.0.expect("there is a token").cached;
            let newest = format!("{}-{}", replica.users[0].number.expose(), replica.sign_ins() - 1);
            if held.id() != TokenId::of(&newest) {
                complaints += 1;
                drop(replica.complain(0, &held.id().to_string(), Duration::from_millis(100)).await);
            }
        }
        sleep(Duration::from_secs(1)).await;
    }
    let (sign_ins, doublings) =
        (replicas[0].sign_ins(), replicas.each_ref().map(|replica| replica.metrics.floor_doublings.get()));
    println!("{sign_ins} sign-ins in an hour, {complaints} complaints, the floors doubled {doublings:?} times");
    // Each replica's floor grows to half a lifetime, 150 s: 24 an hour, and the few before that; at the floor of 5 s it would be 720.
    assert!((40..=2 * 32).contains(&sign_ins), "{sign_ins}");
    assert!(doublings.iter().all(|doublings| *doublings >= 5), "{doublings:?}");
}

#[tokio::test(start_paused = true)]
async fn the_renewals_of_twenty_thousand_users_spread_out() {
    const BUSY: usize = 20_000;
    let house = House::new(100_000);
    assert!(house.ask_first(BUSY, Duration::from_secs(60)).await.iter().all(|(answer, _)| answer.is_ok()));
    let began = Instant::now();
    let mut asked = 0;
    while began.elapsed() < Duration::from_secs(3_000) {
        for _ in 0..100 {
            asked += 7;
            let (answer, waited) = house.ask(asked % BUSY, Duration::from_secs(30)).await;
            let at_once = answer.is_ok_and(|answer| matches!(answer.outcome, Outcome::Hit | Outcome::Due));
            assert!(at_once && waited.is_zero(), "a busy user's caller waits once, at first");
        }
        sleep(Duration::from_secs(5)).await;
    }
    let begun = house.vault.begun.lock().expect("no panic").clone();
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
