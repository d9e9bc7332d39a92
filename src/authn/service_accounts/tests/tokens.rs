//! Which tokens are believed.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};

use super::{signer::message, *};

/// A world that knows one key, and the key.
fn world(algorithm: Algorithm) -> (World, Signer) {
    let signer = Signer::new("k1", algorithm);
    (World::new(Cluster::publishing(&[&signer]), false, PATIENT), signer)
}

#[tokio::test]
async fn good_tokens_of_every_algorithm_are_believed() {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    for algorithm in [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA] {
        let (world, signer) = world(algorithm);
        assert_eq!(world.verify_claims(&signer, &world.claims()).await, good(), "{algorithm:?}");
        assert_eq!(world.verify_claims(&signer, &world.but("aud", json!(AUDIENCE))).await, good(), "{algorithm:?}");
        assert_eq!(world.verify_claims(&signer, &world.but("aud", json!(["a", AUDIENCE]))).await, good(), "{algorithm:?}");
        assert_eq!(world.cluster.counts(), (1, 0));
    }
}

#[tokio::test]
async fn a_signature_has_to_be_the_keys_and_of_the_whole_token() {
    let (world, signer) = world(Algorithm::ES256);
    let token = signer.token(&world.claims());
    let (signed, signature) = token.rsplit_once('.').expect("there are three parts");
    let (header, _) = signed.split_once('.').expect("there are three parts");

    let other = Signer::new("k1", Algorithm::ES256);
    assert!(refused(&world.verify_claims(&other, &world.claims()).await, "signature"));
    let claims = URL_SAFE_NO_PAD.encode(world.but("sub", json!("system:serviceaccount:kube-system:admin")).to_string());
    assert!(refused(&world.verify(&format!("{header}.{claims}.{signature}")).await, "signature"));
    assert!(refused(&world.verify(&format!("{signed}.")).await, "signature"));
}

