//! How the keys are fetched, and what is done without them.

use jsonwebtoken::Algorithm;

use super::{cluster::Does, *};

fn signer(kid: &str) -> Signer {
    Signer::new(kid, Algorithm::ES256)
}

#[tokio::test]
async fn the_request_is_as_documented() {
    let signer = signer("k1");
    let world = World::new(Cluster::publishing(&[&signer]), false, PATIENT);
    assert_eq!(world.verify_claims(&signer, &world.claims()).await, good());
    let request = world.cluster.seen().remove(0);
    assert!(request.starts_with("GET /openid/v1/jwks HTTP/1.1\r\n"), "{request}");
    // Kubernetes answers 406 to who doesn't take this type.
    assert!(request.contains("accept: application/jwk-set+json, application/json\r\n"), "{request}");
    assert!(request.contains(&format!("authorization: Bearer {OWN_TOKEN}\r\n")), "{request}");
    assert!(request.contains(concat!("user-agent: token-broker/", env!("CARGO_PKG_VERSION"), "\r\n")), "{request}");

    // Without a token of our own the keys are asked for all the same.
    let world = World::new(Cluster::publishing(&[&signer]), false, PATIENT);
    fs::remove_file(world.dir.path().join("token")).expect("it was there");
    assert_eq!(world.verify_claims(&signer, &world.claims()).await, good());
    assert!(!world.cluster.seen().remove(0).contains("authorization"));
}

#[tokio::test]
async fn an_unknown_key_is_looked_for_once() {
    let (known, unknown) = (signer("k1"), signer("k2"));
    let world = World::new(Cluster::publishing(&[&known]), false, PATIENT);
    let token = unknown.token(&world.claims());
    for _ in 0..3 {
        assert!(refused(&world.verify(&token).await, "does not publish"));
    }
    assert_eq!(world.cluster.counts(), (1, 0));
    assert_eq!(world.verify_claims(&known, &world.claims()).await, good());

    for (pass, fetches) in [(9, 1), (1, 2), (9, 2), (1, 3)] {
        world.clock.pass(pass * SECOND);
        assert!(refused(&world.verify(&token).await, "does not publish"));
        assert_eq!(world.cluster.counts(), (fetches, 0));
    }
}

#[tokio::test]
async fn a_new_key_is_found_and_one_that_is_gone_forgotten() {
    let (old, new) = (signer("k1"), signer("k2"));
    let world = World::new(Cluster::publishing(&[&old]), false, PATIENT);
    assert_eq!(world.verify_claims(&old, &world.claims()).await, good());
    world.cluster.publish(&[&new]);
    world.clock.pass(10 * SECOND);
    assert_eq!(world.verify_claims(&new, &world.claims()).await, good());
    assert!(refused(&world.verify_claims(&old, &world.claims()).await, "does not publish"));
    assert_eq!(world.cluster.counts(), (2, 0));
}

#[tokio::test]
async fn old_keys_are_renewed_behind_the_callers_back() {
    let (old, new) = (signer("k1"), signer("k2"));
    let world = World::new(Cluster::publishing(&[&old]), false, PATIENT);
    assert_eq!(world.verify_claims(&old, &world.claims()).await, good());
    world.clock.pass(300 * SECOND);
    assert_eq!(world.verify_claims(&old, &world.claims()).await, good());
    assert_eq!(world.cluster.counts(), (1, 0), "they are not old yet");

    world.cluster.fetch_does(Does::Hangs);
    world.clock.pass(SECOND);
    for _ in 0..3 {
        assert_eq!(world.verify_claims(&old, &world.claims()).await, good(), "nobody waits");
    }
    until(|| world.cluster.counts() == (2, 0)).await;

    // A fetch that is under way is joined, and holds up only those who need it.
    world.clock.pass(10 * SECOND);
    assert_eq!(world.verify_claims(&old, &world.claims()).await, good());
    assert_eq!(world.cluster.counts(), (2, 0));

    let world = World::new(Cluster::publishing(&[&old]), false, PATIENT);
    assert_eq!(world.verify_claims(&old, &world.claims()).await, good());
    world.cluster.publish(&[&new]);
    world.clock.pass(301 * SECOND);
    assert_eq!(world.verify_claims(&old, &world.claims()).await, good());
    until(|| world.accounts.trusted[0].keys.holds("k2")).await;
    assert!(refused(&world.verify_claims(&old, &world.claims()).await, "does not publish"), "it was withdrawn");
}

