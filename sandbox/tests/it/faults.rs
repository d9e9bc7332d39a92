//! Every kind of fault, as the caller meets it.

use std::time::{Duration, Instant};

use serde_json::json;
use token_broker_sandbox::{DOCUMENTED, Fault, User};
use tokio::io::AsyncReadExt;

use crate::raw::{End, FORM, MERCHANT, NUMBER, PATIENCE, Request, sandbox, sign_in};

#[tokio::test]
async fn a_reply_is_sent_as_scripted_and_only_once() {
    let sandbox = sandbox().await;
    sandbox.script(Fault::reply(503, "busy").header("Retry-After", "3").header("content-type", "text/plain"));
    let reply = sign_in(&sandbox).await;
    assert_eq!((reply.status(), reply.body(), reply.end), (503, &b"busy"[..], End::Closed));
    assert_eq!((reply.header("retry-after"), reply.header("content-type")), (Some("3"), Some("text/plain")));
    assert!(reply.header("x-request-id").is_some());
    assert_eq!(sandbox.stats().granted, 0, "not judged");
    assert_eq!(sign_in(&sandbox).await.status(), 200);
    sandbox.assert_script_used_up();
    assert_eq!((sandbox.stats().faults, sandbox.answered()), (1, 2));
}

#[tokio::test]
async fn the_shapes_are_the_documented_ones() {
    let token = json!({ "access_token": "x", "expires_in": "soon" });
    let table = [
        (
            Fault::refusal(273, "LOGIN_ATTEMPTS_EXCEEDED", "wait"),
            400,
            json!({ "errorId": 273, "error": "LOGIN_ATTEMPTS_EXCEEDED", "message": "wait", "systemId": "core" }),
        ),
        (
            Fault::second_factor(),
            400,
            json!({ "errorId": 424, "message": "Second factor is required", "systemId": "core",
                    "sessionId": "8f0c6a2e-7d0b-4b9e-9a53-1f4f3f8b2c11", "factors": ["SMS"] }),
        ),
        (
            Fault::spring(401, "invalid_client", "Bad client"),
            401,
            json!({ "error": "invalid_client", "error_description": "Bad client" }),
        ),
        (
            Fault::v2(401, "UNAUTHORIZED", "No"),
            401,
            json!({ "status": "UNAUTHORIZED", "message": "No", "traceId": "65f0a1b2c3d4e5f60718293a4b5c6d7e",
                    "errors": [{ "key": "UNAUTHORIZED", "description": "No" }] }),
        ),
        (Fault::token_json(&token), 200, token.clone()),
    ];
    let sandbox = sandbox().await;
    for (fault, status, body) in table {
        sandbox.script(fault.clone());
        let reply = sign_in(&sandbox).await;
        assert_eq!((reply.status(), reply.json()), (status, body), "{fault:?}");
        assert_eq!(reply.header("www-authenticate").is_some(), fault_is_springs_401(&fault), "{fault:?}");
    }
}

fn fault_is_springs_401(fault: &Fault) -> bool {
    format!("{fault:?}").contains("invalid_client")
}

#[tokio::test]
async fn every_documented_refusal_has_its_own_words() {
    let sandbox = sandbox().await;
    for refusal in &DOCUMENTED {
        sandbox.script(Fault::documented(refusal));
        let reply = sign_in(&sandbox).await;
        let body = reply.json();
        assert_eq!(reply.status(), 400, "{refusal:?}");
        assert_eq!(body.get("errorId").and_then(serde_json::Value::as_i64), refusal.error_id);
        assert_eq!(body.get("error").and_then(serde_json::Value::as_str), refusal.error);
        assert_eq!((body["message"].as_str(), body["systemId"].as_str()), (Some(refusal.message), Some("core")));
        assert_eq!(body.get("field").is_some(), refusal.error_id == Some(422));
        assert_eq!(body.get("factors").is_some(), refusal.error_id == Some(424));
    }
}

