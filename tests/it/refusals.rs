//! The error table: every reply of the vault has its row.

use std::time::Duration;

use serde_json::json;
use token_broker_sandbox::Fault;
use tokio::{task::JoinSet, time::timeout};
use tonic::Code;

use crate::support::{PATIENCE, Said, Setting, Stage};

/// A vault that answers so once, and what the caller is told.
async fn told(fault: Fault) -> (Stage, Said) {
    let stage = Setting::vault("timeout = \"1s\"").start().await;
    stage.sandbox.script(fault);
    let said = stage.refused().await;
    stage.sandbox.assert_script_used_up();
    (stage, said)
}

#[tokio::test]
async fn refusals_are_held_and_named() {
    for (fault, reason, vault_error) in [
        (
            Fault::refusal(11, "WRONG_LOGIN_OR_PASSWORD_EXCEPTION", "no"),
            "CREDENTIALS_REJECTED",
            "WRONG_LOGIN_OR_PASSWORD_EXCEPTION",
        ),
        (Fault::refusal(2, "CUSTOMER_NOT_FOUND_EXCEPTION", "no"), "CREDENTIALS_REJECTED", "CUSTOMER_NOT_FOUND_EXCEPTION"),
        (Fault::refusal(3, "CUSTOMER_STATUS_INCORRECT", "no"), "CREDENTIALS_REJECTED", "CUSTOMER_STATUS_INCORRECT"),
        (
            Fault::refusal(53, "CUSTOMER_EXCEEDED_NUMBER_OF_PIN_ATTEMPTS", "no"),
            "CREDENTIALS_REJECTED",
            "CUSTOMER_EXCEEDED_NUMBER_OF_PIN_ATTEMPTS",
        ),
        (Fault::refusal(267, "TEMPORARY_PASSWORD_IS_EXPIRED", "no"), "CREDENTIALS_REJECTED", "TEMPORARY_PASSWORD_IS_EXPIRED"),
        (Fault::spring(400, "invalid_grant", "Bad credentials"), "CREDENTIALS_REJECTED", "invalid_grant"),
        (Fault::second_factor(), "SECOND_FACTOR_REQUIRED", "424"),
        (Fault::refusal(307, "MFA_SESSION_EXPIRED", "no"), "SECOND_FACTOR_REQUIRED", "MFA_SESSION_EXPIRED"),
        (Fault::refusal(308, "MFA_CODE_ALREADY_USED", "no"), "SECOND_FACTOR_REQUIRED", "MFA_CODE_ALREADY_USED"),
        (Fault::refusal(422, "NOT_VALID_REQUEST_DATA", "no"), "VAULT_REQUEST_REJECTED", "NOT_VALID_REQUEST_DATA"),
        (Fault::spring(401, "invalid_client", "no"), "VAULT_REQUEST_REJECTED", "invalid_client"),
        (Fault::spring(400, "unsupported_grant_type", "no"), "VAULT_REQUEST_REJECTED", "unsupported_grant_type"),
    ] {
        let (stage, said) = told(fault).await;
        said.check(Code::FailedPrecondition, reason);
        assert_eq!(said.metadata["vault_error"], vault_error);
        assert!(said.metadata["held_until"].ends_with('Z'), "{said:?}");
        // The vault would say yes now; it is not asked while the hold lasts.
        stage.refused().await.check(Code::FailedPrecondition, reason);
        assert_eq!(stage.sandbox.sign_ins(), 1, "{reason}");
    }
}

#[tokio::test]
async fn waits_are_obeyed_and_told() {
    let wait = |said: &Said| said.retry.expect("is told").as_secs_f64().ceil();
    let (stage, said) = told(Fault::refusal(273, "LOGIN_ATTEMPTS_EXCEEDED", "Try again in 1 minute(s)")).await;
    said.check(Code::Unavailable, "VAULT_THROTTLED");
    assert_eq!((wait(&said), said.pushback.as_deref()), (60.0, Some("-1")));
    stage.refused().await.check(Code::Unavailable, "VAULT_THROTTLED");
    assert_eq!(stage.sandbox.sign_ins(), 1);

    let (_stage, said) = told(Fault::reply(429, "").header("retry-after", "3")).await;
    said.check(Code::Unavailable, "VAULT_THROTTLED");
    assert_eq!(wait(&said), 3.0);
}

