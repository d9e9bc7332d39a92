//! Callers that show a Kubernetes service account's token: keys and tokens made by the test.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;
use token_broker::client::{Client, ClientError, Security};
use tonic::Code;

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE, Said, Setting, Stage,
    authority::{Authority, Name},
    cluster::{Cluster, ISSUER, SUBJECT},
    process::Process,
    user,
};

fn accounts(rest: &str) -> String {
    let callers = format!("[[callers]]\nid = \"{SUBJECT}\"\nmerchants = [\"{MERCHANT}\"]\n");
    let table = format!("[auth.service_accounts]\nissuer = \"{ISSUER}\"\njwks_file = \"jwks\"\n");
    format!("{table}{rest}{callers}{}", user(NUMBER, PASSWORD))
}

async fn ask(stage: &Stage, token: &str, security: Security, endpoint: &str) -> Result<(), ClientError> {
    let path: PathBuf = stage.files.path().join("token");
    fs::write(&path, token).expect("is written");
    let client = Client::with_security(endpoint, Security { token_file: Some(path), ..security }).expect("is an endpoint");
    client.timeout(PATIENCE).token(MERCHANT, NUMBER).await.map(drop)
}

#[tokio::test]
async fn a_projected_token_is_its_service_account() {
    let cluster = Cluster::new();
    let jwks = cluster.jwks();
    let prepare = move |directory: &Path| fs::write(directory.join("jwks"), &jwks).expect("is written");
    let stage = Setting { rest: accounts(""), prepare: Some(Box::new(prepare)), ..Setting::default() }.start().await;
    ask(&stage, &cluster.token(|_| ()), Security::default(), &stage.endpoint).await.expect("it may");

    let past = 1_700_000_000;
    for (token, code, reason) in [
        (cluster.token(|claims| claims["aud"] = json!(["elsewhere"])), Code::Unauthenticated, "CALLER_UNAUTHENTICATED"),
        (cluster.token(|claims| claims["iss"] = json!("https://elsewhere")), Code::Unauthenticated, "CALLER_UNAUTHENTICATED"),
        (cluster.token(|claims| claims["exp"] = json!(past)), Code::Unauthenticated, "CALLER_UNAUTHENTICATED"),
        (
            cluster.token(|claims| drop(claims.as_object_mut().expect("a map").remove("aud"))),
            Code::Unauthenticated,
            "CALLER_UNAUTHENTICATED",
        ),
        (cluster.token(|claims| claims["sub"] = json!("system:node:cards")), Code::Unauthenticated, "CALLER_UNAUTHENTICATED"),
        (Cluster::new().token(|_| ()), Code::Unauthenticated, "CALLER_UNAUTHENTICATED"),
        ("no token".to_owned(), Code::Unauthenticated, "CALLER_UNAUTHENTICATED"),
        (
            cluster.token(|claims| claims["sub"] = json!("system:serviceaccount:cards:card")),
            Code::PermissionDenied,
            "CALLER_NOT_ALLOWED",
        ),
    ] {
        let said = Said::of(ask(&stage, &token, Security::default(), &stage.endpoint).await.expect_err(reason));
        let text = said.check(code, reason).error.to_string();
        assert!(!text.contains(&token) || token == "no token", "{text}");
    }
    let said = Said::of(stage.token().await.expect_err("nothing is shown"));
    assert!(said.check(Code::Unauthenticated, "CALLER_UNAUTHENTICATED").error.to_string().contains("authorization"));
    assert_eq!(stage.sandbox.sign_ins(), 1);
}

/// The default issuer is wrong on managed clusters, and whoever installs the broker there is to find that out from its log.
#[tokio::test]
async fn the_log_names_an_issuer_that_is_not_configured_once_a_minute() {
    let config = "grpc.listen = \"127.0.0.1:0\"\n[vault]\nbase_url = \"http://127.0.0.1:1\"\n";
    let broker = Process::serve(&format!("{config}{}", accounts("")), &[]).await;
    let files = tempfile::tempdir().expect("a directory");
    let token = Cluster::new().token(|claims| claims["iss"] = json!("https://oidc.eks.example.org/id/\u{1b}[2J"));
    let path = files.path().join("token");
    fs::write(&path, &token).expect("is written");
    let security = Security { token_file: Some(path), ..Security::default() };
    let client = Client::with_security(&broker.endpoint(), security).expect("is an endpoint").timeout(PATIENCE);
    for _ in 0..3 {
        let said = Said::of(client.token(MERCHANT, NUMBER).await.map(drop).expect_err("nobody knows that issuer"));
        said.check(Code::Unauthenticated, "CALLER_UNAUTHENTICATED");
    }
    let line = broker.line_like("callers' tokens are of an issuer that is not configured").await;
    assert_eq!((&line["level"], &line["configured"], &line["tokens"]), (&json!("WARN"), &json!(ISSUER), &json!(1)));
    assert_eq!(line["came"], json!("https://oidc.eks.example.org/id/\u{1b}[2J"));
    let log = broker.log();
    assert_eq!(log.matches("not configured").count(), 1, "{log}");
    assert!(!log.contains(token.split('.').nth(2).expect("a signature")), "{log}");
}

