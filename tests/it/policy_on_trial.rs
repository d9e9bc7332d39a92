//! A policy on trial: who would be refused is let in, and counted, until a reload enforces it.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::json;
use token_broker::client::{Client, ClientError, Security};
use token_broker_sandbox::{Fault, User};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
};

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE, Said, Setting, Stage,
    authority::{Authority, Issued, Name, client},
    cluster::{Cluster, ISSUER, SUBJECT},
    http, replace,
    secured::{CARDS, caller, secured},
    user,
};

pub(crate) const TRIAL: &str = "[auth]\nenforce = false\n";
pub(crate) const OTHER: &str = "+447871230000";
const UNLISTED: &str = "spiffe://example.org/ns/cards/sa/other";

/// Cards may ask for one of the two users.
fn narrow() -> String {
    let limits = format!("merchants = [\"{MERCHANT}\"]\nnumbers = [\"{NUMBER}\"]");
    format!("{}{}", caller(CARDS, &limits), user(OTHER, PASSWORD))
}

/// The same, and the vault knows both.
async fn staged(ca: &Authority, callers: &str) -> Stage {
    let stage = secured(ca, callers).await;
    stage.sandbox.add_user(User::new(MERCHANT, OTHER, PASSWORD));
    stage
}

/// How many calls were let in for this reason.
async fn let_in(admin: &str, reason: &str) -> u64 {
    value(admin, &format!("token_broker_would_deny_total{{reason=\"{reason}\"}}")).await
}

async fn value(admin: &str, name: &str) -> u64 {
    let metrics = http(admin, "/metrics").await;
    let found = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

/// Asks until the answer is this one: another configuration is in force then.
async fn until(mut asks: impl AsyncFnMut() -> Result<(), ClientError>, is_let_in: bool) {
    let changed = async { while asks().await.is_ok() != is_let_in {} };
    timeout(PATIENCE, changed).await.expect("the configuration is taken over");
}

#[tokio::test]
async fn who_would_be_refused_is_let_in_until_a_reload_enforces_the_policy_and_again_after_the_next() {
    let ca = Authority::new();
    let stage = staged(&ca, &format!("{TRIAL}{}", narrow())).await;
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3_600));
    let ended = ca.issue(&[Name::Uri(CARDS)], now - 2 * hour, now - hour);
    let as_one = |issued: Option<Issued>| client(&stage.secure_endpoint(), &ca, issued.as_ref());
    let (unknown, denied) = ((Code::Unauthenticated, "CALLER_UNAUTHENTICATED"), (Code::PermissionDenied, "CALLER_NOT_ALLOWED"));
    let cards = as_one(Some(ca.client(&[Name::Uri(CARDS)])));
    let refused = [
        (as_one(None), NUMBER, unknown),
        (as_one(Some(ended)), NUMBER, unknown),
        (as_one(Some(Authority::new().client(&[Name::Uri(CARDS)]))), NUMBER, unknown),
        (as_one(Some(ca.client(&[Name::Common("nobody")]))), NUMBER, unknown),
        (as_one(Some(ca.client(&[Name::Uri(UNLISTED)]))), NUMBER, denied),
        (cards.clone(), OTHER, denied),
    ];
    let counted = async || (let_in(&stage.admin, unknown.1).await, let_in(&stage.admin, denied.1).await);
    assert_eq!((counted().await, let_in(&stage.admin, "IDENTITY_UNAVAILABLE").await), ((0, 0), 0), "there from the start");
    cards.token(MERCHANT, NUMBER).await.expect("it may");
    assert_eq!(counted().await, (0, 0), "who may is no part of it");
    for (client, number, _) in &refused {
        client.token(MERCHANT, number).await.expect("it is let in");
    }
    assert_eq!(counted().await, (4, 2));
    // As everybody who is let in, it learns who is configured.
    let said = Said::of(as_one(None).token(MERCHANT, "+447871231111").await.expect_err("there is no such user"));
    said.check(Code::NotFound, "USER_NOT_CONFIGURED");
    assert_eq!(counted().await, (5, 2));
    assert_eq!(value(&stage.admin, "token_broker_policy_on_trial").await, 1);
    let status = http(&stage.admin, "/status").await;
    assert!(status.contains("the policy is on trial") && status.contains("\"attention\""), "{status}");
    assert!(reflects(&stage, &ca).await, "reflection is for everybody meanwhile");

    for round in 0..2 {
        stage.reload(&format!("{}{}", narrow(), user(NUMBER, PASSWORD)));
        until(async || refused[0].0.token(MERCHANT, NUMBER).await.map(drop), false).await;
        let before = counted().await;
        for (client, number, (code, reason)) in &refused {
            Said::of(client.token(MERCHANT, number).await.expect_err(reason)).check(*code, reason);
        }
        cards.token(MERCHANT, NUMBER).await.expect("it may");
        assert!(!reflects(&stage, &ca).await);
        assert_eq!(counted().await, before, "{round}: who is refused is counted elsewhere");
        // What is shown may be a moment old.
        let shown = async { while value(&stage.admin, "token_broker_policy_on_trial").await != 0 {} };
        timeout(PATIENCE, shown).await.expect("it is shown");
        assert!(!http(&stage.admin, "/status").await.contains("on trial"));
        stage.reload(&format!("{TRIAL}{}{}", narrow(), user(NUMBER, PASSWORD)));
        until(async || refused[0].0.token(MERCHANT, NUMBER).await.map(drop), true).await;
        for (client, number, _) in &refused {
            client.token(MERCHANT, number).await.expect("it is let in again");
        }
    }
}

