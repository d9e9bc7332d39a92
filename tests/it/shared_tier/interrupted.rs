//! What goes wrong between a sign-in and the others' hearing of it.

use std::time::Duration;

use rustix::process::Signal;
use token_broker_sandbox::Fault;
use tonic::Code;

use super::ground::{Ground, caller, metric_is, token};
use crate::support::{MERCHANT, NUMBER, PATIENCE, Said, user};

const FAILED: &str = "token_broker_shared_operations_total{operation=\"write\",result=\"failed\"}";

#[tokio::test]
async fn a_refusal_is_told_though_the_server_stood_still_as_it_came() {
    let mut ground = Ground::new().await;
    ground.users = user(NUMBER, "wrong");
    let (replica, other) = (ground.replica().await, ground.replica().await);
    ground.sandbox.script(Fault::truth().after(Duration::from_millis(500)));
    let client = replica.client.clone();
    let asking = tokio::spawn(async move { client.token(MERCHANT, NUMBER).await });
    ground.sandbox.wait_for_sign_ins(1, PATIENCE).await;
    ground.redis.signal(Signal::STOP);
    let said = Said::of(asking.await.expect("no panic").expect_err("is refused"));
    said.check(Code::FailedPrecondition, "CREDENTIALS_REJECTED");
    metric_is(&replica.admin, FAILED, 1).await;
    ground.redis.signal(Signal::CONT);
    let said = Said::of(other.client.token(MERCHANT, NUMBER).await.expect_err("is refused"));
    said.check(Code::FailedPrecondition, "CREDENTIALS_REJECTED");
    assert_eq!(ground.sandbox.sign_ins(), 1, "a wrong password is tried once");
}

#[tokio::test]
async fn what_came_of_a_sign_in_that_was_sent_is_kept_as_the_process_ends() {
    let ground = Ground::new().await;
    let mut process = ground.process().await;
    ground.sandbox.script(Fault::truth().after(Duration::from_millis(700)));
    let hasty = caller(&process.endpoint()).timeout(Duration::from_millis(200));
    hasty.token(MERCHANT, NUMBER).await.expect_err("its caller has gone");
    ground.sandbox.wait_for_sign_ins(1, PATIENCE).await;
    process.signal(Signal::TERM);
    assert!(process.ended(PATIENCE).await.success());
    token(&ground.replica().await.client).await;
    assert_eq!(ground.sandbox.sign_ins(), 1, "another replica has its token");
}
