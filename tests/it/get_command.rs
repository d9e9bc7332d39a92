//! `get` as a person meets it: a token that is asked for, and words that say what to do.

use std::{
    fs,
    time::{Duration, Instant, SystemTime},
};

use token_broker::client::{Client, Security};
use token_broker_sandbox::Fault;
use tokio::process::Command;

use crate::support::{
    MERCHANT, NUMBER, Setting,
    authority::{Authority, Name},
    process::{BINARY, run},
    secured::{CARDS, caller, secured},
};

#[tokio::test]
async fn get_prints_json_or_the_token_alone() {
    let stage = Setting::default().start().await;
    let ask = ["get", "--endpoint", &stage.endpoint, "--merchant-id", MERCHANT, "--number", NUMBER];
    let (code, stdout, stderr) = run(&ask).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let json: serde_json::Value = serde_json::from_str(&stdout).expect("is JSON");
    assert_eq!(
        (&json["token_type"], &json["access_token"]),
        (&"Bearer".into(), &serde_json::Value::Null),
        "it was not asked for"
    );
    assert!(json["expires_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{json}");
    let seconds = |field: &str| json[field].as_i64().expect("is a number");
    assert!(seconds("expires_in") > 86_000 && (1..seconds("expires_in")).contains(&seconds("renew_in")), "{json}");

    let (code, stdout, _) = run(&[&ask[..], &["--show"]].concat()).await;
    let json: serde_json::Value = serde_json::from_str(&stdout).expect("is JSON");
    assert_eq!((code, json["access_token"].is_string()), (Some(0), true));
    assert_eq!(run(&[&ask[..], &["--show", "--raw"]].concat()).await.0, Some(2), "one or the other");

    let (code, raw, _) = run(&[&ask[..], &["--raw"]].concat()).await;
    assert_eq!((code, raw), (Some(0), format!("{}\n", json["access_token"].as_str().expect("is text"))));

    let from_environment = Command::new(BINARY)
        .args(["get", "--merchant-id", MERCHANT, "--number", NUMBER, "--raw"])
        .env("TOKEN_BROKER_ENDPOINT", &stage.endpoint)
        .output()
        .await
        .expect("the binary runs");
    assert!(from_environment.status.success());
}

#[tokio::test]
async fn get_tells_the_reason_and_the_wait_in_words() {
    let stage = Setting::default().start().await;
    let ask = ["get", "--endpoint", &stage.endpoint, "--merchant-id", MERCHANT, "--number", NUMBER];
    stage.sandbox.script(Fault::refusal(273, "LOGIN_ATTEMPTS_EXCEEDED", "try again in 2 minute(s)"));
    let (code, stdout, stderr) = run(&ask).await;
    assert_eq!((code, stdout.as_str()), (Some(75), ""), "{stderr}");
    assert!(stderr.contains("VAULT_THROTTLED") && stderr.contains("try again in 120 s"), "{stderr}");

    let (code, _, stderr) = run(&["get", "--endpoint", &stage.endpoint, "--merchant-id", MERCHANT, "--number", "0787"]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("INVALID_REQUEST") && stderr.contains("number"), "{stderr}");

    let (code, _, stderr) =
        run(&["get", "--endpoint", "http://127.0.0.1:1", "--merchant-id", MERCHANT, "--number", NUMBER]).await;
    assert_eq!(code, Some(75));
    assert!(stderr.contains("no answer") && stderr.contains("127.0.0.1:1: refused: nobody listens there"), "{stderr}");
}

/// `get` with a time limit of 500 ms; it must end by then, give or take what a busy machine takes to start it.
async fn get_in_time(more: &[&str]) -> (Option<i32>, String) {
    let began = Instant::now();
    let ask = ["get", "--merchant-id", MERCHANT, "--number", NUMBER, "--timeout", "500ms"];
    let (code, stdout, stderr) = run(&[&ask[..], more].concat()).await;
    assert!(began.elapsed() > Duration::from_millis(450), "{stderr}");
    assert!(began.elapsed() < Duration::from_millis(4_500), "{:?}: {stderr}", began.elapsed());
    assert_eq!(stdout, "");
    (code, stderr)
}

#[tokio::test]
async fn get_ends_at_its_time_whatever_it_waits_for() {
    // It accepts by the system's queue, and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("is bound");
    let (plain, secure) = (format!("http://{address}"), format!("https://{address}"));
    let files = tempfile::tempdir().expect("a directory");
    let path = |name: &str| files.path().join(name).to_str().expect("is UTF-8").to_owned();
    let (ca, pipe) = (path("ca.crt"), path("pipe"));
    std::fs::write(&ca, Authority::new().pem).expect("is written");
    assert!(Command::new("mkfifo").arg(&pipe).status().await.expect("there is mkfifo").success());
    for (more, words) in [
        (&["--endpoint", &plain][..], "no answer within 0.5 s"),
        (&["--endpoint", &secure, "--ca-file", &ca], "TLS handshake"),
        (&["--endpoint", &plain, "--token-file", &pipe], "0.5 s"),
        (&["--endpoint", &secure, "--ca-file", &pipe], "could not be read in time"),
        (&["--endpoint", &secure, "--ca-file", &ca, "--certificate-file", &pipe, "--key-file", &ca], "could not be read in time"),
    ] {
        let (code, stderr) = get_in_time(more).await;
        assert_eq!(code, Some(75), "{more:?}: {stderr}");
        assert!(stderr.contains("DeadlineExceeded") && stderr.contains(words), "{more:?}: {stderr}");
    }
}

#[tokio::test]
async fn get_names_all_tokens_that_were_rejected() {
    let stage = Setting::vault("min_sign_in_interval = \"0s\"").start().await;
    let held = stage.good_token().await.token_id;
    let ask = ["get", "--endpoint", &stage.endpoint, "--merchant-id", MERCHANT, "--number", NUMBER];
    for (first, second, same) in [("another", "a third", true), ("another", held.as_str(), false)] {
        let named = ["--rejected-token-id", first, "--rejected-token-id", second];
        let (code, stdout, stderr) = run(&[&ask[..], &named].concat()).await;
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(stdout.contains(&held), same, "{stdout}");
    }
    let too_many: Vec<_> = (0..17).flat_map(|_| ["--rejected-token-id", "x"]).collect();
    let (code, _, stderr) = run(&[&ask[..], &too_many].concat()).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("INVALID_REQUEST") && stderr.contains("rejected_token_ids"), "{stderr}");
}

