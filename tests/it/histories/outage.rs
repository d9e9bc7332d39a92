//! Who may be at the vault, and who waits for whom, while it is out of order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use token_broker::{
    live::Settings,
    vault::{Failure, Scope},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::support::{
    broker_in_memory::{BrokerInMemory, user},
    scripted_vault::{at, down, grant, id, refused, secs},
};

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
    let broker = BrokerInMemory::new(users(), with(8));
    let mut calls = JoinSet::new();
    for n in 0..100 {
        calls.spawn(broker.call(n, secs(500), &[]));
    }
    for most in [1, 8, 1, 8, 3, 5, 8] {
        sleep(secs(1)).await;
        broker.reload(users(), &with(most));
    }
    sleep(secs(20)).await;
    broker.reload(users(), &with(2));
    sleep(secs(11)).await;
    assert_eq!(now.load(Ordering::Relaxed), 2, "and no fewer");
    assert_eq!(calls.join_all().await.iter().filter(|answer| answer.is_ok()).count(), 100);
    assert_eq!(most.load(Ordering::Relaxed), 8);
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
        let broker = BrokerInMemory::new((0..100).map(|n| user(n, "a")).collect(), settings);
        let straggler = tokio::spawn(broker.call(0, secs(300), &[]));
        sleep(Duration::from_millis(100)).await;
        // Those in the queue when it goes down hear so, too.
        let (one, two, three, four) = tokio::join!(
            broker.call(1, secs(10), &[]),
            broker.call(2, secs(10), &[]),
            broker.call(3, secs(10), &[]),
            broker.call(4, secs(10), &[]),
        );
        assert!([one, two, three, four].iter().all(Result::is_err));
        sleep(secs(2)).await;
        broker.call(5, secs(1), &[]).await.expect_err("it is down");
        broken.store(false, Ordering::Relaxed);
        let back = Instant::now();
        let mut n = 10;
        while broker.call(n, secs(30), &[]).await.is_err() {
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
    let broker = BrokerInMemory::new((0..100).map(|n| user(n, "a")).collect(), vault);
    for n in 0..3 {
        broker.call(n, secs(10), &[]).await.expect_err("it is down");
    }
    sleep(secs(2)).await;
    broker.call(4, secs(1), &[]).await.expect_err("it hangs");
    broken.store(false, Ordering::Relaxed);
    let back = Instant::now();
    for n in (10..).map(|n| n % 90 + 10) {
        if broker.call(n, secs(30), &[]).await.is_ok() {
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
    let broker = BrokerInMemory::new(users("b"), vault.clone());
    broker.call(1, secs(5), &[]).await.expect_err("b is refused");
    broker.reload(users("a"), &vault);
    let waiting = tokio::spawn(broker.call(1, secs(5), &[]));
    sleep(Duration::from_millis(500)).await;
    // While a is judged, b is back, which is held for a day.
    broker.reload(users("b"), &vault);
    waiting.await.expect("no panic").expect_err("the merchant is to wait");
    broker.call(2, secs(5), &[]).await.expect_err("all of it");
    sleep(secs(60)).await;
    broker.token(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_breaks_keeps_no_other_away() {
    let vault = at("vault", |number, _| {
        Box::pin(async move {
            assert!(!number.ends_with('4'), "a fault of ours");
            if number.as_str() < "+447800000004" { Err(down()) } else { grant(&number, secs(3_600)) }
        })
    });
    let broker = BrokerInMemory::new((0..10).map(|n| user(n, "a")).collect(), vault);
    for n in 0..3 {
        broker.call(n, secs(10), &[]).await.expect_err("it is down");
    }
    sleep(secs(2)).await;
    broker.call(4, secs(1), &[]).await.expect_err("it breaks");
    broker.token(5).await;
}

#[tokio::test(start_paused = true)]
async fn undocumented_answers_of_an_outage_are_forgotten_once_it_is_over() {
    let broken = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&broken);
    let vault = at("vault", move |number, _| {
        let undocumented = || Failure::Undocumented { status: 403, wait: None, vault_error: String::new() };
        let broken = state.load(Ordering::Relaxed);
        Box::pin(async move { if broken { Err(undocumented()) } else { grant(&number, secs(3_600)) } })
    });
    let broker = BrokerInMemory::new((0..5).map(|n| user(n, "a")).collect(), vault);
    for n in 0..3 {
        broker.call(n, secs(10), &[]).await.expect_err("it is out of order");
    }
    broken.store(false, Ordering::Relaxed);
    sleep(secs(2)).await;
    for n in [4, 0, 1, 2] {
        broker.token(n).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_its_floor_takes_nobodys_permit() {
    let vault = at("vault", |number, _| Box::pin(async move { grant(&number, secs(3_600)) }));
    let settings = Settings { max_concurrent_sign_ins: 1, ..vault };
    let broker = BrokerInMemory::new((0..2).map(|n| user(n, "a")).collect(), settings);
    let token = broker.token(0).await;
    let waiting = tokio::spawn(broker.call(0, secs(30), &[id(&token)]));
    sleep(secs(1)).await;
    let asked = Instant::now();
    broker.token(1).await;
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert!(!waiting.is_finished());
}