/// Whether the broker tells a stranger what it offers.
async fn reflects(stage: &Stage, ca: &Authority) -> bool {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca.pem));
    let endpoint = Endpoint::from_shared(stage.secure_endpoint()).expect("is a URL");
    let channel = endpoint.tls_config(tls).expect("the CA is good").connect().await.expect("it shakes hands");
    let list =
        ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    let asked = ServerReflectionClient::new(channel).server_reflection_info(tokio_stream::once(list)).await;
    match asked {
        Ok(mut answers) => answers.get_mut().message().await.expect("it answers").is_some(),
        Err(status) => {
            assert_eq!(status.code(), Code::Unauthenticated);
            false
        }
    }
}

#[tokio::test]
async fn an_entry_on_trial_lets_in_whom_it_means_and_nobody_else() {
    let ca = Authority::new();
    let limits = format!("merchants = [\"{MERCHANT}\"]\nnumbers = [\"{NUMBER}\"]");
    let ledger = "spiffe://example.org/ns/ledger/sa/ledger";
    let entries = |trial: &str| {
        format!("{}{}{}", caller(CARDS, &format!("{limits}\n{trial}")), caller(ledger, &limits), user(OTHER, PASSWORD))
    };
    let stage = staged(&ca, &entries("trial = true")).await;
    let as_one = |name: &str| client(&stage.secure_endpoint(), &ca, Some(&ca.client(&[Name::Uri(name)])));
    let cards = as_one(CARDS);
    cards.token(MERCHANT, NUMBER).await.expect("it may");
    cards.token(MERCHANT, OTHER).await.expect("it is let in");
    let said = Said::of(cards.token("nobody", OTHER).await.expect_err("there is none"));
    said.check(Code::NotFound, "USER_NOT_CONFIGURED");
    for name in [ledger, UNLISTED] {
        let said = Said::of(as_one(name).token(MERCHANT, OTHER).await.expect_err("it may not"));
        said.check(Code::PermissionDenied, "CALLER_NOT_ALLOWED");
    }
    let said = Said::of(client(&stage.secure_endpoint(), &ca, None).token(MERCHANT, NUMBER).await.expect_err("nobody is known"));
    said.check(Code::Unauthenticated, "CALLER_UNAUTHENTICATED");
    assert_eq!((let_in(&stage.admin, "CALLER_NOT_ALLOWED").await, let_in(&stage.admin, "CALLER_UNAUTHENTICATED").await), (2, 0));
    let gauges = ["token_broker_policy_on_trial", "token_broker_callers_on_trial"];
    assert_eq!((value(&stage.admin, gauges[0]).await, value(&stage.admin, gauges[1]).await), (0, 1));
    assert!(http(&stage.admin, "/status").await.contains("1 entry of [[callers]] is on trial"));
    stage.reload(&format!("{}{}", entries(""), user(NUMBER, PASSWORD)));
    until(async || cards.token(MERCHANT, OTHER).await.map(drop), false).await;
    Said::of(cards.token(MERCHANT, OTHER).await.expect_err("not any more")).check(Code::PermissionDenied, "CALLER_NOT_ALLOWED");
}

