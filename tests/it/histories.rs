//! Histories of the core that nobody had thought of, in paused time: what is in force now judges what was before.
//!
//! Each was once a fault. The simulation draws such histories by the thousand; here they are told one by one.

mod house;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use token_broker::{
    config::Renewal,
    pacing::Rules,
    secret::Secret,
    snapshot::Settings,
    vault::{Failure, Grant, Scope},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use self::house::{House, RULES, at, down, grant, refused, secs, user};

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
async fn who_had_a_token_of_the_former_vault_has_one_of_the_next_before_it_asks() {
    let (former, next) = (at("former", |_, _| Box::pin(async { grant("former", secs(86_400)) })), two_vaults(|| Err(down())).1);
    let house = House::new(vec![user(1, "a"), user(2, "a")], former);
    house.token(1).await;
    house.reload(vec![user(1, "a"), user(2, "a")], &next);
    sleep(secs(1)).await;
    assert_eq!(house.broker.census().merchants.values().map(|merchant| merchant.cached).sum::<usize>(), 1);
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
async fn a_probe_that_hangs_keeps_no_other_away() {
    let broken = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&broken);
    let vault = at("vault", move |number, _| {
        let broken = state.load(Ordering::Relaxed);
        let hangs = broken && number.as_str() >= "+447800000004";
        Box::pin(async move {
            sleep(if hangs { secs(120) } else { Duration::from_millis(50) }).await;
            if broken { Err(down()) } else { grant(&number, secs(3_600)) }
        })
    });
    let house = House::new((0..100).map(|n| user(n, "a")).collect(), vault);
    for n in 0..3 {
        house.call(n, secs(10), &[]).await.expect_err("it is down");
    }
    sleep(secs(2)).await;
    house.call(4, secs(1), &[]).await.expect_err("it hangs");
    broken.store(false, Ordering::Relaxed);
    let back = Instant::now();
    for n in (10..).map(|n| n % 90 + 10) {
        if house.call(n, secs(30), &[]).await.is_ok() {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    assert!(back.elapsed() <= secs(9), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_merchants_wait_is_as_long_as_the_vault_says_whatever_else_one_of_its_users_waits_for() {
    let asked = AtomicUsize::new(0);
    let vault = at("vault", move |number, _| {
        let n = if number.ends_with('1') { asked.fetch_add(1, Ordering::Relaxed) } else { 9 };
        Box::pin(async move {
            sleep(secs(1)).await;
            match n {
                0 => Err(refused()),
                1 => Err(Failure::Throttled { scope: Scope::Merchant, wait: secs(60), vault_error: String::new() }),
                _ => grant(&number, secs(3_600)),
            }
        })
    });
    let users = |password: &str| vec![user(1, password), user(2, "p")];
    let house = House::new(users("b"), vault.clone());
    house.call(1, secs(5), &[]).await.expect_err("b is refused");
    house.reload(users("a"), &vault);
    let waiting = tokio::spawn(house.call(1, secs(5), &[]));
    sleep(Duration::from_millis(500)).await;
    // While a is judged, b is back, which is held for a day.
    house.reload(users("b"), &vault);
    waiting.await.expect("no panic").expect_err("the merchant is to wait");
    house.call(2, secs(5), &[]).await.expect_err("all of it");
    sleep(secs(60)).await;
    house.token(2).await;
}

#[tokio::test(start_paused = true)]
async fn another_vault_that_is_away_at_first_has_all_users_renewed_once_it_is_there() {
    let away = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&away);
    let next = at("next", move |number, _| {
        let away = state.load(Ordering::Relaxed);
        Box::pin(async move { if away { Err(down()) } else { grant(&number, secs(86_400)) } })
    });
    let former = at("former", |number, _| Box::pin(async move { grant(&number, secs(86_400)) }));
    let users = || (0..50).map(|n| user(n, "a")).collect::<Vec<_>>();
    let house = House::new(users(), former);
    for n in 0..50 {
        house.token(n).await;
    }
    house.reload(users(), &next);
    sleep(secs(20)).await;
    away.store(false, Ordering::Relaxed);
    sleep(secs(120)).await;
    assert_eq!(house.broker.census().merchants.values().map(|merchant| merchant.cached).sum::<usize>(), 50);
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
    let house = Arc::new(House::new(vec![user(0, "0")], vault(0)));
    let (current, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut calling = JoinSet::new();
    for _ in 0..2 {
        let (house, current, over) = (Arc::clone(&house), Arc::clone(&current), Arc::clone(&over));
        calling.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                // Most ask too early or too late.
                drop(house.call(current.load(Ordering::Relaxed) + 1, Duration::from_millis(50), &[]).await);
                tokio::task::yield_now().await;
            }
        });
    }
    let (reloaded, vaults) = (Arc::clone(&house), (1..=RELOADS).map(vault).collect::<Vec<_>>());
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
    let house = Arc::new(House::new(users(20), vaults[0].clone()));
    let end = Instant::now() + secs(3);
    let mut calling = JoinSet::new();
    for _ in 0..16 {
        let (house, mut random) = (Arc::clone(&house), random.fork());
        calling.spawn(async move {
            let mut rejected = Vec::new();
            while Instant::now() < end {
                let patience = Duration::from_micros(random.u64(..20_000));
                let call = house.call(random.usize(..22), patience, &rejected);
                let answer = timeout(Duration::from_micros(random.u64(..10_000)), call).await;
                rejected =
                    answer.ok().and_then(Result::ok).filter(|_| random.bool()).map(|token| id(&token)).into_iter().collect();
            }
        });
    }
    while Instant::now() < end {
        let settings = Settings { max_concurrent_sign_ins: random.usize(1..=MOST), ..vaults[random.usize(..2)].clone() };
        house.reload(users(random.usize(10..=22)), &settings);
        sleep(Duration::from_millis(random.u64(..20))).await;
    }
    calling.join_all().await;
    well.store(true, Ordering::Relaxed);
    // Who was held off by the outages is a user of another vault now.
    house.reload(users(22), &vault("c", random.u64(..)));
    for n in 0..22 {
        house.call(n, secs(5), &[]).await.expect("all is well");
    }
    assert_eq!((house.broker.waiting(), present.faults.load(Ordering::Relaxed)), (0, 0));
    let landed = async {
        while house.broker.flights_under_way() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(secs(5), landed).await.expect("all flights land");
}
