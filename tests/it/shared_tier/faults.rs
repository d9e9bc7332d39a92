//! A server that is away, slow, full or lost costs sign-ins, and nothing else.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use token_broker_sandbox::Options;
use tokio::{process::Command, time::sleep};

use super::ground::{Ground, UP, caller, metric, metric_is, numbers, reload, token};
use crate::support::{MERCHANT, PATIENCE, Running, authority::Authority, http, process::BINARY, redis::Redis};

const WRITTEN: &str = "token_broker_shared_operations_total{operation=\"write\",result=\"done\"}";

/// What became of the questions that flights ask: how many were asked, well or not, and how many were not, since there is no use.
async fn questions(replica: &Running) -> (u64, u64) {
    let (mut asked, mut off) = (0, 0);
    for operation in ["look", "lease"] {
        for result in ["done", "failed", "off"] {
            let name = format!("token_broker_shared_operations_total{{operation=\"{operation}\",result=\"{result}\"}}");
            *(if result == "off" { &mut off } else { &mut asked }) += metric(&replica.admin, &name).await;
        }
    }
    (asked, off)
}

/// How long a call took for a user of whom nothing is known.
async fn took(replica: &Running, number: &str) -> Duration {
    let client = caller(&replica.endpoint);
    // The connection is not what is measured.
    client.token(MERCHANT, "+447871230000").await.expect_err("nobody has that number");
    let began = Instant::now();
    client.token(MERCHANT, number).await.expect("there is a token");
    began.elapsed()
}

/// Calls for users of whom nothing is known, while it is known that there is no server: none asks it, or waits for it.
async fn nobody_asks(replica: &Running, users: &[String]) {
    let (asked, off) = questions(replica).await;
    for number in users {
        token_of(replica, number).await;
    }
    // What others have, and whose turn it is.
    let each = 2 * u64::try_from(users.len()).expect("is small");
    assert_eq!(questions(replica).await, (asked, off + each));
}

