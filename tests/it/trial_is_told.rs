//! A policy on trial is told of: in the log at the start and once a minute, in the audit trail with each call, and by `check`.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use token_broker::{
    client::{Client, Security},
    config::{self, Config},
    live::{Configuration, Live, Serving, Snapshot},
    policy::Policy,
    reason::Reason,
    rpc::trial,
    telemetry::metrics::Metrics,
};
use token_broker_sandbox::{Options, Sandbox};
use tokio::{task::JoinSet, time::advance};
use tokio_util::sync::CancellationToken;

use crate::{
    policy_on_trial::{OTHER, TRIAL, accounts},
    support::{
        MERCHANT, NUMBER, PATIENCE,
        cluster::{Cluster, SUBJECT},
        process::{Process, run, written},
        scripted_vault::{at, down},
    },
};

/// Lines of the log and of the audit trail.
fn lines(log: &str) -> (Vec<Value>, Vec<Value>) {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let (trail, log): (Vec<_>, Vec<_>) = lines.partition(|line| line["target"] == "audit");
    (trail.into_iter().filter(|line| line["event"] == "decision").collect(), log)
}

#[tokio::test]
async fn log_and_trail_tell_who_would_have_been_refused_and_nothing_of_what_it_showed() {
    const SECRET: &str = "c2VjcmV0.c2VjcmV0.dG9rZW4";
    const CALLS: usize = 30;
    let (sandbox, files, cluster) =
        (Sandbox::start(Options::default()).await.expect("starts"), tempfile::tempdir(), Cluster::new());
    let files = files.expect("a directory");
    let jwks = files.path().join("jwks");
    fs::write(&jwks, cluster.jwks()).expect("is written");
    let config = |auth: &str| {
        let head = format!("[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[vault]\nbase_url = \"{}\"\n", sandbox.url());
        format!("{head}{}", accounts(auth, &format!("jwks_file = \"{}\"", jwks.display())))
    };
    let mut broker = Process::serve(&config(TRIAL), &[]).await;
    let told = broker.log();
    let start =
        told.lines().find(|line| line.contains("auth.enforce")).unwrap_or_else(|| panic!("it is said at the start: {told}"));
    assert!(start.contains("WARN") && start.contains("config.toml:7: auth.enforce: is false: the policy is on trial"), "{start}");
    let asks = |name: &str, token: &str| {
        let path = files.path().join(name);
        fs::write(&path, token).expect("is written");
        let security = Security { token_file: Some(path), ..Security::default() };
        Client::with_security(&broker.endpoint(), security).expect("is an endpoint").timeout(PATIENCE)
    };
    let unlisted = cluster.token(|claims| claims["sub"] = json!("system:serviceaccount:cards:other"));
    let (nobody, unlisted) = (asks("bad", SECRET), asks("unlisted", &unlisted));
    for client in [&nobody, &unlisted] {
        for _ in 0..CALLS {
            client.token(MERCHANT, NUMBER).await.expect("it is let in");
        }
        client.token(MERCHANT, OTHER).await.expect_err("there is no such user");
    }
    broker.replace(&config(""));
    broker.signal(Signal::HUP);
    broker.line_like("the policy is enforced").await;
    nobody.token(MERCHANT, NUMBER).await.expect_err("from the next call on");
    broker.signal(Signal::TERM);
    assert!(broker.ended(PATIENCE).await.success());

    let (trail, log) = lines(&broker.log());
    assert_eq!(trail.len(), 2 * (CALLS + 1) + 1, "{trail:?}");
    for (caller, would_deny) in
        [("anonymous", "CALLER_UNAUTHENTICATED"), ("system:serviceaccount:cards:other", "CALLER_NOT_ALLOWED")]
    {
        let of: Vec<_> = trail.iter().filter(|line| line["caller"] == caller && line["would_deny"] == would_deny).collect();
        let allowed =
            of.iter().filter(|line| line["verdict"] == "allowed" && line["token_id"].is_string() && line["reason"] == "");
        assert_eq!((of.len(), allowed.count()), (CALLS + 1, CALLS), "{of:?}");
        let failed = of.iter().find(|line| line["verdict"] == "failed").expect("is there");
        assert_eq!((&failed["reason"], &failed["outcome"]), (&json!("USER_NOT_CONFIGURED"), &json!("turned_away")));
        // The first of a minute, and how many more there were; the call that signed in is of another kind than hits.
        let of: Vec<_> = log.iter().filter(|line| line["would_deny"] == would_deny && line["reason"].is_null()).collect();
        let calls: u64 = of.iter().map(|line| line["more"].as_u64().unwrap_or(1)).sum();
        assert!(of.len() <= 12 && usize::try_from(calls).expect("is small") == CALLS, "{of:?}");
    }
    let last = trail.last().expect("there are some");
    assert_eq!((&last["verdict"], &last["would_deny"]), (&json!("unauthenticated"), &Value::Null), "{last}");
    assert!(!broker.log().contains(SECRET) && !broker.log().contains("c2VjcmV0"));
}

