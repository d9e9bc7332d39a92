//! What is remembered of tokens that were verified, and what ends it.

use jsonwebtoken::Algorithm;

use super::{cluster::Does, *};

/// A world whose cluster publishes one key, its signer, and a token that was verified just now.
async fn world(claims: impl FnOnce(&World) -> Value) -> (World, Signer, String) {
    let signer = Signer::new("k1", Algorithm::ES256);
    let world = World::new(Cluster::publishing(&[&signer]), false, PATIENT);
    let token = signer.token(&claims(&world));
    assert_eq!(world.verify(&token).await, good());
    assert_eq!(world.verifications(), 1);
    (world, signer, token)
}

/// Moves the wall clock alone.
fn set(clock: &TestClock, change: impl FnOnce(SystemTime) -> SystemTime) {
    let mut now = lock(&clock.0);
    now.wall = change(now.wall);
}

#[tokio::test]
async fn a_token_is_verified_once_for_many_calls() {
    let (world, signer, token) = world(World::claims).await;
    for _ in 0..100 {
        assert_eq!(world.verify(&token).await, good());
    }
    world.good_for_fifty_at_once(&token).await;
    assert_eq!((world.verifications(), world.cluster.counts()), (1, (1, 0)));

    // Each token is itself alone, also one that says the same.
    let same = signer.token(&world.claims());
    assert_ne!(same, token);
    let other = signer.token(&world.but("sub", json!("system:serviceaccount:cards:other")));
    for (token, account) in [(&same, SUBJECT), (&other, "system:serviceaccount:cards:other"), (&token, SUBJECT)] {
        for _ in 0..2 {
            assert_eq!(world.verify(token).await.as_deref(), Ok(account));
        }
    }
    assert_eq!(world.verifications(), 3);
}

#[tokio::test]
async fn what_only_looks_like_a_remembered_token_is_refused() {
    let (world, _, token) = world(World::claims).await;
    let (signed, signature) = token.rsplit_once('.').expect("there are three parts");
    let (header, claims) = signed.split_once('.').expect("there are two parts");
    let with_another = Signer::new("k1", Algorithm::ES256).token(&world.claims());
    let (_, of_another) = with_another.rsplit_once('.').expect("there are three parts");
    let admin = world.but("sub", json!("system:serviceaccount:kube-system:admin"));
    let other_claims = signer::message(&json!({}), &admin.to_string());
    let (_, other_claims) = other_claims.split_once('.').expect("there are two parts");
    let short = token.strip_suffix(|_: char| true).expect("it is not empty");
    for altered in [
        format!("{signed}.{of_another}"),
        format!("{header}.{other_claims}.{signature}"),
        format!("{header}.{claims}."),
        short.to_owned(),
        format!("{token}A"),
        format!("{token}.{signature}"),
        format!(" {token}"),
    ] {
        for _ in 0..2 {
            let result = world.verify(&altered).await;
            assert!(matches!(result, Err(Unverified::Refused(_))), "{altered}: {result:?}");
        }
        assert_eq!(world.verify(&token).await, good());
    }
    assert_eq!(world.accounts.verified.len(), 1);
}

#[tokio::test]
async fn a_remembered_token_has_its_own_end() {
    let (world, _, token) = world(|world| world.but("exp", json!(world.clock.unix() + 30))).await;
    world.clock.pass(39 * SECOND);
    assert_eq!(world.verify(&token).await, good(), "ten seconds of leeway");
    assert_eq!(world.verifications(), 1);
    world.clock.pass(SECOND);
    assert!(refused(&world.verify(&token).await, "expired"));
}

