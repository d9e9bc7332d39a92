//! `vault.sign_out`: tokens that are ended at the vault, and those that are not.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use token_broker::client::Client;
use token_broker_sandbox::{Options, Sandbox, User};
use tokio::time::sleep;

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE,
    process::{Process, run},
    user,
};

const OTHER: &str = "+447871238888";

fn config(sandbox: &Sandbox, directory: &TempDir, vault: &str, users: &str) -> String {
    let (url, directory) = (sandbox.url(), directory.path().display());
    let operator = format!("[operator]\nsocket = \"{directory}/operator.sock\"\n");
    format!("[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n{operator}[vault]\nbase_url = \"{url}\"\n{vault}{users}")
}

/// A vault with two users whose tokens a broker holds; the broker's configuration, and their tokens.
async fn begin(vault: &str) -> (Sandbox, TempDir, Process, [String; 2]) {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    sandbox.add_user(User::new(MERCHANT, OTHER, PASSWORD));
    let directory = tempfile::tempdir().expect("a directory");
    let both = format!("{}{}", user(NUMBER, PASSWORD), user(OTHER, PASSWORD));
    let broker = Process::serve(&config(&sandbox, &directory, vault, &both), &[]).await;
    let client = Client::new(&broker.endpoint()).expect("is an endpoint").timeout(PATIENCE);
    let mut tokens = Vec::new();
    for number in [NUMBER, OTHER] {
        tokens.push(client.token(MERCHANT, number).await.expect("there is one").access_token);
    }
    (sandbox, directory, broker, tokens.try_into().expect("there are two"))
}

async fn drop_token(directory: &TempDir) -> Value {
    let socket = directory.path().join("operator.sock");
    let about = ["drop", "--json", "--merchant-id", MERCHANT, "--number", NUMBER, "--socket"];
    let (code, stdout, stderr) = run(&[&about[..], &[socket.to_str().expect("is text")]].concat()).await;
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).expect("is JSON")
}

#[tokio::test]
async fn tokens_that_are_dropped_or_whose_users_are_removed_are_ended_once_and_those_of_a_restart_are_not() {
    let vault = "sign_out = true\n";
    let (sandbox, directory, mut broker, [dropped, removed]) = begin(vault).await;
    assert_eq!(drop_token(&directory).await["signs_out"], true);
    sandbox.wait_for("a sign-out", PATIENCE, |stats| stats.signouts == 1).await;
    assert!(!sandbox.is_live(&dropped) && sandbox.is_live(&removed));

    broker.replace(&config(&sandbox, &directory, vault, &user(NUMBER, PASSWORD)));
    broker.signal(Signal::HUP);
    sandbox.wait_for("another", PATIENCE, |stats| stats.signouts == 2).await;
    assert!(!sandbox.is_live(&removed));

    let client = Client::new(&broker.endpoint()).expect("is an endpoint").timeout(PATIENCE);
    let kept = client.token(MERCHANT, NUMBER).await.expect("there is one").access_token;
    broker.signal(Signal::TERM);
    broker.ended(PATIENCE).await;
    assert_eq!(sandbox.stats().signouts, 2);
    assert!(sandbox.is_live(&kept), "its end is no reason");
    let lines = broker.log();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("is JSON"));
    let told: Vec<_> = lines.filter(|line| line["event"] == "sign_out").collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|line| line["verdict"] == "ended" && line["reason"].is_null() && line["token_id"].is_string()));
    assert_eq!((told[0]["number"].as_str(), told[1]["number"].as_str()), (Some("+44…9999"), Some("+44…8888")));
    for line in broker.log().lines() {
        assert!([&dropped, &removed, &kept].iter().all(|token| !line.contains(token.as_str())), "{line}");
    }
}

#[tokio::test]
async fn a_vault_that_is_away_is_asked_once_and_keeps_nobody_up() {
    let (sandbox, directory, mut broker, _) = begin("sign_out = true\ntimeout = \"500ms\"\n").await;
    sandbox.stop().await;
    drop_token(&directory).await;
    let line = broker.line("a token may not have been ended at the vault").await;
    assert!(line["cause"].is_string(), "{line}");
    broker.signal(Signal::TERM);
    broker.ended(PATIENCE).await;
    let told = broker.log().lines().filter(|line| line.contains("\"event\":\"sign_out\"")).count();
    assert_eq!(told, 1);
}

#[tokio::test]
async fn none_is_ended_unless_that_is_configured() {
    let (sandbox, directory, broker, _) = begin("").await;
    assert_eq!(drop_token(&directory).await["signs_out"], false);
    broker.replace(&config(&sandbox, &directory, "", &user(NUMBER, PASSWORD)));
    broker.signal(Signal::HUP);
    broker.line("the configuration is in force").await;
    // That nothing is sent is the point.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(sandbox.stats().signouts, 0);
}
