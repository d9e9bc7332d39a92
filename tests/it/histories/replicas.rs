//! Replicas over a simulated tier: what one learns of another, late, at a bad moment, or from a server that is of no use.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use token_broker::{
    broker::{BrokerError, Outcome},
    live::Settings,
    tier::{Condition, LinkError},
    users::holds::Rules,
    vault::{Failure, Grant},
};
use tokio::time::{Instant, sleep};

use crate::{
    simulation::fleet::{
        server::{Server, Way},
        truth::{self, Truth},
        vault::MachineClock,
    },
    support::{
        broker_in_memory::{BrokerInMemory, RULES, user},
        scripted_vault::{at, down, grant, id, refused, secs},
    },
};

/// What a call may wait for.
const PATIENCE: Duration = Duration::from_secs(30);
/// A server that is known to be away costs a call so much at most.
const AWAY_COSTS: Duration = Duration::from_millis(5);
/// News are everywhere by then.
const HEARD: Duration = Duration::from_millis(100);

/// Replicas, and the server between them.
struct Fleet {
    server: Arc<Server>,
    truth: Arc<Truth>,
    replicas: Vec<BrokerInMemory>,
}

impl Fleet {
    /// One replica for each of these, in order.
    fn of(settings: Vec<Settings>) -> Self {
        Self::with_users(settings, 1)
    }

    fn with_users(settings: Vec<Settings>, users: usize) -> Self {
        let truth = Arc::new(Truth::new(truth::Rules { floor: Duration::ZERO, hold: RULES.refusal_hold }));
        let server = Arc::new(Server::new(Arc::clone(&truth), fastrand::Rng::with_seed(7)));
        let replicas = settings.into_iter().zip(0..).map(|(settings, replica)| {
            let clock = Arc::new(MachineClock { truth: Arc::clone(&truth), skew: AtomicI64::new(0) });
            let users = (0..users).map(|n| user(n, "a")).collect();
            BrokerInMemory::sharing(users, settings, clock, Arc::new(Way { server: Arc::clone(&server), replica }))
        });
        Self { replicas: replicas.collect(), server, truth }
    }

    /// Of user 0 at this replica.
    async fn call(&self, replica: usize) -> Result<String, BrokerError> {
        self.replicas[replica].call(0, PATIENCE, &[]).await
    }

    async fn complain(&self, replica: usize, of: &str) -> Result<String, BrokerError> {
        self.replicas[replica].call(0, PATIENCE, &[id(of)]).await
    }

    /// How long a call for a user takes of whom nothing is known.
    async fn miss(&self, replica: usize, user: usize) -> Duration {
        let began = Instant::now();
        self.replicas[replica].call(user, PATIENCE, &[]).await.expect("there is a token");
        began.elapsed()
    }

    fn condition(&self, replica: usize) -> Condition {
        self.replicas[replica].tier.condition().expect("there is a tier")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.truth.violations(), Vec::<String>::new());
        }
    }
}

fn without_floor(settings: Settings) -> Settings {
    Settings { rules: Rules { min_sign_in_interval: Duration::ZERO, ..RULES }, ..settings }
}

/// The vault of one replica: it answers these in order, each after a while, and then no more.
fn answering(answers: Vec<(Duration, Result<Grant, Failure>)>) -> Settings {
    let answers = Mutex::new(answers.into_iter());
    without_floor(at("vault", move |_, _| {
        let next = answers.lock().expect("no panic").next();
        Box::pin(async move {
            let (after, answer) = next.expect("nobody signs in more often");
            sleep(after).await;
            answer
        })
    }))
}

/// Grants everybody something at once, and counts.
fn granting() -> (Settings, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    let settings = at("vault", move |number, _| {
        let n = counting.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { grant(&format!("{number}-{n}"), secs(3_600)) })
    });
    (without_floor(settings), count)
}

const AT_ONCE: Duration = Duration::ZERO;

/// It is the user's token all the same, for all who want less.
#[tokio::test(start_paused = true)]
async fn anothers_token_that_is_too_short_for_one_caller_or_complained_of_by_it_is_kept_for_the_others() {
    for complains in [false, true] {
        let theirs = answering(vec![(AT_ONCE, grant("theirs", secs(100)))]);
        let fleet = Fleet::of(vec![answering(vec![(AT_ONCE, Err(down()))]), theirs]);
        assert_eq!(fleet.call(1).await.as_deref(), Ok("theirs"));
        sleep(HEARD).await;
        if complains {
            fleet.complain(0, "theirs").await.expect_err("the vault is down");
        } else {
            fleet.replicas[0].longer(0, secs(200)).await.expect_err("the vault is down");
        }
        // Its own sign-in failed, so nothing is looked for again.
        let answer = fleet.replicas[0].answer(0, PATIENCE, &[]).await.expect("there is one");
        assert_eq!((answer.cached.token.access_token.expose(), answer.outcome), ("theirs", Outcome::Hit), "{complains}");
    }
}