#[tokio::test]
async fn pages_redirects_codings_and_silence_come_as_asked() {
    let sandbox = sandbox().await;
    sandbox.script(Fault::html(502));
    let html = sign_in(&sandbox).await;
    assert_eq!((html.status(), html.header("content-type")), (502, Some("text/html")));
    assert!(html.body().starts_with(b"<html>"));

    sandbox.script(Fault::html(503).header("Content-Type", "text/plain"));
    let plain = sign_in(&sandbox).await;
    assert_eq!(plain.head().matches("content-type: ").count(), 1, "the later one takes the place of the former");
    assert_eq!(plain.header("content-type"), Some("text/plain"));

    sandbox.script(Fault::redirect(307, "https://elsewhere.example/oauth/token"));
    let redirect = sign_in(&sandbox).await;
    assert_eq!((redirect.status(), redirect.header("location")), (307, Some("https://elsewhere.example/oauth/token")));
    assert!(redirect.body().is_empty());

    sandbox.script(Fault::content_encoding("gzip"));
    let coded = sign_in(&sandbox).await;
    assert_eq!((coded.status(), coded.header("content-encoding")), (200, Some("gzip")));
    assert!(sandbox.is_live(&coded.token()));

    sandbox.script(Fault::reply(200, ""));
    let empty = sign_in(&sandbox).await;
    assert_eq!((empty.status(), empty.header("content-length"), empty.body()), (200, Some("0"), &b""[..]));
    sandbox.script(Fault::reply(204, "not sent"));
    assert_eq!(sign_in(&sandbox).await.body(), b"");
    sandbox.script(Fault::reply(200, vec![0xFF, 0xFE, 0x00]));
    assert_eq!(sign_in(&sandbox).await.body(), [0xFF, 0xFE, 0x00]);
    assert_eq!((sandbox.answered(), sandbox.stats().abandoned), (7, 0));
}

#[tokio::test]
async fn a_reset_is_a_reset_and_a_close_a_close() {
    let sandbox = sandbox().await;
    for (fault, end) in [(Fault::Reset, End::Reset), (Fault::Close, End::Closed)] {
        sandbox.script(fault);
        let reply = sign_in(&sandbox).await;
        assert_eq!((reply.bytes.len(), reply.end), (0, end));
    }
    assert_eq!((sandbox.answered(), sandbox.stats().granted), (2, 0));
    for (granted, (fault, end)) in [(Fault::ResetMidBody, End::Reset), (Fault::CloseMidBody, End::Closed)].into_iter().enumerate()
    {
        sandbox.script(fault);
        let reply = sign_in(&sandbox).await;
        assert_eq!((reply.status(), reply.end), (200, end));
        let promised: usize = reply.header("content-length").unwrap().parse().unwrap();
        assert_eq!(reply.body().len(), promised / 2);
        assert_eq!(sandbox.stats().granted, granted as u64 + 1, "the sign-in took place");
    }
    assert_eq!(sandbox.answered(), 4);
}

#[tokio::test]
async fn a_drip_takes_its_time_and_is_whole() {
    let sandbox = sandbox().await;
    sandbox.script(Fault::Drip { bytes: 100, every: Duration::from_millis(20) });
    let start = Instant::now();
    let reply = sign_in(&sandbox).await;
    assert!(sandbox.is_live(&reply.token()));
    let pauses = (reply.body().len() as u32 - 1) / 100;
    assert!(pauses >= 3 && start.elapsed() >= Duration::from_millis(20) * pauses, "{pauses} in {:?}", start.elapsed());
    assert_eq!(sandbox.answered(), 1);
}

#[tokio::test]
async fn an_endless_body_has_no_end() {
    let sandbox = sandbox().await;
    sandbox.script(Fault::Endless);
    let mut stream = Request::sign_in(FORM).open(&sandbox).await;
    let mut much = vec![0; 3_000_000];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut much)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&much[..1_000]).contains("\r\ntransfer-encoding: chunked\r\n"));
    assert_eq!(sandbox.answered(), 0);
    drop(stream);
    sandbox.wait_for("the caller's leaving to be noticed", PATIENCE, |stats| stats.abandoned == 1).await;
    assert_eq!(sandbox.stats().at_once, 0);
}

