//! Floors, holds and renewals: what is in force now judges what was before.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use token_broker::{config::Renewal, live::Settings, secret::Secret, users::holds::Rules, vault::Grant};
use tokio::time::{Instant, sleep};

use crate::support::{
    broker_in_memory::{BrokerInMemory, RULES, user},
    scripted_vault::{at, grant, id, refused, secs},
};

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
    let broker = BrokerInMemory::new(vec![user(1, "a")], same_token(Rules { min_sign_in_interval: secs(1_800), ..RULES }));
    let mut without = 0;
    for _ in 0..3 * 3_600 {
        without += u32::from(broker.call(1, Duration::from_millis(500), &[]).await.is_err());
        sleep(Duration::from_millis(500)).await;
    }
    assert!(without <= 3, "{without} calls without a token");
}

#[tokio::test(start_paused = true)]
async fn nor_does_one_that_complaints_have_doubled() {
    let (began, broker) = (Instant::now(), BrokerInMemory::new(vec![user(1, "a")], same_token(RULES)));
    let mut without = 0;
    while began.elapsed() < secs(4_500) {
        match broker.call(1, Duration::from_millis(200), &[]).await {
            Ok(token) if token == "hour-0" && began.elapsed() > secs(2_700) => {
                drop(broker.call(1, Duration::from_millis(200), &[id(&token)]).await);
            }
            Ok(_) => {}
            Err(_) => without += 1,
        }
        sleep(Duration::from_millis(600)).await;
    }
    assert!(without <= 3, "{without} calls without a token");
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
    let broker = BrokerInMemory::new(vec![user(1, "a")], vault.clone());
    for password in ["b", "a", "c", "b", "a", "c"] {
        drop(broker.call(1, secs(5), &[]).await);
        broker.reload(vec![user(1, password)], &vault);
        sleep(secs(2)).await;
    }
    // Another vault in between changes nothing.
    broker.reload(vec![user(1, "a")], &elsewhere);
    assert_eq!(broker.token(1).await, "elsewhere");
    broker.reload(vec![user(1, "a")], &vault);
    broker.call(1, secs(5), &[]).await.expect_err("it was refused");
    assert_eq!(*sent.lock().expect("no panic"), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn renewal_and_idle_after_count_for_tokens_that_are_cached() {
    let sign_ins = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sign_ins);
    let ahead = at("vault", move |_, _| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { grant(&format!("token-{n}"), secs(300)) })
    });
    let at_expiry = Settings { renewal: Renewal::AtExpiry, ..ahead.clone() };
    let users = || vec![user(1, "a")];
    let broker = BrokerInMemory::new(users(), ahead.clone());
    broker.token(1).await;
    broker.reload(users(), &at_expiry);
    sleep(secs(290)).await;
    broker.token(1).await;
    assert_eq!(sign_ins.load(Ordering::Relaxed), 1, "not ahead any more");
    broker.reload(users(), &ahead);
    sleep(secs(1)).await;
    assert_eq!(sign_ins.load(Ordering::Relaxed), 2, "and ahead again, though nobody asks");
    // Idle for a second: not renewed. Not idle any more: renewed after all.
    broker.reload(users(), &Settings { idle_after: secs(1), ..ahead.clone() });
    sleep(secs(280)).await;
    assert_eq!(sign_ins.load(Ordering::Relaxed), 2);
    broker.reload(users(), &ahead);
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
    let broker = BrokerInMemory::new(users(), slow(Rules { min_sign_in_interval: secs(3_600), ..RULES }, &vault));
    let first = broker.token(1).await;
    broker.call(2, secs(5), &[]).await.expect_err("it is refused");
    // It waits for an hour's floor, which then is 5 s.
    let waiting = tokio::spawn(broker.call(1, secs(7_200), &[id(&first)]));
    sleep(secs(10)).await;
    broker.reload(users(), &vault);
    let waited = Instant::now();
    assert_ne!(waiting.await.expect("no panic").expect("there is a token"), first);
    assert_eq!(waited.elapsed(), Duration::ZERO);
    broker.call(2, secs(5), &[]).await.expect_err("it is held for a day");
    broker.reload(users(), &slow(Rules { refusal_hold: secs(5), ..RULES }, &vault));
    broker.token(2).await;
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
    let broker = BrokerInMemory::new(vec![user(1, "a")], vault);
    broker.token(1).await;
    let (began, mut waits) = (Instant::now(), 0);
    while began.elapsed() < secs(10 * 3_600) {
        let before = Instant::now();
        broker.token(1).await;
        waits += u32::from(!before.elapsed().is_zero());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(waits, 0, "of about 700 renewals");
}

#[tokio::test(start_paused = true)]
async fn a_new_password_is_sent_when_somebody_asks_and_not_before() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let vault = at("vault", move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Err(refused()) })
    });
    let broker = BrokerInMemory::new(vec![user(1, "a")], vault.clone());
    broker.call(1, secs(5), &[]).await.expect_err("it is refused");
    broker.reload(vec![user(1, "b")], &vault);
    sleep(secs(600)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1, "it had no token, so nobody misses one");
    broker.call(1, secs(5), &[]).await.expect_err("it is refused");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}