#[tokio::test]
async fn keys_go_on_serving_while_the_api_server_is_away() {
    let (known, unknown) = (signer("k1"), signer("k2"));
    let world = World::new(Cluster::publishing(&[&known]), false, PATIENT);
    assert_eq!(world.verify_claims(&known, &world.claims()).await, good());
    world.cluster.fetch_does(Does::Leaves);
    for fetches in 2..5 {
        world.clock.pass(400 * SECOND);
        assert_eq!(world.verify_claims(&known, &world.claims()).await, good());
        let result = world.verify_claims(&unknown, &world.claims()).await;
        assert!(unavailable(&result), "who knows whether it is published? {result:?}");
        assert_eq!(world.cluster.counts(), (fetches, 0));
    }
    world.cluster.publish(&[&known, &unknown]);
    world.clock.pass(10 * SECOND);
    assert_eq!(world.verify_claims(&unknown, &world.claims()).await, good());
}

#[tokio::test]
async fn without_any_key_nobody_is_known() {
    let signer = signer("k1");
    let key = signer.jwk();
    let many: Vec<_> = (0..65).map(|_| key.clone()).collect();
    let good_body = json!({ "keys": [key] }).to_string();
    for does in [
        Does::Leaves,
        Does::Answers(201, good_body.clone()),
        Does::Answers(401, good_body.clone()),
        Does::Answers(403, good_body.clone()),
        Does::Answers(503, good_body.clone()),
        Does::Answers(200, String::new()),
        Does::Answers(200, "{}".to_owned()),
        Does::Answers(200, json!({ "keys": [] }).to_string()),
        Does::Answers(200, json!({ "keys": many }).to_string()),
        Does::Answers(200, format!("{good_body}{}", " ".repeat(256 * 1_024))),
        Does::Answers(307, String::new()),
    ] {
        let world = World::new(Cluster::publishing(&[]), false, PATIENT);
        world.cluster.fetch_does(does);
        for _ in 0..3 {
            let result = world.verify_claims(&signer, &world.claims()).await;
            assert!(unavailable(&result), "{result:?}");
        }
        assert_eq!(world.cluster.counts(), (1, 0));
        world.cluster.publish(&[&signer]);
        world.clock.pass(10 * SECOND);
        assert_eq!(world.verify_claims(&signer, &world.claims()).await, good());
    }
}

#[tokio::test]
async fn keys_of_other_kinds_spoil_nothing_and_the_first_of_a_name_counts() {
    let (first, second, encryption) = (signer("k1"), signer("k1"), signer("k2"));
    let mut for_encryption = encryption.jwk();
    for_encryption["use"] = json!("enc");
    let mut nameless = encryption.jwk();
    nameless.as_object_mut().expect("it is one").remove("kid");
    let keys = json!([
        { "kty": "AKP", "kid": "k1", "alg": "ML-DSA-44", "pub": "AA" },
        { "kty": "EC", "kid": "k1", "crv": "P-256", "x": "!", "y": "!" },
        7,
        nameless,
        for_encryption,
        first.jwk(),
        second.jwk(),
    ]);
    let world = World::new(Cluster::publishing(&[]), false, PATIENT);
    world.cluster.fetch_does(Does::Answers(200, json!({ "keys": keys }).to_string()));
    assert_eq!(world.verify_claims(&first, &world.claims()).await, good());
    assert!(refused(&world.verify_claims(&second, &world.claims()).await, "signature"));
    assert!(refused(&world.verify_claims(&encryption, &world.claims()).await, "does not publish"));
}

#[tokio::test]
async fn a_server_that_hangs_is_not_waited_for() {
    let signer = signer("k1");
    let world = World::new(Cluster::publishing(&[]), false, IMPATIENT);
    world.cluster.fetch_does(Does::Hangs);
    let started = SystemClock.now();
    let result = world.verify_claims(&signer, &world.claims()).await;
    assert!(unavailable(&result), "{result:?}");
    let took = started.age_at(SystemClock.now());
    assert!((IMPATIENT.request..PATIENT.request).contains(&took), "{took:?}");
}

