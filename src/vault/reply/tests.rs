//! Every documented reply, and those that must be expected, against what they have to mean.

use std::time::UNIX_EPOCH;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::*;
use crate::{
    secret::Secret,
    vault::{Refusal, Scope},
};

mod day;
mod partial;
mod properties;
mod tokens;

const NUMBER: &str = "+447871239999";
const PASSWORD: &str = " 1234 Qwerty&ä ";
/// 2026-11-22T12:00:00Z.
const NOW: Duration = Duration::from_secs(1_795_348_800);

fn asked() -> Asked<'static> {
    Asked { number: NUMBER, password: PASSWORD, assumed_lifetime: Duration::from_secs(300), at: UNIX_EPOCH + NOW }
}

fn reply<'a>(status: u16, retry_after: &'a [&'a str], body: &'a [u8]) -> Reply<'a> {
    Reply { status, retry_after, date: None, body, unreadable: None, now: UNIX_EPOCH + NOW }
}

fn read(status: u16, body: &(impl AsRef<[u8]> + ?Sized)) -> Result<Grant, Failure> {
    classify(&reply(status, &[], body.as_ref()), &asked()).map(|granted| granted.grant)
}

fn read_with(status: u16, retry_after: &str, body: &str) -> Result<Grant, Failure> {
    classify(&reply(status, &[retry_after], body.as_bytes()), &asked()).map(|granted| granted.grant)
}

