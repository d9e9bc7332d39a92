//! What outlives a restart: holds, where `state_directory` is set.

use std::{fs, path::Path, time::Duration};

use rustix::process::Signal;
use token_broker::client::Client;
use token_broker_sandbox::{Options, Sandbox};
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::support::{MERCHANT, NUMBER, PASSWORD, PATIENCE, Said, http, process::Process, user};

/// A vault, and a directory that outlives brokers.
struct Ground {
    sandbox: Sandbox,
    directory: tempfile::TempDir,
}

impl Ground {
    async fn new() -> Self {
        let sandbox = Sandbox::start(Options::default()).await.expect("starts");
        Self { sandbox, directory: tempfile::tempdir().expect("a directory") }
    }

    fn state(&self) -> std::path::PathBuf {
        self.directory.path().join("state")
    }

    fn config(&self, password: &str) -> String {
        let (url, state) = (self.sandbox.url(), self.state());
        let ports = "[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";
        let user = user(NUMBER, password);
        format!("state_directory = \"{}\"\n[vault]\nbase_url = \"{url}\"\n{ports}{user}", state.display())
    }

    async fn start(&self, password: &str) -> Process {
        Process::serve(&self.config(password), &[]).await
    }

    /// Waits until the holds on disk are others than these, and returns them.
    async fn written(&self, before: &[u8]) -> Vec<u8> {
        let file = self.state().join("holds");
        let other = async {
            loop {
                match fs::read(&file) {
                    Ok(bytes) if bytes != before => return bytes,
                    _ => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        timeout(PATIENCE, other).await.expect("they are written")
    }
}

async fn ask(broker: &Process) -> Result<token_broker::proto::v1::Token, Said> {
    let client = Client::new(&broker.endpoint()).expect("is an endpoint").timeout(PATIENCE);
    client.token(MERCHANT, NUMBER).await.map_err(Said::of)
}

async fn end(mut broker: Process, signal: Signal) -> String {
    broker.signal(signal);
    broker.ended(PATIENCE).await;
    broker.log()
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_whatever_restarts_and_another_one_at_once() {
    let ground = Ground::new().await;
    let mut logs = String::new();
    let mut until = None;
    for round in 0..10 {
        let broker = ground.start("wrong").await;
        for _ in 0..3 {
            let said = ask(&broker).await.expect_err("is refused");
            said.check(Code::FailedPrecondition, "CREDENTIALS_REJECTED");
            assert_eq!(said.metadata["vault_error"], "11");
            let held = humantime::parse_rfc3339(&said.metadata["held_until"]).expect("is an instant");
            // The same instant, but for a rounded second.
            let first = *until.get_or_insert(held);
            let apart = held.duration_since(first).unwrap_or_else(|earlier| earlier.duration());
            assert!(apart <= Duration::from_secs(1), "{round}: {apart:?}");
        }
        if round == 0 {
            ground.written(b"").await;
        }
        let signal = if round % 2 == 0 { Signal::KILL } else { Signal::TERM };
        logs += &end(broker, signal).await;
        assert_eq!(ground.sandbox.sign_ins(), 1, "{round}");
    }
    let broker = ground.start(PASSWORD).await;
    ask(&broker).await.expect("the right password");
    logs += &end(broker, Signal::TERM).await;
    assert_eq!(ground.sandbox.sign_ins(), 2);
    let broker = ground.start("wrong").await;
    ask(&broker).await.expect_err("is remembered");
    assert_eq!(ground.sandbox.sign_ins(), 2);
    logs += &end(broker, Signal::TERM).await;

    let on_disk = fs::read_to_string(ground.state().join("holds")).expect("is there");
    for secret in ["wrong", PASSWORD, NUMBER, &NUMBER[1..]] {
        assert!(!on_disk.contains(secret), "{secret}");
    }
    assert!(logs.contains("holds of before the start are in force") && !logs.contains("\"level\":\"ERROR\""), "{logs}");
}

#[tokio::test]
async fn the_last_change_is_written_at_the_end_and_a_right_password_leaves_nothing() {
    let ground = Ground::new().await;
    let broker = ground.start("wrong").await;
    ask(&broker).await.expect_err("is refused");
    // At once, so that it is the end that writes it, if nothing did before.
    end(broker, Signal::TERM).await;
    let broker = ground.start("wrong").await;
    ask(&broker).await.expect_err("is held");
    assert_eq!(ground.sandbox.sign_ins(), 1);
    end(broker, Signal::TERM).await;
}

#[tokio::test]
async fn a_file_or_directory_that_cannot_be_used_is_told_and_keeps_nobody_from_starting() {
    let ground = Ground::new().await;
    let broker = ground.start("wrong").await;
    ask(&broker).await.expect_err("is refused");
    ground.written(b"").await;
    end(broker, Signal::KILL).await;
    fs::write(ground.state().join("holds"), "{\"half\":").expect("is written");
    let broker = ground.start("wrong").await;
    let told = broker.line_like("the file with the holds can't be used").await;
    assert_eq!((&told["level"], &told["why"]), (&"WARN".into(), &"it is damaged, or was written elsewhere".into()));
    ask(&broker).await.expect_err("is refused once more");
    assert_eq!(ground.sandbox.sign_ins(), 2);
    ground.written(b"{\"half\":").await;

    // Another broker in the same directory: told, and it answers all the same.
    let other = ground.start("wrong").await;
    ask(&other).await.expect_err("it reads what the first knows");
    assert_eq!(ground.sandbox.sign_ins(), 2);
    assert_eq!(unkept(&other).await, "0");
    end(broker, Signal::KILL).await;
    end(other, Signal::KILL).await;

    // Others may write there.
    fs::set_permissions(ground.state(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("is ours");
    let broker = ground.start(PASSWORD).await;
    let told = broker.line_like("state_directory can't be used").await;
    assert!(told["fault"].as_str().is_some_and(|fault| fault.contains("others may write to it")), "{told}");
    ask(&broker).await.expect("it answers");
    assert_eq!(unkept(&broker).await, "1");
    end(broker, Signal::TERM).await;
}

/// What is in the directory while brokers are killed at any moment: a file that can be read, and no more than two others.
#[tokio::test]
async fn killed_at_any_moment_it_leaves_no_half_file() {
    let ground = Ground::new().await;
    let mut before = Vec::new();
    for round in 0..6u64 {
        // Another password each time: it is tried, and refused.
        let broker = ground.start(&format!("wrong {round}")).await;
        ask(&broker).await.expect_err("is refused");
        if round % 2 == 0 {
            before = ground.written(&before).await;
        } else {
            sleep(Duration::from_millis(round)).await;
        }
        let log = end(broker, Signal::KILL).await;
        assert!(!log.contains("begun anew"), "{log}");
        assert!(names(&ground.state()).iter().all(|name| ["holds", "holds.new", "key"].contains(&name.as_str())));
    }
    let broker = ground.start("wrong 0").await;
    let tried = ground.sandbox.sign_ins();
    ask(&broker).await.expect_err("is remembered");
    assert_eq!(ground.sandbox.sign_ins(), tried);
}

async fn unkept(broker: &Process) -> String {
    let metrics = http(&broker.address("admin"), "/metrics").await;
    let line = metrics.lines().find(|line| line.starts_with("token_broker_holds_unkept ")).expect("is there").to_owned();
    line.rsplit(' ').next().expect("has a value").to_owned()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("is there");
    entries.map(|entry| entry.expect("is there").file_name().into_string().expect("is UTF-8")).collect()
}
