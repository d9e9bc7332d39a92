//! Standard output and standard error that are slow, full, non-blocking or closed.

use std::{
    io::Read as _,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use token_broker::client::Client;
use token_broker_sandbox::{Options, Sandbox};
use tokio::{
    process::{Child, Command},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE, Setting,
    process::{BINARY, written},
    user,
};

/// A port that is free now: the log, which would say, is not always to be read here.
fn free_port() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("is bound").to_string()
}

fn config(sandbox: &Sandbox, address: &str) -> String {
    let url = sandbox.url();
    let users = user(NUMBER, PASSWORD);
    format!("[grpc]\nlisten = \"{address}\"\nlame_duck = \"0s\"\ndrain = \"2s\"\n[vault]\nbase_url = \"{url}\"\n{users}")
}

/// Both ends; what is written to the second fails with EAGAIN where nobody reads.
fn non_blocking() -> (UnixStream, Stdio) {
    let (reader, writer) = UnixStream::pair().expect("a pair");
    writer.set_nonblocking(true).expect("it can be set");
    (reader, Stdio::from(OwnedFd::from(writer)))
}

/// An output whose reader is gone.
fn closed() -> Stdio {
    non_blocking().1
}

fn full() -> Stdio {
    Stdio::from(std::fs::File::options().write(true).open("/dev/full").expect("there is one"))
}

async fn answers(address: &str) -> Client {
    let client = Client::new(&format!("http://{address}")).expect("is an endpoint").timeout(Duration::from_secs(5));
    let up = async {
        while client.token(MERCHANT, NUMBER).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, up).await.expect("it serves");
    client
}

fn terminate(child: &Child) {
    let pid = i32::try_from(child.id().expect("it runs")).expect("is a pid");
    kill_process(Pid::from_raw(pid).expect("is a pid"), Signal::TERM).expect("it can be told");
}

#[tokio::test]
async fn a_slow_reader_of_a_non_blocking_output_gets_every_line_whole() {
    const CALLS: usize = 4_000;
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let address = free_port();
    let (_files, path) = written(&config(&sandbox, &address));
    let (mut reader, output) = non_blocking();
    let mut command = Command::new(BINARY);
    command.arg("serve").arg("--config").arg(&path).stdout(output).stderr(Stdio::null()).kill_on_drop(true);
    let mut broker = command.spawn().expect("it starts");
    drop(command);
    let client = answers(&address).await;
    let mut calling = JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        calling.spawn(async move {
            for _ in 0..CALLS / 20 {
                client.token(MERCHANT, "+447871230000").await.expect_err("nobody knows it");
            }
        });
    }
    calling.join_all().await;
    // Only now somebody reads, in small bites, until the end.
    let reading = tokio::task::spawn_blocking(move || {
        let (mut all, mut bite) = (Vec::new(), [0; 1_000]);
        while let Ok(n @ 1..) = reader.read(&mut bite) {
            all.extend_from_slice(&bite[..n]);
        }
        String::from_utf8(all).expect("is UTF-8")
    });
    terminate(&broker);
    let status = timeout(PATIENCE, broker.wait()).await.expect("it ends").expect("it ended");
    assert!(status.success(), "{status}");
    let text = timeout(PATIENCE, reading).await.expect("it ends").expect("no panic");
    let (mut said, mut audited) = (0, 0);
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        said += usize::from(line["message"] == "no token");
        audited += usize::from(line["target"] == "audit" && line["reason"] == "USER_NOT_CONFIGURED");
    }
    assert_eq!((said, audited), (CALLS, CALLS));
}

#[tokio::test]
async fn serve_ends_well_though_nobody_takes_its_words() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    for outputs in [closed as fn() -> Stdio, full] {
        let address = free_port();
        let (_files, path) = written(&config(&sandbox, &address));
        let mut command = Command::new(BINARY);
        command.arg("serve").arg("--config").arg(&path).stdout(outputs()).stderr(outputs()).kill_on_drop(true);
        let mut broker = command.spawn().expect("it starts");
        answers(&address).await;
        terminate(&broker);
        let status = timeout(PATIENCE, broker.wait()).await.expect("it ends").expect("it ended");
        assert_eq!(status.code(), Some(0));
    }
}

#[tokio::test]
async fn a_standard_error_that_nobody_reads_does_not_hold_up_the_end() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let address = free_port();
    let (_files, path) = written(&config(&sandbox, &address));
    // Full before it begins, and blocking.
    let (reader, writer) = UnixStream::pair().expect("a pair");
    writer.set_nonblocking(true).expect("it can be set");
    while std::io::Write::write(&mut &writer, &[b'.'; 4_096]).is_ok() {}
    writer.set_nonblocking(false).expect("it can be set");
    let mut command = Command::new(BINARY);
    command.arg("serve").arg("--config").arg(&path).stdout(full()).stderr(Stdio::from(OwnedFd::from(writer)));
    let mut broker = command.kill_on_drop(true).spawn().expect("it starts");
    answers(&address).await;
    terminate(&broker);
    let status = timeout(PATIENCE, broker.wait()).await.expect("it ends").expect("it ended");
    assert_eq!(status.code(), Some(0));
    drop(reader);
}

#[tokio::test]
async fn what_is_lost_is_said_at_the_end() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let address = free_port();
    let (_files, path) = written(&config(&sandbox, &address));
    let mut command = Command::new(BINARY);
    command.arg("serve").arg("--config").arg(&path).stdout(full()).stderr(Stdio::piped()).kill_on_drop(true);
    let broker = command.spawn().expect("it starts");
    answers(&address).await;
    terminate(&broker);
    let output = timeout(PATIENCE, broker.wait_with_output()).await.expect("it ends").expect("it ended");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && text.contains("lines of the log") && text.contains("lines of the audit trail"), "{text}");
}

#[tokio::test]
async fn every_command_ends_with_its_code_whatever_becomes_of_its_words() {
    let stage = Setting::default().start().await;
    let (_good, good) = written(&format!("[vault]\nbase_url = \"https://vault.example.org\"\n{}", user(NUMBER, PASSWORD)));
    let (_bad, bad) = written("nonsense = 1\n");
    let (good, bad) = (good.to_str().expect("is UTF-8"), bad.to_str().expect("is UTF-8"));
    let ask = ["get", "--endpoint", &stage.endpoint, "--merchant-id", MERCHANT, "--number"];
    let nowhere = free_port();
    let nowhere = format!("http://{nowhere}");
    for (arguments, expected) in [
        (vec!["--help"], 0),
        (vec!["--version"], 0),
        (vec!["nonsense"], 2),
        (vec!["check", "--config", good], 0),
        (vec!["check", "--config", good, "--caller", "x", "--merchant-id", MERCHANT, "--number", NUMBER], 0),
        (vec!["check", "--config", good, "--caller", "x", "--merchant-id", MERCHANT, "--number", "x"], 2),
        (vec!["check", "--config", bad], 78),
        (vec!["serve", "--config", bad], 78),
        ([&ask[..], &["+447871230000"]].concat(), 1),
        // The token did not get where it was to go.
        ([&ask[..], &[NUMBER]].concat(), 1),
        (vec!["get", "--endpoint", &nowhere, "--merchant-id", MERCHANT, "--number", NUMBER], 75),
    ] {
        for outputs in [closed as fn() -> Stdio, full] {
            let mut command = Command::new(BINARY);
            command.args(&arguments).stdout(outputs()).stderr(outputs());
            let status = timeout(PATIENCE, command.status()).await.expect("it ends").expect("it runs");
            assert_eq!(status.code(), Some(expected), "{arguments:?}");
        }
    }
}
