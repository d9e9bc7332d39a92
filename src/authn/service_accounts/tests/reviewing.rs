//! What the API server's own word counts for.

use jsonwebtoken::Algorithm;

use super::{cluster::Does, *};

const REVIEW: &str = "POST /apis/authentication.k8s.io/v1/tokenreviews HTTP/1.1\r\n";

/// A world in which the API server takes the token, the key, and the token.
fn world(timeouts: Timeouts) -> (World, Signer, String) {
    let signer = Signer::new("k1", Algorithm::ES256);
    let world = World::new(Cluster::publishing(&[&signer]), true, timeouts);
    world.cluster.reviews(&taken());
    let token = signer.token(&world.claims());
    (world, signer, token)
}

/// The status of a token that is good.
fn taken() -> Value {
    let user = json!({ "username": SUBJECT, "groups": ["system:serviceaccounts"] });
    json!({ "authenticated": true, "audiences": [AUDIENCE], "user": user })
}

fn taken_but(claim: &str, value: Value) -> Value {
    let mut status = taken();
    status[claim] = value;
    status
}

#[tokio::test]
async fn the_request_is_as_documented() {
    let (world, _, token) = world(PATIENT);
    assert_eq!(world.verify(&token).await, good());
    assert_eq!(world.cluster.counts(), (1, 1));
    let request = world.cluster.seen().pop().expect("there were two");
    let (head, body) = request.split_once("\r\n\r\n").expect("a head ends so");
    assert!(head.starts_with(REVIEW), "{head}");
    assert!(head.contains(&format!("authorization: Bearer {OWN_TOKEN}\r\n")), "{head}");
    assert!(head.contains("content-type: application/json\r\n"), "{head}");
    let body: Value = serde_json::from_str(body).expect("it is JSON");
    let spec = json!({ "token": token, "audiences": [AUDIENCE] });
    assert_eq!(body, json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec }));
}

#[tokio::test]
async fn a_token_that_is_no_good_offline_is_not_sent() {
    let (world, signer, _) = world(PATIENT);
    assert!(refused(&world.verify_claims(&signer, &world.but("aud", json!("vault"))).await, "audience"));
    assert_eq!(world.cluster.counts(), (1, 0));
}

#[tokio::test]
async fn only_a_review_for_our_audience_and_its_account_counts() {
    for (status, because) in [
        (json!({}), "no longer takes"),
        (taken_but("authenticated", json!(false)), "no longer takes"),
        (json!({ "error": "[invalid bearer token, service account token has been invalidated]", "user": {} }), "no longer takes"),
        (json!({ "authenticated": true, "user": { "username": SUBJECT } }), "audience"),
        (taken_but("audiences", json!([])), "audience"),
        (taken_but("audiences", json!(["https://kubernetes.default.svc", "token-broker2"])), "audience"),
        (taken_but("user", json!({})), "another account"),
        (taken_but("user", json!({ "username": "system:serviceaccount:cards:other" })), "another account"),
    ] {
        let (world, _, token) = world(PATIENT);
        world.cluster.reviews(&status);
        for _ in 0..2 {
            let result = world.verify(&token).await;
            assert!(refused(&result, because), "{status} {result:?}");
        }
        assert_eq!(world.cluster.counts(), (1, 1), "a refusal is remembered too");
        world.cluster.reviews(&taken());
        world.clock.pass(10 * SECOND);
        assert_eq!(world.verify(&token).await, good());
    }
}

#[tokio::test]
async fn a_review_is_remembered_for_ten_seconds() {
    let (world, signer, token) = world(PATIENT);
    assert_eq!(world.verify(&token).await, good());
    world.cluster.review_does(Does::Leaves);
    world.clock.pass(9 * SECOND);
    assert_eq!(world.verify(&token).await, good());
    assert_eq!(world.cluster.counts(), (1, 1));
    let other = signer.token(&world.but("jti", json!("other")));
    assert!(unavailable(&world.verify(&other).await), "it is another token");

    world.clock.pass(SECOND);
    let result = world.verify(&token).await;
    assert!(unavailable(&result), "{result:?}");
    assert_eq!(world.cluster.counts(), (1, 3));
    world.cluster.reviews(&taken_but("authenticated", json!(false)));
    assert!(refused(&world.verify(&token).await, "no longer takes"), "a failure is not remembered");
}

#[tokio::test]
async fn a_failing_api_server_refuses_nobody() {
    let body = json!({ "status": taken() }).to_string();
    for does in [
        Does::Leaves,
        Does::Answers(200, body.clone()),
        Does::Answers(401, body.clone()),
        Does::Answers(403, body.clone()),
        Does::Answers(429, body.clone()),
        Does::Answers(500, body.clone()),
        Does::Answers(201, String::new()),
        Does::Answers(201, "{}".to_owned()),
        Does::Answers(201, json!({ "status": taken_but("authenticated", json!("true")) }).to_string()),
        Does::Answers(201, format!("{body}{}", " ".repeat(256 * 1_024))),
    ] {
        let (world, _, token) = world(PATIENT);
        world.cluster.review_does(does);
        let result = world.verify(&token).await;
        assert!(unavailable(&result), "{result:?}");
        world.cluster.reviews(&taken());
        assert_eq!(world.verify(&token).await, good());
    }
    let (world, _, token) = world(IMPATIENT);
    world.cluster.review_does(Does::Hangs);
    assert!(unavailable(&world.verify(&token).await));
}

#[tokio::test]
async fn our_own_token_is_read_for_each_review() {
    let (world, signer, token) = world(PATIENT);
    assert_eq!(world.verify(&token).await, good());
    fs::write(world.dir.path().join("token"), "rotated").expect("it can be written");
    let other = signer.token(&world.but("jti", json!("other")));
    assert_eq!(world.verify(&other).await, good());
    let seen: Vec<_> = world.cluster.seen().into_iter().filter(|request| request.starts_with(REVIEW)).collect();
    assert!(seen[0].contains(&format!("authorization: Bearer {OWN_TOKEN}\r\n")), "{seen:?}");
    assert!(seen[1].contains("authorization: Bearer rotated\r\n"), "{seen:?}");

    fs::remove_file(world.dir.path().join("token")).expect("it was there");
    let third = signer.token(&world.but("jti", json!("third")));
    assert!(unavailable(&world.verify(&third).await));
    assert_eq!(world.cluster.counts(), (1, 2), "a review without it is not asked for");
}

#[tokio::test]
async fn fifty_callers_share_one_review() {
    let (world, _, token) = world(PATIENT);
    world.good_for_fifty_at_once(&token).await;
    assert_eq!(world.cluster.counts(), (1, 1));
}

#[tokio::test]
async fn a_log_names_the_remedy_once_a_minute_and_nothing_of_the_tokens() {
    let log = Log::default();
    let _logging = log.taking();
    let (world, _, token) = world(PATIENT);
    for (status, times) in [(403, 1), (401, 1), (500, 1)] {
        world.cluster.review_does(Does::Answers(status, "the body".to_owned()));
        assert!(unavailable(&world.verify(&token).await));
        assert_eq!(log.text().matches("create tokenreviews").count(), times, "{status}");
    }
    world.clock.pass(60 * SECOND);
    world.cluster.review_does(Does::Answers(401, "the body".to_owned()));
    assert!(unavailable(&world.verify(&token).await));
    assert_eq!(log.text().matches("create tokenreviews").count(), 2);
    for secret in [&token, OWN_TOKEN, "the body", "tokenreviews HTTP", "/apis/"] {
        assert!(!log.text().contains(secret), "{secret}");
    }
}