/// What no later try can mend is said so, with the address, the cause and what to do.
#[tokio::test]
async fn get_says_what_is_wrong_and_not_to_try_again() {
    let (ca, other) = (Authority::new(), Authority::new());
    let (tls, plain) = (secured(&ca, &caller(CARDS, "merchants = [\"*\"]")).await, Setting::default().start().await);
    let files = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        fs::write(&path, text).expect("is written");
        path.to_str().expect("is UTF-8").to_owned()
    };
    let (own, others, empty) = (file("ca.crt", &ca.pem), file("other.crt", &other.pem), file("empty.crt", "\n"));
    let (secure, insecure) = (tls.secure_endpoint(), plain.endpoint.replace("http://", "https://"));
    let issued = ca.client(&[Name::Uri(CARDS)]);
    let (crt, key) = (file("tls.crt", &issued.certificate), file("tls.key", &issued.key));
    for (more, code, words) in [
        (&["--endpoint", &tls.endpoint][..], 1, "the broker speaks TLS: use https:// and --ca-file"),
        (&["--endpoint", &insecure, "--ca-file", &own], 1, "it speaks no TLS: use http://"),
        (&["--endpoint", &secure, "--ca-file", &others], 1, "the broker's certificate is not of the CA in --ca-file"),
        (&["--endpoint", &secure], 2, "https:// and the broker's CA"),
        (&["--endpoint", "127.0.0.1:50051"], 2, "is not a URL"),
        (&["--endpoint", &secure, "--ca-file", &empty], 1, "empty.crt: it is a file without a certificate"),
        (&["--endpoint", &secure, "--ca-file", "/nowhere"], 1, "/nowhere: "),
        (&["--endpoint", &secure, "--ca-file", &own, "--certificate-file", &key, "--key-file", &key], 1, "tls.key: it is a file"),
        (&["--endpoint", &secure, "--ca-file", &own, "--certificate-file", &crt, "--key-file", &crt], 1, "tls.crt: it is a file"),
        (&["--endpoint", &secure, "--ca-file", &own, "--timeout", "0s"], 2, "no time at all"),
        (&["--endpoint", &secure, "--ca-file", &own], 1, "you showed no client certificate"),
    ] {
        let ask = ["get", "--merchant-id", MERCHANT, "--number", NUMBER, "--timeout", "10s"];
        let ask = if more.contains(&"--timeout") { &ask[..5] } else { &ask[..] };
        let (ended, stdout, stderr) = run(&[ask, more].concat()).await;
        assert_eq!((ended, stdout.as_str()), (Some(code), ""), "{more:?}: {stderr}");
        assert!(stderr.contains(words), "{more:?}: {words}: {stderr}");
        assert!(!["NaN", "None", " 0 s", " 0s"].iter().any(|none| stderr.contains(none)), "{stderr}");
    }
    // So does `health`, and so does the client crate, in words of its own.
    for (more, words) in [
        (&["--endpoint", &tls.endpoint][..], "the broker speaks TLS: use https:// and --ca-file"),
        (&["--endpoint", &secure, "--ca-file", &others], "the broker's certificate is not of the CA in --ca-file"),
    ] {
        let (ended, _, stderr) = run(&[&["health"], more].concat()).await;
        assert!(ended == Some(1) && stderr.contains(words), "{more:?}: {ended:?} {stderr}");
    }
    let trusting = |ca: &str| Security { ca_pem: Some(ca.as_bytes().to_vec()), ..Security::default() };
    for (endpoint, security, words) in [
        (&tls.endpoint, Security::default(), "the broker speaks TLS: use https:// and your CA file"),
        (&insecure, trusting(&ca.pem), "it speaks no TLS: use http://"),
        (&secure, trusting(&other.pem), "the broker's certificate is not of the CA in your CA file"),
        (&"http://127.0.0.1:1".to_owned(), Security::default(), "refused: nobody listens there"),
    ] {
        for client in [Client::with_security(endpoint, security.clone()), Client::balanced(endpoint, security)] {
            let error = client.expect("is an endpoint").token(MERCHANT, NUMBER).await.expect_err("there is none").to_string();
            assert!(error.contains(words), "{endpoint}: {words}: {error}");
        }
    }
}

