//! `rejected_token_ids`: a token that the vault's API refused is replaced, within the floor.

use std::time::{Duration, Instant};

use token_broker::client::{Client, Query};
use token_broker_sandbox::{Fault, Mode};
use tonic::Code;

use crate::support::{MERCHANT, NUMBER, PATIENCE, Said, Setting, http};

const SHORT_FLOOR: &str = "min_sign_in_interval = \"300ms\"";
/// Nothing here takes so long.
const LONG_FLOOR: &str = "min_sign_in_interval = \"60s\"";

#[tokio::test]
async fn a_rejected_token_is_replaced_once_after_the_floor_and_late_reporters_get_the_new_one() {
    let stage = Setting::vault(SHORT_FLOOR).start().await;
    let before = Instant::now();
    let dead = stage.good_token().await;
    stage.sandbox.revoke(&dead.access_token);
    let shouted = dead.token_id.to_uppercase();
    let (a, b) = tokio::join!(stage.complain(&dead.token_id), stage.complain(&shouted));
    let (a, b) = (a.expect("there is a token"), b.expect("there is a token"));
    assert_ne!(a.token_id, dead.token_id);
    assert_eq!(a.token_id, b.token_id);
    assert!(before.elapsed() >= Duration::from_millis(300), "the floor was kept: {:?}", before.elapsed());
    assert_eq!(stage.complain(&dead.token_id).await.expect("there is a token").token_id, a.token_id);
    assert_eq!(stage.complain("no such id").await.expect("there is a token").token_id, a.token_id);
    assert_eq!(stage.sandbox.sign_ins(), 2);
}

#[tokio::test]
async fn more_ids_than_the_contract_takes_are_a_fault() {
    let stage = Setting::default().start().await;
    let query = |n: usize| token_broker::client::Query { rejected_token_ids: vec!["x".to_owned(); n], ..Default::default() };
    let client = token_broker::client::Client::new(&stage.endpoint).expect("is an endpoint");
    client.token_with(MERCHANT, NUMBER, query(16)).await.expect("there is a token");
    let said = Said::of(client.token_with(MERCHANT, NUMBER, query(17)).await.expect_err("is too many"));
    said.check(Code::InvalidArgument, "INVALID_REQUEST");
}

#[tokio::test]
async fn a_complaint_whose_deadline_ends_before_the_floor_is_told_the_rest() {
    let stage = Setting::vault(LONG_FLOOR).start().await;
    let dead = stage.good_token().await;
    let hurried = stage.client.clone().timeout(Duration::from_secs(10));
    let query = Query { rejected_token_ids: vec![dead.token_id.clone()], ..Default::default() };
    let said = Said::of(hurried.token_with(MERCHANT, NUMBER, query).await.expect_err("the floor is 60 s"));
    said.check(Code::Unavailable, "SIGN_IN_TOO_SOON");
    assert!(said.retry.is_some_and(|wait| wait > Duration::from_secs(40) && wait <= Duration::from_secs(60)), "{said:?}");
    assert_eq!(stage.others_token().await.token_id, dead.token_id, "others go on getting it");
    assert_eq!(stage.sandbox.sign_ins(), 1);
}

#[tokio::test]
async fn a_complaint_that_fails_is_told_why_and_others_keep_the_token() {
    let stage = Setting::vault("min_sign_in_interval = \"0s\"").start().await;
    let dead = stage.good_token().await;
    stage.sandbox.script(Fault::html(503));
    let said = Said::of(stage.complain(&dead.token_id).await.expect_err("the vault is down"));
    said.check(Code::Unavailable, "VAULT_UNAVAILABLE");
    assert_eq!(stage.others_token().await.token_id, dead.token_id);
    stage.sandbox.assert_script_used_up();
}

#[tokio::test]
async fn a_vault_that_insists_on_its_token_is_believed() {
    let mut setting = Setting::vault("min_sign_in_interval = \"0s\"");
    setting.options.mode = Mode::SameToken;
    let stage = setting.start().await;
    let first = stage.good_token().await;
    let again = stage.complain(&first.token_id).await.expect("there is a token");
    assert_eq!(again.token_id, first.token_id);
    assert_eq!(stage.sandbox.sign_ins(), 2);
}