#[tokio::test]
async fn check_warns_and_explains_what_would_happen() {
    let (_files, path) = written("");
    let jwks = path.with_file_name("jwks");
    fs::write(&jwks, Cluster::new().jwks()).expect("is written");
    let config = path.to_str().expect("is UTF-8");
    let asks = async |text: &str, caller: &str| {
        fs::write(&path, format!("[vault]\nbase_url = \"https://vault.example.org\"\n{text}")).expect("is written");
        run(&["check", "--config", config, "--caller", caller, "--merchant-id", MERCHANT, "--number", OTHER]).await
    };
    let other = "system:serviceaccount:cards:other";
    let all = accounts(TRIAL, "jwks_file = \"jwks\"");
    let (code, stdout, stderr) = asks(&all, other).await;
    assert_eq!(code, Some(1), "the policy says no");
    assert!(stdout.contains("denied: system:serviceaccount:cards:other may not ask for"), "{stdout}");
    assert!(stdout.contains("no [[callers]] has this id\nbut it is let in, and counted, since that is on trial"), "{stdout}");
    assert!(stdout.contains("(auth.enforce = false)\nand that user is not configured"), "{stdout}");
    assert!(stderr.contains("warning: ") && stderr.contains("auth.enforce: is false: the policy is on trial"), "{stderr}");
    let entry = all.replace(TRIAL, "").replace("merchants = [", "trial = true\nmerchants = []\n# [");
    let (code, stdout, stderr) = asks(&entry, SUBJECT).await;
    assert_eq!(code, Some(1));
    assert!(stdout.contains("has not this merchant\nbut it is let in"), "{stdout}");
    assert!(stdout.contains(&format!("[[callers]] {SUBJECT} in line 6 is (trial = true)")), "{stdout}");
    assert!(stderr.contains("callers.trial: is true: this entry is on trial"), "{stderr}");
    let (code, stdout, _) = asks(&entry, other).await;
    assert!(code == Some(1) && !stdout.contains("let in"), "{stdout}");
    let (code, _, stderr) = run(&["check", "--config", config]).await;
    assert!(code == Some(0) && stderr.contains("on trial"), "{stderr}");
}

/// What is logged by this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// What was logged since this was asked last, line by line.
    fn take(&self) -> Vec<String> {
        let text = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        String::from_utf8(text).expect("is text").lines().map(str::to_owned).collect()
    }
}

fn snapshot(config: &Config) -> Snapshot {
    let settings = at("vault", |_, _| Box::pin(async { Err(down()) }));
    Snapshot::new(Configuration { users: Vec::new(), policy: Policy::of(config), settings, serving: Serving::default() })
}

#[tokio::test(start_paused = true)]
async fn a_trial_is_told_once_a_minute_with_how_many_it_would_have_refused_since() {
    const MINUTE: Duration = Duration::from_secs(60);
    let log = Log::default();
    let sink = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(move || sink.clone());
    // While there is one subscriber only, another test's thread, which has none, could switch the line off for all.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let _taking = tracing::subscriber::set_default(subscriber.finish());
    let configured = |text: &str| {
        let (files, path) = written(&format!("[vault]\nbase_url = \"https://vault.example.org\"\n{text}"));
        fs::write(files.path().join("jwks"), Cluster::new().jwks()).expect("is written");
        config::load(&path).expect("is good").config
    };
    let keys = "jwks_file = \"jwks\"";
    let on_trial = snapshot(&configured(&accounts(TRIAL, keys)));
    let (live, metrics, closing) = (Live::new(on_trial), Arc::new(Metrics::default()), CancellationToken::new());
    let mut telling = JoinSet::new();
    telling.spawn(trial::tell_every_minute(live.clone(), Arc::clone(&metrics), closing.clone()));
    let pass = async |time: Duration| {
        // What waits is to be there before the time passes, and what it wakes is to run after.
        tokio::task::yield_now().await;
        advance(time).await;
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    };
    let would_deny = |n| (0..n).for_each(|_| metrics.would_deny.count(Reason::CallerNotAllowed));
    // It has begun.
    pass(Duration::ZERO).await;
    would_deny(3);
    pass(MINUTE - Duration::from_secs(1)).await;
    assert_eq!(log.take(), [""; 0]);
    for n in [3, 0, 2] {
        pass(Duration::from_secs(1)).await;
        let said = log.take();
        let message = format!("would_deny={n}");
        assert!(said.len() == 1 && said[0].contains("WARN") && said[0].contains("auth.enforce = false"), "{said:?}");
        assert!(said[0].contains(&message), "{message}: {said:?}");
        would_deny(if n == 0 { 2 } else { 0 });
        // Whatever is put in force meanwhile, it is told in time.
        pass(MINUTE / 2).await;
        live.store(Arc::new(snapshot(&configured(&accounts(TRIAL, keys)))));
        pass(MINUTE / 2 - Duration::from_secs(1)).await;
        assert_eq!(log.take(), [""; 0]);
    }
    would_deny(4);
    live.store(Arc::new(snapshot(&configured(&accounts("", keys)))));
    pass(Duration::ZERO).await;
    let said = log.take();
    assert!(said.len() == 1 && said[0].contains("the policy is enforced") && said[0].contains("would_deny=4"), "{said:?}");
    pass(10 * MINUTE).await;
    assert_eq!(log.take(), [""; 0], "it is over");
    let entry = accounts("", keys).replace("merchants", "trial = true\nmerchants");
    live.store(Arc::new(snapshot(&configured(&entry))));
    pass(MINUTE - Duration::from_secs(1)).await;
    assert_eq!(log.take(), [""; 0]);
    pass(Duration::from_secs(1)).await;
    let said = log.take();
    assert!(
        said.len() == 1 && said[0].contains("entries of [[callers]] are on trial") && said[0].contains("entries=1"),
        "{said:?}"
    );
    closing.cancel();
    telling.join_all().await;
}