#[tokio::test]
async fn fifty_callers_share_one_fetch_which_outlives_them() {
    let signer = signer("k1");
    let world = World::new(Cluster::publishing(&[]), false, PATIENT);
    world.cluster.fetch_does(Does::Hangs);
    let token = signer.token(&world.claims());
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (accounts, token) = (Arc::clone(&world.accounts), token.clone());
        callers.spawn(async move { accounts.verify(&token).await });
    }
    until(|| world.cluster.counts() == (1, 0)).await;
    // All of them leave; the fetch goes on, and whoever comes now joins it.
    callers.shutdown().await;
    let late = tokio::time::timeout(IMPATIENT.request, world.verify(&token)).await;
    assert!(late.is_err(), "it waits for the one under way");
    assert_eq!(world.cluster.counts(), (1, 0));

    let world = World::new(Cluster::publishing(&[&signer]), false, PATIENT);
    let token = signer.token(&world.claims());
    world.good_for_fifty_at_once(&token).await;
    assert_eq!(world.cluster.counts(), (1, 0));
}

#[tokio::test]
async fn a_file_is_read_by_the_same_rules() {
    let (old, new) = (signer("k1"), signer("k2"));
    let world = World::with(Cluster::publishing(&[]), PATIENT, |_| {});
    let publish = |signer: &Signer| {
        fs::write(world.dir.path().join("jwks"), json!({ "keys": [signer.jwk()] }).to_string()).expect("it can be written");
    };
    assert!(unavailable(&world.verify_claims(&old, &world.claims()).await), "there is no file");
    publish(&old);
    assert!(unavailable(&world.verify_claims(&old, &world.claims()).await), "it is too soon to look again");
    world.clock.pass(10 * SECOND);
    assert_eq!(world.verify_claims(&old, &world.claims()).await, good());
    publish(&new);
    assert!(refused(&world.verify_claims(&new, &world.claims()).await, "does not publish"));
    world.clock.pass(10 * SECOND);
    assert_eq!(world.verify_claims(&new, &world.claims()).await, good());
    assert_eq!(world.cluster.counts(), (0, 0));
}

#[tokio::test]
async fn only_the_authorities_that_the_file_names_now_are_trusted() {
    let signer = signer("k1");
    let (cluster, ca) = Cluster::with_tls(&[&signer]);
    let (_, other_ca) = Cluster::with_tls(&[]);
    let url = format!("{}/openid/v1/jwks", cluster.url());
    let world = World::with(cluster, PATIENT, |settings| {
        let ca_file = settings.token_file.with_file_name("ca.crt");
        fs::write(&ca_file, &other_ca).expect("it can be written");
        settings.issuers[0].keys = published_at(&url);
        settings.ca_file = Some(ca_file);
    });
    let token = signer.token(&world.claims());
    assert!(unavailable(&world.verify(&token).await));
    assert_eq!(world.cluster.counts(), (0, 0), "our own token was not sent to it");

    let ca_file = world.dir.path().join("ca.crt");
    fs::write(&ca_file, ca).expect("it can be written");
    world.clock.pass(10 * SECOND);
    assert_eq!(world.verify(&token).await, good());
    assert!(world.cluster.seen()[0].contains(&format!("authorization: Bearer {OWN_TOKEN}\r\n")));

    // Half a file, or none, as it is replaced: those that were read before serve on.
    for broken in ["", "-----BEGIN CERTIFICATE-----\n"] {
        fs::write(&ca_file, broken).expect("it can be written");
        world.clock.pass(10 * SECOND);
        let result = world.verify_claims(&self::signer("k2"), &world.claims()).await;
        assert!(refused(&result, "does not publish"), "{result:?}");
    }
    assert_eq!(world.cluster.counts(), (3, 0));
}

