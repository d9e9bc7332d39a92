//! Several issuers, as while a cluster, or its name, is exchanged for another: each token is judged by its own issuer's keys and by no
//! other's.

use jsonwebtoken::Algorithm;

use super::{cluster::Does, *};

const OLD: &str = "https://old.example.org";
const NEW: &str = "https://new.example.org";

/// Two clusters, each with a key of the same id.
struct Two {
    world: World,
    other: Cluster,
    old: Signer,
    new: Signer,
}

impl Two {
    fn new(set: impl FnOnce(&mut ServiceAccountsConfig)) -> Self {
        let (old, new) = (Signer::new("k1", Algorithm::ES256), Signer::new("k1", Algorithm::ES256));
        let (cluster, other) = (Cluster::publishing(&[&old]), Cluster::publishing(&[&new]));
        let source = |cluster: &Cluster, with_token| KeySource::Url {
            url: target(&format!("{}/openid/v1/jwks", cluster.url())),
            with_token,
        };
        let issuers = vec![issuer(OLD, source(&cluster, true)), issuer(NEW, source(&other, false))];
        let world = World::with(cluster, PATIENT, |settings| {
            settings.issuers = issuers;
            set(settings);
        });
        Self { world, other, old, new }
    }

    async fn verify(&self, signer: &Signer, issuer: &str) -> Result<String, Unverified> {
        self.world.verify_claims(signer, &self.world.but("iss", json!(issuer))).await
    }
}

#[tokio::test]
async fn each_issuers_tokens_are_verified_with_its_own_keys_alone() {
    let two = Two::new(|_| {});
    for _ in 0..2 {
        assert_eq!(two.verify(&two.old, OLD).await, good());
        assert_eq!(two.verify(&two.new, NEW).await, good());
        assert!(
            refused(&two.verify(&two.old, NEW).await, "signature"),
            "whoever holds the old key makes no token of the new issuer"
        );
        assert!(refused(&two.verify(&two.new, OLD).await, "signature"));
        assert!(refused(&two.verify(&two.old, ISSUER).await, "another issuer"));
        assert!(refused(&two.verify(&two.old, &format!("{OLD}/")).await, "another issuer"));
    }
    // A key that the one has and the other doesn't, each looked for where its issuer publishes.
    let rotated = Signer::new("k2", Algorithm::ES256);
    two.other.publish(&[&two.new, &rotated]);
    two.world.clock.pass(10 * SECOND);
    assert_eq!(two.verify(&rotated, NEW).await, good());
    assert!(refused(&two.verify(&rotated, OLD).await, "does not publish"));
    assert_eq!((two.world.cluster.counts(), two.other.counts()), ((2, 0), (2, 0)));
    // Our own token went to our own API server alone.
    let shown = |cluster: &Cluster| cluster.seen().iter().filter(|request| request.contains("authorization:")).count();
    assert_eq!((shown(&two.world.cluster), shown(&two.other)), (2, 0));
}

/// Each issuer's remembered tokens end with its own keys.
#[tokio::test]
async fn other_keys_of_one_issuer_leave_the_others_remembered_tokens_alone() {
    let two = Two::new(|_| {});
    let Two { world, other, old, new } = &two;
    let tokens = [old.token(&world.but("iss", json!(OLD))), new.token(&world.but("iss", json!(NEW)))];
    let uses = || [0, 1].map(|issuer: usize| world.accounts.trusted[issuer].keys.uses("k1"));
    for _ in 0..2 {
        for token in &tokens {
            assert_eq!(world.verify(token).await, good());
        }
    }
    assert_eq!(uses(), [1, 1]);
    let rotated = Signer::new("k2", Algorithm::ES256);
    other.publish(&[&rotated]);
    world.clock.pass(10 * SECOND);
    assert_eq!(two.verify(&rotated, NEW).await, good());
    assert_eq!(world.verify(&tokens[0]).await, good());
    assert!(refused(&world.verify(&tokens[1]).await, "does not publish"));
    assert_eq!(uses(), [1, 0]);
}

#[tokio::test]
async fn an_issuer_that_is_away_takes_nothing_from_the_other() {
    let two = Two::new(|_| {});
    two.other.fetch_does(Does::Leaves);
    assert_eq!(two.verify(&two.old, OLD).await, good());
    assert!(unavailable(&two.verify(&two.new, NEW).await));
    assert!(refused(&two.verify(&two.old, ISSUER).await, "another issuer"), "and nobody is asked about a third");
    assert_eq!(two.other.counts(), (1, 0));
}

