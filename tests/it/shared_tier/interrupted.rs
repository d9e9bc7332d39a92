//! What goes wrong between a sign-in and the others' hearing of it.

use std::time::Duration;

use rustix::process::Signal;
use token_broker_sandbox::Fault;
use tonic::Code;

use super::ground::{Ground, UP, caller, metric, metric_is, token};
use crate::support::{MERCHANT, NUMBER, PATIENCE, Said, proxy::Proxy, user};

const WRITTEN: &str = "token_broker_shared_operations_total{operation=\"write\",result=\"done\"}";
const FAILED: &str = "token_broker_shared_operations_total{operation=\"write\",result=\"failed\"}";

#[tokio::test]
async fn a_refusal_is_told_though_what_was_written_first_never_got_there() {
    let mut ground = Ground::new().await;
    ground.users = user(NUMBER, "wrong");
    let other = ground.replica().await;
    let way = Proxy::to(ground.redis.port).await;
    ground.url = format!("redis://127.0.0.1:{}", way.port);
    let replica = ground.replica().await;
    ground.sandbox.script(Fault::truth().after(Duration::from_millis(500)));
    let client = replica.client.clone();
    let asking = tokio::spawn(async move { client.token(MERCHANT, NUMBER).await });
    ground.sandbox.wait_for_sign_ins(1, PATIENCE).await;
    way.lose();
    let said = Said::of(asking.await.expect("no panic").expect_err("is refused"));
    said.check(Code::FailedPrecondition, "CREDENTIALS_REJECTED");
    metric_is(&replica.admin, FAILED, 1).await;
    metric_is(&replica.admin, WRITTEN, 1).await;
    let said = Said::of(other.client.token(MERCHANT, NUMBER).await.expect_err("is refused"));
    said.check(Code::FailedPrecondition, "CREDENTIALS_REJECTED");
    assert_eq!(ground.sandbox.sign_ins(), 1, "a wrong password is tried once");
}

#[tokio::test]
async fn what_was_refused_while_the_server_was_away_is_told_when_it_is_back() {
    let mut ground = Ground::new().await;
    ground.users = user(NUMBER, "wrong");
    let (replica, other) = (ground.replica().await, ground.replica().await);
    metric_is(&replica.admin, UP, 1).await;
    ground.redis.kill();
    metric_is(&replica.admin, UP, 0).await;
    let said = Said::of(replica.client.token(MERCHANT, NUMBER).await.expect_err("is refused"));
    said.check(Code::FailedPrecondition, "CREDENTIALS_REJECTED");
    let held = said.metadata["held_until"].clone();
    assert_eq!(metric(&replica.admin, WRITTEN).await, 0);
    ground.redis.restart();
    metric_is(&replica.admin, WRITTEN, 1).await;
    metric_is(&other.admin, UP, 1).await;
    for replica in [other, ground.replica().await] {
        let said = Said::of(replica.client.token(MERCHANT, NUMBER).await.expect_err("is refused"));
        said.check(Code::FailedPrecondition, "CREDENTIALS_REJECTED");
        let instant = |text: &str| humantime::parse_rfc3339(text).expect("is an instant");
        let (first, here) = (instant(&held), instant(&said.metadata["held_until"]));
        let apart = here.duration_since(first).unwrap_or_else(|earlier| earlier.duration());
        assert!(apart <= Duration::from_secs(2), "as long as there: {apart:?}");
    }
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
