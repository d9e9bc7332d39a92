//! Another vault by reload: nothing of the former counts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use token_broker::{
    live::Settings,
    vault::{Failure, Grant},
};
use tokio::time::{Instant, sleep};

use crate::support::{
    broker_in_memory::{BrokerInMemory, user},
    scripted_vault::{at, down, grant, refused, secs},
};

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
    let broker = BrokerInMemory::new(vec![user(1, "a"), user(2, "a")], former.clone());
    assert_eq!(broker.token(1).await, "former");
    broker.reload(vec![user(1, "a"), user(2, "a")], &next);
    assert_eq!(broker.token(1).await, "next", "at once, though the floor of the former still lasts");
    // And back: what it gave before is gone.
    broker.reload(vec![user(1, "a"), user(2, "a")], &former);
    let asked = Instant::now();
    assert_eq!((broker.token(1).await.as_str(), asked.elapsed()), ("former", secs(3)));
}

#[tokio::test(start_paused = true)]
async fn who_had_a_token_of_the_former_vault_has_one_of_the_next_before_it_asks() {
    let (former, next) = (at("former", |_, _| Box::pin(async { grant("former", secs(86_400)) })), two_vaults(|| Err(down())).1);
    let broker = BrokerInMemory::new(vec![user(1, "a"), user(2, "a")], former);
    broker.token(1).await;
    broker.reload(vec![user(1, "a"), user(2, "a")], &next);
    sleep(secs(1)).await;
    sleep(secs(15)).await;
    assert_eq!(broker.stats(&broker.in_force()).merchants.values().map(|merchant| merchant.cached).sum::<usize>(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_another_vault_brings_after_the_switch_is_void_and_callers_get_the_next_ones() {
    for former in [|| grant("former", secs(86_400)), || Err(refused()), || Err(down())] {
        let (former, next) = two_vaults(former);
        let broker = BrokerInMemory::new(vec![user(1, "a")], former);
        let in_the_air = tokio::spawn(broker.call(1, secs(30), &[]));
        sleep(secs(1)).await;
        broker.reload(vec![user(1, "a")], &next);
        assert_eq!(in_the_air.await.expect("no panic").as_deref(), Ok("next"));
        sleep(secs(3_600)).await;
        assert_eq!(broker.token(1).await, "next");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_former_vault_is_none_of_the_next() {
    let former = at("former", |_, _| Box::pin(async { Err(down()) }));
    let next = at("next", |_, _| Box::pin(async { grant("next", secs(60)) }));
    let users = || (0..5).map(|n| user(n, "a")).collect::<Vec<_>>();
    let broker = BrokerInMemory::new(users(), former);
    for n in 0..4 {
        broker.call(n, secs(1), &[]).await.expect_err("it is down");
    }
    broker.reload(users(), &next);
    for n in 0..5 {
        assert_eq!(broker.call(n, secs(1), &[]).await.as_deref(), Ok("next"), "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_stragglers_of_the_former_vault_bring_says_nothing_of_the_next() {
    let (former, next) = two_vaults(|| Err(down()));
    let users = || (0..5).map(|n| user(n, "a")).collect::<Vec<_>>();
    let broker = BrokerInMemory::new(users(), former);
    let calls: Vec<_> = (0..3).map(|n| tokio::spawn(broker.call(n, secs(30), &[]))).collect();
    sleep(secs(1)).await;
    broker.reload(users(), &next);
    assert_eq!(broker.token(4).await, "next");
    // As many different users fail in a row as open the circuit breaker.
    for call in calls {
        assert_eq!(call.await.expect("no panic").as_deref(), Ok("next"));
    }
    assert!(!broker.stats(&broker.in_force()).vault_is_down);
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
    let broker = BrokerInMemory::new(users(), former);
    for n in 0..50 {
        broker.token(n).await;
    }
    broker.reload(users(), &next);
    // A caller that comes before the refresh queue does is no reason to forget its user.
    for n in 0..50 {
        broker.call(n, secs(1), &[]).await.expect_err("it is away");
    }
    sleep(secs(20)).await;
    away.store(false, Ordering::Relaxed);
    sleep(secs(120)).await;
    assert_eq!(broker.stats(&broker.in_force()).merchants.values().map(|merchant| merchant.cached).sum::<usize>(), 50);
    // A wrong one that refuses everybody, and back.
    broker.reload(users(), &at("wrong", |_, _| Box::pin(async { Err(refused()) })));
    sleep(secs(60)).await;
    broker.reload(users(), &next);
    sleep(secs(60)).await;
    assert_eq!(broker.stats(&broker.in_force()).merchants.values().map(|merchant| merchant.cached).sum::<usize>(), 50);
}