/// The row of the error table, in short.
fn kind(result: &Result<Grant, Failure>) -> String {
    match result {
        Ok(grant) => format!("token {}", grant.lifetime.as_secs()),
        Err(Failure::Refused { why, vault_error }) => format!("{why:?} {vault_error}"),
        Err(Failure::Throttled { scope, wait, vault_error }) => format!("{scope:?} {} {vault_error}", wait.as_secs()),
        Err(Failure::Undocumented { wait: None, vault_error, .. }) => format!("undocumented {vault_error}"),
        Err(Failure::Undocumented { wait: Some(wait), vault_error, .. }) => {
            format!("undocumented {} {vault_error}", wait.as_secs())
        }
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
            // What stands for anything doesn't undo that the vault lets nobody in.
            let expected = if (status, expected) == (401, "unavailable COMMON") { "Credentials COMMON" } else { expected };
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
        // HTTP's words for a status name nothing: this is Spring Boot's own page.
        (401, r#"{"status":401,"error":"Unauthorized"}"#.to_owned(), "Credentials Unauthorized"),
        (403, r#"{"status":403,"error":"Forbidden"}"#.to_owned(), "undocumented Forbidden"),
        (401, r#"{"error":"invalid_token","systemId":"core","errorId":0}"#.to_owned(), "Credentials invalid_token"),
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
        (400, v1(0, "SOMETHING_NEW", ""), "undocumented SOMETHING_NEW"),
        (422, v1(0, "COMMON", ""), "unavailable COMMON"),
        (422, r#"{"errorId":0}"#.to_owned(), "unavailable 0"),
        (200, v1(0, "SOMETHING_NEW", ""), "invalid"),
        (400, v1(999, "CUSTOMER_NOT_FOUND_EXCEPTION", ""), "Credentials CUSTOMER_NOT_FOUND_EXCEPTION"),
        (422, v1(999, "SOMETHING_NEW", ""), "Request SOMETHING_NEW"),
        // One bad field doesn't spoil the others; of a name that stands twice the graver counts.
        (400, r#"{"message":[],"error":{"a":1},"errorId":11}"#.to_owned(), "Credentials 11"),
        (400, r#"{"errorId":[11],"error":"invalid_grant"}"#.to_owned(), "Credentials invalid_grant"),
        (400, r#"{"errorId":0,"errorId":11}"#.to_owned(), "Credentials 11"),
        (400, r#"{"errorId":11,"errorId":0}"#.to_owned(), "Credentials 0"),
        (400, r#"{"error":"invalid_grant","error":"COMMON"}"#.to_owned(), "Credentials COMMON"),
        (400, format!(r#"{{"x":{deep}{},"errorId":11}}"#, "]".repeat(60_000)), "Credentials 11"),
        (400, r#"{"errorId":1e400}"#.to_owned(), "undocumented 1e400"),
        (400, r#"{"errorId":11.5}"#.to_owned(), "undocumented 11.5"),
    ] {
        assert_eq!(kind(&read(status, &body)), expected, "{status} {:.200}", body);
    }
}

#[test]
fn without_a_body_that_says_something_the_status_counts() {
    let deep = "[".repeat(65_536);
    for body in
        [&b""[..], b"<html>no</html>", deep.as_bytes(), b"null", b"{}", b"{\"errorId\":11", b"[{}]", b"{\"errorId\":7}", b"\xff"]
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
            (400, "undocumented "),
            (401, "Credentials "),
            (402, "undocumented "),
            (403, "undocumented "),
            (404, "unavailable "),
            (405, "unavailable "),
            (408, "unavailable "),
            (409, "undocumented "),
            (410, "unavailable "),
            (413, "unavailable "),
            (421, "unavailable "),
            (425, "unavailable "),
            (431, "unavailable "),
            (451, "undocumented "),
            (499, "undocumented "),
            (422, "Request "),
            (424, "SecondFactor "),
            (429, "User 60 "),
            (500, "unavailable "),
            (503, "unavailable "),
        ] {
            let said = kind(&read(status, body));
            assert_eq!(said.trim_end_matches('7'), expected, "{status} {:.40}", body.escape_ascii());
        }
    }
}

/// Refusals as they come from the field: in a wrapping, in another charset, cut off, in another case, inside something else.
#[test]
fn a_refusal_is_read_however_it_is_wrapped() {
    let refusal = v1(11, "WRONG_LOGIN_OR_PASSWORD_EXCEPTION", "no");
    let utf16 = |order: fn(u16) -> [u8; 2], mark: bool| -> Vec<u8> {
        let mark = if mark { Some(0xfeff) } else { None };
        mark.into_iter().chain(refusal.encode_utf16()).flat_map(order).collect()
    };
    let in_between = |stray: &[u8]| [&b"{\"x\":\""[..], stray, b"\",", refusal.as_bytes().get(1..).expect("is long")].concat();
    for body in [
        [b"\xef\xbb\xbf", refusal.as_bytes()].concat(),
        utf16(u16::to_le_bytes, true),
        utf16(u16::to_be_bytes, true),
        utf16(u16::to_le_bytes, false),
        in_between(b"\xff"),
        in_between(b"\xe4\xf6"),
        in_between(b"\n\t\x01"),
        in_between(br"\ud800"),
        [refusal.as_bytes(), b"\0\r\n<!-- served by a3 -->{}"].concat(),
        [b")]}',\n", refusal.as_bytes()].concat(),
        [b"callback(", refusal.as_bytes(), b");"].concat(),
        [b"[", refusal.as_bytes(), b"]"].concat(),
        [b"\xff", refusal.as_bytes()].concat(),
        refusal.as_bytes().get(..refusal.len() - 1).expect("is long").to_vec(),
        refusal.replace(',', ",\u{a0},").into_bytes(),
        format!(r#"{{"data":{{"inner":[{refusal}]}}}}"#).into_bytes(),
        format!(r#"{{"errorId":11,"message":"{}"#, "x".repeat(1_000)).into_bytes(),
        br#"{"error":{"code":"invalid_grant"}}"#.to_vec(),
        br#"{"errors":[{"code":"INVALID_GRANT"}]}"#.to_vec(),
        br#"{"error":"INVALID_GRANT"}"#.to_vec(),
        br#"{"error":" Invalid_Grant"}"#.to_vec(),
        br#"{"error":"wrong_login_or_password_exception"}"#.to_vec(),
        b"error=invalid_grant&error_description=Bad+credentials".to_vec(),
        b"<oauth><error_description>Bad credentials</error_description><error>invalid_grant</error></oauth>".to_vec(),
        b"<error><errorId>11</errorId></error>".to_vec(),
        b"{'errorId': 11, 'error': 'x'}".to_vec(),
        br#"{"errorId":011}"#.to_vec(),
    ] {
        for status in [400, 403, 422, 500] {
            assert!(kind(&read(status, &body)).starts_with("Credentials"), "{status} {}", body.escape_ascii());
        }
        // A wait in the same wrapping is a wait, and not a no.
        let text = String::from_utf8_lossy(&body);
        let wait = text.replace("WRONG_LOGIN_OR_PASSWORD_EXCEPTION", "LOGIN_ATTEMPTS_EXCEEDED").replace("11", "273");
        if wait != text && wait.contains("LOGIN_ATTEMPTS") {
            assert!(kind(&read(400, &wait)).starts_with("User 60"), "{}", wait.escape_debug());
        }
    }
    // Half a number is another one.
    assert_eq!(kind(&read(400, br#"{"errorId":1"#)), "undocumented ");
}

#[test]
fn a_grant_is_a_grant_however_it_is_wrapped() {
    let grant = token_with(r#","expires_in":77"#);
    let utf16 = || grant.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    for body in [
        [b"\xef\xbb\xbf", grant.as_bytes()].concat(),
        [b"\xff\xfe".to_vec(), utf16()].concat(),
        [b"\r\n", grant.as_bytes(), b"\0\0garbage}"].concat(),
        [b"{\"name\":\"J\xf6rg\",", grant.as_bytes().get(1..).expect("is long")].concat(),
        [b"{\"x\":\"\x01\",", grant.as_bytes().get(1..).expect("is long")].concat(),
        grant.replace("bearer", "BEARER").into_bytes(),
        grant.replace(r#","token_type":"bearer""#, "").into_bytes(),
        grant.replace(r#""token_type":"bearer""#, r#""token_type":null"#).into_bytes(),
        grant.replace(r#""expires_in":77"#, r#""expires_in":3600,"expires_in":77"#).into_bytes(),
        grant.replace(r#""expires_in":77"#, r#""expires_in":77,"expires_in":3600"#).into_bytes(),
    ] {
        assert_eq!(kind(&read(200, &body)), "token 77", "{}", body.escape_ascii());
    }
}

#[test]
fn waits() {
    for (header, seconds) in [
        ("120", Some(120)),
        (" 120 ", Some(120)),
        ("0", None),
        ("-5", None),
        ("1.5", Some(2)),
        ("299.997", Some(300)),
        ("120, 300", Some(300)),
        ("1.2.3", None),
        ("1e3", None),
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
    let several = Reply { retry_after: &["3", "soon", "7", "5"], ..reply(429, &[], b"") };
    assert_eq!(kind(&classify(&several, &asked()).map(|granted| granted.grant)), "User 7 ", "the longest counts");
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
        (429, "soon", "<p>Please try again in 2 minutes</p>", "User 120 "),
        (403, "40", "", "undocumented 40 "),
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
        assert!(
            matches!(&result, Err(Failure::Undocumented { vault_error, .. }) if vault_error == expected),
            "{body} {result:?}"
        );
    }
}
