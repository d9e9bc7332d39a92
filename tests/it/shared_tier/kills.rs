//! Processes that are killed at any moment: brokers, and the server between them.
//!
//! What is killed when follows from a seed, which is printed: `TOKEN_BROKER_SEED=4711` plays that one again, as far as the machine does.

use std::{env, time::Duration};

use rustix::process::Signal;
use token_broker::client::ClientError;
use token_broker_sandbox::Options;
use tokio::{task::JoinSet, time::sleep};

use super::ground::{Ground, UP, caller, metric_is, numbers};
use crate::support::{MERCHANT, process::Process};

const REPLICAS: usize = 3;
const ROUNDS: usize = 8;
/// Users who are asked for in one round, and never again.
const EACH: usize = 6;
/// How long a round takes, about; the kill falls into it.
const ROUND: Duration = Duration::from_millis(200);

/// Callers get tokens from those that are left, and each kill costs its users a sign-in more, or one at each replica where the server is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_random_cost_few_sign_ins_and_no_call_elsewhere() {
    let seed = env::var("TOKEN_BROKER_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("is a number"));
    println!("TOKEN_BROKER_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let options = Options { delay: Duration::from_millis(60), ..Options::default() };
    let mut ground = Ground::with_users_and(ROUNDS * EACH, options).await;
    ground.vault = "timeout = \"2s\"\nmax_concurrent_sign_ins = 4".to_owned();
    let all = numbers(ROUNDS * EACH);
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        replicas.push(ground.process().await);
    }
    // Both kinds in each run, in any order.
    let mut victims: Vec<_> = (0..ROUNDS).map(|round| round % (REPLICAS + 1)).collect();
    random.shuffle(&mut victims);
    for (users, victim) in all.chunks(EACH).zip(victims) {
        let after = Duration::from_millis(random.u64(..u64::try_from(ROUND.as_millis()).expect("is small")));
        let name = if victim < REPLICAS { format!("replica {victim}") } else { "the server".to_owned() };
        println!("{name} is killed after {after:?}");
        let mut calls = everybody(&replicas, victim, users);
        let dying = replicas.get(victim).map(|replica| everybody(std::slice::from_ref(replica), REPLICAS, users));
        sleep(after).await;
        match replicas.get(victim) {
            Some(replica) => replica.signal(Signal::KILL),
            None => ground.redis.kill(),
        }
        while let Some(end) = calls.join_next().await {
            end.expect("no panic").expect("there is a token");
        }
        drop(dying);
        if victim < REPLICAS {
            replicas[victim] = ground.process().await;
        } else {
            ground.redis.restart();
        }
        for replica in &replicas {
            metric_is(&replica.address("admin"), UP, 1).await;
        }
        let most = if victim < REPLICAS { 2 } else { REPLICAS };
        for number in users {
            let sign_ins = ground.sandbox.sign_ins_of(number);
            assert!((1..=most).contains(&usize::try_from(sign_ins).expect("is small")), "{sign_ins} sign-ins of {number}");
        }
    }
}

/// Each of these users is asked for at each replica but one, at once.
fn everybody(replicas: &[Process], but: usize, users: &[String]) -> JoinSet<Result<(), ClientError>> {
    let mut calls = JoinSet::new();
    for (_, replica) in replicas.iter().enumerate().filter(|(n, _)| *n != but) {
        for number in users {
            let (client, number) = (caller(&replica.endpoint()), number.clone());
            calls.spawn(async move { client.token(MERCHANT, &number).await.map(drop) });
        }
    }
    calls
}