#[tokio::test]
async fn a_hang_lasts_until_the_caller_leaves() {
    let sandbox = sandbox().await;
    sandbox.script(Fault::Hang);
    let mut stream = Request::sign_in(FORM).open(&sandbox).await;
    sandbox.wait_for_sign_ins(1, PATIENCE).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await.is_err(), "not a byte");
    assert_eq!(sandbox.stats().at_once, 1);
    drop(stream);
    sandbox.wait_for("the caller's leaving to be noticed", PATIENCE, |stats| stats.abandoned == 1).await;
    assert_eq!((sandbox.answered(), sandbox.stats().granted), (0, 0));
}

#[tokio::test]
async fn delays_add_up_before_whatever_comes() {
    let sandbox = sandbox().await;
    sandbox.set_delay(Duration::from_millis(20));
    for (fault, end) in [(Fault::truth(), End::Closed), (Fault::Reset, End::Reset)] {
        sandbox.script(fault.after(Duration::from_millis(20)).after(Duration::from_millis(20)));
        let start = Instant::now();
        assert_eq!(sign_in(&sandbox).await.end, end);
        assert!(start.elapsed() >= Duration::from_millis(60), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_caller_who_leaves_does_not_undo_the_sign_in() {
    let sandbox = sandbox().await;
    sandbox.set_delay(PATIENCE * 10);
    let stream = Request::sign_in(FORM).open(&sandbox).await;
    sandbox.wait_for_sign_ins(1, PATIENCE).await;
    assert_eq!(sandbox.stats().granted, 0);
    drop(stream);
    sandbox.wait_for("the sign-in to be judged", PATIENCE, |stats| stats.abandoned == 1 && stats.granted == 1).await;
    assert_eq!(sandbox.answered(), 0);
}

#[tokio::test]
async fn a_users_own_script_goes_first_then_everybodys_then_the_outage() {
    let sandbox = sandbox().await;
    sandbox.add_user(User::new(MERCHANT, "+15551234567", "p"));
    sandbox.set_always(Some(Fault::reply(500, "outage")));
    sandbox.script(Fault::reply(501, "anybody"));
    sandbox.script_for(NUMBER, Fault::reply(502, "own, first"));
    sandbox.script_for(NUMBER, Fault::reply(503, "own, second"));
    sandbox.script_for("+15551234567", Fault::reply(504, "another's"));
    assert_eq!(sandbox.unused_faults(), 4);
    let mut met = Vec::new();
    for _ in 0..5 {
        met.push(sign_in(&sandbox).await.status());
    }
    assert_eq!(met, [502, 503, 501, 500, 500]);
    assert_eq!(sandbox.unused_faults(), 1);
    sandbox.set_always(None);
    assert_eq!(sign_in(&sandbox).await.status(), 200);
    assert_eq!(sandbox.clear_script(), 1);
    sandbox.assert_script_used_up();
}

#[tokio::test]
#[should_panic(expected = "2 scripted fault(s) never happened:\nfor anybody: Hang\nfor +1: Reset")]
async fn what_never_happened_is_listed() {
    let sandbox = sandbox().await;
    sandbox.script(Fault::Hang);
    sandbox.script_for("+1", Fault::Reset);
    sandbox.assert_script_used_up();
}

#[test]
fn nonsense_is_refused_where_it_is_written() {
    for nonsense in [
        || Fault::reply(99, ""),
        || Fault::reply(101, ""),
        || Fault::reply(1_000, ""),
        || Fault::truth().header("a b", "c"),
        || Fault::truth().header("a", "b\nc"),
        || Fault::Reset.header("a", "b"),
    ] {
        assert!(std::panic::catch_unwind(nonsense).is_err());
    }
}