/// What became of a key is asked first, however long nobody called and whatever the clock was that went on.
#[tokio::test]
async fn a_key_that_was_withdrawn_while_nobody_called_is_not_trusted() {
    let (old, new) = (signer("k1"), signer("k2"));
    let asleep = |clock: &TestClock, by| lock(&clock.0).wall += by;
    type Pass<'p> = &'p dyn Fn(&TestClock);
    let passes: [(&str, Pass<'_>); 4] = [
        ("just too long", &|clock| clock.pass(601 * SECOND)),
        ("ten hours", &|clock| clock.pass(36_000 * SECOND)),
        ("a month", &|clock| clock.pass(30 * 86_400 * SECOND)),
        ("the machine slept, and its monotonic clock stood still", &|clock| asleep(clock, 36_000 * SECOND)),
    ];
    for (case, pass) in passes {
        for with_others in [false, true] {
            let world = World::new(Cluster::publishing(&[&old]), false, PATIENT);
            assert_eq!(world.verify_claims(&old, &world.claims()).await, good());
            world.cluster.publish(&[&new]);
            pass(&world.clock);
            if with_others {
                world.good_for_fifty_at_once(&new.token(&world.claims())).await;
            }
            let result = world.verify_claims(&old, &world.claims()).await;
            assert!(refused(&result, "does not publish"), "{case}: {result:?}");
            assert_eq!(world.verify_claims(&new, &world.claims()).await, good());
            assert_eq!(world.cluster.counts(), (2, 0), "{case}: one fetch for all of them");
        }
    }
}

/// A set that holds nothing to verify with is the cluster's word too.
#[tokio::test]
async fn keys_that_were_withdrawn_without_another_are_not_trusted() {
    let old = signer("k1");
    let mut for_encryption = signer("k2").jwk();
    for_encryption["use"] = json!("enc");
    for keys in [json!([]), json!([for_encryption]), json!([{ "kty": "oct", "kid": "k1", "k": "AA" }])] {
        let world = World::new(Cluster::publishing(&[&old]), false, PATIENT);
        assert_eq!(world.verify_claims(&old, &world.claims()).await, good());
        world.cluster.fetch_does(Does::Answers(200, json!({ "keys": keys }).to_string()));
        world.clock.pass(601 * SECOND);
        for _ in 0..3 {
            let result = world.verify_claims(&old, &world.claims()).await;
            assert!(result.is_err(), "{keys}: {result:?}");
        }
        assert_eq!(world.cluster.counts(), (2, 0));
        world.cluster.publish(&[&old]);
        world.clock.pass(10 * SECOND);
        assert_eq!(world.verify_claims(&old, &world.claims()).await, good());
    }
}

/// Old keys serve while nobody can say what became of them: from call to call, and for a day at most.
#[tokio::test]
async fn old_keys_serve_for_a_day_while_the_api_server_is_away() {
    let (old, new) = (signer("k1"), signer("k2"));
    for away in
        [Does::Leaves, Does::Answers(503, String::new()), Does::Answers(403, String::new()), Does::Answers(200, "{".to_owned())]
    {
        let world = World::new(Cluster::publishing(&[&old]), false, PATIENT);
        assert_eq!(world.verify_claims(&old, &world.claims()).await, good());
        world.cluster.fetch_does(away.clone());
        world.clock.pass(36_000 * SECOND);
        for _ in 0..3 {
            assert_eq!(world.verify_claims(&old, &world.claims()).await, good());
        }
        assert_eq!(world.cluster.counts(), (2, 0), "it is left alone for a while");

        // That it was away hours ago tells nothing of now.
        world.cluster.publish(&[&new]);
        world.clock.pass(7_200 * SECOND);
        let result = world.verify_claims(&old, &world.claims()).await;
        assert!(refused(&result, "does not publish"), "{result:?}");

        world.cluster.fetch_does(away);
        world.clock.pass(86_400 * SECOND);
        assert_eq!(world.verify_claims(&new, &world.claims()).await, good());
        world.clock.pass(SECOND);
        for pass in [0, 10, 86_400] {
            world.clock.pass(pass * SECOND);
            let result = world.verify_claims(&new, &world.claims()).await;
            assert!(unavailable(&result), "{pass}: {result:?}");
        }
        world.cluster.publish(&[&new]);
        world.clock.pass(10 * SECOND);
        assert_eq!(world.verify_claims(&new, &world.claims()).await, good());
    }
}

/// Only who comes first waits for an API server that says nothing.
#[tokio::test]
async fn an_api_server_that_hangs_holds_old_keys_up_once() {
    let old = signer("k1");
    let world = World::new(Cluster::publishing(&[&old]), false, IMPATIENT);
    assert_eq!(world.verify_claims(&old, &world.claims()).await, good());
    world.cluster.fetch_does(Does::Hangs);
    world.clock.pass(36_000 * SECOND);
    world.good_for_fifty_at_once(&old.token(&world.claims())).await;
    assert_eq!(world.cluster.counts(), (2, 0));
    for _ in 0..3 {
        world.clock.pass(10 * SECOND);
        let hangs = world.accounts.trusted[0].keys.find("k1");
        let at_once = tokio::time::timeout(Duration::ZERO, hangs).await;
        assert!(matches!(at_once, Ok(Ok(_))), "nobody waits while it is known to be away");
        // The fetch behind it has failed too before the next comes.
        until(|| !world.accounts.trusted[0].keys.is_fetching()).await;
    }
    assert_eq!(world.cluster.counts(), (5, 0));
}