#[tokio::test]
async fn what_is_no_signed_jwt_is_refused() {
    let (world, signer) = world(Algorithm::RS256);
    let claims = world.claims().to_string();
    let none = message(&json!({ "alg": "none", "kid": "k1" }), &claims);
    for token in ["", "secret", "a.b", "a.b.c", "..", &format!("{none}."), &none] {
        assert!(refused(&world.verify(token).await, "not a JWT"), "{token}");
    }
    let token = signer.token(&world.claims());
    for token in [format!("{token}.a"), format!("{token}="), format!(" {token}"), format!("{token}\n")] {
        assert!(world.verify(&token).await.is_err(), "{token}");
    }
    assert!(refused(&world.verify(&"a".repeat(8 * 1_024 + 1)).await, "too long"));
    let unnamed = signer.token_with(&json!({ "alg": "RS256" }), Algorithm::RS256, &claims);
    assert!(refused(&world.verify(&unnamed).await, "kid"));
    let critical = json!({ "alg": "RS256", "kid": "k1", "crit": ["exp"] });
    assert!(refused(&world.verify(&signer.token_with(&critical, Algorithm::RS256, &claims)).await, "critical"));
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret() {
    let (world, signer) = world(Algorithm::RS256);
    let message = message(&json!({ "alg": "HS256", "kid": "k1" }), &world.claims().to_string());
    let modulus = signer.jwk()["n"].as_str().expect("it is RSA").to_owned();
    let decoded = URL_SAFE_NO_PAD.decode(&modulus).expect("it is base64");
    for secret in [decoded.as_slice(), modulus.as_bytes(), signer.jwk().to_string().as_bytes()] {
        let key = EncodingKey::from_secret(secret);
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("anything is a secret");
        assert!(refused(&world.verify(&format!("{message}.{signature}")).await, "algorithm"));
    }
}

#[tokio::test]
async fn a_published_shared_secret_is_no_key() {
    let signer = Signer::new("k1", Algorithm::ES256);
    let cluster = Cluster::publishing(&[&signer]);
    let octets = json!({ "kty": "oct", "kid": "h1", "k": URL_SAFE_NO_PAD.encode("published"), "alg": "HS256" });
    cluster.fetch_does(cluster::Does::Answers(200, json!({ "keys": [octets, signer.jwk()] }).to_string()));
    let world = World::new(cluster, false, PATIENT);
    assert_eq!(world.verify_claims(&signer, &world.claims()).await, good());
    let message = message(&json!({ "alg": "HS256", "kid": "h1" }), &world.claims().to_string());
    let key = EncodingKey::from_secret(b"published");
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("anything is a secret");
    assert!(refused(&world.verify(&format!("{message}.{signature}")).await, "can't verify"));
}

#[tokio::test]
async fn a_key_is_used_with_its_own_algorithm_only() {
    // The same RSA key could verify any of its family; what is published says RS256.
    let (world, signer) = world(Algorithm::RS256);
    for algorithm in [Algorithm::PS256, Algorithm::RS512] {
        let header = json!({ "alg": algorithm, "kid": "k1" });
        let token = signer.token_with(&header, algorithm, &world.claims().to_string());
        assert!(refused(&world.verify(&token).await, "algorithm"), "{algorithm:?}");
    }
    // A key of another type, which says nothing of its algorithm.
    let elliptic = Signer::new("k2", Algorithm::ES256);
    let mut jwk = elliptic.jwk();
    jwk.as_object_mut().expect("it is one").remove("alg");
    world.cluster.fetch_does(cluster::Does::Answers(200, json!({ "keys": [jwk, signer.jwk()] }).to_string()));
    world.clock.pass(10 * SECOND);
    assert_eq!(world.verify_claims(&elliptic, &world.claims()).await, good());
    for algorithm in ["RS256", "ES384", "EdDSA", "HS256"] {
        let header = json!({ "alg": algorithm, "kid": "k2" });
        let token = elliptic.token_with(&header, Algorithm::ES256, &world.claims().to_string());
        assert!(refused(&world.verify(&token).await, "algorithm"), "{algorithm}");
    }
    // A header that lies about the algorithm.
    let header = json!({ "alg": "RS256", "kid": "k1" });
    let token = signer.token_with(&header, Algorithm::PS256, &world.claims().to_string());
    assert!(refused(&world.verify(&token).await, "signature"));
}

#[tokio::test]
async fn every_claim_is_needed_and_has_to_be_right() {
    let (world, signer) = world(Algorithm::ES256);
    for claim in ["iss", "aud", "exp", "nbf", "sub"] {
        let result = world.verify_claims(&signer, &world.but(claim, Value::Null)).await;
        assert!(refused(&result, "lacks"), "{claim} {result:?}");
    }
    for (claim, value, because) in [
        ("iss", json!("https://kubernetes.default.svc"), "issuer"),
        ("iss", json!(format!("{ISSUER}/")), "issuer"),
        ("iss", json!([ISSUER]), "iss"),
        ("aud", json!("vault"), "audience"),
        ("aud", json!(["vault", "token-broker2"]), "audience"),
        ("aud", json!([]), "audience"),
        ("aud", json!([[AUDIENCE]]), "aud"),
        ("exp", json!("4102444800"), "exp"),
        ("exp", json!(-1), "exp"),
        ("exp", json!(0), "expired"),
        ("exp", json!(0.5), "expired"),
        ("nbf", json!(u64::MAX), "not valid yet"),
        ("nbf", json!(1e300), "nbf"),
        ("nbf", json!(-1e300), "nbf"),
        ("nbf", json!(i64::MIN), "nbf"),
        ("sub", json!([SUBJECT]), "sub"),
    ] {
        let result = world.verify_claims(&signer, &world.but(claim, value.clone())).await;
        assert!(refused(&result, because), "{claim} {value} {result:?}");
    }
    for value in [json!(u64::MAX), json!(world.clock.unix() as f64 + 0.5)] {
        assert_eq!(world.verify_claims(&signer, &world.but("exp", value.clone())).await, good(), "{value}");
    }
    let header = json!({ "alg": "ES256", "kid": "k1" });
    for claims in ["", "[]", "null", &world.claims().to_string().replacen('{', r#"{"exp":1e400,"x":"#, 1)] {
        let result = world.verify(&signer.token_with(&header, Algorithm::ES256, claims)).await;
        assert!(refused(&result, "lacks"), "{claims} {result:?}");
    }
    let twice = world.claims().to_string().replacen('{', r#"{"sub":"system:serviceaccount:a:b","#, 1);
    assert!(refused(&world.verify(&signer.token_with(&header, Algorithm::ES256, &twice)).await, "lacks"));
}

#[tokio::test]
async fn a_token_is_good_from_its_beginning_to_its_end() {
    let (world, signer) = world(Algorithm::ES256);
    let token = signer.token(&world.but("nbf", json!(world.clock.unix() + 12)));
    assert!(refused(&world.verify(&token).await, "not valid yet"));
    world.clock.pass(2 * SECOND);
    assert_eq!(world.verify(&token).await, good(), "ten seconds of leeway");
    world.clock.pass(3_607 * SECOND);
    assert_eq!(world.verify(&token).await, good(), "ten seconds of leeway");
    world.clock.pass(SECOND);
    assert!(refused(&world.verify(&token).await, "expired"));
}

#[tokio::test]
async fn a_subject_is_a_service_account_to_the_letter() {
    let (world, signer) = world(Algorithm::ES256);
    let (label, name) = ("n".repeat(63), "a".repeat(253));
    for subject in
        ["system:serviceaccount:a:b", "system:serviceaccount:1-a:b-1.c", &format!("system:serviceaccount:{label}:{name}")]
    {
        assert_eq!(world.verify_claims(&signer, &world.but("sub", json!(subject))).await, Ok(subject.to_owned()));
    }
    for subject in [
        "",
        "cards",
        "system:node:a",
        "system:serviceaccounts:a:b",
        "System:serviceaccount:a:b",
        " system:serviceaccount:a:b",
        "system:serviceaccount:a",
        "system:serviceaccount::b",
        "system:serviceaccount:a:",
        "system:serviceaccount:a:b:c",
        "system:serviceaccount:a:b ",
        "system:serviceaccount:A:b",
        "system:serviceaccount:a.b:c",
        "system:serviceaccount:-a:b",
        "system:serviceaccount:a-:b",
        "system:serviceaccount:a:b..c",
        "system:serviceaccount:a:.b",
        "system:serviceaccount:a:b-",
        "system:serviceaccount:a:*",
        "system:serviceaccount:a:b\n",
        "system:serviceaccount:a:\u{e4}",
        &format!("system:serviceaccount:{label}n:b"),
        &format!("system:serviceaccount:a:{name}a"),
    ] {
        let result = world.verify_claims(&signer, &world.but("sub", json!(subject))).await;
        assert!(refused(&result, "subject"), "{subject} {result:?}");
    }
}