#[tokio::test]
async fn a_refusal_of_our_address_holds_the_whole_merchant() {
    for fault in [
        Fault::refusal(429, "WAF_LOCK_NOT_IN_LIST", "Please wait 30 minutes"),
        Fault::reply(400, json!({"error": "COUNTRY_BLOCKED_FOR_REGISTRATION", "systemId": "core"}).to_string()),
    ] {
        let other = "+447871230001";
        let mut setting = Setting::default();
        setting.rest += &crate::support::user(other, "other");
        let stage = setting.start().await;
        stage.sandbox.script(fault);
        stage.refused().await.check(Code::Unavailable, "VAULT_THROTTLED");
        let said = Said::of(stage.client.token(crate::support::MERCHANT, other).await.expect_err("the merchant is held"));
        said.check(Code::Unavailable, "VAULT_THROTTLED");
        assert!(said.retry.is_some_and(|wait| wait > Duration::from_secs(29 * 60)), "{said:?}");
        assert_eq!(stage.sandbox.sign_ins(), 1);
    }
}

#[tokio::test]
async fn failures_of_the_vault_are_transient() {
    let faults = [
        Fault::html(500),
        Fault::html(502),
        Fault::reply(503, ""),
        Fault::refusal(0, "COMMON", "Sorry for inconvenience"),
        Fault::spring(500, "server_error", "no"),
        // Those of 4xx that say that nobody judged what was sent.
        Fault::html(404),
        Fault::reply(405, ""),
        Fault::reply(408, "{\"error\":\"SLOW\"}"),
        Fault::reply(421, "x"),
        Fault::reply(431, ""),
        Fault::Reset,
        Fault::Close,
        Fault::ResetMidBody,
        Fault::CloseMidBody,
        Fault::Hang,
        Fault::Drip { bytes: 1, every: Duration::from_millis(100) },
    ];
    // All at once: what hangs takes the broker's time for a sign-in, and each heals after a second.
    let mut checking = JoinSet::new();
    faults.into_iter().for_each(|fault| drop(checking.spawn(is_transient(fault))));
    checking.join_all().await;
}

async fn is_transient(fault: Fault) {
    let name = format!("{fault:?}");
    let (stage, said) = told(fault).await;
    assert_eq!(said.reason, "VAULT_UNAVAILABLE", "{name}");
    said.check(Code::Unavailable, "VAULT_UNAVAILABLE");
    assert!(said.retry.is_some_and(|wait| wait <= Duration::from_secs(1)), "{said:?}");
    assert_eq!(stage.sandbox.sign_ins(), 1, "what may have been read is not sent again: {name}");
    // And it heals by itself.
    timeout(PATIENCE, async { while stage.token().await.is_err() {} }).await.expect("back-off ends");
}

