//! What one caller can't take from the others: places of calls that wait, of sign-ins, and turns at the vault.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use token_broker::{
    broker::{BrokerError, Outcome},
    caller::{CallerId, CallerName},
    client::Query,
    config::UserConfig,
    live::{CallerLimits, Settings},
    signin::Shed,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::Code;

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, Said, Setting, Stage,
    authority::{Authority, Name, client},
    broker_in_memory::{BrokerInMemory, user},
    http,
    scripted_vault::{at, grant, secs},
    user as configured,
};

const LIFETIME: Duration = Duration::from_secs(3_600);
const PATIENT: Duration = Duration::from_secs(300);

fn named(name: &str) -> CallerId {
    CallerId::Named(CallerName::parse(name).expect("is a name"))
}

fn users(n: usize) -> Vec<UserConfig> {
    (0..n).map(|n| user(n, "p")).collect()
}

/// A vault that takes a fifth of a second for each sign-in, and counts them.
fn vault() -> (Settings, Arc<AtomicU64>) {
    let sign_ins = Arc::new(AtomicU64::default());
    let count = Arc::clone(&sign_ins);
    let settings = at("the vault", move |number, _| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            sleep(Duration::from_millis(200)).await;
            grant(&format!("{number}-{n}"), LIFETIME)
        })
    });
    (settings, sign_ins)
}

