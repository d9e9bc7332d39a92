//! `TokenSource` of the client crate, with real brokers on real sockets. The rules of time are the client crate's own tests.

use std::{
    fs,
    time::{Duration, Instant},
};

use token_broker::client::{Identity, Missing, Reason, TokenSource, TokenSourceBuilder, User};
use token_broker_sandbox::Fault;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};
use tonic::Code;

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE, Setting, Stage,
    authority::{Authority, Name},
    user,
};

const NO_FLOOR: &str = "min_sign_in_interval = \"0s\"";
const TICK: Duration = Duration::from_millis(20);

fn documented() -> User {
    User::new(MERCHANT, NUMBER)
}

fn source(endpoints: &[&str]) -> TokenSource {
    built(endpoints.iter().fold(TokenSource::builder(), |builder, endpoint| builder.endpoint(*endpoint)))
}

fn built(builder: TokenSourceBuilder) -> TokenSource {
    builder.timeout(PATIENCE).build().expect("is well told")
}

fn knows(stage: &Stage, number: &str) {
    stage.sandbox.add_user(token_broker_sandbox::User::new(MERCHANT, number, PASSWORD));
}

/// Waits until something is so.
async fn until(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        sleep(TICK).await;
    }
}

#[tokio::test]
async fn a_busy_user_always_has_a_token_and_costs_a_call_a_renewal() {
    // Long enough for the margin, a tenth, to hold what a busy machine adds to the second in which nobody asks again.
    let lifetime = Duration::from_secs(20);
    let stage = Setting::vault(NO_FLOOR).lifetime(lifetime).start().await;
    // Slow enough for the renewal to be under way still when the source asks for what it brings.
    stage.sandbox.set_delay(Duration::from_secs(1));
    let source = source(&[&stage.endpoint]);
    let first = source.token(&documented()).await.expect("there is one");
    let (began, mut ids) = (Instant::now(), vec![first.id().to_owned()]);
    // From when the vault was asked for the next until it was here.
    let (mut from, mut to) = (began, began);
    while began.elapsed() < lifetime + Duration::from_secs(1) {
        if stage.sandbox.sign_ins() == 1 {
            from = Instant::now();
        }
        let token = source.cached(&documented()).expect("is always there");
        assert!(stage.sandbox.is_live(token.secret()), "the vault takes it");
        if ids.last().is_some_and(|last| last != token.id()) {
            ids.push(token.id().to_owned());
            to = Instant::now();
        }
        sleep(TICK).await;
    }
    let calls = source.counts().calls;
    // The first, and one that brings the next; where the renewal was under way, one for each second that it took.
    let most = 2 + to.saturating_duration_since(from).as_secs();
    assert!(ids.len() == 2 && (2..=most).contains(&calls), "{} tokens, {calls} calls of {most}", ids.len());
}

#[tokio::test]
async fn many_callers_of_a_few_users_make_one_call_for_each() {
    let numbers: Vec<_> = (0..3).map(|n| format!("+44700000000{n}")).collect();
    let rest = numbers.iter().map(|number| user(number, PASSWORD)).collect();
    let stage = Setting { rest, ..Setting::default() }.start().await;
    numbers.iter().for_each(|number| knows(&stage, number));
    stage.sandbox.set_delay(Duration::from_millis(300));
    let source = source(&[&stage.endpoint]);
    let mut asking = JoinSet::new();
    for turn in 0..90 {
        let (source, user) = (source.clone(), User::new(MERCHANT, &numbers[turn % 3]));
        asking.spawn(async move { source.token(&user).await.map(|token| token.id().to_owned()) });
    }
    let mut ids: Vec<_> = asking.join_all().await.into_iter().map(|id| id.expect("there is one")).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), source.counts().calls, stage.sandbox.sign_ins()), (3, 3, 3));
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_the_call_to_the_others() {
    let stage = Setting::default().start().await;
    stage.sandbox.set_delay(Duration::from_secs(1));
    let source = source(&[&stage.endpoint]);
    let gone = tokio::time::timeout(Duration::from_millis(300), source.token(&documented())).await;
    assert!(gone.is_err() && matches!(source.look(&documented()), Err(Missing::Asking)));
    until("the token comes", || source.cached(&documented()).is_some()).await;
    assert_eq!((source.counts().calls, stage.sandbox.sign_ins()), (1, 1));
}

