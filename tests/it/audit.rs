//! The audit trail of the real binary: on standard output or in a file, whatever the log's level is.

use std::{collections::HashSet, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use token_broker::client::Client;
use token_broker_sandbox::{Options, Sandbox};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE,
    authority::{Authority, Name, client},
    http,
    process::{BINARY, Process, written},
    user,
};

fn config(sandbox: &Sandbox, level: &str, rest: &str) -> String {
    let url = sandbox.url();
    let users = user(NUMBER, PASSWORD);
    format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[log]\nlevel = \"{level}\"\n[vault]\nbase_url = \"{url}\"\n{rest}{users}"
    )
}

/// The trail's lines, once there are `n` of an event.
async fn lines(read: impl Fn() -> String, event: &str, n: usize) -> Vec<Value> {
    let enough = async {
        loop {
            let lines: Vec<Value> = read().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            let found: Vec<_> = lines.into_iter().filter(|line| line["target"] == "audit" && line["event"] == event).collect();
            if found.len() >= n {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, enough).await.unwrap_or_else(|_| panic!("no {n} lines of {event} in {}", read()))
}

async fn use_it(broker: &Process) -> Vec<String> {
    let client = Client::new(&broker.endpoint()).expect("is an endpoint");
    let token = client.token(MERCHANT, NUMBER).await.expect("there is a token");
    client.token(MERCHANT, NUMBER).await.expect("there is a token");
    client.token(MERCHANT, "+447871230000").await.expect_err("nobody knows it");
    client.token("", NUMBER).await.expect_err("is malformed");
    vec![token.access_token, PASSWORD.to_owned(), NUMBER.to_owned(), "+447871230000".to_owned()]
}

fn check(trail: &str, decisions: &[Value], sign_ins: &[Value], secrets: &[String]) {
    let field = |name: &str| decisions.iter().map(|line| line[name].as_str().unwrap_or("-").to_owned()).collect::<Vec<_>>();
    assert_eq!(field("verdict"), ["allowed", "allowed", "failed", "failed"]);
    assert_eq!(field("outcome"), ["signed_in", "hit", "turned_away", "turned_away"]);
    assert_eq!(field("reason"), ["", "", "USER_NOT_CONFIGURED", "INVALID_REQUEST"]);
    assert_eq!(field("number"), ["+44…9999", "+44…9999", "+44…0000", "-"]);
    assert_eq!(field("merchant_id"), [MERCHANT, MERCHANT, MERCHANT, "-"]);
    assert!(field("caller").iter().all(|caller| caller == "anonymous"));
    assert!(field("request_id").iter().all(|id| id.len() == 32));
    let [sign_in] = sign_ins else { panic!("{sign_ins:?}") };
    assert_eq!((&sign_in["verdict"], &sign_in["token_id"]), (&"granted".into(), &decisions[0]["token_id"]));
    assert!(secrets.iter().all(|secret| !trail.contains(secret.as_str())), "{trail}");
}

#[tokio::test]
async fn the_trail_is_on_standard_output_at_any_level_and_tells_of_reloads() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let broker = Process::serve(&config(&sandbox, "info", ""), &[]).await;
    let read = || broker.log();
    broker.rewrite(&config(&sandbox, "error", ""));
    broker.signal(rustix::process::Signal::HUP);
    lines(read, "configuration", 1).await;
    let secrets = use_it(&broker).await;
    let (decisions, sign_ins) = (lines(read, "decision", 4).await, lines(read, "sign_in", 1).await);
    check(&broker.log(), &decisions, &sign_ins, &secrets);

    broker.rewrite(&format!("{}{}", config(&sandbox, "error", ""), user("+447871230001", "x")));
    broker.signal(rustix::process::Signal::HUP);
    assert_eq!(lines(read, "configuration", 2).await[1]["added"], 1);
    broker.rewrite("nonsense");
    broker.signal(rustix::process::Signal::HUP);
    assert_eq!(lines(read, "configuration", 3).await[2]["verdict"], "refused");
}

#[tokio::test]
async fn the_trail_goes_to_a_file_that_only_its_owner_reads() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("trail.jsonl");
    let broker = Process::serve(&config(&sandbox, "info", &format!("[audit]\nfile = \"{}\"\n", file.display())), &[]).await;
    let secrets = use_it(&broker).await;
    let read = || fs::read_to_string(Path::new(&file)).expect("is there");
    let (decisions, sign_ins) = (lines(read, "decision", 4).await, lines(read, "sign_in", 1).await);
    check(&read(), &decisions, &sign_ins, &secrets);
    assert_eq!(fs::metadata(&file).expect("is there").permissions().mode() & 0o777, 0o600);
    assert!(!broker.log().contains("\"target\":\"audit\""), "not in both");
}