/// Who is no longer vouched for would be refused, and so is let in: its connection stays, and what is under way on it. Until the policy
/// is enforced.
#[tokio::test]
async fn a_ca_that_is_removed_ends_no_connection_before_the_policy_is_enforced() {
    let (ca, leaving) = (Authority::new(), Authority::new());
    let stage = staged(&ca, &format!("{TRIAL}{}", narrow())).await;
    let bundle = stage.files.path().join("ca.crt");
    fs::write(&bundle, format!("{}{}", ca.pem, leaving.pem)).expect("is written");
    stage.hup.notify_one();
    let goes = leaving.client(&[Name::Uri(CARDS)]);
    let handshakes =
        async |result: &str| value(&stage.admin, &format!("token_broker_tls_handshakes_total{{result=\"{result}\"}}")).await;
    let welcome = async {
        while handshakes("done").await == 0 {
            client(&stage.secure_endpoint(), &ca, Some(&goes)).token(MERCHANT, NUMBER).await.expect("it is let in either way");
        }
    };
    timeout(PATIENCE, welcome).await.expect("both are trusted");
    let going = client(&stage.secure_endpoint(), &ca, Some(&goes));
    going.token(MERCHANT, NUMBER).await.expect("it may");
    let (done, untrusted) = (handshakes("done").await, handshakes("untrusted").await);
    // Longer than a connection has that is to be closed since nobody vouches for its client.
    stage.sandbox.script(Fault::truth().after(Duration::from_secs(4)));
    let mut waiting = JoinSet::new();
    let slow = going.clone();
    waiting.spawn(async move { slow.token(MERCHANT, OTHER).await.map(drop) });
    stage.sign_ins(2).await;
    let before = let_in(&stage.admin, "CALLER_UNAUTHENTICATED").await;
    fs::write(&bundle, &ca.pem).expect("is written");
    stage.hup.notify_one();
    let noticed = async {
        while let_in(&stage.admin, "CALLER_UNAUTHENTICATED").await == before {
            going.token(MERCHANT, NUMBER).await.expect("it is let in");
        }
    };
    timeout(PATIENCE, noticed).await.expect("nobody vouches for it any more");
    waiting.join_all().await.pop().expect("one").expect("it is not cut off");
    going.token(MERCHANT, NUMBER).await.expect("it is let in");
    assert_eq!((handshakes("done").await, handshakes("untrusted").await), (done, untrusted), "on the same connection");
    stage.reload(&format!("{}{}", narrow(), user(NUMBER, PASSWORD)));
    until(async || going.token(MERCHANT, NUMBER).await.map(drop), false).await;
    let ended = async {
        while handshakes("untrusted").await == untrusted {
            going.token(MERCHANT, NUMBER).await.expect_err("no more");
        }
    };
    timeout(PATIENCE, ended).await.expect("it has to connect anew");
}

/// One service account, which may ask for all of the merchant's users.
pub(crate) fn accounts(auth: &str, keys: &str) -> String {
    let callers = format!("[[callers]]\nid = \"{SUBJECT}\"\nmerchants = [\"{MERCHANT}\"]\n");
    format!("{auth}[auth.service_accounts]\nissuer = \"{ISSUER}\"\n{keys}\n{callers}{}", user(NUMBER, PASSWORD))
}

/// Asks with this token, within this time.
async fn ask(stage: &Stage, token: &str, within: Duration) -> Result<(), ClientError> {
    let path = stage.files.path().join("token");
    fs::write(&path, token).expect("is written");
    let security = Security { token_file: Some(path), ..Security::default() };
    let client = Client::with_security(&stage.endpoint, security).expect("is an endpoint");
    client.timeout(within).token(MERCHANT, NUMBER).await.map(drop)
}