#[tokio::test]
async fn a_no_that_cannot_be_read_or_is_in_no_table_is_not_repeated() {
    let wrong = r#"{"message":"no","errorId":11,"systemId":"core","error":"WRONG_LOGIN_OR_PASSWORD_EXCEPTION"}"#;
    let spring_boot = r#"{"timestamp":"2026-11-22T12:00:00Z","status":401,"error":"Unauthorized","path":"/oauth/token"}"#;
    for (fault, reason) in [
        (Fault::reply(400, format!("\u{feff}{wrong}")), "CREDENTIALS_REJECTED"),
        (Fault::reply(400, [b"{\"x\":\"\xff\",", &wrong.as_bytes()[1..]].concat()), "CREDENTIALS_REJECTED"),
        (Fault::reply(400, format!("{wrong}\0<!-- a3 -->")), "CREDENTIALS_REJECTED"),
        (Fault::reply(400, format!("{wrong}{}", " ".repeat(70_000))), "CREDENTIALS_REJECTED"),
        (Fault::reply(400, wrong.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()), "CREDENTIALS_REJECTED"),
        (Fault::reply(400, r#"{"errorId":11,"errorId":0}"#), "CREDENTIALS_REJECTED"),
        (Fault::reply(400, r#"{"error":"INVALID_GRANT"}"#), "CREDENTIALS_REJECTED"),
        (Fault::reply(400, r#"{"error":{"code":"invalid_grant"}}"#), "CREDENTIALS_REJECTED"),
        (Fault::reply(401, ""), "CREDENTIALS_REJECTED"),
        (Fault::reply(401, "\x1f").header("content-encoding", "gzip"), "CREDENTIALS_REJECTED"),
        (Fault::reply(401, spring_boot), "CREDENTIALS_REJECTED"),
        (Fault::reply(401, r#"{"message":"no","errorId":0,"systemId":"core","error":"COMMON"}"#), "CREDENTIALS_REJECTED"),
        (Fault::reply(403, r#"{"error":"access_denied"}"#), "VAULT_UNAVAILABLE"),
        (Fault::reply(400, "\x1f").header("content-encoding", "gzip"), "VAULT_UNAVAILABLE"),
        (Fault::reply(418, r#"{"error":"TEAPOT"}"#), "VAULT_UNAVAILABLE"),
        (Fault::html(403), "VAULT_UNAVAILABLE"),
    ] {
        let name = format!("{fault:.100?}");
        let (stage, said) = told(fault).await;
        assert_eq!(said.reason, reason, "{name}");
        if reason == "CREDENTIALS_REJECTED" {
            assert!(said.metadata.contains_key("held_until"), "{name} {said:?}");
        } else {
            let wait = said.retry.expect("is told").as_secs_f64().ceil();
            assert_eq!((wait, said.pushback.as_deref()), (60.0, Some("-1")), "{name}");
        }
        assert_eq!(stage.refused().await.reason, reason, "{name}");
        assert_eq!(stage.sandbox.sign_ins(), 1, "{name}");
    }
}

/// A firewall's 403 for everybody is an outage: nobody is held for it once somebody gets a token again.
#[tokio::test]
async fn undocumented_answers_to_everybody_are_an_outage() {
    let numbers: Vec<_> = (0..5).map(|n| format!("+44787123000{n}")).collect();
    let mut setting = Setting::default();
    for number in &numbers {
        setting.rest += &crate::support::user(number, "p");
    }
    let stage = setting.start().await;
    for number in &numbers {
        stage.sandbox.add_user(token_broker_sandbox::User::new(crate::support::MERCHANT, number, "p"));
    }
    stage.sandbox.set_always(Some(Fault::html(403)));
    let call = |number: &str| {
        let (client, number) = (stage.client.clone(), number.to_owned());
        async move { client.token(crate::support::MERCHANT, &number).await }
    };
    for number in &numbers {
        Said::of(call(number).await.expect_err("nobody gets one")).check(Code::Unavailable, "VAULT_UNAVAILABLE");
    }
    assert_eq!(stage.sandbox.sign_ins(), 3, "the circuit breaker is open");
    stage.sandbox.set_always(None);
    // Those who got no answer find out that the vault is back; then all are served, though three were to wait for a minute.
    for number in numbers.iter().rev() {
        tokio::time::timeout(Duration::from_secs(15), async { while call(number).await.is_err() {} })
            .await
            .expect("what was counted against the users is forgotten");
    }
}

#[tokio::test]
async fn answers_that_make_no_sense_are_not_believed() {
    let token = |extra: serde_json::Value| {
        let mut body = json!({"access_token": "abc.def.ghi", "token_type": "bearer", "expires_in": 300});
        body.as_object_mut().expect("is an object").extend(extra.as_object().expect("is an object").clone());
        Fault::token_json(&body)
    };
    for fault in [
        Fault::html(200),
        Fault::reply(200, ""),
        Fault::reply(200, vec![0xff, 0xfe, 0x00]),
        Fault::reply(200, "[".repeat(50_000)),
        Fault::Endless,
        Fault::redirect(302, "http://127.0.0.1:1/elsewhere"),
        Fault::redirect(307, "http://127.0.0.1:1/elsewhere"),
        Fault::content_encoding("gzip"),
        token(json!({"expires_in": 0})),
        token(json!({"expires_in": -5})),
        token(json!({"expires_in": "0.9"})),
        token(json!({"token_type": "mac"})),
        token(json!({"access_token": "with space"})),
        token(json!({"access_token": "line\nbreak"})),
        token(json!({"access_token": ""})),
        token(json!({"access_token": 5})),
    ] {
        let name = format!("{fault:?}");
        let (_stage, said) = told(fault).await;
        assert_eq!(said.reason, "VAULT_RESPONSE_INVALID", "{name}");
        said.check(Code::Unavailable, "VAULT_RESPONSE_INVALID");
    }
}

#[tokio::test]
async fn answers_that_say_less_or_more_than_documented_are_taken() {
    for (body, seconds) in [
        (r#"{"access_token":"abc","token_type":"BEARER","expires_in":300}"#, 300),
        (r#"{"access_token":"abc","token_type":"Bearer","expires_in":"300"}"#, 300),
        (r#"{"access_token":"abc","token_type":"bearer","expires_in":299.9,"jti":null,"new":{"x":[1]}}"#, 299),
        (r#"{"access_token":"abc","token_type":"bearer"}"#, 300),
        (r#"{"access_token":"abc","expires_in":300}"#, 300),
        ("\u{feff}{\"access_token\":\"abc\",\"expires_in\":300}\0}", 300),
        (r#"{"access_token":"abc","token_type":"bearer","expires_in":1e400}"#, 604_800),
        (r#"{"access_token":"abc","token_type":"bearer","expires_in":99999999999999999999999999}"#, 604_800),
    ] {
        let stage = Setting::default().start().await;
        stage.sandbox.script(Fault::reply(200, body));
        let token = stage.good_token().await;
        let left = crate::support::left(&token);
        let expected = Duration::from_secs(seconds);
        assert!(left <= expected && left > expected - Duration::from_secs(5), "{body}: {left:?}");
        assert_eq!((token.access_token.as_str(), token.token_type.as_str(), token.scope.as_str()), ("abc", "Bearer", ""));
    }
}
