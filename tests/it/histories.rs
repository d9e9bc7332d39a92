//! Histories of the core that nobody had thought of, in paused time: what is in force now judges what was before.
//!
//! Each was once a fault. The simulation draws such histories by the thousand; here they are told one by one.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use token_broker::{
    broker::{Answer, Broker, BrokerError, Request},
    cache::Cache,
    clock::SystemClock,
    config::{Renewal, User},
    flight::Parts,
    model::{CallerId, MerchantId, Number, UserKey},
    pacing::Rules,
    policy::Policy,
    renewal::Agenda,
    secret::Secret,
    snapshot::{Configuration, Settings},
    traces::{Context, Span, Traces},
    vault::{Failure, Grant, Refusal, SignIn, SigningIn},
};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

type Answering = Pin<Box<dyn Future<Output = Result<Grant, Failure>> + Send>>;

/// A vault that does as a closure says, which gets the number and the password.
struct Scripted<F>(F);

impl<F: Fn(String, String) -> Answering + Send + Sync + 'static> SignIn for Scripted<F> {
    fn sign_in<'a>(&'a self, user: &'a UserKey, password: &'a Secret, _: Option<Context>) -> SigningIn<'a> {
        (self.0)(user.number.expose().to_owned(), password.expose().to_owned())
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn key(n: usize) -> UserKey {
    let merchant = MerchantId::parse("m".to_owned()).expect("is valid");
    UserKey { merchant, number: Number::parse(format!("+4478{n:08}")).expect("is valid") }
}

fn user(n: usize, password: &str) -> User {
    User { key: key(n), password: Secret::from(password), attempt: 0 }
}

fn grant(text: &str, lifetime: Duration) -> Result<Grant, Failure> {
    Ok(Grant { access_token: Secret::from(text), scope: String::new(), lifetime, lifetime_is_bounded: false })
}

fn refused() -> Failure {
    Failure::Refused { why: Refusal::Credentials, vault_error: String::new() }
}

fn down() -> Failure {
    Failure::Unavailable { cause: "down", wait: None, vault_error: String::new() }
}

const RULES: Rules = Rules { min_sign_in_interval: Duration::from_secs(5), refusal_hold: Duration::from_secs(86_400) };

/// Sign-ins at the vault of this name.
fn at(upstream: &str, vault: impl Fn(String, String) -> Answering + Send + Sync + 'static) -> Settings {
    Settings {
        upstream: Arc::from(upstream),
        sign_in: Arc::new(Scripted(vault)),
        rules: RULES,
        renewal: Renewal::Ahead,
        max_concurrent_sign_ins: 64,
        idle_after: secs(3_600),
    }
}

/// A broker in this process.
struct House {
    broker: Arc<Broker>,
    closing: CancellationToken,
}

impl House {
    fn new(users: Vec<User>, settings: Settings) -> Self {
        let clock = Arc::new(SystemClock);
        let parts = Parts {
            clock: clock.clone(),
            cache: Cache::new(users.len()),
            agenda: Arc::new(Agenda::new(clock)),
            metrics: Arc::default(),
            traces: Traces::default(),
            runtime: Handle::current(),
            seed: 7,
        };
        let closing = CancellationToken::new();
        let configuration = Configuration { users, policy: Policy::Everyone, settings };
        let broker = Arc::new(Broker::new(parts, configuration, closing.clone()));
        let renewing = Arc::clone(&broker);
        tokio::spawn(async move { renewing.renew_ahead().await });
        Self { broker, closing }
    }

    fn reload(&self, users: Vec<User>, settings: &Settings) {
        self.broker.reconfigure(Configuration { users, policy: Policy::Everyone, settings: settings.clone() });
    }

    /// A call, under way already when this returns to the runtime.
    fn call(
        &self,
        n: usize,
        patience: Duration,
        rejected: &[String],
    ) -> impl Future<Output = Result<String, BrokerError>> + use<> {
        let request = Request {
            key: key(n),
            min_remaining: Duration::ZERO,
            rejected_token_ids: rejected.to_vec(),
            deadline: Instant::now() + patience,
            span: Span::default(),
        };
        let broker = Arc::clone(&self.broker);
        async move {
            let answer = broker.get_token(&CallerId::Anonymous, &request).await;
            answer.map(|answer| text(&answer)).map_err(|none| none.error)
        }
    }