#[tokio::test]
async fn issuers_of_one_api_server_share_what_is_fetched_and_its_reviews() {
    let signer = Signer::new("k1", Algorithm::ES256);
    let cluster = Cluster::publishing(&[&signer]);
    cluster.reviews(&json!({ "authenticated": true, "audiences": [AUDIENCE], "user": { "username": SUBJECT } }));
    let url = cluster.url();
    let world = World::with(cluster, PATIENT, |settings| {
        let keys = published_at(&format!("{url}/openid/v1/jwks"));
        settings.issuers = [OLD, NEW].map(|name| issuer(name, keys.clone())).into();
        settings.review = Some(target(&format!("{url}/apis/authentication.k8s.io/v1/tokenreviews")));
    });
    for name in [OLD, NEW] {
        assert_eq!(world.verify_claims(&signer, &world.but("iss", json!(name))).await, good());
    }
    assert!(refused(&world.verify_claims(&signer, &world.claims()).await, "another issuer"));
    assert_eq!(world.cluster.counts(), (1, 2));
}

#[tokio::test]
async fn a_key_that_cannot_be_verified_is_said_once_and_to_whoever_shows_its_token() {
    let log = Log::default();
    let _logging = log.taking();
    let signer = Signer::new("k1", Algorithm::ES256);
    let p521 = json!({ "kty": "EC", "crv": "P-521", "kid": "k2", "x": "AA", "y": "AA" });
    let body = |keys: Value| Does::Answers(200, json!({ "keys": keys }).to_string());
    let world = World::new(Cluster::publishing(&[]), false, PATIENT);
    world.cluster.fetch_does(body(json!([p521])));
    let unknown = Signer::new("k2", Algorithm::ES256);
    assert!(refused(&world.verify_claims(&unknown, &world.claims()).await, "can't verify"), "and no key is good");
    world.cluster.fetch_does(body(json!([signer.jwk(), p521])));
    for _ in 0..3 {
        world.clock.pass(301 * SECOND);
        assert!(refused(&world.verify_claims(&unknown, &world.claims()).await, "can't verify"));
        assert_eq!(world.verify_claims(&signer, &world.claims()).await, good());
    }
    assert_eq!(log.text().matches("(k2) can't be used").count(), 1, "{}", log.text());
    // The place of a key may change; what is said then is said of a key that is there.
    world.cluster.publish(&[&signer]);
    world.clock.pass(301 * SECOND);
    assert!(refused(&world.verify_claims(&unknown, &world.claims()).await, "does not publish"));

    // Its own algorithm has no name here.
    for alg in ["ES512", "ES256K", "Ed448", "ML-DSA-44"] {
        let header = json!({ "alg": alg, "kid": "k2" });
        let token = unknown.token_with(&header, Algorithm::ES256, &world.claims().to_string());
        assert!(refused(&world.verify(&token).await, "an algorithm that the broker can't verify"), "{alg}");
    }
}

#[tokio::test]
async fn authorities_that_cannot_be_read_are_said_once_and_the_last_ones_serve() {
    let log = Log::default();
    let _logging = log.taking();
    let signer = Signer::new("k1", Algorithm::ES256);
    let (cluster, ca) = Cluster::with_tls(&[&signer]);
    let url = format!("{}/openid/v1/jwks", cluster.url());
    let world = World::with(cluster, PATIENT, |settings| {
        let ca_file = settings.token_file.with_file_name("ca.crt");
        fs::write(&ca_file, &ca).expect("it can be written");
        settings.issuers[0].keys = published_at(&url);
        settings.ca_file = Some(ca_file);
    });
    let unknown = Signer::new("k2", Algorithm::ES256);
    for (text, line, said) in [
        (format!("{ca}{ca}").replace("-----END CERTIFICATE-----\n", "-----END CERTIFICATE-----"), "", 0),
        (format!("{ca}# {ca}"), "whose line 4 begins", 1),
        (format!("{ca}# {ca}"), "whose line 4 begins", 1),
        (String::new(), "without a certificate", 1),
        (ca.clone(), "without a certificate", 1),
        (String::new(), "without a certificate", 2),
    ] {
        fs::write(world.dir.path().join("ca.crt"), &text).expect("it can be written");
        world.clock.pass(10 * SECOND);
        assert!(refused(&world.verify_claims(&unknown, &world.claims()).await, "does not publish"), "the keys could be fetched");
        let told = log.text();
        assert_eq!(told.lines().filter(|told| !line.is_empty() && told.contains(line)).count(), said, "{text}\n{told}");
    }
}
