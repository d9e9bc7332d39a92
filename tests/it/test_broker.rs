//! What the client crate gives to callers' tests: the programs themselves, started as those do.

use std::path::Path;

use token_broker_client::testing::TestBroker;

use crate::support::process::BINARY;

fn start(options: &[&str]) -> std::io::Result<TestBroker> {
    // Beside the broker, where a build of the workspace leaves it.
    let sandbox = Path::new(BINARY).with_file_name("token-broker-sandbox");
    assert!(sandbox.exists(), "no sandbox to start: cargo build --package token-broker-sandbox");
    TestBroker::start_programs(&sandbox, Path::new(BINARY), options)
}

#[tokio::test]
async fn each_test_has_a_user_of_its_own_and_rejections_cost_no_wait() {
    let broker = start(&["--lifetime", "1h"]).expect("starts");
    let (source, user, other) = (broker.source().expect("is a source"), broker.user(), broker.user());
    assert_ne!(user, other);
    let first = source.token(&user).await.expect("there is one");
    assert!(source.token(&other).await.expect("there is one").id() != first.id());
    // No floor holds these apart, however many there are.
    let mut former = first;
    for _ in 0..5 {
        assert!(source.rejected(&former));
        let next = source.token(&user).await.expect("there is another");
        assert_ne!(next.id(), former.id());
        former = next;
    }
}

#[tokio::test]
async fn it_ends_with_the_test_and_says_what_is_missing() {
    let broker = start(&[]).expect("starts");
    let endpoint = broker.endpoint().strip_prefix("http://").expect("is plaintext").to_owned();
    tokio::net::TcpStream::connect(&endpoint).await.expect("listens");
    drop(broker);
    tokio::net::TcpStream::connect(&endpoint).await.expect_err("nobody listens there any more");

    let missing = TestBroker::start_programs(Path::new("/nowhere"), Path::new(BINARY), &[]).expect_err("is not there");
    assert!(missing.to_string().contains("TOKEN_BROKER_SANDBOX_PROGRAM"), "{missing}");
    start(&["--no-such-option"]).expect_err("does not start");
}
