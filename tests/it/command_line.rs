//! `check`, `serve`, `get` and `health` as a person meets them.

use std::time::{Duration, SystemTime};

use token_broker_sandbox::{Fault, Options, Sandbox};
use tokio::process::Command;

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE, Setting,
    authority::{Authority, Name},
    process::{BINARY, Process, run, written},
    user,
};

#[tokio::test]
async fn check_reports_every_fault_with_its_line_and_serve_refuses_the_same() {
    let text = "[grpc]\nlisten = \"0.0.0.0:50051\"\nlisen = \"x\"\n\n[vault]\nbase_url = \"http://vault.example.org\"\n\n\
                [[users]]\nmerchant_id = \"m\"\nnumber = \"0787\"\npassword = \"hunter2hunter2\"\n";
    let (_files, path) = written(text);
    let path = path.to_str().expect("is UTF-8");
    for command in ["check", "serve"] {
        let (code, stdout, stderr) = run(&[command, "--config", path]).await;
        assert_eq!((code, stdout.as_str()), (Some(78), ""), "{stderr}");
        for (line, key) in [(2, "grpc.listen"), (3, "grpc.lisen"), (6, "vault.base_url"), (10, "number")] {
            assert!(
                stderr.lines().any(|l| l.contains(&format!("config.toml:{line}: ")) && l.contains(key)),
                "{line} {key}: {stderr}"
            );
        }
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}

#[tokio::test]
async fn check_accepts_what_serve_would_run() {
    let (_files, path) = written(&format!("[vault]\nbase_url = \"https://vault.example.org\"\n{}", user(NUMBER, PASSWORD)));
    let (code, stdout, _) = run(&["check", "--config", path.to_str().expect("is UTF-8")]).await;
    assert_eq!(code, Some(0));
    assert!(stdout.contains("1 user"), "{stdout}");
    let (code, _, stderr) = run(&["check", "--config", "/nowhere/config.toml"]).await;
    assert_eq!(code, Some(78));
    assert!(stderr.contains("/nowhere/config.toml"), "{stderr}");
}

#[tokio::test]
async fn check_and_serve_warn_of_certificates_that_end_within_a_week() {
    let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3_600));
    for (left, words) in [(Some(6 * day), "ends within a week"), (None, "has ended"), (Some(8 * day), "")] {
        let (ca, files) = (Authority::new(), tempfile::tempdir().expect("a directory"));
        let end = left.map_or(now - day, |left| now + left);
        ca.issue(&[Name::Dns("localhost")], now - 2 * day, end).write(files.path());
        let path = |name: &str| files.path().join(name).display().to_string();
        std::fs::write(path("ca.crt"), Authority::until(end).pem).expect("is written");
        let config = format!(
            "[grpc]\nlisten = \"127.0.0.1:0\"\n[grpc.tls]\ncertificate_file = \"{}\"\nkey_file = \"{}\"\nclient_ca_file = \"{}\"\n\
             [vault]\nbase_url = \"https://127.0.0.1:1\"\nca_file = \"{}\"\n[[callers]]\nid = \"a.example.org\"\nmerchants = [\"*\"]\n{}",
            path("tls.crt"),
            path("tls.key"),
            path("ca.crt"),
            path("ca.crt"),
            user(NUMBER, PASSWORD)
        );
        let (_files, path) = written(&config);
        let (code, _, stderr) = run(&["check", "--config", path.to_str().expect("is UTF-8")]).await;
        assert_eq!(code, Some(0), "{stderr}");
        let broker = Process::serve(&config, &[]).await;
        for key in ["grpc.tls.certificate_file", "grpc.tls.client_ca_file", "vault.ca_file"] {
            let warned = |line: &str| line.contains(key) && line.contains(words);
            assert_eq!(stderr.lines().any(warned), !words.is_empty(), "{key}: {stderr}");
            assert_eq!(broker.log().lines().any(warned), !words.is_empty(), "{key}: {}", broker.log());
        }
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("is bound");
    let (_files, path) = written(&format!("[grpc]\nlisten = \"{address}\"\n[vault]\nbase_url = \"https://vault.example.org\"\n"));
    let (code, _, stderr) = run(&["serve", "--config", path.to_str().expect("is UTF-8")]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("grpc.listen") && stderr.contains(&address.to_string()), "{stderr}");
}

