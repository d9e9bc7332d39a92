//! The program: what it prints can be pasted, and it ends when told.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Command,
};

use crate::raw::{FORM, MERCHANT, PATIENCE};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_token-broker-sandbox"));
    command.kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("SANDBOX_LISTEN");
    command
}

#[tokio::test]
async fn it_serves_what_it_was_told_to_until_it_is_ended() {
    let mut child = program()
        .args(["--listen", "127.0.0.1:0", "--lifetime", "300s", "--mode", "same-token", "--user", "m:+15551234567:a:b "])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let (_, address) = first.split_once("http://").unwrap();
    let address = address.split(' ').next().unwrap().to_owned();
    assert!(first.contains("SameToken tokens of 300 s"), "{first}");

    for (merchant, form) in [(MERCHANT, FORM), ("m", "grant_type=mobile_phone&number=%2B15551234567&password=a%3Ab+")] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let head = format!("POST /oauth/token HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nX-Merchant-ID: {merchant}\r\n");
        let rest = format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}", form.len());
        stream.write_all(format!("{head}{rest}").as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.contains(r#""expires_in":299"#), "{reply}");
    }

    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert!(ended.success());
    let mut printed = first;
    while let Some(line) = lines.next_line().await.unwrap() {
        printed.push('\n');
        printed.push_str(&line);
    }
    assert!(printed.contains(&format!("curl -sS http://{address}/oauth/token")), "{printed}");
    assert!(printed.contains("  user +15551234567 of merchant m\n") && !printed.contains("a:b"), "{printed}");
    assert!(printed.ends_with("2 sign-ins: 2 granted, 0 refused, 0 faults"), "{printed}");
}

#[tokio::test]
async fn a_wrong_command_line_is_explained() {
    for (args, why) in [
        (vec!["--user", "merchant:4478:secret"], "write MERCHANT:NUMBER:PASSWORD, the number with its +"),
        (vec!["--lifetime", "5"], "`5` is not a duration"),
        (vec!["--mode", "stale"], "fresh, same-token, revoke-old"),
        (vec!["--certificate-file", "a"], "--key-file"),
        (vec!["--certificate-file", "/nowhere/tls.crt", "--key-file", "a"], "/nowhere/tls.crt can't be read"),
        (vec!["--listen", "192.0.2.1:1"], "can't listen on 192.0.2.1:1"),
    ] {
        let output = tokio::time::timeout(Duration::from_secs(20), program().args(&args).output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{args:?}: {said}");
    }
}

/// A broker that says what the real one says, and writes down its configuration and what became of it.
fn stand_in(directory: &std::path::Path, says: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = directory.join("broker");
    let kept = directory.join("config.toml");
    let script = format!("#!/bin/sh\ncp \"$3\" {}\n{says}\nexec sleep 1000\n", kept.display());
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn a_broker_of_its_own_is_told_of_in_one_line_and_ends_with_whoever_started_it() {
    let directory = tempfile::tempdir().unwrap();
    let says = "echo '{\"message\":\"listening\",\"port\":\"grpc\",\"address\":\"127.0.0.1:7\"}'; echo '{\"message\":\"ready\"}'";
    let broker = stand_in(directory.path(), says);
    let log = directory.path().join("log");
    let mut child = program()
        .args(["--listen", "127.0.0.1:0", "--broker"])
        .arg(&broker)
        .arg("--broker-log")
        .arg(&log)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((told["endpoint"].as_str(), told["merchant_id"].as_str()), (Some("http://127.0.0.1:7"), Some(MERCHANT)));
    let numbers = told["numbers"].as_array().unwrap();
    assert_eq!((numbers.len(), numbers[7].as_str()), (1_000, Some("+447700900007")));
    let config = std::fs::read_to_string(directory.path().join("config.toml")).unwrap();
    assert!(config.contains(&format!("base_url = \"{}\"", told["vault_url"].as_str().unwrap())), "{config}");
    assert!(config.contains("min_sign_in_interval = \"0s\"") && config.matches("[[users]]").count() == 1_000, "{config}");
    assert!(std::fs::read_to_string(log).unwrap().contains("\"ready\""));

    drop(child.stdin.take());
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert!(ended.success());
}

#[tokio::test]
async fn a_broker_that_does_not_start_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let broker = stand_in(directory.path(), "echo 'no such key' >&2; exit 78");
    for (path, why) in
        [(broker, "the broker did not start: no such key"), ("/nowhere/broker".into(), "/nowhere/broker can't be started")]
    {
        let output = program().args(["--listen", "127.0.0.1:0", "--broker"]).arg(path).stdin(Stdio::piped()).output();
        let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{said}");
    }
}
