//! The life of tokens: modes, expiry, sign-out, the resource endpoint.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use token_broker_sandbox::{Mode, Options, Sandbox};

use crate::raw::{FORM, NUMBER, Request, customer, sandbox, sign_in};

fn payload(token: &str) -> Value {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!((parts.len(), parts[0]), (3, "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"), "the header of the documented sample");
    assert_eq!(parts[2].len(), 43, "an HMAC-SHA256");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap()
}

#[tokio::test]
async fn fresh_tokens_differ_and_live_side_by_side() {
    let sandbox = sandbox().await;
    let (first, second) = (sign_in(&sandbox).await.token(), sign_in(&sandbox).await.token());
    assert_ne!(first, second);
    assert!(sandbox.is_live(&first) && sandbox.is_live(&second));
    let claims = payload(&first);
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 86_400);
    assert_eq!(claims["sub"].as_str().unwrap().len(), 36);
    assert_eq!(claims["sub"], payload(&second)["sub"], "of one user");
    assert_eq!(claims.as_object().unwrap().len(), 4, "sub, exp, iat, and jti to tell them apart");
}

#[tokio::test]
async fn plain_tokens_of_one_second_are_the_same() {
    let sandbox = Sandbox::start(Options { unique_tokens: false, ..Options::default() }).await.unwrap();
    // Eleven within far less than ten seconds: two at least share their second.
    let mut tokens = Vec::new();
    for _ in 0..11 {
        tokens.push(sign_in(&sandbox).await.token());
    }
    let claims = payload(&tokens[0]);
    assert_eq!(claims.as_object().unwrap().keys().collect::<Vec<_>>(), ["exp", "iat", "sub"], "as documented, and no more");
    let iats: std::collections::HashSet<_> =
        tokens.iter().map(|token| payload(token)["iat"].clone()).map(|iat| iat.to_string()).collect();
    let different: std::collections::HashSet<_> = tokens.iter().collect();
    assert_eq!(different.len(), iats.len(), "as many tokens as seconds");
    assert!(iats.len() < 11);
    assert!(tokens.iter().all(|token| sandbox.is_live(token)));
}

#[tokio::test]
async fn the_same_token_comes_back_with_less_left() {
    let sandbox =
        Sandbox::start(Options { mode: Mode::SameToken, lifetime: Duration::from_millis(30_300), ..Options::default() });
    let sandbox = sandbox.await.unwrap();
    let first = sign_in(&sandbox).await;
    assert_eq!(first.json()["expires_in"], 30);
    // Its last 300 ms above thirty seconds go by while the vault takes its time.
    sandbox.set_delay(Duration::from_millis(400));
    let second = sign_in(&sandbox).await;
    assert!(second.json()["expires_in"].as_u64().unwrap() < 30);
    for same in ["access_token", "refresh_token", "jti"] {
        assert_eq!(first.json()[same], second.json()[same], "{same}");
    }
    sandbox.set_delay(Duration::ZERO);
    assert!(sandbox.revoke(&first.token()));
    let third = sign_in(&sandbox).await.token();
    assert_ne!(third, first.token(), "a dead token is not given out again");
    assert!(sandbox.is_live(&third));
}

#[tokio::test]
async fn the_same_token_is_replaced_once_it_has_expired() {
    let sandbox = Sandbox::start(Options { mode: Mode::SameToken, lifetime: Duration::from_millis(30), ..Options::default() });
    let sandbox = sandbox.await.unwrap();
    let first = sign_in(&sandbox).await.token();
    sandbox.set_delay(Duration::from_millis(40));
    assert_ne!(sign_in(&sandbox).await.token(), first);
}

#[tokio::test]
async fn a_new_token_can_revoke_the_old() {
    let sandbox = sandbox().await;
    sandbox.set_mode(Mode::RevokeOld);
    let (first, second) = (sign_in(&sandbox).await.token(), sign_in(&sandbox).await.token());
    assert!(!sandbox.is_live(&first) && sandbox.is_live(&second));
    let dead = customer(&sandbox, &first).await;
    assert_eq!(dead.status(), 401);
    assert_eq!(
        dead.json(),
        json!({ "error": "invalid_token", "systemId": "core", "errorId": 0, "message": "Invalid access token" })
    );
    assert_eq!(customer(&sandbox, &second).await.status(), 200);
}

#[tokio::test]
async fn an_expired_token_is_called_expired() {
    let sandbox = sandbox().await;
    sandbox.set_lifetime(Duration::ZERO);
    let reply = sign_in(&sandbox).await;
    assert_eq!(reply.json()["expires_in"], 0);
    let dead = customer(&sandbox, &reply.token()).await;
    assert_eq!(dead.status(), 401);
    assert_eq!(
        dead.json(),
        json!({ "error": "invalid_token", "systemId": "core", "errorId": 0, "message": "Access token expired" })
    );
    // The same with a signature that isn't the sandbox's.
    let forged = format!("{}AAAA", &reply.token()[..reply.token().len() - 4]);
    assert_eq!(customer(&sandbox, &forged).await.json()["message"], "Invalid access token");
}

#[tokio::test]
async fn a_token_works_until_it_is_signed_out() {
    let sandbox = sandbox().await;
    let token = sign_in(&sandbox).await.token();
    let live = customer(&sandbox, &token).await;
    assert_eq!((live.status(), live.json()["number"].as_str()), (200, Some(NUMBER)));

    let sign_out = || Request::new("POST", "/signout").header("Authorization", &format!("bearer {token}"));
    assert_eq!(sign_out().send(&sandbox).await.status(), 200);
    assert!(!sandbox.is_live(&token));
    assert_eq!(customer(&sandbox, &token).await.json()["message"], "Invalid access token");
    assert_eq!(sign_out().send(&sandbox).await.status(), 401, "once is enough");

    let bare = Request::new("GET", "/v1/customer").send(&sandbox).await;
    assert_eq!((bare.status(), bare.json()["error"].as_str()), (401, Some("unauthorized")));
    assert!(bare.header("www-authenticate").unwrap().starts_with("Bearer "));
    assert_eq!(Request::new("GET", "/signout").send(&sandbox).await.status(), 405);
    assert_eq!(Request::sign_in(FORM).body("").send(&sandbox).await.status(), 400);

    let stats = sandbox.stats();
    assert_eq!((stats.signouts, stats.resource_calls, stats.resource_401), (1, 3, 2));
}

#[tokio::test]
async fn revoking_all_leaves_none() {
    let sandbox = sandbox().await;
    let tokens = [sign_in(&sandbox).await.token(), sign_in(&sandbox).await.token()];
    assert_eq!(sandbox.revoke_all(), 2);
    assert!(!tokens.iter().any(|token| sandbox.is_live(token)));
    assert!(!sandbox.revoke(&tokens[0]));
}