#[tokio::test(start_paused = true)]
async fn one_callers_waiting_complaints_keep_nobody_elses_misses_out() {
    const USERS: usize = 5;
    let (settings, _) = vault();
    let broker = BrokerInMemory::new(users(2_005), settings);
    let (flood, good) = (named("flood.example.org"), named("good.example.org"));
    let mut dead = Vec::new();
    for n in 0..USERS {
        let token = broker.answer_as(&good, n, PATIENT, &[]).await.expect("there is a token").cached.id().to_string();
        dead.push(token);
    }
    // Each waits for the rest of its user's floor.
    let mut flooding = JoinSet::new();
    for n in 0..70_000 {
        let waits = broker.answer_as(&flood, n % USERS, PATIENT, &dead[n % USERS..=n % USERS]);
        flooding.spawn(waits);
    }
    // Time stands still while somebody has something to do.
    sleep(Duration::from_millis(1)).await;
    let mut shed = 0;
    while let Some(ended) = flooding.try_join_next() {
        let error = ended.expect("no panic").expect_err("it is shed");
        assert!(matches!(error, BrokerError::Overloaded { why: Shed::Share, .. }), "{error}");
        shed += 1;
    }
    assert_eq!((broker.waiting(), shed), (70_000 - shed, shed));
    assert!((19_000..20_000).contains(&broker.waiting()), "{}", broker.waiting());
    // Cold users of another caller, a thousand at once, and one user whom both want.
    let mut cold: JoinSet<_> = (USERS..USERS + 1_000).map(|n| broker.answer_as(&good, n, secs(30), &[])).collect();
    cold.spawn(broker.answer_as(&good, 0, secs(30), &dead[..1]));
    while let Some(answer) = cold.join_next().await {
        answer.expect("no panic").expect("the vault is well");
    }
    assert_eq!(broker.answer_as(&good, 1, secs(1), &[]).await.map(|answer| answer.outcome), Ok(Outcome::Hit));
    while let Some(answer) = flooding.join_next().await {
        answer.expect("no panic").expect("its turn comes too");
    }
    assert_eq!(broker.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_callers_queue_of_sign_ins_is_not_waited_out_by_others() {
    let (settings, _) = vault();
    let broker = BrokerInMemory::new(users(30_000), settings);
    let began = Instant::now();
    let mut flooding: JoinSet<_> = (0..20_000).map(|n| broker.answer_as(&named("flood.example.org"), n, PATIENT, &[])).collect();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(broker.flights_under_way(), 16_000, "four fifths");
    for (n, caller) in ["a.example.org", "b.example.org", "a.example.org"].into_iter().enumerate() {
        let before = Instant::now();
        broker.answer_as(&named(caller), 25_000 + n, secs(5), &[]).await.expect("the vault is well");
        assert!(before.elapsed() < secs(1), "{:?} behind a queue of {}", before.elapsed(), broker.flights_under_way());
    }
    let (mut served, mut shed) = (0, 0);
    while let Some(answer) = flooding.join_next().await {
        match answer.expect("no panic") {
            Ok(_) => served += 1,
            Err(BrokerError::Overloaded { why: Shed::Share, .. }) => shed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((served, shed), (16_000, 4_000));
    // 64 at a time, as if it had been alone.
    assert!(began.elapsed() < secs(16_000 / 320 + 2), "{:?}", began.elapsed());
}

/// Who is asked for no name shares with nobody.
#[tokio::test(start_paused = true)]
async fn callers_without_names_have_all_places() {
    let (settings, sign_ins) = vault();
    let broker = BrokerInMemory::new(users(20_000), settings);
    let asking: JoinSet<_> = (0..20_000).map(|n| broker.answer_as(&CallerId::Anonymous, n, PATIENT, &[])).collect();
    assert!(asking.join_all().await.iter().all(Result::is_ok));
    assert_eq!(sign_ins.load(Ordering::Relaxed), 20_000);
}

#[tokio::test(start_paused = true)]
async fn a_callers_rate_bounds_what_it_begins_and_neither_its_hits_nor_others() {
    let (settings, sign_ins) = vault();
    let caller_limits = CallerLimits { sign_ins_per_minute: 100, forced_sign_ins_per_minute: 6 };
    let broker = BrokerInMemory::new(users(200), Settings { caller_limits, ..settings });
    let caller = named("a.example.org");
    let mut tokens = Vec::new();
    for n in 0..50 {
        tokens.push(broker.answer_as(&caller, n, PATIENT, &[]).await.expect("the vault is well").cached.id().to_string());
    }
    // Past the floors, and all of its minute's worth is there again.
    sleep(secs(60)).await;
    let complain = |n: usize| broker.answer_as(&caller, n, PATIENT, &tokens[n..=n]);
    for n in 0..6 {
        complain(n).await.expect("another token");
    }
    let before = sign_ins.load(Ordering::Relaxed);
    let error = complain(10).await.expect_err("it complained too often");
    let BrokerError::Overloaded { why: Shed::Rate, wait } = error else { panic!("{error}") };
    assert!(wait > Duration::ZERO && wait <= secs(10), "{wait:?}");
    assert_eq!(broker.answer_as(&caller, 10, secs(1), &[]).await.map(|answer| answer.outcome), Ok(Outcome::Hit));
    broker.answer_as(&caller, 60, PATIENT, &[]).await.expect("a miss is none of those");
    broker.answer_as(&named("b.example.org"), 11, PATIENT, &tokens[11..=11]).await.expect("another caller's are its own");
    sleep(wait).await;
    complain(10).await.expect("as it was told");
    assert_eq!(sign_ins.load(Ordering::Relaxed), before + 3);
    let misses: JoinSet<_> = (61..200).map(|n| broker.answer_as(&caller, n, PATIENT, &[])).collect();
    let served = misses.join_all().await.iter().filter(|answer| answer.is_ok()).count();
    // Of a hundred and what came back in ten seconds, it has used eight.
    assert!((92..=110).contains(&served), "{served}");
}

/// Over the wire: what it is told, and what is counted.
#[tokio::test]
async fn who_is_over_its_rate_is_told_when_to_come_again() {
    const CALLER: &str = "spiffe://example.org/ns/cards/sa/cards";
    let ca = Authority::new();
    let (issued, pem) = (ca.server(), ca.pem.clone());
    let prepare = move |directory: &Path| {
        issued.write(directory);
        fs::write(directory.join("ca.crt"), &pem).expect("is written");
    };
    let tls =
        "lame_duck = \"0s\"\n[grpc.tls]\ncertificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\nclient_ca_file = \"ca.crt\"\n";
    let callers = format!("[[callers]]\nid = \"{CALLER}\"\nmerchants = [\"*\"]\n[admin]\nlabel_callers = true\n");
    let setting = Setting {
        grpc: tls.to_owned(),
        rest: format!("{callers}{}", configured(NUMBER, PASSWORD)),
        prepare: Some(Box::new(prepare)),
        ..Setting::vault("min_sign_in_interval = \"0s\"\ncaller_forced_sign_ins_per_minute = 2")
    };
    let stage = setting.start().await;
    let client_of = |stage: &Stage| client(&stage.secure_endpoint(), &ca, Some(&ca.client(&[Name::Uri(CALLER)])));
    let client = client_of(&stage);
    let mut token = client.token(MERCHANT, NUMBER).await.expect("signs in");
    let complain = |token_id: String| {
        let client = client.clone();
        async move { client.token_with(MERCHANT, NUMBER, Query { rejected_token_ids: vec![token_id], ..Query::default() }).await }
    };
    for _ in 0..2 {
        token = complain(token.token_id).await.expect("there is another");
    }
    let said = Said::of(complain(token.token_id.clone()).await.expect_err("twice a minute"));
    said.check(Code::ResourceExhausted, "BROKER_OVERLOADED");
    assert!(said.retry.is_some_and(|wait| wait > secs(20) && wait <= secs(30)), "{said:?}");
    // It would complain again by itself.
    let other = client_of(&stage);
    assert_eq!(other.token(MERCHANT, NUMBER).await.expect("is cached").token_id, token.token_id);
    assert_eq!(stage.sandbox.sign_ins(), 3);
    let metrics = http(&stage.admin, "/metrics").await;
    for line in [
        "token_broker_calls_shed_total{why=\"rate\"} 1\n".to_owned(),
        "token_broker_calls_shed_total{why=\"share\"} 0\n".to_owned(),
        format!("token_broker_caller_calls_total{{caller=\"{CALLER}\",code=\"RESOURCE_EXHAUSTED\"}} 1\n"),
    ] {
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}
