//! What stops sign-ins stops them everywhere.

use std::time::Duration;

use token_broker_sandbox::{Fault, User};
use tonic::Code;

use super::ground::{Ground, caller, metric_is, token};
use crate::support::{MERCHANT, NUMBER, PASSWORD, Said, user};

const WRITTEN: &str = "token_broker_shared_operations_total{operation=\"write\",result=\"done\"}";

#[tokio::test]
async fn a_wrong_password_is_tried_once_by_the_fleet_whatever_restarts() {
    let mut ground = Ground::new().await;
    ground.users = user(NUMBER, "wrong");
    let mut replicas = ground.replicas(3).await;
    let mut until = None;
    for restart in 0..20 {
        for replica in &replicas {
            let said = Said::of(replica.client.token(MERCHANT, NUMBER).await.expect_err("is refused"));
            said.check(Code::FailedPrecondition, "CREDENTIALS_REJECTED");
            assert_eq!(said.metadata["vault_error"], "11");
            let held = humantime::parse_rfc3339(&said.metadata["held_until"]).expect("is an instant");
            let first = *until.get_or_insert(held);
            let apart = held.duration_since(first).unwrap_or_else(|earlier| earlier.duration());
            assert!(apart <= Duration::from_secs(2), "{apart:?}");
        }
        replicas[restart % 3] = ground.replica().await;
    }
    assert_eq!(ground.sandbox.sign_ins(), 1);
    // Another password is another matter.
    ground.users = user(NUMBER, PASSWORD);
    let mended = ground.replica().await;
    token(&mended.client).await;
    let said = Said::of(replicas[0].client.token(MERCHANT, NUMBER).await.expect_err("is refused"));
    said.check(Code::FailedPrecondition, "CREDENTIALS_REJECTED");
    assert_eq!(ground.sandbox.sign_ins(), 2, "the two know nothing of each other");
}

#[tokio::test]
async fn a_pause_of_one_replica_is_one_of_all() {
    let ground = Ground::new().await;
    let replicas = ground.replicas(2).await;
    ground.sandbox.script(Fault::html(503).header("retry-after", "30"));
    let said = Said::of(replicas[0].client.token(MERCHANT, NUMBER).await.expect_err("is down"));
    said.check(Code::Unavailable, "VAULT_UNAVAILABLE");
    metric_is(&replicas[0].admin, WRITTEN, 1).await;
    let said = Said::of(caller(&replicas[1].endpoint).token(MERCHANT, NUMBER).await.expect_err("is down"));
    said.check(Code::Unavailable, "VAULT_UNAVAILABLE");
    assert!(said.retry.is_some_and(|wait| wait > Duration::from_secs(25) && wait <= Duration::from_secs(30)), "{said:?}");
    assert_eq!(ground.sandbox.sign_ins(), 1);
}

#[tokio::test]
async fn a_merchants_wait_is_one_for_all_its_users_everywhere() {
    let mut ground = Ground::new().await;
    let other = "+447871230001";
    ground.sandbox.add_user(User::new(MERCHANT, other, PASSWORD));
    ground.users += &user(other, PASSWORD);
    let replicas = ground.replicas(2).await;
    ground.sandbox.script(Fault::refusal(429, "WAF_LOCK_NOT_IN_LIST", "wait 90 seconds"));
    let said = Said::of(replicas[0].client.token(MERCHANT, NUMBER).await.expect_err("is to wait"));
    said.check(Code::Unavailable, "VAULT_THROTTLED");
    metric_is(&replicas[0].admin, WRITTEN, 1).await;
    let alone = Said::of(replicas[0].client.token(MERCHANT, other).await.expect_err("is to wait"));
    let there = Said::of(replicas[1].client.token(MERCHANT, other).await.expect_err("is to wait"));
    for said in [alone, there] {
        said.check(Code::Unavailable, "VAULT_THROTTLED");
    }
    assert_eq!(ground.sandbox.sign_ins(), 1);
}

#[tokio::test]
async fn undocumented_answers_are_counted_by_the_fleet() {
    let mut ground = Ground::new().await;
    ground.vault = "refusal_hold = \"1h\"".to_owned();
    ground.sandbox.set_always(Some(Fault::reply(418, "{}")));
    let replicas = ground.replicas(3).await;
    for replica in replicas.iter().chain(&replicas) {
        let said = Said::of(replica.client.token(MERCHANT, NUMBER).await.expect_err("is refused"));
        said.check(Code::Unavailable, "VAULT_UNAVAILABLE");
    }
    assert_eq!(ground.sandbox.sign_ins(), 1, "the pause is everybody's");
}