#[tokio::test]
async fn keys_that_cannot_be_had_are_told_as_a_wait() {
    let stage = Setting { rest: accounts(""), ..Setting::default() }.start().await;
    let said =
        Said::of(ask(&stage, &Cluster::new().token(|_| ()), Security::default(), &stage.endpoint).await.expect_err("no keys"));
    said.check(Code::Unavailable, "IDENTITY_UNAVAILABLE");
    assert_eq!(said.retry, Some(Duration::from_secs(1)));
}

#[tokio::test]
async fn over_tls_either_will_do_and_of_both_the_certificate_counts() {
    let (ca, cluster) = (Authority::new(), Cluster::new());
    let (issued, pem, jwks) = (ca.server(), ca.pem.clone(), cluster.jwks());
    let prepare = move |directory: &Path| {
        issued.write(directory);
        fs::write(directory.join("ca.crt"), &pem).expect("is written");
        fs::write(directory.join("jwks"), &jwks).expect("is written");
    };
    let tls =
        "lame_duck = \"0s\"\n[grpc.tls]\ncertificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\nclient_ca_file = \"ca.crt\"\n";
    let listed = "[[callers]]\nid = \"cards.example.org\"\nmerchants = [\"*\"]\n";
    let setting =
        Setting { grpc: tls.to_owned(), rest: accounts(listed), prepare: Some(Box::new(prepare)), ..Setting::default() };
    let stage = setting.start().await;
    let security = |names: Option<&[Name<'_>]>| {
        let issued = names.map(|names| ca.client(names));
        let identity_pem = issued.map(|issued| (issued.certificate.into_bytes(), issued.key.into_bytes()));
        Security { ca_pem: Some(ca.pem.clone().into_bytes()), identity_pem, token_file: None }
    };
    let (good, endpoint) = (cluster.token(|_| ()), stage.secure_endpoint());
    ask(&stage, &good, security(None), &endpoint).await.expect("the token will do");
    ask(&stage, "no token", security(Some(&[Name::Dns("cards.example.org")])), &endpoint).await.expect("the certificate will do");
    let said =
        Said::of(ask(&stage, &good, security(Some(&[Name::Dns("other.example.org")])), &endpoint).await.expect_err("unlisted"));
    said.check(Code::PermissionDenied, "CALLER_NOT_ALLOWED");
    let said = Said::of(ask(&stage, &good, security(Some(&[Name::Common("cards")])), &endpoint).await.expect_err("nameless"));
    said.check(Code::Unauthenticated, "CALLER_UNAUTHENTICATED");
}

#[tokio::test]
async fn between_two_issuers_each_token_is_judged_by_its_own_keys() {
    const NEW: &str = "https://new.example.org";
    let (old, new) = (Cluster::new(), Cluster::new());
    let jwks = [old.jwks(), new.jwks()];
    let prepare = move |directory: &Path| {
        for (name, jwks) in ["old", "new"].iter().zip(&jwks) {
            fs::write(directory.join(name), jwks).expect("is written");
        }
    };
    let rest = accounts("")
        .replace(&format!("issuer = \"{ISSUER}\""), &format!("issuer = [\"{ISSUER}\", \"{NEW}\"]"))
        .replace("jwks_file = \"jwks\"", "jwks_file = [\"old\", \"new\"]");
    let stage = Setting { rest, prepare: Some(Box::new(prepare)), ..Setting::default() }.start().await;
    let ask = |token: String| {
        let stage = &stage;
        async move { ask(stage, &token, Security::default(), &stage.endpoint).await }
    };
    let from = |cluster: &Cluster, issuer: &'static str| cluster.token(|claims| claims["iss"] = json!(issuer));
    ask(from(&old, ISSUER)).await.expect("the old issuer's pods are known");
    ask(from(&new, NEW)).await.expect("and the new one's");
    for token in [from(&old, NEW), from(&new, ISSUER), from(&new, "https://other.example.org")] {
        let said = Said::of(ask(token).await.expect_err("nobody knows it"));
        said.check(Code::Unauthenticated, "CALLER_UNAUTHENTICATED");
    }
}