#[tokio::test]
async fn nothing_that_is_written_shows_a_secret_and_no_proxy_sees_a_password() {
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let proxy_url = format!("http://{}", proxy.local_addr().expect("is bound"));
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let bad = "+447871230001";
    let config = format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[log]\nlevel = \"trace\"\n[vault]\nbase_url = \"{}\"\n{}{}",
        sandbox.url(),
        user(NUMBER, PASSWORD),
        user(bad, "wrong-and-secret")
    );
    let environment: Vec<_> =
        ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"].map(|name| (name, proxy_url.as_str())).into();
    let mut broker = Process::serve(&config, &environment).await;
    let client = token_broker::client::Client::new(&broker.endpoint()).expect("is an endpoint");
    let token = client.token(MERCHANT, NUMBER).await.expect("there is a token").access_token;
    client.token(MERCHANT, NUMBER).await.expect("there is a token");
    sandbox.script_for(bad, Fault::refusal(11, "wrong-and-secret", "wrong-and-secret is not it"));
    let refused = client.token(MERCHANT, bad).await.expect_err("is refused");
    client.token(MERCHANT, "+447871230002").await.expect_err("is unknown");
    broker.signal(rustix::process::Signal::INT);
    assert!(broker.ended(PATIENCE).await.success());

    let all = format!("{} {:?} {}", broker.log(), refused, refused.in_words());
    for secret in [PASSWORD, "wrong-and-secret", &token, &token[..20], &NUMBER[1..], &bad[1..], "7871230002"] {
        assert!(!all.contains(secret), "{secret:?} in {all}");
    }
    assert!(all.contains("+44…9999") && all.contains("request_id") && all.contains("\"signed in\""), "{all}");
    assert!(tokio::time::timeout(std::time::Duration::from_millis(10), proxy.accept()).await.is_err(), "the proxy heard nothing");
}

#[tokio::test]
async fn health_says_whether_a_broker_is_ready_and_asks_for_no_secret() {
    let ca = Authority::new();
    let (issued, pem) = (ca.server(), ca.pem.clone());
    let prepare = move |directory: &std::path::Path| {
        issued.write(directory);
        std::fs::write(directory.join("ca.crt"), &pem).expect("is written");
    };
    let grpc = "[grpc.tls]\ncertificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\nclient_ca_file = \"ca.crt\"\n";
    let rest = format!("[[callers]]\nid = \"cards.example.org\"\nmerchants = [\"*\"]\n{}", user(NUMBER, PASSWORD));
    let stage = Setting { grpc: grpc.to_owned(), rest, prepare: Some(Box::new(prepare)), ..Setting::default() }.start().await;
    let ca_file = stage.files.path().join("ca.crt");
    let ca_file = ca_file.to_str().expect("is UTF-8");
    let (code, stdout, stderr) = run(&["health", "--endpoint", &stage.secure_endpoint(), "--ca-file", ca_file]).await;
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), "ready\n", ""));

    let config = "[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"60s\"\n[vault]\nbase_url = \"http://127.0.0.1:1\"\n";
    let mut broker = Process::serve(config, &[]).await;
    let endpoint = broker.endpoint();
    assert_eq!(run(&["health", "--endpoint", &endpoint]).await.0, Some(0));
    broker.signal(rustix::process::Signal::TERM);
    broker.line_like("shutting down: not ready any more").await;
    let (code, _, stderr) = run(&["health", "--endpoint", &endpoint]).await;
    assert!(code == Some(75) && stderr.contains("is not ready"), "{code:?} {stderr}");
    broker.signal(rustix::process::Signal::INT);
    assert!(broker.ended(PATIENCE).await.success());
    let (code, _, stderr) = run(&["health", "--endpoint", &endpoint]).await;
    assert!(code == Some(75) && stderr.contains("can't be reached"), "{code:?} {stderr}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", silent.local_addr().expect("is bound"));
    let files = tempfile::tempdir().expect("a directory");
    let pipe = files.path().join("pipe").to_str().expect("is UTF-8").to_owned();
    assert!(Command::new("mkfifo").arg(&pipe).status().await.expect("there is mkfifo").success());
    let secure = endpoint.replace("http://", "https://");
    for more in [&["--endpoint", &endpoint][..], &["--endpoint", &secure, "--ca-file", &pipe]] {
        let (code, _, stderr) = run(&[&["health", "--timeout", "300ms"], more].concat()).await;
        assert!(code == Some(75) && stderr.contains("no answer within 300ms"), "{more:?}: {code:?} {stderr}");
    }
}