/// The broker's table for TLS, with files in this directory.
fn tls(ca: &Authority, directory: &Path) -> String {
    ca.server().write(directory);
    fs::write(directory.join("ca.crt"), &ca.pem).expect("is written");
    [("certificate_file", "tls.crt"), ("key_file", "tls.key"), ("client_ca_file", "ca.crt")]
        .iter()
        .fold("[grpc.tls]\n".to_owned(), |tls, (key, name)| format!("{tls}{key} = \"{}\"\n", directory.join(name).display()))
}

/// Two callers that ask for a token held, one much more often, and one of them for a user that it may not; what the trail says of it
/// at the end of the process.
async fn hits_of_two_callers(hits: &str) -> Vec<Value> {
    const CALLERS: [&str; 2] = ["spiffe://example.org/ns/cards/sa/cards", "spiffe://example.org/ns/loans/sa/loans"];
    let (sandbox, ca, directory) = (Sandbox::start(Options::default()).await, Authority::new(), tempfile::tempdir());
    let (sandbox, directory) = (sandbox.expect("starts"), directory.expect("a directory"));
    let tls = tls(&ca, directory.path());
    let callers = CALLERS.map(|id| format!("[[callers]]\nid = '{id}'\nmerchants = [\"*\"]\nnumbers = [\"{NUMBER}\"]\n")).concat();
    let config = |hits: &str| config(&sandbox, "info", &format!("{tls}[audit]\nhits = \"{hits}\"\n{callers}"));
    let mut broker = Process::serve(&config(hits), &[]).await;
    let endpoint = broker.endpoint().replace("http://", "https://");
    let [cards, loans] = CALLERS.map(|id| client(&endpoint, &ca, Some(&ca.client(&[Name::Uri(id)]))));
    cards.token(MERCHANT, NUMBER).await.expect("signs in");
    // Another value is for the next start.
    broker.rewrite(&config(if hits == "each" { "summed" } else { "each" }));
    broker.signal(Signal::HUP);
    assert_eq!(broker.line("this key takes effect with the next start").await["key"], "audit.hits");
    let mut calling = JoinSet::new();
    for (client, times) in [(&cards, 250), (&cards, 250), (&cards, 250), (&cards, 250), (&loans, 10)] {
        let client = client.clone();
        calling.spawn(async move {
            for _ in 0..times {
                client.token(MERCHANT, NUMBER).await.expect("is held");
            }
        });
    }
    loans.token(MERCHANT, "+447871230000").await.expect_err("it may not");
    calling.join_all().await;
    broker.signal(Signal::TERM);
    assert!(broker.ended(PATIENCE).await.success());
    assert!(!broker.log().contains("were lost"), "{}", broker.log());
    lines(|| broker.log(), "decision", 0).await
}

fn said<'l>(lines: &'l [Value], name: &str) -> Vec<&'l str> {
    lines.iter().map(|line| line[name].as_str().unwrap_or("-")).collect()
}

#[tokio::test]
async fn every_hit_has_a_line() {
    let decisions = hits_of_two_callers("each").await;
    let (hits, others): (Vec<_>, Vec<_>) = decisions.into_iter().partition(|line| line["outcome"] == "hit");
    assert_eq!(said(&others, "outcome"), ["signed_in", "turned_away"]);
    let of = |caller: &str| said(&hits, "caller").iter().filter(|id| id.contains(caller)).count();
    assert_eq!((of("cards"), of("loans"), hits.len()), (1_000, 10, 1_010));
    let ids: HashSet<_> = said(&hits, "request_id").into_iter().collect();
    assert_eq!(ids.len(), 1_010);
    assert!(hits.iter().all(|line| line["count"].is_null()));
}

