//! What it costs and saves, measured: `cargo test --test it -- --ignored --nocapture shared_tier::figures`.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use token_broker::client::Client;
use token_broker_sandbox::Options;
use tokio::task::JoinSet;

use super::ground::{Ground, UP, answers, caller, complain, metric_is, numbers, token};
use crate::support::{MERCHANT, Running, http, process::Process};

/// Every user is asked for by `callers` at once, at each endpoint, over a few connections; returns how many calls got a token, and why
/// others did not.
async fn crowd(endpoints: &[String], users: usize, callers: usize) -> (usize, Option<String>) {
    const USERS_A_CONNECTION: usize = 50;
    let mut calls = JoinSet::new();
    for endpoint in endpoints {
        for numbers in numbers(users).chunks(USERS_A_CONNECTION) {
            let client = Client::new(endpoint).expect("is an endpoint").timeout(Duration::from_secs(60));
            for number in numbers {
                for _ in 0..callers {
                    let (client, number) = (client.clone(), number.clone());
                    calls
                        .spawn(async move { client.token(MERCHANT, &number).await.map(drop).map_err(|error| error.to_string()) });
                }
            }
        }
    }
    let ends = calls.join_all().await;
    (ends.iter().filter(|end| end.is_ok()).count(), ends.into_iter().find_map(Result::err))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute or more"]
async fn a_large_cold_fleet() {
    const USERS: usize = 1_000;
    const CALLERS: usize = 20;
    let ground = Ground::with_users_and(USERS, Options { delay: Duration::from_millis(50), ..Options::default() }).await;
    let mut replicas = Vec::new();
    for _ in 0..4 {
        replicas.push(ground.process().await);
    }
    let endpoints: Vec<_> = replicas.iter().map(Process::endpoint).collect();
    let began = Instant::now();
    let answered = crowd(&endpoints, USERS, CALLERS).await;
    println!("of {} calls {answered:?} in {:?}; {} sign-ins", 4 * USERS * CALLERS, began.elapsed(), ground.sandbox.sign_ins());
    for replica in &replicas {
        let text = http(&replica.address("admin"), "/metrics").await;
        let told = text
            .lines()
            .filter(|line| line.starts_with("token_broker_shared_") && !line.contains("bucket") && !line.ends_with(" 0"));
        println!("{}", told.collect::<Vec<_>>().join("\n"));
        println!("{}", replica.log().lines().filter(|line| line.contains("shared tier")).collect::<Vec<_>>().join("\n"));
    }
    for replica in &mut replicas {
        *replica = ground.process().await;
        let answered = crowd(&[replica.endpoint()], USERS, 1).await;
        println!("a restarted replica answered {answered:?}; {} sign-ins", ground.sandbox.sign_ins());
    }
    assert_eq!(ground.sandbox.sign_ins(), 1_000);
}

/// The slowest of a hundred hits, and the slowest of all but one in a hundred.
async fn hits(replica: &Running) -> (Duration, Duration) {
    const HITS: usize = 3_000;
    let client = caller(&replica.endpoint);
    let mut took = Vec::with_capacity(HITS);
    for _ in 0..HITS {
        let began = Instant::now();
        token(&client).await;
        took.push(began.elapsed());
    }
    took.sort();
    (took[HITS / 2], took[HITS * 99 / 100])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn hits_and_complaints() {
    let mut ground = Ground::new().await;
    ground.vault = "min_sign_in_interval = \"0s\"".to_owned();
    let replicas = ground.replicas(3).await;
    let mut live = token(&replicas[0].client).await;
    for replica in &replicas {
        token(&replica.client).await;
    }
    for round in 0..3 {
        let next = complain(&caller(&replicas[round].endpoint), &live.token_id).await.expect("there is a token");
        let answered = Instant::now();
        for replica in &replicas {
            answers(&replica.endpoint, &next.token_id).await;
        }
        println!("from the answer to the complaint until all three answer the new token: {:?}", answered.elapsed());
        live = next;
    }
    metric_is(&replicas[0].admin, UP, 1).await;
    println!("hits with the tier in order, median and p99: {:?}", hits(&replicas[0]).await);
    ground.redis.signal(Signal::STOP);
    println!("from when it is stalled on: {:?}", hits(&replicas[0]).await);
    metric_is(&replicas[0].admin, UP, 0).await;
    println!("while it is stalled: {:?}", hits(&replicas[0]).await);
    ground.redis.kill();
    println!("dead: {:?}", hits(&replicas[0]).await);
}
