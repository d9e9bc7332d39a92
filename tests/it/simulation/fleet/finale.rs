//! After whatever happened: nothing is left over, and a fleet whose tier and vault are well does as it should.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{REPLICAS, TIMEOUT, USERS, machines::Fleet};
use crate::simulation::world::user;

/// By then whatever was under way has ended: nobody is renewed who was not asked for in 30 s, and a floor that has doubled lasts half of what a
/// token lives, which is as long.
const ENDED: Duration = Duration::from_secs(75);
/// And no pause lasts: the longest back-off is one of ten minutes.
const SETTLED: Duration = Duration::from_secs(720);
/// How much longer than a sign-in a lock lasts, and how long it takes until somebody looks again.
const LEASE_AND_LOOK: Duration = Duration::from_millis(1_500 + 1_000 + 100);

pub(super) async fn play(fleet: &Arc<Fleet>, random: &mut fastrand::Rng) {
    let truth = &fleet.truth;
    sleep(ENDED).await;
    for slot in 0..REPLICAS {
        let replica = fleet.replica(slot);
        let (flights, waiting) = (replica.broker.flights_under_way(), replica.broker.waiting());
        truth.check(flights == 0 && waiting == 0, || {
            format!("{flights} flights never ended at replica {}, {waiting} waiters leaked", replica.number)
        });
        fleet.kill(&replica);
    }
    let locked = fleet.server.with(|store| store.is_locked());
    truth.check(!locked, || "a lock is left over".to_owned());
    // Nobody is there while it passes.
    sleep(SETTLED).await;
    truth.heal();
    for slot in 0..REPLICAS {
        fleet.replace(slot, random.u64(..));
    }
    let before = truth.counts().sign_ins;
    let ids = all(fleet, 0..REPLICAS).await;
    let sign_ins = usize::try_from(truth.counts().sign_ins - before).expect("is small");
    truth.check(sign_ins == USERS, || format!("{sign_ins} sign-ins of a cold fleet for {USERS} users"));
    truth.check(ids.iter().all(|of| of.iter().all(|id| *id == of[0])), || format!("replicas differ: {ids:?}"));
    let slot = random.usize(..REPLICAS);
    fleet.kill(&fleet.replica(slot));
    fleet.replace(slot, random.u64(..));
    all(fleet, slot..slot + 1).await;
    let more = usize::try_from(truth.counts().sign_ins - before).expect("is small") - sign_ins;
    truth.check(more == 0, || format!("{more} sign-ins of a restarted replica"));
    sleep(Duration::from_secs(20)).await;
    killed_holder(fleet, slot, &ids[0][0]).await;
}

/// Everybody is asked for at these replicas at once; the tokens' ids.
async fn all(fleet: &Arc<Fleet>, slots: std::ops::Range<usize>) -> Vec<Vec<String>> {
    let mut ids = Vec::new();
    for key in (0..USERS).map(user) {
        let replicas: Vec<_> = slots.clone().map(|slot| fleet.replica(slot)).collect();
        let calls = replicas.iter().map(|replica| fleet.call(replica, &key, Duration::from_secs(5), Duration::ZERO, Vec::new()));
        let answers = futures_util::future::join_all(calls).await;
        let id = |answer: &Option<Result<token_broker::broker::Answer, _>>| match answer {
            Some(Ok(answer)) => answer.cached.id().to_string(),
            Some(Err(_)) | None => "none".to_owned(),
        };
        fleet.truth.check(answers.iter().all(|answer| matches!(answer, Some(Ok(_)))), || {
            format!("all is well, and {key} got {answers:?}")
        });
        ids.push(answers.iter().map(id).collect());
    }
    ids
}

/// A holder of the lock that is killed delays another by the lease at most.
async fn killed_holder(fleet: &Arc<Fleet>, slot: usize, dead: &str) {
    let (holder, other, key) = (fleet.replica(slot), fleet.replica((slot + 1) % REPLICAS), user(0));
    let (rejected, before) = (vec![dead.to_owned()], fleet.truth.counts().sign_ins);
    let asking = async {
        fleet.call(&holder, &key, Duration::from_secs(30), Duration::ZERO, rejected.clone()).await;
    };
    let killing = async {
        let began = Instant::now();
        while fleet.truth.counts().sign_ins == before && began.elapsed() < Duration::from_secs(10) {
            sleep(Duration::from_millis(1)).await;
        }
        fleet.kill(&holder);
    };
    tokio::join!(asking, killing);
    let began = Instant::now();
    let answer = fleet.call(&other, &key, Duration::from_secs(30), Duration::ZERO, rejected).await;
    let (took, sign_ins) = (began.elapsed(), fleet.truth.counts().sign_ins - before);
    fleet.truth.check(matches!(answer, Some(Ok(_))), || format!("after a killed holder {key} got {answer:?}"));
    let most = TIMEOUT + LEASE_AND_LOOK;
    fleet.truth.check(took <= most, || format!("a killed holder delayed others by {took:?}"));
    fleet.truth.check(took > TIMEOUT, || format!("a killed holder's lock lasted {took:?}"));
    fleet.truth.check(sign_ins == 2, || format!("{sign_ins} sign-ins where a holder was killed"));
}