#[tokio::test]
async fn strangers_have_a_line_each_at_first_and_one_for_all_others_at_the_end() {
    let (sandbox, ca, directory) = (Sandbox::start(Options::default()).await, Authority::new(), tempfile::tempdir());
    let (sandbox, directory) = (sandbox.expect("starts"), directory.expect("a directory"));
    let callers = "[[callers]]\nid = 'cards.example.org'\nmerchants = [\"*\"]\n";
    let tables = format!("{}{callers}", tls(&ca, directory.path()));
    let mut broker = Process::serve(&config(&sandbox, "info", &tables), &[]).await;
    let stranger = client(&broker.endpoint().replace("http://", "https://"), &ca, None);
    for _ in 0..30 {
        stranger.token(MERCHANT, NUMBER).await.expect_err("nobody knows it");
    }
    broker.signal(Signal::TERM);
    assert!(broker.ended(PATIENCE).await.success());
    let decisions = lines(|| broker.log(), "decision", 0).await;
    assert_eq!(said(&decisions, "reason"), ["CALLER_UNAUTHENTICATED"; 11]);
    let (last, each) = decisions.split_last().expect("there are lines");
    assert!(each.iter().all(|line| line["count"].is_null() && line["request_id"].is_string()), "{each:?}");
    assert_eq!((&last["count"], &last["peer"]), (&20.into(), &"127.0.0.1".into()));
}

#[tokio::test]
async fn hits_are_summed_by_caller_and_all_else_has_a_line() {
    let decisions = hits_of_two_callers("summed").await;
    let (mut sums, others): (Vec<_>, Vec<_>) = decisions.into_iter().partition(|line| line["outcome"] == "hit");
    assert_eq!(said(&others, "outcome"), ["signed_in", "turned_away"]);
    assert_eq!(said(&others, "reason"), ["", "CALLER_NOT_ALLOWED"]);
    assert!(said(&others, "request_id").iter().all(|id| id.len() == 32) && others.iter().all(|line| line["count"].is_null()));
    sums.sort_by_key(|sum| sum["count"].as_u64());
    let [loans, cards] = &sums[..] else { panic!("{sums:?}") };
    assert_eq!((&loans["count"], &cards["count"]), (&10.into(), &1_000.into()));
    assert!(said(&sums, "caller")[0].contains("loans") && said(&sums, "caller")[1].contains("cards"));
    for sum in &sums {
        let time = |name: &str| humantime::parse_rfc3339(sum[name].as_str().expect("is text")).expect("is a time");
        assert!(time("first") < time("last") && time("last") <= time("timestamp"), "{sum}");
        assert_eq!((&sum["token_id"], &sum["verdict"]), (&others[0]["token_id"], &"allowed".into()));
        assert_eq!((&sum["number"], &sum["merchant_id"]), (&"+44…9999".into(), &MERCHANT.into()));
        assert!(sum["request_id"].is_null() && sum["trace_id"].is_null(), "{sum}");
    }
}