#[tokio::test]
async fn check_explains_a_verdict_and_names_the_entry() {
    let caller = "[[callers]]\nid = \"system:serviceaccount:*:cards\"\nmerchants = [\"m\"]\nnumbers = [\"+447871239999\"]\n";
    let accounts = "[auth.service_accounts]\nissuer = \"https://example.org\"\njwks_file = \"jwks\"\n";
    let (_files, path) = written(&format!("[vault]\nbase_url = \"http://127.0.0.1:1\"\n{accounts}{caller}"));
    let explain = |caller: &'static str, merchant: &'static str, number: &'static str| {
        let mut command = Command::new(BINARY);
        command.arg("check").arg("--config").arg(&path);
        command.args(["--caller", caller, "--merchant-id", merchant, "--number", number]);
        async move { command.output().await.expect("it runs") }
    };
    for (caller, merchant, number, allowed, words) in [
        ("system:serviceaccount:cards:cards", "m", "+447871239999", true, "line 6"),
        ("system:serviceaccount:cards:cards", "n", "+447871239999", false, "not this merchant"),
        ("system:serviceaccount:cards:cards", "m", "+447871230000", false, "not this number"),
        ("system:serviceaccount:cards:card", "m", "+447871239999", false, "no [[callers]]"),
    ] {
        let output = explain(caller, merchant, number).await;
        let text = String::from_utf8(output.stdout).expect("is UTF-8");
        assert_eq!(output.status.success(), allowed, "{text}");
        assert!(text.contains(words) && !text.contains(number), "{text}");
    }
    assert_eq!(explain("a", "m", "none").await.status.code(), Some(2));
}

#[tokio::test]
async fn check_tells_programs_the_same_as_one_object() {
    let json = async |text: &str, more: &[&str]| {
        let (_files, path) = written(text);
        let (code, stdout, stderr) =
            run(&[&["check", "--format", "json", "--config", path.to_str().expect("is UTF-8")], more].concat()).await;
        assert_eq!(stderr, "", "all of it is in the object");
        assert!(!stdout.contains(PASSWORD) && !stdout.contains(NUMBER), "{stdout}");
        (code, serde_json::from_str::<serde_json::Value>(&stdout).expect("is JSON"))
    };
    let vault = "[vault]\nbase_url = \"http://127.0.0.1:1\"\n";
    let (code, found) = json(&format!("{vault}sign_outs = true\n{}", user(NUMBER, PASSWORD)), &[]).await;
    assert_eq!((code, &found["in_order"], &found["users"]), (Some(78), &false.into(), &serde_json::Value::Null));
    let fault = &found["faults"][0];
    assert_eq!((&fault["severity"], &fault["line"], &fault["key"]), (&"error".into(), &3.into(), &"vault.sign_outs".into()));
    assert!(fault["message"].as_str().is_some_and(|text| text.contains("did you mean `sign_out`?")), "{fault}");

    let caller = "[[callers]]\nid = \"a.example.org\"\nmerchants = [\"m\"]\n";
    let (code, found) = json(&format!("{vault}{caller}{}", user(NUMBER, PASSWORD)), &[]).await;
    assert_eq!((code, &found["in_order"], &found["users"]), (Some(0), &true.into(), &1.into()));
    assert_eq!((&found["faults"][0]["severity"], &found["faults"][0]["key"]), (&"warning".into(), &"callers".into()));
    assert!(found["shared"].is_null() && found["caller"].is_null(), "{found}");

    let asked = ["--caller", "a.example.org", "--merchant-id", "other", "--number", NUMBER];
    let (code, found) = json(&format!("{vault}{caller}{}", user(NUMBER, PASSWORD)), &asked).await;
    let said = &found["caller"];
    assert_eq!((code, &said["allowed"], &said["user_configured"]), (Some(1), &false.into(), &false.into()), "{found}");
    assert!(said["why"].as_str().is_some_and(|why| why.contains("not this merchant")), "{said}");
}

#[tokio::test]
async fn shells_and_the_manual_know_every_command() {
    const COMMANDS: [&str; 9] = ["serve", "check", "get", "health", "users", "user", "renew", "drop", "lift-hold"];
    let (code, page, stderr) = run(&["man"]).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for command in COMMANDS {
        assert!(page.contains(&format!(".SH TOKEN-BROKER {}\n", command.to_uppercase())), "{command}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, stderr) = run(&["completions", shell]).await;
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(COMMANDS.iter().all(|command| script.contains(command)), "{shell}");
    }
    let (_, script, _) = run(&["completions", "bash"]).await;
    for (words, expected) in [("lift", "lift-hold"), ("lift-hold --merchant-", "--merchant-id"), ("users --state he", "held")] {
        let words: Vec<_> = words.split(' ').collect();
        let (at, word) = (words.len(), words[words.len() - 1]);
        let before = if at > 1 { words[at - 2] } else { "token-broker" };
        let asked = format!(
            "COMP_WORDS=(token-broker {}); COMP_CWORD={at}; _token__broker token-broker {word} {before}",
            words.join(" ")
        );
        let completed = format!("{script}\n{asked}; echo \"${{COMPREPLY[*]}}\"");
        let output = Command::new("bash").args(["-c", &completed]).output().await.expect("bash runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{output:?}");
    }
    assert_eq!(run(&["completions", "none"]).await.0, Some(2));
}