#[tokio::test]
async fn tokens_outlive_every_broker_and_then_the_error_says_so() {
    let stage = Setting::default().lifetime(Duration::from_secs(3)).start().await;
    let source = source(&[&stage.endpoint]);
    let held = source.token(&documented()).await.expect("there is one");
    let (sandbox, began) = (stage.sandbox.url(), Instant::now());
    drop(stage);
    while !held.expires_in().is_zero() {
        let token = source.token(&documented()).await;
        assert!(token.is_ok() || held.expires_in().is_zero(), "the one in hand is good: {token:?}");
        sleep(TICK).await;
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{sandbox}");
    let error = source.token(&documented()).await.expect_err("there is none any more");
    assert_eq!(error.status().map(tonic::Status::code), Some(Code::Unavailable), "{error}");
    assert!(!error.is_permanent() && source.cached(&documented()).is_none());
}

#[tokio::test]
async fn the_brokers_wait_is_kept() {
    let stage = Setting::default().start().await;
    stage.sandbox.set_always(Some(Fault::reply(429, "").header("Retry-After", "30")));
    let source = source(&[&stage.endpoint]);
    for _ in 0..5 {
        let error = source.token(&documented()).await.expect_err("the vault asks to wait");
        assert_eq!(error.reason(), Some(Reason::VaultThrottled));
        assert!(error.retry_after().is_some_and(|wait| wait > Duration::from_secs(20)) && error.request_id().is_some());
        // Longer than a pause of the source's own, the first of which is 0.2 s at most.
        sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(source.counts().calls, 1);
}

#[tokio::test]
async fn a_vault_that_ended_all_tokens_is_got_over_with_a_call_more_than_there_are_replicas() {
    let stage = Setting::vault(NO_FLOOR).start().await;
    let (second, third) = (stage.replica().await, stage.replica().await);
    let clients = [&stage.client, &second.client, &third.client];
    for client in clients {
        client.token(MERCHANT, NUMBER).await.expect("there is one");
    }
    stage.sandbox.revoke_all();
    let source = source(&[&stage.endpoint, &second.endpoint, &third.endpoint]);
    let (mut tried, user) = (0, documented());
    let good = loop {
        let token = source.token(&user).await.expect("there is one");
        tried += 1;
        if stage.sandbox.is_live(token.secret()) {
            break token;
        }
        assert!(source.rejected(&token) && !source.rejected(&token), "is news once");
        assert!(tried <= 3, "a call more than there are replicas");
    };
    assert!(stage.sandbox.is_live(source.cached(&user).expect("is in memory").secret()) && !good.expires_in().is_zero());
    assert_eq!(source.counts().complaints, source.counts().calls - 1);
}

#[tokio::test]
async fn an_address_that_swallows_what_it_is_sent_costs_less_than_a_second() {
    let stage = Setting::default().start().await;
    // The system accepts, and nobody ever says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent = format!("http://{}", silent.local_addr().expect("is bound"));
    for endpoints in [[&*silent, &stage.endpoint], [&*stage.endpoint, &silent]] {
        let (source, began) = (source(&endpoints), Instant::now());
        source.token(&documented()).await.expect("the other one answers");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}

/// Each certificate names a caller who may ask for one user only.
#[tokio::test]
async fn certificates_are_read_again_as_they_are_replaced() {
    let ca = Authority::new();
    let (issued, pem, numbers) = (ca.server(), ca.pem.clone(), ["+447000000001", "+447000000002", "+447000000003"]);
    let names = ["old.example.org", "new.example.org"];
    let may = |name: &str, number: &str| {
        format!("[[callers]]\nid = \"{name}\"\nmerchants = [\"{MERCHANT}\"]\nnumbers = [\"{number}\"]\n")
    };
    let users: String = numbers.iter().map(|number| user(number, PASSWORD)).collect();
    let rest = format!("{}{}{users}", may(names[0], numbers[0]), may(names[1], numbers[1]));
    let prepare = move |directory: &std::path::Path| {
        issued.write(directory);
        fs::write(directory.join("ca.crt"), &pem).expect("is written");
    };
    let tls =
        "lame_duck = \"0s\"\n[grpc.tls]\ncertificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\nclient_ca_file = \"ca.crt\"\n";
    let setting = Setting { grpc: tls.to_owned(), rest, prepare: Some(Box::new(prepare)), ..Setting::default() };
    let stage = setting.start().await;
    numbers.iter().for_each(|number| knows(&stage, number));

    let ours = tempfile::tempdir().expect("a directory");
    let at = |name: &str| ours.path().join(name);
    fs::write(at("ca.crt"), &ca.pem).expect("is written");
    ca.client(&[Name::Dns(names[0])]).write(ours.path());
    let builder = TokenSource::builder().endpoint(stage.secure_endpoint()).ca_file(at("ca.crt"));
    let source = built(builder.identity(Identity::certificate(at("tls.crt"), at("tls.key"))));
    let ask = async |number: &str| source.token(&User::new(MERCHANT, number)).await.map_err(|error| error.reason());
    ask(numbers[0]).await.expect("the old one may");

    // Half of a pair is nothing to go by, and no reason to fail.
    fs::write(at("tls.key"), "half").expect("is written");
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(ask(numbers[2]).await.map(drop), Err(Some(Reason::CallerNotAllowed)), "it still shows the old one");
    ca.client(&[Name::Dns(names[1])]).write(ours.path());
    sleep(Duration::from_millis(1_100)).await;
    ask(numbers[1]).await.expect("the new one may");
}