/// Whoever writes to the server says how long an entry is kept, and so how old it looks. Its generation tells.
#[tokio::test(start_paused = true)]
async fn a_former_entry_that_is_put_back_with_a_longer_life_is_not_new() {
    let ours = answering(vec![(AT_ONCE, grant("second", secs(60))), (AT_ONCE, grant("third", secs(60)))]);
    let fleet = Fleet::of(vec![ours, answering(vec![(AT_ONCE, grant("first", secs(60)))])]);
    assert_eq!(fleet.call(1).await.as_deref(), Ok("first"));
    sleep(HEARD).await;
    fleet.server.away(true);
    fleet.server.hang_up(None);
    sleep(secs(15)).await;
    assert_eq!(fleet.call(0).await.as_deref(), Ok("second"), "by itself");
    sleep(secs(10)).await;
    fleet.server.with(|store| {
        let mut entries = store.entries(b"tb1:t:");
        entries[0].1 = Some(Instant::now() + secs(60));
    });
    fleet.server.away(false);
    sleep(secs(10)).await;
    assert_eq!(fleet.condition(0), Condition::Up);
    assert_eq!(fleet.complain(0, "second").await.as_deref(), Ok("third"));
}

/// A server that stood still does as it was told some time afterwards, and counts from then.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_written_late_is_no_younger_for_that() {
    let theirs = answering(vec![(Duration::from_millis(300), grant("first", secs(60)))]);
    let fleet = Fleet::of(vec![answering(vec![(AT_ONCE, grant("second", secs(60)))]), theirs]);
    sleep(HEARD).await;
    let first = tokio::spawn(fleet.replicas[1].call(0, PATIENCE, &[]));
    sleep(Duration::from_millis(100)).await;
    fleet.server.stall(Instant::now() + Duration::from_millis(2_500));
    first.await.expect("no panic").expect("there is a token");
    sleep(Duration::from_millis(1_000)).await;
    assert_eq!(fleet.call(0).await.as_deref(), Ok("second"), "by itself");
    sleep(secs(5)).await;
    assert_eq!(fleet.condition(0), Condition::Up);
    assert_eq!(fleet.call(0).await.as_deref(), Ok("second"));
}