async fn status(replica: &Running) -> serde_json::Value {
    let text = http(&replica.admin, "/status?format=json").await;
    let body = text.split("\r\n\r\n").last().expect("has a body").to_owned();
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_costs_sign_ins_and_comes_back_by_itself() {
    let mut ground = Ground::with_users(30).await;
    let users = numbers(30);
    let replica = ground.replica().await;
    token_of(&replica, &users[0]).await;
    metric_is(&replica.admin, WRITTEN, 1).await;
    metric_is(&replica.admin, UP, 1).await;
    ground.redis.kill();
    let first = took(&replica, &users[1]).await;
    assert!(first < Duration::from_secs(2), "{first:?}");
    metric_is(&replica.admin, UP, 0).await;
    nobody_asks(&replica, &users[2..12]).await;
    let said = status(&replica).await;
    assert_eq!(said["shared_tier"]["usable"], false, "{said}");
    assert!(said["findings"].to_string().contains("shared tier"), "{said}");
    assert!(http(&replica.admin, "/readyz").await.contains("200"));
    ground.redis.restart();
    metric_is(&replica.admin, UP, 1).await;
    token_of(&replica, &users[20]).await;
    metric_is(&replica.admin, WRITTEN, 2).await;
    let other = ground.replica().await;
    token_of(&other, &users[20]).await;
    assert_eq!(ground.sandbox.sign_ins_of(&users[20]), 1);
}

async fn token_of(replica: &Running, number: &str) {
    replica.client.token(MERCHANT, number).await.expect("there is a token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_server_holds_nobody_up_for_long() {
    let ground = Ground::with_users(40).await;
    let users = numbers(40);
    let replica = ground.replica().await;
    token_of(&replica, &users[0]).await;
    // Callers have it before the others do.
    metric_is(&replica.admin, WRITTEN, 1).await;
    metric_is(&replica.admin, UP, 1).await;
    ground.redis.signal(Signal::STOP);
    let first = took(&replica, &users[1]).await;
    assert!(first < Duration::from_secs(2), "{first:?}");
    metric_is(&replica.admin, UP, 0).await;
    nobody_asks(&replica, &users[2..20]).await;
    // A hit knows nothing of it.
    let before = questions(&replica).await;
    token_of(&replica, &users[0]).await;
    assert_eq!(questions(&replica).await, before);
    ground.redis.signal(Signal::CONT);
    metric_is(&replica.admin, UP, 1).await;
    token_of(&replica, &users[30]).await;
    let other = ground.replica().await;
    metric_is(&replica.admin, WRITTEN, 2).await;
    token_of(&other, &users[30]).await;
    assert_eq!(ground.sandbox.sign_ins_of(&users[30]), 1);
}

#[tokio::test]
async fn a_flush_costs_nothing_until_somebody_needs_what_was_there() {
    let ground = Ground::new().await;
    let first = ground.replica().await;
    let held = token(&first.client).await;
    metric_is(&first.admin, WRITTEN, 1).await;
    ground.redis.command("FLUSHALL");
    assert_eq!(token(&first.client).await.token_id, held.token_id);
    assert_eq!(ground.sandbox.sign_ins(), 1);
    let second = ground.replica().await;
    let next = token(&second.client).await;
    assert_ne!(next.token_id, held.token_id);
    super::ground::answers(&first.endpoint, &next.token_id).await;
    assert_eq!(ground.sandbox.sign_ins(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_a_read_only_and_a_locked_server_cost_sign_ins_alone() {
    for options in [
        vec!["--maxmemory", "1", "--maxmemory-policy", "noeviction"],
        vec!["--replicaof", "127.0.0.1", "1"],
        vec!["--requirepass", "secret"],
        vec!["--maxclients", "1"],
    ] {
        let ground = Ground::with(Options::default(), Redis::start(&options)).await;
        let replicas = ground.replicas(2).await;
        for replica in &replicas {
            let began = Instant::now();
            let held = token(&replica.client).await;
            assert_eq!(token(&replica.client).await.token_id, held.token_id);
            assert!(began.elapsed() < Duration::from_secs(2), "{options:?} {:?}", began.elapsed());
        }
        assert_eq!(ground.sandbox.sign_ins(), 2, "{options:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_becomes_a_replica_and_one_again() {
    let ground = Ground::with_users(4).await;
    let users = numbers(4);
    let replica = ground.replica().await;
    token_of(&replica, &users[0]).await;
    metric_is(&replica.admin, WRITTEN, 1).await;
    ground.redis.command("REPLICAOF 127.0.0.1 1");
    // The lock is refused, and so is every connection from then on.
    token_of(&replica, &users[1]).await;
    let began = Instant::now();
    while status(&replica).await["shared_tier"]["why"] != "it is read-only" {
        assert!(began.elapsed() < PATIENCE, "{}", status(&replica).await);
        sleep(Duration::from_millis(20)).await;
    }
    ground.redis.command("REPLICAOF NO ONE");
    metric_is(&replica.admin, UP, 1).await;
    let other = ground.replica().await;
    token_of(&other, &users[0]).await;
    assert_eq!(ground.sandbox.sign_ins(), 2, "what was there is there");
}

#[tokio::test]
async fn tls_and_a_password_that_rotates_without_a_restart() {
    let authority = Authority::new();
    let files = tempfile::tempdir().expect("a directory");
    let path = |name: &str| files.path().join(name).display().to_string();
    let issued = authority.server();
    for (name, text) in [("ca.crt", &authority.pem), ("tls.crt", &issued.certificate), ("tls.key", &issued.key)] {
        std::fs::write(path(name), text).expect("is written");
    }
    let (ca, certificate, key) = (path("ca.crt"), path("tls.crt"), path("tls.key"));
    let redis = Redis::start(&[
        "--tls-port",
        "TLS-PORT",
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
        "--user",
        "broker",
        "on",
        ">first",
        ">second",
        "~tb1:*",
        "+eval",
        "+get",
        "+set",
        "+mget",
        "+pttl",
        "+exists",
        "+time",
        "+del",
        "+xadd",
        "+xread",
        "+xrevrange",
        "+select",
    ]);
    let mut ground = Ground::with(Options::default(), redis).await;
    ground.url = format!("rediss://broker@127.0.0.1:{}/0", ground.redis.port);
    let password = ground.write("password", "first\n");
    ground.shared = format!("password_file = \"{}\"\nca_file = \"{ca}\"\n", password.display());
    let (first, at) = ground.replica_at().await;
    let held = token(&first.client).await;
    metric_is(&first.admin, WRITTEN, 1).await;
    ground.write("password", "wrong\n");
    reload(&first, &at, &ground.config());
    metric_is(&first.admin, UP, 0).await;
    ground.write("password", "second\n");
    reload(&first, &at, &ground.config());
    metric_is(&first.admin, UP, 1).await;
    let second = ground.replica().await;
    assert_eq!(token(&second.client).await.token_id, held.token_id);
    assert_eq!(ground.sandbox.sign_ins(), 1);
    // One whom nobody vouches for is not spoken to.
    let stranger = ground.write("stranger.crt", &Authority::new().pem);
    ground.shared = format!("password_file = \"{}\"\nca_file = \"{}\"\n", password.display(), stranger.display());
    let third = ground.replica().await;
    assert_ne!(token(&third.client).await.token_id, held.token_id);
    assert_eq!(metric(&third.admin, UP).await, 0);
}

#[tokio::test]
async fn check_says_whether_the_server_can_be_used() {
    let mut ground = Ground::new().await;
    let path = ground.write("checked.toml", &ground.config());
    let run = || Command::new(BINARY).args(["check", "--config"]).arg(&path).output();
    let used = run().await.expect("the binary runs");
    assert_eq!(used.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&used.stdout).contains("can be reached and used"), "{used:?}");
    ground.redis.kill();
    let away = run().await.expect("the binary runs");
    assert_eq!(away.status.code(), Some(75));
    assert!(String::from_utf8_lossy(&away.stderr).contains("no connection to it could be made"), "{away:?}");
}