/// Nobody may lose a line by what is done to the file while it is written to.
#[tokio::test]
async fn a_file_that_is_renamed_deleted_or_replaced_is_opened_anew_and_loses_no_line() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let directory = tempfile::tempdir().expect("a directory");
    let (file, old) = (directory.path().join("trail.jsonl"), directory.path().join("trail.jsonl.1"));
    let broker = Process::serve(&config(&sandbox, "info", &format!("[audit]\nfile = \"{}\"\n", file.display())), &[]).await;
    let client = Client::new(&broker.endpoint()).expect("is an endpoint");
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let ask = async |n: usize| {
        for _ in 0..n {
            client.token(MERCHANT, "+447871230000").await.expect_err("nobody knows it");
        }
    };
    ask(3).await;
    lines(|| read(&file), "decision", 3).await;
    // As logrotate does: what is written before the signal may go either way.
    fs::rename(&file, &old).expect("is renamed");
    ask(2).await;
    broker.signal(Signal::HUP);
    broker.line_like("the audit trail's file was renamed, replaced or deleted").await;
    ask(4).await;
    lines(|| format!("{}{}", read(&old), read(&file)), "decision", 9).await;
    assert!(read(&old).lines().count() <= 5 && read(&file).lines().count() >= 4, "{}", read(&old));
    // Without a signal, and without lines before it: the file is there again as soon as there is one.
    fs::remove_file(&file).expect("is removed");
    ask(1).await;
    assert_eq!(lines(|| read(&file), "decision", 1).await.len(), 1);
    assert_eq!(fs::metadata(&file).expect("is there").permissions().mode() & 0o777, 0o600);
    // Another file in its place.
    let other = directory.path().join("other");
    fs::write(&other, "").expect("is written");
    fs::rename(&other, &file).expect("is renamed");
    ask(2).await;
    lines(|| read(&file), "decision", 2).await;
    // After a signal it is there though nothing is said.
    fs::rename(&file, &old).expect("is renamed");
    broker.signal(Signal::HUP);
    let there = async {
        while !file.exists() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, there).await.expect("it is made");
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_anew_is_said_and_the_old_one_goes_on() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let directory = tempfile::tempdir().expect("a directory");
    let (inside, away) = (directory.path().join("log"), directory.path().join("away"));
    fs::create_dir(&inside).expect("is made");
    let file = inside.join("trail.jsonl");
    let rest = format!("[admin]\nlisten = \"127.0.0.1:0\"\n[audit]\nfile = \"{}\"\n", file.display());
    let broker = Process::serve(&config(&sandbox, "info", &rest), &[]).await;
    let client = Client::new(&broker.endpoint()).expect("is an endpoint");
    fs::rename(&inside, &away).expect("is renamed");
    for _ in 0..5 {
        client.token(MERCHANT, "+447871230000").await.expect_err("nobody knows it");
    }
    broker.line_like("the audit trail's file can't be opened anew").await;
    let moved = away.join("trail.jsonl");
    lines(|| fs::read_to_string(&moved).expect("is there"), "decision", 5).await;
    // It is gone for good: what is written to it nobody will read.
    fs::remove_file(&moved).expect("is removed");
    client.token(MERCHANT, "+447871230000").await.expect_err("nobody knows it");
    // A pipe that nobody reads is none to wait for. It comes in one step, so that nothing is made in its place.
    let with_pipe = directory.path().join("with_pipe");
    fs::create_dir(&with_pipe).expect("is made");
    let pipe = with_pipe.join("trail.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("there is mkfifo").success());
    fs::rename(&with_pipe, &inside).expect("is renamed");
    broker.signal(Signal::HUP);
    client.token(MERCHANT, "+447871230000").await.expect_err("nobody knows it");
    let lost = || async { http(&broker.address("admin"), "/metrics").await };
    // The decision from before, what the reload came to, and the decision after it.
    let all = async {
        while !lost().await.contains("\ntoken_broker_audit_lines_lost_total 3\n") {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, all).await.expect("it is counted");
    broker.line_like("lines of the audit trail were lost").await;
    assert_eq!(broker.log().matches("can't be opened anew").count(), 1, "once a minute: {}", broker.log());
    fs::remove_file(&file).expect("is removed");
    broker.signal(Signal::HUP);
    broker.line_like("the audit trail's file was renamed, replaced or deleted").await;
    client.token(MERCHANT, "+447871230000").await.expect_err("nobody knows it");
    lines(|| fs::read_to_string(&file).unwrap_or_default(), "decision", 1).await;
}

#[tokio::test]
async fn lines_that_cannot_be_written_are_counted_and_said() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let rest = "[admin]\nlisten = \"127.0.0.1:0\"\n[audit]\nfile = \"/dev/full\"\n";
    let broker = Process::serve(&config(&sandbox, "info", rest), &[]).await;
    use_it(&broker).await;
    let said = broker.line_like("lines of the audit trail were lost").await;
    assert_eq!(said["lines"], 5, "four decisions and a sign-in");
    let metrics = http(&broker.address("admin"), "/metrics").await;
    assert!(metrics.contains("\ntoken_broker_audit_lines_lost_total 5\n"), "{metrics}");
}

#[tokio::test]
async fn a_reader_that_is_stuck_does_not_hold_up_the_end() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let (_files, path) = written(&config(&sandbox, "info", ""));
    let mut command = Command::new(BINARY);
    command.arg("serve").arg("--config").arg(&path).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut broker = command.spawn().expect("it starts");
    let mut lines = BufReader::new(broker.stdout.take().expect("is piped")).lines();
    let mut endpoint = String::new();
    while let Some(line) = lines.next_line().await.expect("is UTF-8") {
        let line: Value = serde_json::from_str(&line).expect("is JSON");
        if line["port"] == "grpc" {
            endpoint = format!("http://{}", line["address"].as_str().expect("is text"));
        }
        if line["message"] == "ready" {
            break;
        }
    }
    // Nobody reads any more. Each call is a line of the log, whose queue holds 16,384 and is to be full.
    let client = Client::new(&endpoint).expect("is an endpoint");
    let mut calling = JoinSet::new();
    for _ in 0..36 {
        let client = client.clone();
        calling.spawn(async move {
            for _ in 0..500 {
                client.token(MERCHANT, "+447871230000").await.expect_err("nobody knows it");
            }
        });
    }
    calling.join_all().await;
    let pid = i32::try_from(broker.id().expect("it runs")).expect("is a pid");
    kill_process(Pid::from_raw(pid).expect("is a pid"), Signal::TERM).expect("it can be told");
    let status = timeout(PATIENCE, broker.wait()).await.expect("it ends").expect("it ended");
    assert!(status.success(), "{status}");
    drop(lines);
}
