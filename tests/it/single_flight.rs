//! One sign-in per user at a time, whoever waits for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use token_broker::client::{Client, Security};
use token_broker_sandbox::Fault;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use crate::support::{MERCHANT, NUMBER, PATIENCE, Setting};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_who_all_cancel_cost_one_sign_in_and_the_next_gets_its_token_at_once() {
    // With a floor that nobody here waits for: a second sign-in would be none at all.
    let stage = Setting::vault("min_sign_in_interval = \"60s\"").start().await;
    stage.sandbox.script(Fault::truth().after(Duration::from_secs(3)));
    let mut callers = JoinSet::new();
    let (begun, begin) = tokio::sync::watch::channel(false);
    // All on one connection, which must not take them for a flood.
    for _ in 0..1_000 {
        let (client, mut begin) = (stage.client.clone(), begin.clone());
        // The future is dropped: the call is cancelled, which is more than a deadline does. The 50 ms count from when the vault
        // has heard of it, so that a busy machine can't cancel them all before one was sent.
        callers.spawn(async move {
            tokio::select! {
                answer = client.token(MERCHANT, NUMBER) => panic!("nobody waited for the vault: {:?}", answer.map(drop)),
                () = async {
                    begin.wait_for(|begun| *begun).await.expect("it begins");
                    sleep(Duration::from_millis(50)).await;
                } => {}
            }
        });
    }
    stage.sign_ins(1).await;
    begun.send_replace(true);
    callers.join_all().await;
    stage.sandbox.wait_for_answers(1, PATIENCE).await;
    // The sandbox has answered; the broker has its answer a moment later, and this caller with it.
    stage.good_token().await;
    assert_eq!(stage.sandbox.sign_ins(), 1);
    stage.sandbox.assert_script_used_up();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_wait_share_one_answer() {
    let stage = Setting::default().start().await;
    stage.sandbox.script(Fault::truth().after(Duration::from_millis(300)));
    let mut callers = JoinSet::new();
    for _ in 0..200 {
        let client = stage.client.clone();
        callers.spawn(async move { client.token(MERCHANT, NUMBER).await.expect("there is a token").token_id });
    }
    let mut ids = callers.join_all().await;
    ids.dedup();
    assert_eq!((ids.len(), stage.sandbox.sign_ins()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_do_not_wait_for_each_other_and_no_more_sign_in_at_once_than_configured() {
    let numbers: Vec<_> = (0..40).map(|n| format!("+4478712300{n:02}")).collect();
    let mut setting = Setting::vault("max_concurrent_sign_ins = 8");
    setting.rest = numbers.iter().map(|number| crate::support::user(number, "pass word ")).collect();
    setting.options.users =
        numbers.iter().map(|number| token_broker_sandbox::User::new(MERCHANT, number.as_str(), "pass word ")).collect();
    setting.options.delay = Duration::from_millis(200);
    let stage = setting.start().await;
    let mut callers = JoinSet::new();
    for number in numbers {
        let client = stage.client.clone();
        callers.spawn(async move { client.token(MERCHANT, &number).await.map(drop) });
    }
    assert!(callers.join_all().await.iter().all(Result::is_ok));
    let stats = stage.sandbox.stats();
    assert_eq!((stats.sign_ins, stats.most_at_once), (40, 8));
    assert!(stats.most_connections <= 8, "{stats:?}");
}

#[tokio::test]
async fn the_documented_number_is_one_user_per_merchant() {
    let other = "9a4f2c1e-0000-4000-8000-000000000001";
    let mut setting = Setting::default();
    setting.rest += &format!("[[users]]\nmerchant_id = \"{other}\"\nnumber = \"{NUMBER}\"\npassword = \"other\"\n");
    setting.options.users.push(token_broker_sandbox::User::new(other, NUMBER, "other"));
    let stage = setting.start().await;
    let ours = stage.good_token().await;
    let theirs = stage.client.token(other, NUMBER).await.expect("there is a token");
    assert_ne!(ours.token_id, theirs.token_id);
    assert_eq!(stage.good_token().await.token_id, ours.token_id);
    assert_eq!(stage.sandbox.sign_ins(), 2);
}

/// That a caller's time is over, by its own clock or by the broker's, says nothing of its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_in_a_hurry_keeps_its_connection() {
    // Nothing ends the sign-in while this lasts.
    let stage = Setting::vault("timeout = \"60s\"").start().await;
    stage.sandbox.script(Fault::Hang);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("is bound");
    let broker = stage.endpoint.strip_prefix("http://").expect("is plaintext").to_owned();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let mut relays = JoinSet::new();
    relays.spawn(async move {
        let mut streams = JoinSet::new();
        loop {
            let (mut near, _) = listener.accept().await.expect("accepts");
            count.fetch_add(1, Ordering::SeqCst);
            let mut far = TcpStream::connect(&broker).await.expect("listens");
            streams.spawn(async move { copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let client = Client::balanced(&format!("http://{address}"), Security::default()).expect("is an endpoint");
    // Where nobody is known by this number, an answer comes as soon as there is a connection.
    client.token(MERCHANT, "+447871230000").await.expect_err("nobody has that number");
    for millis in [1, 5, 10, 20, 50, 100] {
        let hurried = client.clone().timeout(Duration::from_millis(millis));
        for _ in 0..10 {
            let error = hurried.token(MERCHANT, NUMBER).await.expect_err("the vault hangs");
            assert_eq!(error.status().map(tonic::Status::code), Some(tonic::Code::DeadlineExceeded), "{error}");
        }
    }
    client.token(MERCHANT, "+447871230000").await.expect_err("nobody has that number");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    assert_eq!(stage.sandbox.sign_ins(), 1, "one for all of them");
}
