//! Real threads beside the paused time of the other histories: what no order of events may break.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use token_broker::{live::Settings, users::holds::Rules, vault::Failure};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::support::{
    PATIENCE,
    broker_in_memory::{BrokerInMemory, RULES, user},
    scripted_vault::{at, down, grant, id, secs},
};

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
    let broker = Arc::new(BrokerInMemory::new(vec![user(0, "0")], vault(0)));
    let (current, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut calling = JoinSet::new();
    for _ in 0..2 {
        let (broker, current, over) = (Arc::clone(&broker), Arc::clone(&current), Arc::clone(&over));
        calling.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                // Most ask too early or too late.
                drop(broker.call(current.load(Ordering::Relaxed) + 1, Duration::from_millis(50), &[]).await);
                tokio::task::yield_now().await;
            }
        });
    }
    let (reloaded, vaults) = (Arc::clone(&broker), (1..=RELOADS).map(vault).collect::<Vec<_>>());
    let reloading = tokio::task::spawn_blocking(move || {
        for (round, settings) in (1..=RELOADS).zip(vaults) {
            reloaded.reload(vec![user(round, &round.to_string())], &settings);
            current.store(round, Ordering::Relaxed);
        }
    });
    reloading.await.expect("no panic");
    over.store(true, Ordering::Relaxed);
    calling.join_all().await;
    assert!(strayed.lock().expect("no panic").is_empty(), "{strayed:?}");
}

/// How many are at a vault, of one user and in all.
#[derive(Default)]
struct Present {
    users: Mutex<std::collections::HashSet<String>>,
    faults: AtomicUsize,
}

impl Present {
    fn comes(&self, number: &str, most: usize) {
        let mut users = self.users.lock().expect("no panic");
        let fault = !users.insert(number.to_owned()) || users.len() > most;
        self.faults.fetch_add(usize::from(fault), Ordering::Relaxed);
    }

    fn goes(&self, number: &str) {
        self.users.lock().expect("no panic").remove(number);
    }
}

/// Real time and several threads: callers who go away, complain and hurry, a vault that does anything, reloads; then all is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn threads_leave_nothing_behind() {
    const MOST: usize = 8;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (well, present) = (Arc::new(AtomicBool::new(false)), Arc::new(Present::default()));
    let vault = |name: &str, seed: u64| {
        let (well, present, dice) = (Arc::clone(&well), Arc::clone(&present), Mutex::new(fastrand::Rng::with_seed(seed)));
        let settings = at(name, move |number, _| {
            let (well, present) = (well.load(Ordering::Relaxed), Arc::clone(&present));
            let (draw, wait, n) = {
                let mut dice = dice.lock().expect("no panic");
                (dice.u8(..10), Duration::from_micros(dice.u64(..3_000)), dice.u64(..))
            };
            Box::pin(async move {
                present.comes(&number, MOST);
                sleep(wait).await;
                present.goes(&number);
                match draw {
                    0 | 1 if !well => Err(down()),
                    2 if !well => Err(Failure::Invalid { cause: "nonsense", issued: false }),
                    _ => grant(&format!("{number}-{n}"), secs(1 + n % 3)),
                }
            })
        });
        Settings {
            rules: Rules { min_sign_in_interval: Duration::from_millis(1), ..RULES },
            max_concurrent_sign_ins: MOST,
            ..settings
        }
    };
    let vaults = [vault("a", random.u64(..)), vault("b", random.u64(..))];
    let users = |n: usize| (0..n).map(|n| user(n, "p")).collect::<Vec<_>>();
    let broker = Arc::new(BrokerInMemory::new(users(20), vaults[0].clone()));
    let end = Instant::now() + secs(3);
    let mut calling = JoinSet::new();
    for _ in 0..16 {
        let (broker, mut random) = (Arc::clone(&broker), random.fork());
        calling.spawn(async move {
            let mut rejected = Vec::new();
            while Instant::now() < end {
                let patience = Duration::from_micros(random.u64(..20_000));
                let call = broker.call(random.usize(..22), patience, &rejected);
                let answer = timeout(Duration::from_micros(random.u64(..10_000)), call).await;
                rejected =
                    answer.ok().and_then(Result::ok).filter(|_| random.bool()).map(|token| id(&token)).into_iter().collect();
            }
        });
    }
    while Instant::now() < end {
        let settings = Settings { max_concurrent_sign_ins: random.usize(1..=MOST), ..vaults[random.usize(..2)].clone() };
        broker.reload(users(random.usize(10..=22)), &settings);
        sleep(Duration::from_millis(random.u64(..20))).await;
    }
    calling.join_all().await;
    well.store(true, Ordering::Relaxed);
    // Who was held off by the outages is a user of another vault now.
    broker.reload(users(22), &vault("c", random.u64(..)));
    for n in 0..22 {
        broker.call(n, secs(5), &[]).await.expect("all is well");
    }
    assert_eq!((broker.waiting(), present.faults.load(Ordering::Relaxed)), (0, 0));
    let ended = async {
        while broker.flights_under_way() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("all flights end");
}
