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
