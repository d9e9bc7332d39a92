//! Tokens: one sign-in for all replicas, and news of it.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use token_broker_sandbox::{Fault, Mode, Options};
use tokio::{task::JoinSet, time::sleep};

use super::ground::{Ground, answers, caller, complain, metric, metric_is, numbers, reload, shared_entries, token};
use crate::support::{MERCHANT, NUMBER, PATIENCE, Running, http};

/// Every user is asked for by `callers` at once, at each replica; returns how many calls got a token.
async fn crowd(replicas: &[Running], users: usize, callers: usize) -> usize {
    let mut calls = JoinSet::new();
    for replica in replicas {
        for number in numbers(users) {
            // A connection for the callers of a few users.
            let client = caller(&replica.endpoint);
            for _ in 0..callers {
                let (client, number) = (client.clone(), number.clone());
                calls.spawn(async move { client.token(MERCHANT, &number).await.map(|token| token.token_id) });
            }
        }
    }
    calls.join_all().await.into_iter().filter(Result::is_ok).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_fleet_signs_each_user_in_once_and_a_rolling_restart_nobody() {
    const USERS: usize = 60;
    let ground = Ground::with_users_and(USERS, Options { delay: Duration::from_millis(50), ..Options::default() }).await;
    let mut replicas = ground.replicas(4).await;
    assert_eq!(crowd(&replicas, USERS, 5).await, 4 * USERS * 5);
    assert_eq!(ground.sandbox.sign_ins(), 60);
    for n in 0..replicas.len() {
        replicas[n] = ground.replica().await;
        assert_eq!(crowd(&replicas[n..=n], USERS, 2).await, 2 * USERS);
        let taken = metric(&replicas[n].admin, &shared_entries("taken")).await;
        assert_eq!(taken, 60, "all of them");
        let calls = "token_broker_calls_total{code=\"OK\",reason=\"\",outcome=\"shared\"}";
        assert_eq!(metric(&replicas[n].admin, calls).await, 60, "{}", http(&replicas[n].admin, "/metrics").await);
    }
    assert_eq!(ground.sandbox.sign_ins(), 60, "the vault heard of no restart");
}

#[tokio::test]
async fn what_is_on_the_server_shows_nothing_and_ends_with_the_token() {
    let ground = Ground::new().await;
    let replica = ground.replica().await;
    let token = token(&replica.client).await;
    // Written once callers have it.
    metric_is(&replica.admin, "token_broker_shared_operations_total{operation=\"write\",result=\"done\"}", 1).await;
    let names = ground.redis.names("");
    assert!(names.iter().all(|name| name.starts_with("tb1:")), "{names:?}");
    let entries = ground.redis.names("tb1:t:");
    assert_eq!(entries.len(), 1);
    let value = ground.redis.get(&entries[0]);
    for secret in [token.access_token.as_bytes(), &token.access_token.as_bytes()[..20], NUMBER.as_bytes(), MERCHANT.as_bytes()] {
        assert!(!value.windows(secret.len()).any(|window| window == secret));
        let shown = names.iter().any(|name| name.as_bytes().windows(secret.len()).any(|window| window == secret));
        assert!(!shown);
    }
    let left = ground.redis.command(&format!("PTTL {}", entries[0]));
    let crate::support::redis::Reply::Int(left) = left else { panic!("{left:?}") };
    assert!((86_390_000..86_400_000).contains(&left), "{left}");
}

/// Replicas that revoke each other's tokens without the tier, in whichever order callers complain, agree with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complaint_on_one_replica_is_heard_by_all_even_where_a_sign_in_revokes() {
    let options = Options { mode: Mode::RevokeOld, ..Options::default() };
    let mut ground = Ground::with(options, crate::support::redis::Redis::start(&[])).await;
    ground.vault = "min_sign_in_interval = \"0s\"".to_owned();
    let replicas = ground.replicas(3).await;
    let mut live = token(&replicas[0].client).await;
    for replica in &replicas {
        assert_eq!(token(&replica.client).await.token_id, live.token_id);
    }
    // Each waits for twice the floor of the one before, since what is rejected soon slows sign-ins down.
    for round in 0..3 {
        let next = complain(&caller(&replicas[round].endpoint), &live.token_id).await.expect("there is a token");
        assert_ne!(next.token_id, live.token_id);
        for replica in &replicas {
            let took = answers(&replica.endpoint, &next.token_id).await;
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
        assert!(ground.sandbox.is_live(&next.access_token));
        live = next;
    }
    assert_eq!(ground.sandbox.sign_ins(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn complaints_everywhere_at_once_cost_one_sign_in() {
    let mut ground = Ground::new().await;
    ground.vault = "min_sign_in_interval = \"300ms\"".to_owned();
    let replicas = ground.replicas(3).await;
    let dead = token(&replicas[0].client).await;
    for replica in &replicas {
        assert_eq!(token(&replica.client).await.token_id, dead.token_id);
    }
    ground.sandbox.revoke(&dead.access_token);
    let mut calls = JoinSet::new();
    for n in 0..30 {
        let (client, id) = (caller(&replicas[n % 3].endpoint), dead.token_id.clone());
        calls.spawn(async move { complain(&client, &id).await.expect("there is a token").token_id });
    }
    let mut ids = calls.join_all().await;
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), ground.sandbox.sign_ins()), (1, 2));
    assert_ne!(ids[0], dead.token_id);
}

#[tokio::test]
async fn a_token_that_was_complained_of_is_not_taken_by_who_knows_nothing() {
    let mut ground = Ground::new().await;
    ground.vault = "min_sign_in_interval = \"0s\"".to_owned();
    let first = ground.replica().await;
    let dead = token(&first.client).await;
    metric_is(&first.admin, "token_broker_shared_operations_total{operation=\"write\",result=\"done\"}", 1).await;
    let second = ground.replica().await;
    let next = complain(&second.client, &dead.token_id).await.expect("there is a token");
    assert_ne!(next.token_id, dead.token_id);
    assert_eq!(ground.sandbox.sign_ins(), 2);
    assert_eq!(metric(&second.admin, &shared_entries("rejected")).await, 1, "as it looked; from then on it has it");
    answers(&first.endpoint, &next.token_id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_renewed_ahead_by_one_of_all() {
    let lifetime = Duration::from_secs(8);
    let mut ground = Ground::with(Options { lifetime, ..Options::default() }, crate::support::redis::Redis::start(&[])).await;
    ground.vault = "min_sign_in_interval = \"0s\"".to_owned();
    let replicas = ground.replicas(3).await;
    let first = token(&replicas[0].client).await;
    let began = Instant::now();
    // All are asked for all the time, so all want to renew.
    while ground.sandbox.sign_ins() < 4 && began.elapsed() < PATIENCE * 2 {
        for replica in &replicas {
            let answered = token(&replica.client).await;
            assert!(ground.sandbox.is_live(&answered.access_token), "an ended token was answered");
        }
        sleep(Duration::from_millis(50)).await;
    }
    // Three renewals take some seven seconds each, less the jitter: more often it would be each for itself.
    assert!(began.elapsed() > Duration::from_secs(15), "{:?}", began.elapsed());
    assert_ne!(token(&replicas[1].client).await.token_id, first.token_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_holder_of_the_lock_delays_others_by_the_lease_at_most() {
    let mut ground = Ground::new().await;
    ground.vault = "timeout = \"1s\"".to_owned();
    let holder = ground.process().await;
    ground.sandbox.script(Fault::Hang);
    let client = caller(&holder.endpoint());
    let asking = tokio::spawn(async move { client.token(MERCHANT, NUMBER).await.map(drop) });
    ground.sandbox.wait_for_sign_ins(1, PATIENCE).await;
    let other = ground.replica().await;
    holder.signal(Signal::KILL);
    // It is the lock that the other waits for, which outlives who had it.
    let lock = ground.redis.names("tb1:l:").remove(0);
    let left = ground.redis.command(&format!("PTTL {lock}"));
    let crate::support::redis::Reply::Int(left) = left else { panic!("{left:?}") };
    let left = Duration::from_millis(u64::try_from(left).expect("it ends"));
    let began = Instant::now();
    token(&other.client).await;
    // The lease is the timeout and 1.5 s.
    let took = began.elapsed();
    assert!(took + Duration::from_millis(20) > left && took < Duration::from_millis(3_500), "{took:?} of {left:?}");
    assert_eq!(ground.sandbox.sign_ins(), 2);
    asking.abort();
}

#[tokio::test]
async fn keys_rotate_in_a_running_fleet_without_a_sign_in() {
    let mut ground = Ground::new().await;
    let (first, path) = ground.replica_at().await;
    let held = token(&first.client).await;
    metric_is(&first.admin, "token_broker_shared_operations_total{operation=\"write\",result=\"done\"}", 1).await;
    // The new one opens everywhere before it seals anywhere.
    for keys in [vec![1, 2], vec![2, 1]] {
        ground.keys = keys;
        reload(&first, &path, &ground.config());
        let generation = if ground.keys[0] == 1 { 2 } else { 3 };
        metric_is(&first.admin, "token_broker_configuration_generation", generation).await;
        let second = ground.replica().await;
        assert_eq!(token(&second.client).await.token_id, held.token_id);
    }
    assert_eq!(ground.sandbox.sign_ins(), 1);
    // What was sealed with the former key is of no use to who has not got it.
    ground.keys = vec![2];
    let third = ground.replica().await;
    assert_ne!(token(&third.client).await.token_id, held.token_id);
    assert!(metric(&third.admin, &shared_entries("foreign")).await > 0);
    assert_eq!(ground.sandbox.sign_ins(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_minutes_apart_hand_out_no_ended_token() {
    let ground = Ground::new().await;
    let replicas = [ground.replica().await, ground.replica_ahead(300).await, ground.replica_ahead(-300).await];
    // What lives for long is shared, less what the clocks may be wrong by.
    let first = token(&replicas[0].client).await;
    for replica in &replicas {
        assert_eq!(token(&replica.client).await.token_id, first.token_id);
    }
    assert_eq!(ground.sandbox.sign_ins(), 1);
}

/// The server's clock tells how old a token is; and what is past by one's own is past.
#[tokio::test]
async fn clocks_minutes_apart_give_a_token_no_more_life_than_it_has_left() {
    const LIFETIME: Duration = Duration::from_secs(12);
    let options = Options { lifetime: LIFETIME, ..Options::default() };
    let ground = Ground::with(options, crate::support::redis::Redis::start(&[])).await;
    let began = Instant::now();
    let replica = ground.replica().await;
    let first = token(&replica.client).await;
    metric_is(&replica.admin, "token_broker_shared_operations_total{operation=\"write\",result=\"done\"}", 1).await;
    let (behind, ahead) = (ground.replica_ahead(-300).await, ground.replica_ahead(300).await);
    sleep(Duration::from_secs(3)).await;
    let same = token(&behind.client).await;
    let lasts = crate::support::left(&same);
    assert_eq!(same.token_id, first.token_id);
    assert!(lasts <= LIFETIME - Duration::from_secs(3), "it is older than that: {lasts:?}");
    assert!(lasts + began.elapsed() + Duration::from_secs(2) > LIFETIME, "and no older: {lasts:?}");
    let own = token(&ahead.client).await;
    assert_ne!(own.token_id, first.token_id);
    assert!(metric(&ahead.admin, &shared_entries("expired")).await > 0, "by its clock it was past");
    assert!(ground.sandbox.is_live(&own.access_token));
}

#[tokio::test]
async fn who_lost_the_lock_meanwhile_writes_nothing() {
    let ground = Ground::new().await;
    ground.sandbox.script(Fault::truth().after(Duration::from_millis(500)));
    let replica = ground.replica().await;
    let client = replica.client.clone();
    let asking = tokio::spawn(async move { token(&client).await });
    ground.sandbox.wait_for_sign_ins(1, PATIENCE).await;
    let lock = ground.redis.names("tb1:l:").remove(0);
    ground.redis.command(&format!("SET {lock} another PX 60000"));
    let held = asking.await.expect("no panic");
    metric_is(&replica.admin, &shared_entries("late"), 1).await;
    assert!(ground.redis.names("tb1:t:").is_empty() && ground.redis.get(&lock) == b"another");
    assert_eq!(token(&replica.client).await.token_id, held.token_id, "it has its token all the same");
}