    async fn token(&self, n: usize) -> String {
        self.call(n, secs(30), &[]).await.expect("there is a token")
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

fn text(answer: &Answer) -> String {
    answer.held.token.access_token.expose().to_owned()
}

fn id(text: &str) -> String {
    token_broker::model::TokenId::of(text).to_string()
}

/// A vault that takes three seconds to answer `former`, and one that gives `next` at once.
fn two_vaults(former: fn() -> Result<Grant, Failure>) -> (Settings, Settings) {
    let slow = at("former", move |_, _| {
        Box::pin(async move {
            sleep(secs(3)).await;
            former()
        })
    });
    (slow, at("next", |_, _| Box::pin(async { grant("next", secs(86_400)) })))
}

#[tokio::test(start_paused = true)]
async fn another_vaults_token_is_answered_to_nobody() {
    let (former, next) = two_vaults(|| grant("former", secs(86_400)));
    let house = House::new(vec![user(1, "a"), user(2, "a")], former.clone());
    assert_eq!(house.token(1).await, "former");
    house.reload(vec![user(1, "a"), user(2, "a")], &next);
    assert_eq!(house.token(1).await, "next", "at once, though the floor of the former still lasts");
    // And back: what it gave before is gone.
    house.reload(vec![user(1, "a"), user(2, "a")], &former);
    let asked = Instant::now();
    assert_eq!((house.token(1).await.as_str(), asked.elapsed()), ("former", secs(3)));
}

#[tokio::test(start_paused = true)]
async fn what_another_vault_brings_after_the_switch_is_void_and_callers_get_the_next_ones() {
    for former in [|| grant("former", secs(86_400)), || Err(refused()), || Err(down())] {
        let (former, next) = two_vaults(former);
        let house = House::new(vec![user(1, "a")], former);
        let in_the_air = tokio::spawn(house.call(1, secs(30), &[]));
        sleep(secs(1)).await;
        house.reload(vec![user(1, "a")], &next);
        assert_eq!(in_the_air.await.expect("no panic").as_deref(), Ok("next"));
        sleep(secs(3_600)).await;
        assert_eq!(house.token(1).await, "next");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_former_vault_is_none_of_the_next() {
    let former = at("former", |_, _| Box::pin(async { Err(down()) }));
    let next = at("next", |_, _| Box::pin(async { grant("next", secs(60)) }));
    let users = || (0..5).map(|n| user(n, "a")).collect::<Vec<_>>();
    let house = House::new(users(), former);
    for n in 0..4 {
        house.call(n, secs(1), &[]).await.expect_err("it is down");
    }
    house.reload(users(), &next);
    for n in 0..5 {
        assert_eq!(house.call(n, secs(1), &[]).await.as_deref(), Ok("next"), "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn resized_again_and_again_there_are_no_more_at_once_than_now() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (there, peak) = (Arc::clone(&now), Arc::clone(&most));
    let hanging = at("vault", move |number, _| {
        let (now, peak) = (Arc::clone(&there), Arc::clone(&peak));
        Box::pin(async move {
            peak.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            sleep(secs(10)).await;
            now.fetch_sub(1, Ordering::Relaxed);
            grant(&number, secs(3_600))
        })
    });
    let users = || (0..100).map(|n| user(n, "a")).collect::<Vec<_>>();
    let with = |most| Settings { max_concurrent_sign_ins: most, ..hanging.clone() };
    let house = House::new(users(), with(8));
    let mut calls = JoinSet::new();
    for n in 0..100 {
        calls.spawn(house.call(n, secs(500), &[]));
    }
    for most in [1, 8, 1, 8, 3, 5, 8] {
        sleep(secs(1)).await;
        house.reload(users(), &with(most));
    }
    sleep(secs(20)).await;
    house.reload(users(), &with(2));
    sleep(secs(11)).await;
    assert_eq!(now.load(Ordering::Relaxed), 2, "and no fewer");
    assert_eq!(calls.join_all().await.iter().filter(|answer| answer.is_ok()).count(), 100);
    assert_eq!(most.load(Ordering::Relaxed), 8);
}

/// A vault of tokens that it gives again until their end, whatever `expires_in` says.
fn same_token(rules: Rules) -> Settings {
    let began = Instant::now();
    let vault = at("vault", move |_, _| {
        let hour = began.elapsed().as_secs() / 3_600;
        let granted = Grant {
            access_token: Secret::from(format!("hour-{hour}").as_str()),
            scope: String::new(),
            lifetime: secs(3_600),
            lifetime_is_bounded: true,
        };
        Box::pin(async move { Ok(granted) })
    });
    Settings { rules, ..vault }
}

#[tokio::test(start_paused = true)]
async fn a_floor_does_not_outlast_the_token() {
    let house = House::new(vec![user(1, "a")], same_token(Rules { min_sign_in_interval: secs(1_800), ..RULES }));
    let mut without = 0;
    for _ in 0..3 * 3_600 {
        without += u32::from(house.call(1, Duration::from_millis(500), &[]).await.is_err());
        sleep(Duration::from_millis(500)).await;
    }
    assert!(without <= 3, "{without} calls without a token");
}

#[tokio::test(start_paused = true)]
async fn nor_does_one_that_complaints_have_doubled() {
    let (began, house) = (Instant::now(), House::new(vec![user(1, "a")], same_token(RULES)));
    let mut without = 0;
    while began.elapsed() < secs(4_500) {
        match house.call(1, Duration::from_millis(200), &[]).await {
            Ok(token) if token == "hour-0" && began.elapsed() > secs(2_700) => {
                drop(house.call(1, Duration::from_millis(200), &[id(&token)]).await);
            }
            Ok(_) => {}
            Err(_) => without += 1,
        }
        sleep(Duration::from_millis(600)).await;
    }
    assert!(without <= 3, "{without} calls without a token");
}

#[tokio::test(start_paused = true)]
async fn a_straggler_keeps_no_probe_away() {
    let broken = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&broken);
    let vault = at("vault", move |number, _| {
        let broken = state.load(Ordering::Relaxed);
        let hangs = number.ends_with("00000000");
        Box::pin(async move {
            sleep(if hangs { secs(120) } else { Duration::from_millis(50) }).await;
            if broken || hangs { Err(down()) } else { grant(&number, secs(3_600)) }
        })
    });
    for most in [2, 64] {
        broken.store(true, Ordering::Relaxed);
        let settings = Settings { max_concurrent_sign_ins: most, ..vault.clone() };
        let house = House::new((0..100).map(|n| user(n, "a")).collect(), settings);
        let straggler = tokio::spawn(house.call(0, secs(300), &[]));
        sleep(Duration::from_millis(100)).await;
        // Those in the queue when it goes down hear so, too.
        let (one, two, three, four) = tokio::join!(
            house.call(1, secs(10), &[]),
            house.call(2, secs(10), &[]),
            house.call(3, secs(10), &[]),
            house.call(4, secs(10), &[]),
        );
        assert!([one, two, three, four].iter().all(Result::is_err));
        sleep(secs(2)).await;
        house.call(5, secs(1), &[]).await.expect_err("it is down");
        broken.store(false, Ordering::Relaxed);
        let back = Instant::now();
        let mut n = 10;
        while house.call(n, secs(30), &[]).await.is_err() {
            n = 10 + (n - 9) % 80;
            sleep(Duration::from_millis(200)).await;
        }
        assert!(back.elapsed() <= secs(3), "{most}: {:?}", back.elapsed());
        straggler.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_password_is_not_sent_again_however_it_comes_back() {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sent);
    let vault = at("vault", move |_, password| {
        seen.lock().expect("no panic").push(password);
        Box::pin(async { Err(refused()) })
    });
    let elsewhere = at("elsewhere", |_, _| Box::pin(async { grant("elsewhere", secs(60)) }));
    let house = House::new(vec![user(1, "a")], vault.clone());
    for password in ["b", "a", "c", "b", "a", "c"] {
        drop(house.call(1, secs(5), &[]).await);
        house.reload(vec![user(1, password)], &vault);
        sleep(secs(2)).await;
    }
    // Another vault in between changes nothing.
    house.reload(vec![user(1, "a")], &elsewhere);
    assert_eq!(house.token(1).await, "elsewhere");
    house.reload(vec![user(1, "a")], &vault);
    house.call(1, secs(5), &[]).await.expect_err("it was refused");
    assert_eq!(*sent.lock().expect("no panic"), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn renewal_and_idle_after_count_for_tokens_that_are_held() {
    let sign_ins = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sign_ins);
    let ahead = at("vault", move |_, _| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { grant(&format!("token-{n}"), secs(300)) })
    });
    let at_expiry = Settings { renewal: Renewal::AtExpiry, ..ahead.clone() };
    let users = || vec![user(1, "a")];
    let house = House::new(users(), ahead.clone());
    house.token(1).await;
    house.reload(users(), &at_expiry);
    sleep(secs(290)).await;
    house.token(1).await;
    assert_eq!(sign_ins.load(Ordering::Relaxed), 1, "not ahead any more");
    house.reload(users(), &ahead);
    sleep(secs(1)).await;
    assert_eq!(sign_ins.load(Ordering::Relaxed), 2, "and ahead again, though nobody asks");
    // Idle for a second: not renewed. Not idle any more: renewed after all.
    house.reload(users(), &Settings { idle_after: secs(1), ..ahead.clone() });
    sleep(secs(280)).await;
    assert_eq!(sign_ins.load(Ordering::Relaxed), 2);
    house.reload(users(), &ahead);
    sleep(secs(1)).await;
    assert_eq!(sign_ins.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn floors_and_holds_in_force_count_for_who_waits_already() {
    let slow = |rules: Rules, settings: &Settings| Settings { rules, ..settings.clone() };
    let sign_ins = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sign_ins);
    let vault = at("vault", move |number, _| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        let refuses = number.ends_with('2') && n < 2;
        Box::pin(async move { if refuses { Err(refused()) } else { grant(&format!("token-{n}"), secs(86_400)) } })
    });
    let users = || vec![user(1, "a"), user(2, "a")];
    let house = House::new(users(), slow(Rules { min_sign_in_interval: secs(3_600), ..RULES }, &vault));
    let first = house.token(1).await;
    house.call(2, secs(5), &[]).await.expect_err("it is refused");
    // It waits for an hour's floor, which then is 5 s.
    let waiting = tokio::spawn(house.call(1, secs(7_200), &[id(&first)]));
    sleep(secs(10)).await;
    house.reload(users(), &vault);
    let waited = Instant::now();
    assert_ne!(waiting.await.expect("no panic").expect("there is a token"), first);
    assert_eq!(waited.elapsed(), Duration::ZERO);
    house.call(2, secs(5), &[]).await.expect_err("it is held for a day");
    house.reload(users(), &slow(Rules { refusal_hold: secs(5), ..RULES }, &vault));
    house.token(2).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_renewal_while_the_token_is_good() {
    let issued = AtomicUsize::new(0);
    let vault = at("vault", move |number, _| {
        let n = issued.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            sleep(Duration::from_millis(800)).await;
            grant(&format!("{number}-{n}"), secs(60))
        })
    });
    let house = House::new(vec![user(1, "a")], vault);
    house.token(1).await;
    let (began, mut waits) = (Instant::now(), 0);
    while began.elapsed() < secs(10 * 3_600) {
        let before = Instant::now();
        house.token(1).await;
        waits += u32::from(!before.elapsed().is_zero());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(waits, 0, "of about 700 renewals");
}

/// Users and vault are replaced by one reload, again and again, while callers ask: each password is for one vault alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_password_goes_to_another_vault_than_its_own() {
    const RELOADS: usize = 20_000;
    let strayed = Arc::new(Mutex::new(Vec::new()));
    let vault = |round: usize| {
        let strayed = Arc::clone(&strayed);
        at(&round.to_string(), move |number, password| {
            if password != round.to_string() {
                strayed.lock().expect("no panic").push((round, password));
            }
            Box::pin(async move { grant(&number, secs(3_600)) })
        })
    };
    let house = House::new(vec![user(0, "0")], vault(0));
    let (current, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut calling = JoinSet::new();
    for _ in 0..2 {
        let (broker, current, over) = (Arc::clone(&house.broker), Arc::clone(&current), Arc::clone(&over));
        calling.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let request = Request {
                    key: key(current.load(Ordering::Relaxed) + 1),
                    min_remaining: Duration::ZERO,
                    rejected_token_ids: Vec::new(),
                    deadline: Instant::now() + Duration::from_millis(50),
                    span: Span::default(),
                };
                // Most ask too early or too late.
                drop(broker.get_token(&CallerId::Anonymous, &request).await);
                tokio::task::yield_now().await;
            }
        });
    }
    let (broker, vaults) = (Arc::clone(&house.broker), (1..=RELOADS).map(vault).collect::<Vec<_>>());
    let reloading = tokio::task::spawn_blocking(move || {
        for (round, settings) in (1..=RELOADS).zip(vaults) {
            let users = vec![user(round, &round.to_string())];
            broker.reconfigure(Configuration { users, policy: Policy::Everyone, settings });
            current.store(round, Ordering::Relaxed);
        }
    });
    reloading.await.expect("no panic");
    over.store(true, Ordering::Relaxed);
    calling.join_all().await;
    assert!(strayed.lock().expect("no panic").is_empty(), "{strayed:?}");
}