#[tokio::test]
async fn a_token_that_proves_nothing_is_let_in_too() {
    let cluster = Cluster::new();
    let jwks = cluster.jwks();
    let prepare = move |directory: &Path| fs::write(directory.join("jwks"), &jwks).expect("is written");
    let keys = "jwks_file = \"jwks\"";
    let setting = Setting { rest: accounts(TRIAL, keys), prepare: Some(Box::new(prepare)), ..Setting::default() };
    let stage = setting.start().await;
    ask(&stage, &cluster.token(|_| ()), PATIENCE).await.expect("it may");
    stage.token().await.expect("nothing is shown, and it is let in");
    let bad = [
        cluster.token(|claims| claims["exp"] = json!(1_700_000_000)),
        cluster.token(|claims| claims["aud"] = json!(["elsewhere"])),
        Cluster::new().token(|_| ()),
        "no token".to_owned(),
    ];
    for token in &bad {
        ask(&stage, token, PATIENCE).await.expect("it is let in");
    }
    assert_eq!(let_in(&stage.admin, "CALLER_UNAUTHENTICATED").await, 5);
    let unlisted = cluster.token(|claims| claims["sub"] = json!("system:serviceaccount:cards:other"));
    ask(&stage, &unlisted, PATIENCE).await.expect("it is let in");
    assert_eq!(let_in(&stage.admin, "CALLER_NOT_ALLOWED").await, 1);
    stage.reload(&accounts("", keys));
    until(async || stage.token().await.map(drop), false).await;
    for token in &bad {
        Said::of(ask(&stage, token, PATIENCE).await.expect_err("enforced"))
            .check(Code::Unauthenticated, "CALLER_UNAUTHENTICATED");
    }
}

/// Also where the source of the keys takes connections and says nothing: there has to be time for an answer.
#[tokio::test]
async fn who_cannot_be_verified_now_is_let_in_within_its_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let keys = format!("jwks_url = \"http://{}/keys\"", silent.local_addr().expect("is bound"));
    let stage = Setting { rest: accounts(TRIAL, &keys), ..Setting::default() }.start().await;
    // Less than the broker waits for keys.
    ask(&stage, &Cluster::new().token(|_| ()), Duration::from_secs(2)).await.expect("it is let in");
    assert_eq!(let_in(&stage.admin, "IDENTITY_UNAVAILABLE").await, 1);
    ask(&stage, &Cluster::new().token(|_| ()), PATIENCE).await.expect("it is let in once that is known");
    assert_eq!(let_in(&stage.admin, "IDENTITY_UNAVAILABLE").await, 2);
}

/// It was opened on purpose, and then closed: a trial is no way back to that.
#[tokio::test]
async fn a_trial_opens_no_port_that_is_in_plaintext_since_the_start() {
    // The test's own listener is on loopback; what the configuration says counts.
    let grpc = "lame_duck = \"0s\"\nlisten = \"0.0.0.0:50051\"\n".to_owned();
    let rest = format!("[auth]\nallow_unauthenticated = true\n{}", user(NUMBER, PASSWORD));
    let jwks = Cluster::new().jwks();
    let prepare = move |directory: &Path| fs::write(directory.join("jwks"), &jwks).expect("is written");
    let stage = Setting { grpc, rest, prepare: Some(Box::new(prepare)), ..Setting::default() }.start().await;
    stage.token().await.expect("everybody may");
    let reload = |auth: &str| {
        let text = format!("[vault]\nbase_url = \"{}\"\n{}", stage.sandbox.url(), accounts(auth, "jwks_file = \"jwks\""));
        replace(&stage.files.path().join("config.toml"), &text);
        stage.hup.notify_one();
    };
    reload("");
    until(async || stage.token().await.map(drop), false).await;
    reload(TRIAL);
    let refused = async { while value(&stage.admin, "token_broker_reloads_total{result=\"refused\"}").await == 0 {} };
    timeout(PATIENCE, refused).await.expect("the refusal is counted");
    stage.token().await.expect_err("nobody is let in");
}
