//! Calls and requests on different runtimes: a request belongs to the one that the verifier was made with.

use std::{future::poll_fn, pin::pin, task::Poll, thread};

use jsonwebtoken::Algorithm;
use tokio::runtime::{Builder, Runtime};

use super::{cluster::Does, *};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Shows the token on a runtime of its own, which ends before anything can come of that, as does the call.
fn show_and_leave(world: &World, token: &str) {
    thread::scope(|scope| {
        scope.spawn(|| {
            runtime().block_on(async {
                let mut verifying = pin!(world.accounts.verify(token));
                let waits = poll_fn(|context| Poll::Ready(verifying.as_mut().poll(context).is_pending())).await;
                assert!(waits, "it has to ask");
            });
        });
    });
}

#[tokio::test]
async fn a_request_outlives_the_runtime_of_the_call_that_began_it() {
    let signer = Signer::new("k1", Algorithm::ES256);
    let world = World::new(Cluster::publishing(&[&signer]), true, PATIENT);
    world.cluster.reviews(&json!({ "authenticated": true, "audiences": [AUDIENCE], "user": { "username": SUBJECT } }));
    let token = signer.token(&world.claims());
    // The keys.
    show_and_leave(&world, &token);
    assert!(world.accounts.trusted[0].keys.is_fetching());
    until(|| world.accounts.trusted[0].keys.holds("k1")).await;
    assert_eq!(world.cluster.counts(), (1, 0));
    // The review.
    show_and_leave(&world, &token);
    assert_eq!(world.verify(&token).await, good());
    assert_eq!(world.cluster.counts(), (1, 1));
}

#[tokio::test]
async fn calls_on_another_runtime_get_their_answer_and_leave_connections_behind() {
    let signer = Signer::new("k1", Algorithm::ES256);
    let world = World::new(Cluster::publishing(&[&signer]), true, PATIENT);
    world.cluster.reviews(&json!({ "authenticated": true, "audiences": [AUDIENCE], "user": { "username": SUBJECT } }));
    for reviews in 1..4 {
        let (accounts, token) = (Arc::clone(&world.accounts), signer.token(&world.but("jti", json!(reviews))));
        let elsewhere = move || runtime().block_on(async { accounts.verify(&token).await.map(|account| account.to_string()) });
        let result = tokio::task::spawn_blocking(elsewhere).await.expect("no panic");
        assert_eq!(result, good());
        assert_eq!(world.cluster.counts(), (1, reviews));
    }
}

#[tokio::test]
async fn without_its_runtime_the_verifier_says_so_at_once() {
    let signer = Signer::new("k1", Algorithm::ES256);
    let world = World::new(Cluster::publishing(&[&signer]), false, PATIENT);
    let gone = runtime();
    let mut settings = settings(world.dir.path());
    settings.issuers[0].keys = published_at(&format!("{}/openid/v1/jwks", world.cluster.url()));
    let accounts = ServiceAccounts::with_timeouts(&settings, Arc::clone(&world.clock) as _, gone.handle(), PATIENT);
    gone.shutdown_background();
    let token = signer.token(&world.claims());
    for _ in 0..2 {
        let result = tokio::time::timeout(SECOND, accounts.verify(&token)).await.expect("nobody waits");
        assert!(matches!(result, Err(Unverified::Unavailable(_))), "{result:?}");
    }
    assert_eq!(world.cluster.counts(), (0, 0));
}

#[tokio::test]
async fn requests_end_with_the_verifier() {
    let signer = Signer::new("k1", Algorithm::ES256);
    let world = World::new(Cluster::publishing(&[]), false, PATIENT);
    world.cluster.fetch_does(Does::Hangs);
    let token = signer.token(&world.claims());
    show_and_leave(&world, &token);
    until(|| world.cluster.counts() == (1, 0)).await;
    let World { accounts, clock, .. } = world;
    assert_eq!(Arc::strong_count(&accounts), 1);
    drop(accounts);
    // The request had a part in it, and would give up by itself later.
    let ended = until(|| Arc::strong_count(&clock) == 1);
    tokio::time::timeout(PATIENT.request / 2, ended).await.expect("it is dropped");
}
