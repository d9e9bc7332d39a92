//! Every documented reply, and those that must be expected, against what they have to mean.

use std::time::UNIX_EPOCH;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::*;
use crate::{
    secret::Secret,
    vault::{Refusal, Scope},
};

mod properties;
mod tokens;

const NUMBER: &str = "+447871239999";
const PASSWORD: &str = " 1234 Qwerty&ä ";
/// 2026-11-22T12:00:00Z.
const NOW: Duration = Duration::from_secs(1_795_348_800);

const ASKED: Asked<'static> = Asked { number: NUMBER, password: PASSWORD, assumed_lifetime: Duration::from_secs(300) };

fn reply<'a>(status: u16, retry_after: Option<&'a str>, body: &'a [u8]) -> Reply<'a> {
    Reply { status, retry_after, body: Ok(body), now: UNIX_EPOCH + NOW }
}

fn read(status: u16, body: &str) -> Result<Grant, Failure> {
    classify(&reply(status, None, body.as_bytes()), &ASKED)
}

fn read_with(status: u16, retry_after: &str, body: &str) -> Result<Grant, Failure> {
    classify(&reply(status, Some(retry_after), body.as_bytes()), &ASKED)
}

/// The row of the error table, in short.
fn kind(result: &Result<Grant, Failure>) -> String {
    match result {
        Ok(grant) => format!("token {}", grant.lifetime.as_secs()),
        Err(Failure::Refused { why, vault_error }) => format!("{why:?} {vault_error}"),
        Err(Failure::Throttled { scope, wait, vault_error }) => format!("{scope:?} {} {vault_error}", wait.as_secs()),
        Err(Failure::Unavailable { wait: None, vault_error, .. }) => format!("unavailable {vault_error}"),
        Err(Failure::Unavailable { wait: Some(wait), vault_error, .. }) => {
            format!("unavailable {} {vault_error}", wait.as_secs())
        }
        Err(Failure::Invalid { .. }) => "invalid".to_owned(),
        Err(Failure::Broken) => "broken".to_owned(),
    }
}