#[tokio::test]
async fn clocks_that_are_set_prolong_nothing() {
    let (world, _, token) = world(|world| world.but("exp", json!(world.clock.unix() + 30))).await;
    set(&world.clock, |wall| wall + 40 * SECOND);
    assert!(refused(&world.verify(&token).await, "expired"), "by the wall clock, though no time has passed by the other");
    set(&world.clock, |wall| wall - 40 * SECOND);
    assert_eq!(world.verify(&token).await, good());
    set(&world.clock, |wall| wall - 10 * SECOND);
    assert_eq!(world.verify(&token).await, good(), "ten seconds of leeway");
    set(&world.clock, |wall| wall - SECOND);
    assert!(refused(&world.verify(&token).await, "not valid yet"), "as it would be without having been verified");
    set(&world.clock, |wall| wall + 11 * SECOND);

    // However far back the wall clock is set meanwhile, a minute is a minute; and a machine that slept knows that it did.
    let (world, _, token) = self::world(|world| world.but("nbf", json!(0))).await;
    for verifications in [2, 3] {
        for _ in 0..59 {
            world.clock.pass(SECOND);
            set(&world.clock, |wall| wall - 2 * SECOND);
            assert_eq!(world.verify(&token).await, good());
            assert_eq!(world.verifications(), verifications - 1);
        }
        world.clock.pass(SECOND);
        assert_eq!(world.verify(&token).await, good());
        assert_eq!(world.verifications(), verifications);
    }
    set(&world.clock, |wall| wall + 60 * SECOND);
    assert_eq!(world.verify(&token).await, good());
    assert_eq!(world.verifications(), 4);
}

#[tokio::test]
async fn a_token_is_verified_again_after_a_minute_however_often_it_was_shown() {
    let (world, _, token) = world(World::claims).await;
    for (pass, verifications) in [(20, 1), (20, 1), (19, 1), (1, 2), (59, 2), (1, 3), (61, 4)] {
        world.clock.pass(pass * SECOND);
        assert_eq!(world.verify(&token).await, good());
        assert_eq!(world.verifications(), verifications);
    }
}

/// A hit has keys fetched again as soon as any call would, and what that brings counts from the next call on.
#[tokio::test]
async fn a_remembered_token_ends_with_its_key() {
    let (new, replaced) = (Signer::new("k2", Algorithm::ES256), Signer::new("k1", Algorithm::ES256));
    for (published, because) in
        [(vec![&new], Some("does not publish")), (vec![&replaced], Some("signature is wrong")), (vec![], None)]
    {
        let (world, _, token) = world(World::claims).await;
        world.clock.pass(290 * SECOND);
        assert_eq!(world.verify(&token).await, good());
        assert_eq!(world.verifications(), 2);
        world.cluster.publish(&published);
        world.clock.pass(10 * SECOND);
        assert_eq!(world.verify(&token).await, good());
        assert_eq!(world.cluster.counts(), (1, 0), "the keys are not old yet");

        world.clock.pass(SECOND);
        assert_eq!(world.verify(&token).await, good(), "nobody waits");
        assert!(world.accounts.trusted[0].keys.is_fetching());
        assert_eq!(world.verifications(), 2, "it was remembered");
        until(|| !world.accounts.trusted[0].keys.is_fetching()).await;
        for _ in 0..2 {
            let result = world.verify(&token).await;
            assert!(because.map_or(result.is_err(), |because| refused(&result, because)), "{because:?}: {result:?}");
        }
        assert_eq!(world.cluster.counts(), (2, 0));
    }
}

#[tokio::test]
async fn a_key_that_is_fetched_again_is_taken_anew() {
    let (world, _, token) = world(World::claims).await;
    world.clock.pass(290 * SECOND);
    assert_eq!(world.verify(&token).await, good());
    world.clock.pass(11 * SECOND);
    assert_eq!(world.verify(&token).await, good());
    until(|| !world.accounts.trusted[0].keys.is_fetching()).await;
    assert_eq!(world.verifications(), 0, "what was fetched is another key, until it is seen to be the same");
    for _ in 0..2 {
        assert_eq!(world.verify(&token).await, good());
        assert_eq!(world.verifications(), 1);
    }
}

