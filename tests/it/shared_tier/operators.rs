//! What an operator does at one replica counts for all that reach the server.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use token_broker_sandbox::{Fault, User};
use tokio::time::sleep;
use tonic::Code;

use super::ground::{Ground, caller, token};
use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE, Said,
    process::{Process, run},
    user,
};

/// A replica in a process of its own, with an operator's socket of this name.
async fn replica(ground: &mut Ground, name: &str) -> Process {
    let users = ground.users.clone();
    let socket = socket(ground, name);
    ground.users = format!("[operator]\nsocket = \"{socket}\"\n{users}");
    let replica = ground.process().await;
    ground.users = users;
    replica
}

fn socket(ground: &Ground, name: &str) -> String {
    ground.files.path().join(name).to_str().expect("is text").to_owned()
}

async fn done(ground: &Ground, name: &str, command: &str, more: &[&str]) -> Value {
    let (about, socket) = ([command, "--json", "--merchant-id", MERCHANT, "--socket"], socket(ground, name));
    let (code, stdout, stderr) = run(&[&about[..], &[&socket], more].concat()).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{command}");
    serde_json::from_str(&stdout).expect("is JSON")
}

async fn refused(replica: &Process) {
    let asked = caller(&replica.endpoint()).token(MERCHANT, NUMBER).await;
    asked.map_err(Said::of).expect_err("is refused").check(Code::FailedPrecondition, "CREDENTIALS_REJECTED");
}