#[tokio::test]
async fn get_says_that_ones_own_certificate_has_ended() {
    let ca = Authority::new();
    let stage = secured(&ca, &caller(CARDS, "merchants = [\"*\"]")).await;
    let (files, hour) = (tempfile::tempdir().expect("a directory"), Duration::from_secs(3_600));
    let now = SystemTime::now();
    ca.issue(&[Name::Uri(CARDS)], now - 2 * hour, now - hour).write(files.path());
    fs::write(files.path().join("ca.crt"), &ca.pem).expect("is written");
    let path = |name: &str| files.path().join(name).to_str().expect("is UTF-8").to_owned();
    let (ca, crt, key) = (path("ca.crt"), path("tls.crt"), path("tls.key"));
    let ask = ["get", "--merchant-id", MERCHANT, "--number", NUMBER, "--endpoint", &stage.secure_endpoint(), "--ca-file", &ca];
    let (code, _, stderr) = run(&[&ask[..], &["--certificate-file", &crt, "--key-file", &key]].concat()).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("your certificate ended on 20") && stderr.contains("CALLER_UNAUTHENTICATED"), "{stderr}");
}

#[tokio::test]
async fn get_tells_where_whom_and_how_long_if_it_is_asked_to() {
    let ca = Authority::new();
    let stage = secured(&ca, &caller(CARDS, "merchants = [\"*\"]")).await;
    let (files, issued) = (tempfile::tempdir().expect("a directory"), ca.client(&[Name::Uri(CARDS)]));
    issued.write(files.path());
    fs::write(files.path().join("ca.crt"), &ca.pem).expect("is written");
    let path = |name: &str| files.path().join(name).to_str().expect("is UTF-8").to_owned();
    let (ca, crt, key, endpoint) = (path("ca.crt"), path("tls.crt"), path("tls.key"), stage.secure_endpoint());
    let ask = ["get", "--verbose", "--show", "--merchant-id", MERCHANT, "--number", NUMBER, "--endpoint", &endpoint];
    let files = ["--ca-file", &ca, "--certificate-file", &crt, "--key-file", &key];
    let (code, stdout, stderr) = run(&[&ask[..], &files].concat()).await;
    assert_eq!(code, Some(0), "{stderr}");
    let json: serde_json::Value = serde_json::from_str(&stdout).expect("is JSON");
    let address = stage.endpoint.trim_start_matches("http://");
    for words in [
        &format!("is {address}"),
        &format!("{address} accepts connections, after "),
        &format!("{address} speaks TLSv1_3, after "),
        "with a certificate for localhost until ",
        &format!("a token, {}, after ", json["token_id"].as_str().expect("is text")),
        " ms",
    ] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    assert!(!stderr.contains(json["access_token"].as_str().expect("is text")), "{stderr}");
    let (code, _, stderr) =
        run(&["get", "--verbose", "--endpoint", "http://127.0.0.1:1", "--merchant-id", MERCHANT, "--number", NUMBER]).await;
    assert_eq!(code, Some(75));
    assert!(stderr.contains("127.0.0.1:1: refused") && stderr.contains("no answer of the broker, after "), "{stderr}");
}