/// Old keys serve remembered tokens while their source is known to be away, and not a call longer.
#[tokio::test]
async fn a_remembered_token_is_good_for_as_long_as_its_keys_may_be_trusted() {
    let (world, _, token) = world(World::claims).await;
    let new = Signer::new("k2", Algorithm::ES256);
    let keys = &world.accounts.trusted[0].keys;
    world.cluster.fetch_does(Does::Leaves);
    for (pass, verifications, fetches) in [(595, 2, 2), (16, 2, 3), (9, 2, 3)] {
        world.clock.pass(pass * SECOND);
        assert_eq!(world.verify(&token).await, good());
        until(|| !keys.is_fetching()).await;
        assert_eq!((world.verifications(), world.cluster.counts()), (verifications, (fetches, 0)));
    }
    // Thirty seconds after the last fetch that failed nobody knows any more that the source is away.
    world.cluster.publish(&[&new]);
    world.clock.pass(22 * SECOND);
    assert!(refused(&world.verify(&token).await, "does not publish"), "callers wait for what became of it");
    assert_eq!(world.cluster.counts(), (4, 0));

    let (world, _, token) = self::world(|world| world.but("exp", json!(world.clock.unix() + 100_000))).await;
    world.cluster.fetch_does(Does::Leaves);
    world.clock.pass(86_390 * SECOND);
    assert_eq!(world.verify(&token).await, good());
    world.clock.pass(10 * SECOND);
    assert_eq!(world.verify(&token).await, good());
    assert_eq!(world.verifications(), 2);
    world.clock.pass(SECOND);
    assert!(unavailable(&world.verify(&token).await), "a day is the most");
}

#[tokio::test]
async fn what_was_refused_is_never_remembered() {
    let (world, signer, token) = world(World::claims).await;
    let now = world.clock.unix();
    let early = signer.token(&world.but("nbf", json!(now + 20)));
    let bad = [
        (early.clone(), "not valid yet"),
        (signer.token(&world.but("exp", json!(now - 10))), "expired"),
        (signer.token(&world.but("aud", json!("vault"))), "audience"),
        (signer.token(&world.but("iss", json!("https://elsewhere"))), "another issuer"),
        (signer.token(&world.but("sub", json!("system:node:a"))), "subject"),
        (Signer::new("k1", Algorithm::ES256).token(&world.claims()), "signature"),
        (Signer::new("k2", Algorithm::ES256).token(&world.claims()), "does not publish"),
        ("a.b.c".to_owned(), "not a JWT"),
    ];
    for _ in 0..20 {
        for (token, because) in &bad {
            assert!(refused(&world.verify(token).await, because), "{because}");
        }
    }
    assert_eq!(world.accounts.verified.len(), 1);
    let before = world.verifications();
    assert_eq!(world.verify(&token).await, good());
    assert_eq!(world.verifications(), before, "the flood left it alone");
    world.clock.pass(10 * SECOND);
    assert_eq!(world.verify(&early).await, good(), "a refusal isn't remembered either");
}

#[tokio::test]
async fn a_remembered_signature_is_no_review() {
    let signer = Signer::new("k1", Algorithm::ES256);
    let world = World::new(Cluster::publishing(&[&signer]), true, PATIENT);
    let taken = json!({ "authenticated": true, "audiences": [AUDIENCE], "user": { "username": SUBJECT } });
    world.cluster.reviews(&taken);
    let token = signer.token(&world.claims());
    for reviews in 1..4 {
        for _ in 0..2 {
            assert_eq!(world.verify(&token).await, good());
            assert_eq!((world.verifications(), world.cluster.counts()), (1, (1, reviews)));
        }
        world.clock.pass(10 * SECOND);
    }
    world.cluster.review_does(Does::Leaves);
    assert!(unavailable(&world.verify(&token).await));
    world.cluster.reviews(&json!({ "authenticated": false }));
    for _ in 0..2 {
        assert!(refused(&world.verify(&token).await, "no longer takes"));
    }
    assert_eq!((world.verifications(), world.cluster.counts()), (1, (1, 5)));
}