/// Whatever a flight ends with, it looks again if there was news meanwhile.
#[tokio::test(start_paused = true)]
async fn a_flight_that_fails_does_not_forget_the_news_that_came_while_it_was_under_way() {
    let theirs = answering(vec![(AT_ONCE, grant("theirs", secs(100)))]);
    let fleet = Fleet::of(vec![answering(vec![(secs(5), Err(down()))]), theirs]);
    sleep(HEARD).await;
    fleet.server.cut_off(0, true);
    fleet.server.hang_up(Some(0));
    let alone = tokio::spawn(fleet.replicas[0].call(0, PATIENCE, &[]));
    sleep(secs(1)).await;
    fleet.server.cut_off(0, false);
    sleep(secs(2)).await;
    assert_eq!(fleet.call(1).await.as_deref(), Ok("theirs"), "nobody has the lock");
    alone.await.expect("no panic").expect_err("the vault is down for it");
    sleep(HEARD).await;
    let answer = fleet.replicas[0].answer(0, PATIENCE, &[]).await.expect("there is one");
    assert_eq!((answer.cached.token.access_token.expose(), answer.outcome), ("theirs", Outcome::Hit));
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_has_documented_are_counted_by_all_together() {
    let asked = Arc::new(AtomicUsize::new(0));
    let vault = || {
        let count = Arc::clone(&asked);
        at("vault", move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Err(Failure::Undocumented { status: 418, wait: None, vault_error: String::new() }) })
        })
    };
    let fleet = Fleet::of(vec![vault(), vault(), vault()]);
    // The pauses after the first and the second, and then it is a hold; who finds out that they are over is another one each time.
    for (tries, pause) in [(1, secs(60)), (2, secs(600)), (3, secs(80_000))] {
        fleet.call(tries % 3).await.expect_err("it is no answer");
        sleep(HEARD).await;
        for before_its_end in [false, true] {
            for replica in 0..3 {
                fleet.call(replica).await.expect_err("nobody is to ask yet");
            }
            assert_eq!(asked.load(Ordering::Relaxed), tries, "{pause:?}");
            sleep(if before_its_end { secs(2) } else { pause.saturating_sub(secs(1)) }).await;
        }
    }
    let why = fleet.call(0).await.expect_err("it is held");
    assert!(matches!(why, BrokerError::Refused { .. }), "{why:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_costs_nothing_after_the_first_second() {
    let (settings, _) = granting();
    let fleet = Fleet::with_users(vec![settings], 200);
    sleep(HEARD).await;
    for stalls in [true, false] {
        let first = if stalls { 0 } else { 100 };
        if stalls {
            fleet.server.stall(Instant::now() + secs(60));
        } else {
            fleet.server.away(true);
            fleet.server.hang_up(None);
        }
        let began = Instant::now();
        let took = fleet.miss(0, first).await;
        assert!(took <= secs(1), "its answer is waited for: {took:?}");
        sleep((began + secs(1)).saturating_duration_since(Instant::now())).await;
        // At any moment of the tries that follow.
        for user in first + 1..first + 100 {
            let took = fleet.miss(0, user).await;
            assert!(took <= AWAY_COSTS, "{took:?} after {:?}", began.elapsed());
            sleep(Duration::from_millis(137)).await;
        }
        sleep(secs(60)).await;
        assert_eq!(fleet.condition(0), if stalls { Condition::Up } else { Condition::Down(Some(LinkError::Unreachable)) });
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_slowly_is_left_alone_until_it_is_quick() {
    let (settings, _) = granting();
    let fleet = Fleet::with_users(vec![settings], 200);
    sleep(HEARD).await;
    fleet.server.takes(200..=300);
    let (began, mut slow) = (Instant::now(), 0);
    for user in 0..100 {
        slow += usize::from(fleet.miss(0, user).await > AWAY_COSTS);
        sleep(Duration::from_millis(500)).await;
    }
    assert!((2..=6).contains(&slow), "{slow} of 100 calls in {:?} waited for it", began.elapsed());
    assert_eq!(fleet.condition(0), Condition::Down(Some(LinkError::Slow)));
    fleet.server.takes(0..=2);
    sleep(secs(6)).await;
    assert_eq!(fleet.condition(0), Condition::Up);
    // One that is slow now and then is used.
    for user in 100..200 {
        fleet.server.takes(if user % 3 == 0 { 0..=2 } else { 150..=150 });
        fleet.miss(0, user).await;
        assert_eq!(fleet.condition(0), Condition::Up);
        sleep(Duration::from_millis(500)).await;
    }
}

/// Where the time that a sign-in may take is raised meanwhile, the lock that was won is too short for it.
#[tokio::test(start_paused = true)]
async fn no_password_is_sent_under_a_lock_that_may_end_before_its_answer() {
    let (settings, count) = granting();
    let brief = Settings { timeout: secs(1), ..settings };
    let fleet = Fleet::of(vec![brief.clone()]);
    sleep(HEARD).await;
    fleet.server.takes(200..=200);
    let call = tokio::spawn(fleet.replicas[0].call(0, PATIENCE, &[]));
    // It has looked, and asks for the lock.
    sleep(Duration::from_millis(300)).await;
    let server = Arc::clone(&fleet.server);
    let left = Arc::new(Mutex::new(None));
    let found = Arc::clone(&left);
    let long = at("vault", move |_, _| {
        let lock = server.with(|store| store.entries(b"tb1:l:").first().and_then(|(_, end)| *end));
        *found.lock().expect("no panic") = lock.map(|end| end.saturating_duration_since(Instant::now()));
        Box::pin(async { grant("token", secs(3_600)) })
    });
    fleet.replicas[0].reload(vec![user(0, "a")], &Settings { timeout: secs(20), sign_in: long.sign_in, ..brief });
    call.await.expect("no panic").expect("there is a token");
    let left = left.lock().expect("no panic").expect("there is a lock");
    assert!(left >= secs(20), "{left:?} for a sign-in that may take 20 s");
    assert_eq!(count.load(Ordering::Relaxed), 0, "at the former one");
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_while_nobody_could_be_told_is_told_afterwards() {
    let asked = Arc::new(AtomicUsize::new(0));
    let vault = || {
        let count = Arc::clone(&asked);
        at("vault", move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Err(refused()) })
        })
    };
    const USERS: usize = 100;
    let fleet = Fleet::with_users(vec![vault(), vault()], USERS);
    sleep(HEARD).await;
    fleet.server.away(true);
    fleet.server.hang_up(None);
    sleep(secs(1)).await;
    for user in 0..USERS {
        fleet.replicas[0].call(user, PATIENCE, &[]).await.expect_err("it is refused");
    }
    fleet.server.away(false);
    sleep(secs(2)).await;
    for user in 0..USERS {
        fleet.replicas[1].call(user, PATIENCE, &[]).await.expect_err("it is held");
    }
    assert_eq!(asked.load(Ordering::Relaxed), USERS, "each password was tried once");
}

/// It was the vault that was wrong, or somebody has unlocked the account: who knows that is not stopped by who tells late.
#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_told_late_stops_nobody_who_was_let_in_since() {
    let theirs = answering(vec![(AT_ONCE, grant("theirs", secs(100))), (AT_ONCE, grant("next", secs(100)))]);
    let fleet = Fleet::of(vec![answering(vec![(AT_ONCE, Err(refused()))]), theirs]);
    sleep(HEARD).await;
    fleet.server.away(true);
    fleet.server.hang_up(None);
    sleep(secs(1)).await;
    fleet.call(0).await.expect_err("it is refused");
    sleep(secs(10)).await;
    assert_eq!(fleet.call(1).await.as_deref(), Ok("theirs"));
    fleet.server.away(false);
    sleep(secs(2)).await;
    assert_eq!(fleet.complain(1, "theirs").await.as_deref(), Ok("next"));
    sleep(HEARD).await;
    assert_eq!(fleet.call(0).await.as_deref(), Ok("next"), "and so is nobody any more");
}