#[tokio::test]
async fn replicas_that_revoke_each_others_tokens_count_what_slows_them_down() {
    let mut setting = Setting::vault(SHORT_FLOOR);
    setting.options.mode = Mode::RevokeOld;
    let stage = setting.start().await;
    let replica = stage.replica().await;
    let ours = stage.good_token().await;
    let theirs = replica.client.token(MERCHANT, NUMBER).await.expect("there is a token");
    assert!(!stage.sandbox.is_live(&ours.access_token) && stage.sandbox.is_live(&theirs.access_token));
    let before = Instant::now();
    let ours = stage.complain(&ours.token_id).await.expect("there is a token");
    // Doubled from 1 s, since the configured floor is less than that; it counts from a sign-in after `before`.
    let hurried = stage.client.clone().timeout(Duration::from_millis(500));
    let query = Query { rejected_token_ids: vec![ours.token_id.clone()], ..Query::default() };
    let said = Said::of(hurried.token_with(MERCHANT, NUMBER, query).await.expect_err("the floor is 2 s"));
    said.check(Code::Unavailable, "SIGN_IN_TOO_SOON");
    assert!(said.retry.is_some_and(|wait| wait + before.elapsed() >= Duration::from_secs(2)), "{said:?}");
    assert!(stage.sandbox.is_live(&ours.access_token) && !stage.sandbox.is_live(&theirs.access_token));
    for (admin, doublings) in [(&stage.admin, 1), (&replica.admin, 0)] {
        let metrics = http(admin, "/metrics").await;
        assert!(metrics.contains(&format!("\ntoken_broker_floor_doublings_total {doublings}\n")), "{metrics}");
    }
}

/// One caller after the other's answer, round robin, with what it remembers of its user.
async fn heals_after(replicas: usize) {
    let stage = Setting::vault("min_sign_in_interval = \"0s\"").start().await;
    let mut clients = vec![stage.client.clone()];
    let mut running = Vec::new();
    for _ in 1..replicas {
        let replica = stage.replica().await;
        clients.push(replica.client.clone());
        running.push(replica);
    }
    for client in &clients {
        let token = client.token(MERCHANT, NUMBER).await.expect("there is a token");
        stage.sandbox.revoke(&token.access_token);
    }
    let mut dead = Vec::new();
    for call in 0..=replicas {
        let query = Query { rejected_token_ids: dead.clone(), ..Query::default() };
        let token = clients[call % replicas].token_with(MERCHANT, NUMBER, query).await.expect("there is a token");
        if stage.sandbox.is_live(&token.access_token) {
            assert_eq!(call, replicas, "each had a dead one");
            assert_eq!(stage.sandbox.sign_ins(), u64::try_from(replicas).expect("is small") + 1);
            return;
        }
        assert!(!dead.contains(&token.token_id), "a token that was named came back");
        dead.push(token.token_id);
    }
    panic!("no good token after {} calls of {replicas} replicas", replicas + 1);
}

#[tokio::test]
async fn one_caller_of_n_replicas_with_dead_tokens_has_a_good_one_after_n_plus_one_calls() {
    tokio::join!(heals_after(1), heals_after(2), heals_after(3), heals_after(15));
}

#[tokio::test]
async fn a_token_among_many_named_is_found_and_many_others_cost_no_sign_in() {
    let stage = Setting::vault("min_sign_in_interval = \"0s\"").start().await;
    let caller = || Client::new(&stage.endpoint).expect("is an endpoint").timeout(PATIENCE);
    let ours = stage.good_token().await;
    let others: Vec<_> = (0..15).map(|n| format!("{n:064}")).chain([String::new()]).collect();
    let query = Query { rejected_token_ids: others.clone(), ..Query::default() };
    let same = caller().token_with(MERCHANT, NUMBER, query).await.expect("there is a token");
    assert_eq!((same.token_id.as_str(), stage.sandbox.sign_ins()), (ours.token_id.as_str(), 1));
    for place in [0, 7, 15] {
        let held = caller().token(MERCHANT, NUMBER).await.expect("there is a token").token_id;
        let mut named = others.clone();
        named[place] = held.to_uppercase();
        let query = Query { rejected_token_ids: named, ..Query::default() };
        let next = caller().token_with(MERCHANT, NUMBER, query).await.expect("there is a token");
        assert_ne!(next.token_id, held, "in place {place}");
    }
    assert_eq!(stage.sandbox.sign_ins(), 4);
}

#[tokio::test]
async fn the_client_remembers_what_was_rejected_and_believes_a_vault_that_insists() {
    let mut setting = Setting::vault("min_sign_in_interval = \"0s\"");
    setting.options.mode = Mode::SameToken;
    let stage = setting.start().await;
    let client = stage.client.clone();
    let token = stage.good_token().await;
    client.rejected(MERCHANT, NUMBER, &token);
    assert_eq!(stage.good_token().await.token_id, token.token_id, "the vault insists");
    assert_eq!(stage.sandbox.sign_ins(), 2, "a clone named it");
    stage.good_token().await;
    assert_eq!(stage.sandbox.sign_ins(), 2, "and names it no more");

    stage.sandbox.set_mode(Mode::Fresh);
    stage.sandbox.revoke(&token.access_token);
    client.rejected(MERCHANT, NUMBER, &token);
    let next = stage.good_token().await;
    assert!(next.token_id != token.token_id && stage.sandbox.is_live(&next.access_token));
    stage.good_token().await;
    assert_eq!(stage.sandbox.sign_ins(), 3);
}