fn v1(id: u32, error: &str, message: &str) -> String {
    format!(r#"{{"message":"{message}","errorId":{id},"systemId":"core","error":"{error}"}}"#)
}

fn jwt(payload: &str) -> String {
    format!("eyJhbGciOiJIUzI1NiJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
}

/// A reply with a token that isn't a JWT, and the further fields.
fn token_with(fields: &str) -> String {
    format!(r#"{{"access_token":"opaque","token_type":"bearer"{fields}}}"#)
}

#[test]
fn documented_refusals() {
    let wait_30 = "Suspicious. Please wait 30 minutes";
    for (body, expected) in [
        (v1(11, "WRONG_LOGIN_OR_PASSWORD_EXCEPTION", "no"), "Credentials WRONG_LOGIN_OR_PASSWORD_EXCEPTION"),
        (v1(2, "CUSTOMER_NOT_FOUND_EXCEPTION", "no"), "Credentials CUSTOMER_NOT_FOUND_EXCEPTION"),
        (v1(3, "CUSTOMER_STATUS_INCORRECT", "no"), "Credentials CUSTOMER_STATUS_INCORRECT"),
        (v1(267, "TEMPORARY_PASSWORD_IS_EXPIRED", "no"), "Credentials TEMPORARY_PASSWORD_IS_EXPIRED"),
        (v1(53, "CUSTOMER_EXCEEDED_NUMBER_OF_PIN_ATTEMPTS", "no"), "Credentials CUSTOMER_EXCEEDED_NUMBER_OF_PIN_ATTEMPTS"),
        (v1(273, "LOGIN_ATTEMPTS_EXCEEDED", "try again in 1 minute(s)"), "User 60 LOGIN_ATTEMPTS_EXCEEDED"),
        (v1(273, "LOGIN_ATTEMPTS_EXCEEDED", "try again in 10 second(s)"), "User 60 LOGIN_ATTEMPTS_EXCEEDED"),
        (v1(273, "LOGIN_ATTEMPTS_EXCEEDED", "try again in 5 minute(s)"), "User 300 LOGIN_ATTEMPTS_EXCEEDED"),
        (v1(429, "WAF_LOCK_NOT_IN_LIST", wait_30), "Merchant 1800 WAF_LOCK_NOT_IN_LIST"),
        (v1(429, "WAF_LOCK_NOT_IN_LIST", "wait 90 seconds"), "Merchant 90 WAF_LOCK_NOT_IN_LIST"),
        (v1(429, "WAF_LOCK_NOT_IN_LIST", "no"), "Merchant 1800 WAF_LOCK_NOT_IN_LIST"),
        (v1(422, "NOT_VALID_REQUEST_DATA", "no"), "Request NOT_VALID_REQUEST_DATA"),
        (r#"{"message":"m","errorId":424,"systemId":"core","sessionId":"s","factors":[{"a":1}]}"#.to_owned(), "SecondFactor 424"),
        (v1(307, "MFA_SESSION_EXPIRED", "no"), "SecondFactor MFA_SESSION_EXPIRED"),
        (v1(308, "MFA_CODE_ALREADY_USED", "no"), "SecondFactor MFA_CODE_ALREADY_USED"),
        (r#"{"error":"COUNTRY_BLOCKED_FOR_REGISTRATION"}"#.to_owned(), "Merchant 1800 COUNTRY_BLOCKED_FOR_REGISTRATION"),
        (v1(0, "COMMON", "Sorry for inconvenience"), "unavailable COMMON"),
    ] {
        for status in [200, 302, 400, 401, 418, 422, 500, 503] {
            assert_eq!(kind(&read(status, &body)), expected, "{status} {body}");
        }
        // By the name alone, and by the number alone, as a number or as text.
        let Some((_, id)) = body.split_once(r#""errorId":"#) else { continue };
        let id = id.split(',').next().expect("a split gives one part");
        let class = expected.split(' ').next().expect("a split gives one part");
        for only in [format!(r#"{{"errorId":{id}}}"#), format!(r#"{{"errorId":"{id}"}}"#), format!(r#"{{"errorId":{id}.0}}"#)] {
            assert!(kind(&read(400, &only)).starts_with(class), "{only}");
        }
        if let Some((_, name)) = body.split_once(r#""error":"#) {
            let only = format!(r#"{{"message":null,"error":{name}"#);
            assert!(kind(&read(400, &only)).starts_with(class), "{only}");
        }
    }
}

#[test]
fn the_other_shapes_of_refusals() {
    let v2 = r#"{"status":"UNAUTHORIZED","message":"m","traceId":"t","errors":"#;
    let deep = "[".repeat(60_000);
    for (status, body, expected) in [
        (400, r#"{"error":"invalid_grant","error_description":"Bad credentials"}"#.to_owned(), "Credentials invalid_grant"),
        (400, r#"{"error":"invalid_request"}"#.to_owned(), "Request invalid_request"),
        (400, r#"{"error":"unsupported_grant_type"}"#.to_owned(), "Request unsupported_grant_type"),
        (400, r#"{"error":"invalid_scope"}"#.to_owned(), "Request invalid_scope"),
        (401, r#"{"error":"invalid_client"}"#.to_owned(), "Request invalid_client"),
        (401, r#"{"error":"unauthorized"}"#.to_owned(), "Request unauthorized"),
        (400, r#"{"error":"unauthorized_client"}"#.to_owned(), "Request unauthorized_client"),
        (500, r#"{"error":"server_error"}"#.to_owned(), "unavailable server_error"),
        (503, r#"{"error":"temporarily_unavailable"}"#.to_owned(), "unavailable temporarily_unavailable"),
        // Names count in the documented case only: this is Spring Boot's own page.
        (401, r#"{"status":401,"error":"Unauthorized"}"#.to_owned(), "unavailable Unauthorized"),
        (401, r#"{"error":"invalid_token","systemId":"core","errorId":0}"#.to_owned(), "unavailable invalid_token"),
        // v2.
        (401, format!("{v2}[]}}"), "Credentials UNAUTHORIZED"),
        (401, format!(r#"{v2}[{{"key":"SOME_KEY","description":"d"}}]}}"#), "Credentials SOME_KEY"),
        (
            400,
            format!(r#"{v2}[{{"key":"LOGIN_ATTEMPTS_EXCEEDED","description":"wait 2 minutes"}}]}}"#),
            "User 120 LOGIN_ATTEMPTS_EXCEEDED",
        ),
        (400, format!(r#"{v2}[7,null,{{"key":3}},{{"key":"NOT_VALID_REQUEST_DATA"}}]}}"#), "Request NOT_VALID_REQUEST_DATA"),
        (400, format!(r#"{v2}{{"key":"x"}}}}"#), "Credentials UNAUTHORIZED"),
        (500, r#"{"status":"INTERNAL_SERVER_ERROR","errors":[]}"#.to_owned(), "unavailable INTERNAL_SERVER_ERROR"),
        // Two voices: the number first, but 0 stands for anything.
        (400, v1(11, "LOGIN_ATTEMPTS_EXCEEDED", ""), "Credentials LOGIN_ATTEMPTS_EXCEEDED"),
        (400, v1(0, "LOGIN_ATTEMPTS_EXCEEDED", ""), "User 60 LOGIN_ATTEMPTS_EXCEEDED"),
        (400, v1(0, "SOMETHING_NEW", ""), "unavailable SOMETHING_NEW"),
        (422, v1(0, "COMMON", ""), "unavailable COMMON"),
        (422, r#"{"errorId":0}"#.to_owned(), "unavailable 0"),
        (200, v1(0, "SOMETHING_NEW", ""), "unavailable SOMETHING_NEW"),
        (400, v1(999, "CUSTOMER_NOT_FOUND_EXCEPTION", ""), "Credentials CUSTOMER_NOT_FOUND_EXCEPTION"),
        (422, v1(999, "SOMETHING_NEW", ""), "Request SOMETHING_NEW"),
        // One bad field doesn't spoil the others; of a name that stands twice the last counts.
        (400, r#"{"message":[],"error":{"a":1},"errorId":11}"#.to_owned(), "Credentials 11"),
        (400, r#"{"errorId":[11],"error":"invalid_grant"}"#.to_owned(), "Credentials invalid_grant"),
        (400, r#"{"errorId":0,"errorId":11}"#.to_owned(), "Credentials 11"),
        (400, format!(r#"{{"x":{deep}{},"errorId":11}}"#, "]".repeat(60_000)), "Credentials 11"),
        (400, r#"{"errorId":1e400}"#.to_owned(), "unavailable 1e400"),
        (400, r#"{"errorId":11.5}"#.to_owned(), "unavailable 11.5"),
    ] {
        assert_eq!(kind(&read(status, &body)), expected, "{status} {:.200}", body);
    }
}

#[test]
fn without_a_body_that_says_something_the_status_counts() {
    let deep = "[".repeat(65_536);
    for body in
        [&b""[..], b"<html>no</html>", b"\xff\xfe{\"errorId\":11}", deep.as_bytes(), b"null", b"{}", b"{\"errorId\":11", b"[{}]"]
    {
        for (status, expected) in [
            (200, "invalid"),
            (204, "invalid"),
            (301, "invalid"),
            (302, "invalid"),
            (307, "invalid"),
            (308, "invalid"),
            (101, "invalid"),
            (600, "invalid"),
            (400, "unavailable "),
            (401, "unavailable "),
            (403, "unavailable "),
            (404, "unavailable "),
            (422, "Request "),
            (424, "SecondFactor "),
            (429, "User 60 "),
            (500, "unavailable "),
            (503, "unavailable "),
        ] {
            assert_eq!(kind(&classify(&reply(status, None, body), &ASKED)), expected, "{status} {:.40}", body.escape_ascii());
        }
    }
}

#[test]
fn a_body_that_cannot_be_read_is_invalid_unless_the_status_asks_to_wait() {
    for why in [Unreadable::TooLong, Unreadable::Encoded] {
        for (status, expected) in [(200, "invalid"), (400, "invalid"), (503, "invalid"), (429, "User 7 ")] {
            let reply = Reply { body: Err(why), ..reply(status, Some("7"), b"") };
            assert_eq!(kind(&classify(&reply, &ASKED)), expected, "{status} {why:?}");
        }
    }
}

#[test]
fn waits() {
    for (header, seconds) in [
        ("120", Some(120)),
        (" 120 ", Some(120)),
        ("0", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
        ("soon", None),
        ("86401", Some(86_400)),
        ("99999999999999999999999999", Some(86_400)),
        ("Sun, 22 Nov 2026 12:02:00 GMT", Some(120)),
        ("Sunday, 22-Nov-26 12:02:00 GMT", Some(120)),
        ("Sun Nov 22 12:02:00 2026", Some(120)),
        ("Sun, 22 Nov 2026 11:59:00 GMT", None),
        ("Wed, 22 Nov 2028 12:00:00 GMT", Some(86_400)),
        ("Sun, 99 Nov 2026 12:02:00 GMT", None),
    ] {
        let expected = seconds.map(Duration::from_secs);
        assert_eq!(wait::retry_after(header, UNIX_EPOCH + NOW), expected, "{header:?}");
        let unavailable = read_with(503, header, "<html>");
        assert!(matches!(unavailable, Err(Failure::Unavailable { wait, .. }) if wait == expected), "{header:?} {unavailable:?}");
    }
    for (text, seconds) in [
        ("Please, try again in 1 minute(s)", Some(60)),
        ("wait 30 minutes", Some(1_800)),
        ("WAIT 30 MINUTES", Some(1_800)),
        ("retry after 45 seconds.", Some(45)),
        ("try again in 2 hour(s)", Some(7_200)),
        ("Locked for 3 days", Some(86_400)),
        ("wait 1 hour and 5 min", Some(3_900)),
        ("wait 90sec", Some(90)),
        ("5 attempts in 24 hours were made, try again in 10 minutes", Some(600)),
        ("try again in 10 minutes, or wait 20 minutes", Some(1_200)),
        ("wait 99999999999999999999999 days", Some(86_400)),
        ("5 attempts in 24 hours", None),
        ("wait 0 seconds", None),
        ("wait 5 apples", None),
        ("wait", None),
        ("wait ٣ minutes", None),
        ("", None),
    ] {
        assert_eq!(wait::worded(text), seconds.map(Duration::from_secs), "{text:?}");
    }
}

#[test]
fn the_longer_wait_counts() {
    let attempts = v1(273, "LOGIN_ATTEMPTS_EXCEEDED", "try again in 5 minute(s)");
    let firewall = v1(429, "WAF_LOCK_NOT_IN_LIST", "no");
    for (status, header, body, expected) in [
        (400, "30", attempts.as_str(), "User 300 LOGIN_ATTEMPTS_EXCEEDED"),
        (400, "900", &attempts, "User 900 LOGIN_ATTEMPTS_EXCEEDED"),
        (429, "40", "", "User 40 "),
        (429, "0", "", "User 60 "),
        (429, "40", r#"{"message":"wait 2 minutes"}"#, "User 120 "),
        (429, "40", r#"{"error":"x","error_description":"wait 2 minutes"}"#, "User 120 x"),
        (400, "40", &firewall, "Merchant 40 WAF_LOCK_NOT_IN_LIST"),
        (400, "40", r#"{"error":"COUNTRY_BLOCKED_FOR_REGISTRATION"}"#, "Merchant 1800 COUNTRY_BLOCKED_FOR_REGISTRATION"),
        (400, "4000", r#"{"error":"COUNTRY_BLOCKED_FOR_REGISTRATION"}"#, "Merchant 4000 COUNTRY_BLOCKED_FOR_REGISTRATION"),
        (500, "7", r#"{"errorId":0,"error":"COMMON","message":"wait 9 seconds"}"#, "unavailable 9 COMMON"),
        // The status asks to wait, whatever excuse the body has; but a definite no stays one.
        (429, "7", r#"{"errorId":0,"error":"COMMON"}"#, "User 7 COMMON"),
        (429, "7", r#"{"error":"server_error"}"#, "User 7 server_error"),
        (429, "7", r#"{"error":"invalid_grant"}"#, "Credentials invalid_grant"),
    ] {
        assert_eq!(kind(&read_with(status, header, body)), expected, "{status} {header} {body}");
    }
}

#[test]
fn the_vaults_name_of_an_error_is_limited_and_echoes_nothing() {
    let long = "x".repeat(70);
    let (cut, echo) = ("x".repeat(64), "447871239999");
    for (body, expected) in [
        (format!(r#"{{"error":"{long}"}}"#), cut.as_str()),
        (r#"{"error":"a b\n<c>ä\u0000;d_e.f-9"}"#.to_owned(), "abcd_e.f-9"),
        (r#"{"error":"???","errorId":5}"#.to_owned(), "5"),
        (r#"{"error":"","errorId":"5"}"#.to_owned(), "5"),
        (r#"{"errorId":5,"status":"S","errors":[{"key":"K"}]}"#.to_owned(), "5"),
        (r#"{"status":"S","errors":[{"key":"K"}]}"#.to_owned(), "K"),
        (r#"{"status":"S"}"#.to_owned(), "S"),
        (r#"{"message":"m"}"#.to_owned(), ""),
        // What was sent, or given out, comes back.
        (format!(r#"{{"error":"no {PASSWORD}!"}}"#), ""),
        (r#"{"error":"user_1234QWERTY"}"#.to_owned(), ""),
        (format!(r#"{{"error":"{}1234Qwerty"}}"#, "x".repeat(60)), ""),
        (format!(r#"{{"error":"{NUMBER}"}}"#), ""),
        (format!(r#"{{"error":"user-{echo}","errorId":5}}"#), "5"),
        (r#"{"error":"44 7871 239 999"}"#.to_owned(), ""),
        (r#"{"access_token":"abc","error":"has-abc"}"#.to_owned(), ""),
        (r#"{"refresh_token":"abc","error":"has-abc"}"#.to_owned(), ""),
    ] {
        let result = read(400, &body);
        assert!(matches!(&result, Err(Failure::Unavailable { vault_error, .. }) if vault_error == expected), "{body} {result:?}");
    }
}