/// Waits until a replica has a token for callers again.
async fn is_served(replica: &Process) -> Duration {
    let began = Instant::now();
    while let Err(error) = caller(&replica.endpoint()).token(MERCHANT, NUMBER).await {
        assert!(began.elapsed() < PATIENCE, "{error}");
        sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

#[tokio::test]
async fn a_hold_is_lifted_at_all_replicas_for_one_more_try() {
    let mut ground = Ground::new().await;
    ground.sandbox.set_password(MERCHANT, NUMBER, "another");
    let (one, other) = (replica(&mut ground, "one").await, replica(&mut ground, "other").await);
    refused(&one).await;
    refused(&other).await;
    assert_eq!(ground.sandbox.sign_ins(), 1, "it was told");
    let lifted = done(&ground, "one", "lift-hold", &["--number", NUMBER]).await;
    assert_eq!(lifted["reach"], "all_replicas", "{lifted}");
    // The other one tries, and both know what came of it.
    let began = Instant::now();
    while ground.sandbox.sign_ins() == 1 {
        assert!(began.elapsed() < PATIENCE, "it is held there still");
        refused(&other).await;
    }
    refused(&one).await;
    assert_eq!(ground.sandbox.sign_ins(), 2, "one more for all");
    // And again, now that the vault takes it.
    ground.sandbox.set_password(MERCHANT, NUMBER, "1234Qwerty");
    done(&ground, "other", "lift-hold", &["--number", NUMBER]).await;
    is_served(&one).await;
    is_served(&other).await;
    assert_eq!(ground.sandbox.sign_ins(), 3);
}

#[tokio::test]
async fn a_token_that_is_dropped_at_one_is_handed_out_by_none() {
    let mut ground = Ground::new().await;
    ground.vault = "min_sign_in_interval = \"0s\"\nsign_out = true\n".to_owned();
    let (one, other) = (replica(&mut ground, "one").await, replica(&mut ground, "other").await);
    let (one, other) = (caller(&one.endpoint()), caller(&other.endpoint()));
    let before = token(&one).await;
    assert_eq!(token(&other).await.token_id, before.token_id);
    let dropped = done(&ground, "one", "drop", &["--number", NUMBER]).await;
    assert_eq!((&dropped["reach"], dropped["token_id"].as_str()), (&Value::from("all_replicas"), Some(&*before.token_id)));
    let third = ground.process().await;
    assert_ne!(token(&caller(&third.endpoint())).await.token_id, before.token_id, "nor found by one that starts");
    let began = Instant::now();
    while token(&other).await.token_id == before.token_id {
        assert!(began.elapsed() < Duration::from_secs(5), "it goes on answering it");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(token(&one).await.token_id, token(&other).await.token_id);
    assert_eq!(ground.sandbox.sign_ins(), 2);
    ground.sandbox.wait_for("a sign-out", PATIENCE, |stats| stats.signouts > 0).await;
    assert!(!ground.sandbox.is_live(&before.access_token));
    assert_eq!(ground.sandbox.stats().signouts, 1, "by one of them");
    let renewed = done(&ground, "one", "renew", &["--number", NUMBER]).await;
    assert_eq!(renewed["reach"], "all_replicas", "{renewed}");
}

#[tokio::test]
async fn a_merchants_waits_are_lifted_at_all_replicas() {
    let mut ground = Ground::new().await;
    let (one, other) = (replica(&mut ground, "one").await, replica(&mut ground, "other").await);
    ground.sandbox.script(Fault::refusal(429, "WAF_LOCK_NOT_IN_LIST", ""));
    for replica in [&other, &one] {
        let asked = caller(&replica.endpoint()).token(MERCHANT, NUMBER).await;
        asked.map_err(Said::of).expect_err("waits").check(Code::Unavailable, "VAULT_THROTTLED");
    }
    assert_eq!(ground.sandbox.sign_ins(), 1);
    let lifted = done(&ground, "one", "lift-hold", &[]).await;
    assert_eq!((&lifted["reach"], lifted["lifted"].is_object()), (&Value::from("all_replicas"), true), "{lifted}");
    is_served(&other).await;
    is_served(&one).await;
    assert_eq!(ground.sandbox.sign_ins(), 2);
}

#[tokio::test]
async fn a_merchants_wait_that_comes_soon_after_a_lift_is_told_to_all() {
    let mut ground = Ground::new().await;
    let colleague = "+447871230001";
    ground.sandbox.add_user(User::new(MERCHANT, colleague, PASSWORD));
    ground.users += &user(colleague, PASSWORD);
    let (one, other) = (replica(&mut ground, "one").await, replica(&mut ground, "other").await);
    assert_eq!(done(&ground, "one", "lift-hold", &[]).await["reach"], "all_replicas");
    // Shorter than the lift is remembered.
    ground.sandbox.script(Fault::refusal(429, "WAF_LOCK_NOT_IN_LIST", "wait 5 seconds"));
    for (replica, number) in [(&one, NUMBER), (&other, colleague)] {
        let asked = caller(&replica.endpoint()).token(MERCHANT, number).await;
        asked.map_err(Said::of).expect_err("waits").check(Code::Unavailable, "VAULT_THROTTLED");
    }
    assert_eq!(ground.sandbox.sign_ins(), 1);
}

#[tokio::test]
async fn where_the_server_is_away_an_act_is_one_replicas() {
    let mut ground = Ground::new().await;
    let one = replica(&mut ground, "one").await;
    token(&caller(&one.endpoint())).await;
    ground.redis.kill();
    one.line_like("the shared tier can't be used").await;
    let dropped = done(&ground, "one", "drop", &["--number", NUMBER]).await;
    assert_eq!(dropped["reach"], "this_replica");
}

#[tokio::test]
async fn a_token_is_dropped_by_a_replica_that_has_not_heard_of_it_and_while_the_next_is_fetched() {
    let mut ground = Ground::new().await;
    ground.vault = "min_sign_in_interval = \"0s\"\nsign_out = true\n".to_owned();
    let (_one, other) = (replica(&mut ground, "one").await, replica(&mut ground, "other").await);
    let other = caller(&other.endpoint());
    let before = token(&other).await;
    // A renewal that lasts: the token is answered meanwhile.
    ground.sandbox.script(Fault::truth().after(Duration::from_secs(3)));
    let renewing = done(&ground, "other", "renew", &["--number", NUMBER]);
    let dropping = async {
        ground.sandbox.wait_for_sign_ins(2, PATIENCE).await;
        assert_eq!(token(&other).await.token_id, before.token_id);
        done(&ground, "one", "drop", &["--number", NUMBER]).await
    };
    let (renewed, dropped) = tokio::join!(renewing, dropping);
    assert_eq!((&dropped["reach"], dropped["token_id"].as_str()), (&Value::from("all_replicas"), Some(&*before.token_id)));
    assert_ne!(renewed["user"]["token"]["token_id"].as_str(), Some(&*before.token_id));
    ground.sandbox.wait_for("a sign-out", PATIENCE, |stats| stats.signouts == 1).await;
    assert!(!ground.sandbox.is_live(&before.access_token));
}

#[tokio::test]
async fn a_dropped_token_that_is_put_back_is_taken_by_none_that_heard_of_the_drop() {
    let mut ground = Ground::new().await;
    ground.vault = "min_sign_in_interval = \"0s\"\n".to_owned();
    let (one, other) = (replica(&mut ground, "one").await, replica(&mut ground, "other").await);
    let (one, other) = (caller(&one.endpoint()), caller(&other.endpoint()));
    let before = token(&one).await;
    assert_eq!(token(&other).await.token_id, before.token_id);
    let name = ground.redis.names("tb1:t:").remove(0);
    let sealed = ground.redis.get(&name);
    done(&ground, "one", "drop", &["--number", NUMBER]).await;
    let began = Instant::now();
    while !done(&ground, "other", "user", &["--number", NUMBER]).await["user"]["token"].is_null() {
        assert!(began.elapsed() < PATIENCE, "it has it still");
        sleep(Duration::from_millis(10)).await;
    }
    ground.redis.replace(&name, &sealed);
    assert_ne!(token(&other).await.token_id, before.token_id);
    assert_ne!(token(&one).await.token_id, before.token_id);
}

/// Writes are refused from now on, and reads are not.
fn fill(ground: &Ground) {
    ground.redis.command("CONFIG SET maxmemory-policy noeviction");
    ground.redis.command("CONFIG SET maxmemory 1");
}

/// A replica that has never met the user learns of the floor from the server.
async fn too_soon(stranger: &Process) {
    let hurried = caller(&stranger.endpoint()).timeout(Duration::from_millis(500));
    hurried.token(MERCHANT, NUMBER).await.expect_err("is too soon");
    let asked = hurried.token(MERCHANT, NUMBER).await.map_err(Said::of);
    asked.expect_err("is too soon").check(Code::Unavailable, "SIGN_IN_TOO_SOON");
}

#[tokio::test]
async fn a_drop_lifts_neither_hold_nor_floor() {
    let mut ground = Ground::new().await;
    ground.vault = "min_sign_in_interval = \"60s\"\n".to_owned();
    let one = replica(&mut ground, "one").await;
    token(&caller(&one.endpoint())).await;
    done(&ground, "one", "drop", &["--number", NUMBER]).await;
    too_soon(&ground.process().await).await;
    // Nor does a lift of what stops the user by itself.
    done(&ground, "one", "lift-hold", &["--number", NUMBER]).await;
    too_soon(&ground.process().await).await;
    done(&ground, "one", "drop", &["--number", NUMBER]).await;
    too_soon(&ground.process().await).await;
    assert_eq!(ground.sandbox.sign_ins(), 1);

    let mut ground = Ground::new().await;
    ground.sandbox.set_password(MERCHANT, NUMBER, "another");
    let one = replica(&mut ground, "one").await;
    refused(&one).await;
    for _ in 0..2 {
        done(&ground, "one", "drop", &["--number", NUMBER]).await;
        refused(&ground.process().await).await;
    }
    assert_eq!(ground.sandbox.sign_ins(), 1);
}

#[tokio::test]
async fn a_refusal_that_comes_after_a_lift_holds() {
    let mut ground = Ground::new().await;
    let (one, other) = (replica(&mut ground, "one").await, replica(&mut ground, "other").await);
    ground.sandbox.script(Fault::refusal(11, "WRONG_LOGIN_OR_PASSWORD_EXCEPTION", "").after(Duration::from_secs(1)));
    let lifting = async {
        ground.sandbox.wait_for_sign_ins(1, PATIENCE).await;
        // It waits for the lock.
        done(&ground, "one", "lift-hold", &["--number", NUMBER]).await
    };
    let ((), lifted) = tokio::join!(refused(&other), lifting);
    assert_eq!(lifted["reach"], "all_replicas", "{lifted}");
    refused(&one).await;
    refused(&other).await;
    assert_eq!(ground.sandbox.sign_ins(), 1, "what is lifted was said before");
}

#[tokio::test]
async fn an_act_that_cannot_be_told_is_not_undone_by_what_stands_there() {
    let mut ground = Ground::new().await;
    ground.vault = "min_sign_in_interval = \"0s\"\n".to_owned();
    let one = replica(&mut ground, "one").await;
    let client = caller(&one.endpoint());
    let before = token(&client).await;
    fill(&ground);
    let dropped = done(&ground, "one", "drop", &["--number", NUMBER]).await;
    assert_eq!((&dropped["reach"], dropped["token_id"].as_str()), (&Value::from("this_replica"), Some(&*before.token_id)));
    assert_ne!(token(&client).await.token_id, before.token_id);
    assert_eq!(ground.sandbox.sign_ins(), 2);
    let renewed = done(&ground, "one", "renew", &["--number", NUMBER]).await;
    assert_eq!(renewed["reach"], "this_replica", "the server takes no token: {renewed}");
    assert_eq!(ground.sandbox.sign_ins(), 3);

    let mut ground = Ground::new().await;
    ground.sandbox.set_password(MERCHANT, NUMBER, "another");
    let one = replica(&mut ground, "one").await;
    refused(&one).await;
    fill(&ground);
    let lifted = done(&ground, "one", "lift-hold", &["--number", NUMBER]).await;
    assert_eq!((&lifted["reach"], lifted["lifted"].is_object()), (&Value::from("this_replica"), true), "{lifted}");
    refused(&one).await;
    assert_eq!(ground.sandbox.sign_ins(), 2, "one more try");
    refused(&one).await;
    assert_eq!(ground.sandbox.sign_ins(), 2, "and no more");
}

#[tokio::test]
async fn a_lift_is_heard_by_a_replica_that_remembers_the_hold_from_before_its_restart() {
    let mut ground = Ground::new().await;
    ground.sandbox.set_password(MERCHANT, NUMBER, "another");
    let one = replica(&mut ground, "one").await;
    ground.top = format!("state_directory = \"{}/state\"\n", ground.files.path().display());
    let mut other = replica(&mut ground, "other").await;
    refused(&other).await;
    other.signal(Signal::TERM);
    other.ended(PATIENCE).await;
    let other = replica(&mut ground, "other").await;
    refused(&one).await;
    done(&ground, "one", "lift-hold", &["--number", NUMBER]).await;
    let began = Instant::now();
    while ground.sandbox.sign_ins() == 1 {
        assert!(began.elapsed() < PATIENCE, "it is held there still");
        refused(&other).await;
    }
}
