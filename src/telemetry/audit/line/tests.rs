//! Every record's line, field by field.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    caller::{CallerId, CallerName},
    request_id::RequestId,
    telemetry::{audit::Verdict, traces::TraceId},
    tokens::token::TokenId,
    user::{MerchantId, Number, UserKey},
};

/// 2024-03-07T09:39:29.000123Z
fn at() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::new(1_709_804_369, 123_999)
}

fn user() -> Arc<UserKey> {
    let (merchant, number) = (MerchantId::parse("m\"1\\x".to_owned()), Number::parse("+447871239999".to_owned()));
    Arc::new(UserKey { merchant: merchant.expect("is valid"), number: number.expect("is valid") })
}

fn id(text: &'static str) -> RequestId {
    RequestId::given(Some(&http::HeaderValue::from_static(text)))
}

fn hit() -> Decision {
    Decision {
        at: at(),
        caller: Some(CallerId::Named(CallerName::parse("spiffe://example.org/ns/cards/sa/cards").expect("is one"))),
        user: Some(user()),
        verdict: Verdict::Allowed,
        reason: "",
        outcome: "hit",
        would_deny: None,
        token_id: Some(TokenId::of("abc")),
        request_id: id("r-1"),
        trace_id: Some(TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736)),
    }
}

fn turned_away(caller: Option<CallerId>, verdict: Verdict, reason: &'static str, request_id: &'static str) -> Decision {
    let (outcome, request_id, would_deny) = ("turned_away", id(request_id), None);
    Decision { at: at(), caller, user: None, verdict, reason, outcome, would_deny, token_id: None, request_id, trace_id: None }
}

fn rare(rare: Rare) -> Record {
    Record::Rare(Box::new(rare))
}

fn signed_in(result: Result<TokenId, String>, took: Duration, trace_id: Option<TraceId>) -> Record {
    rare(Rare::SignIn(SignInResult { at: at(), user: user(), result, took, trace_id }))
}

/// As `tracing-subscriber` wrote them, when the trail's lines went through it.
#[test]
fn every_record_has_its_fields_in_their_order() {
    let configured =
        Reconfigured { users: 5, added: 1, changed: 2, removed: 3, callers: 4, on_trial: false, callers_on_trial: 0 };
    let tried = Reconfigured { on_trial: true, callers_on_trial: 2, ..configured };
    let (anonymous, unknown) = (Some(CallerId::Anonymous), "CALLER_UNAUTHENTICATED");
    let broken = "it \"broke\" off\n\u{1b}\u{202e}\u{7f}".to_owned();
    for (record, expected) in [
        (
            Record::Decision(hit()),
            r#""event":"decision","caller":"spiffe://example.org/ns/cards/sa/cards","merchant_id":"m\"1\\x","number":"+44…9999","verdict":"allowed","reason":"","outcome":"hit","token_id":"ba7816bf8f01cfea414140de5dae2223","request_id":"r-1","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736""#,
        ),
        (
            Record::Decision(Decision { would_deny: Some(Reason::CallerNotAllowed), trace_id: None, ..hit() }),
            r#""event":"decision","caller":"spiffe://example.org/ns/cards/sa/cards","merchant_id":"m\"1\\x","number":"+44…9999","verdict":"allowed","reason":"","outcome":"hit","would_deny":"CALLER_NOT_ALLOWED","token_id":"ba7816bf8f01cfea414140de5dae2223","request_id":"r-1""#,
        ),
        (
            Record::Decision(turned_away(anonymous, Verdict::Failed, "INVALID_REQUEST", "r-2")),
            r#""event":"decision","caller":"anonymous","verdict":"failed","reason":"INVALID_REQUEST","outcome":"turned_away","request_id":"r-2""#,
        ),
        (
            Record::Decision(turned_away(None, Verdict::Unauthenticated, unknown, "r-3")),
            r#""event":"decision","verdict":"unauthenticated","reason":"CALLER_UNAUTHENTICATED","outcome":"turned_away","request_id":"r-3""#,
        ),
        (
            signed_in(Ok(TokenId::of("abc")), Duration::from_millis(1_234), Some(TraceId(1))),
            r#""event":"sign_in","merchant_id":"m\"1\\x","number":"+44…9999","verdict":"granted","token_id":"ba7816bf8f01cfea414140de5dae2223","took_ms":1234,"trace_id":"00000000000000000000000000000001""#,
        ),
        (
            signed_in(Err(broken), Duration::ZERO, None),
            r#""event":"sign_in","merchant_id":"m\"1\\x","number":"+44…9999","verdict":"failed","reason":"it \"broke\" off\n\u001b\u202e\u007f","took_ms":0"#,
        ),
        (
            rare(Rare::InForce { at: at(), configured }),
            r#""event":"configuration","verdict":"in_force","users":5,"added":1,"changed":2,"removed":3,"callers":4"#,
        ),
        (rare(Rare::Refused { at: at(), faults: 7 }), r#""event":"configuration","verdict":"refused","faults":7"#),
        (
            rare(Rare::Certificate { at: at(), not_after: Some("2024-03-07T09:39:29Z".to_owned()) }),
            r#""event":"certificate","verdict":"in_force","not_after":"2024-03-07T09:39:29Z""#,
        ),
        (rare(Rare::Certificate { at: at(), not_after: None }), r#""event":"certificate","verdict":"in_force""#),
        (
            rare(Rare::Operator(OperatorAct {
                at: at(),
                uid: 0,
                pid: 7,
                act: "lift_hold",
                merchant: None,
                user: Some(UserKey::clone(&user())),
                revealed: true,
                verdict: Verdict::Allowed,
                reason: "",
                token_id: Some(TokenId::of("abc")),
                count: 3,
            })),
            r#""event":"operator","uid":0,"pid":7,"act":"lift_hold","merchant_id":"m\"1\\x","number":"+44…9999","revealed":true,"verdict":"allowed","reason":"","token_id":"ba7816bf8f01cfea414140de5dae2223","count":3"#,
        ),
        (
            rare(Rare::InForce { at: at(), configured: tried }),
            r#""event":"configuration","verdict":"in_force","users":5,"added":1,"changed":2,"removed":3,"callers":4,"on_trial":true,"callers_on_trial":2"#,
        ),
        (
            rare(Rare::SignOut(SignOutResult { at: at(), user: user(), token_id: TokenId::of("abc"), result: Err("late") })),
            r#""event":"sign_out","merchant_id":"m\"1\\x","number":"+44…9999","verdict":"failed","reason":"late","token_id":"ba7816bf8f01cfea414140de5dae2223""#,
        ),
    ] {
        let mut line = Text::default();
        write(&record, &mut line);
        let expected = format!("{{\"timestamp\":\"2024-03-07T09:39:29.000123Z\",{expected},\"target\":\"audit\"}}\n");
        assert_eq!(String::from_utf8(line.bytes).expect("is text"), expected);
    }
}

#[test]
fn instants_are_written_as_the_clock_has_them() {
    let (mut stamp, epoch) = (Stamp::default(), SystemTime::UNIX_EPOCH);
    let second = Duration::from_secs(1);
    let same = [at(), at() + Duration::from_micros(999_877), at() + Duration::from_micros(999_876), at() - second, at() + second];
    let absurd = [epoch, epoch - second, epoch + 300_000_000 * Duration::from_secs(1_000), at() + Duration::from_nanos(1)];
    for at in same.into_iter().chain(absurd) {
        let mut text = Vec::new();
        stamp.write(at, &mut text);
        assert_eq!(String::from_utf8(text).expect("is text"), timestamp::rfc3339_micros(at).to_string());
    }
}

#[test]
fn a_sum_of_strangers_calls_has_their_peer_and_no_names() {
    let (first, last, at) = (at(), at() + Duration::from_secs(9), at() + Duration::from_secs(60));
    let (peer, verdict, reason) = ("2001:db8::1".to_owned(), Verdict::Unauthenticated, "CALLER_UNAUTHENTICATED");
    let (outcome, would_deny, count) = ("turned_away", None, 12_345);
    let calls = SummedCalls { at, peer, verdict, reason, outcome, would_deny, count, first, last };
    let mut line = Text::default();
    write(&rare(Rare::Summed(calls)), &mut line);
    let expected = r#"{"timestamp":"2024-03-07T09:40:29.000123Z","event":"decision","peer":"2001:db8::1","verdict":"unauthenticated","reason":"CALLER_UNAUTHENTICATED","outcome":"turned_away","count":12345,"first":"2024-03-07T09:39:29.000123Z","last":"2024-03-07T09:39:38.000123Z","target":"audit"}"#;
    assert_eq!(String::from_utf8(line.bytes).expect("is text"), format!("{expected}\n"));
}

#[test]
fn a_sum_tells_why_its_calls_would_have_been_refused() {
    let (peer, reason, would_deny) = ("others".to_owned(), "USER_NOT_CONFIGURED", Some(Reason::CallerUnauthenticated));
    let (verdict, outcome, count) = (Verdict::Failed, "turned_away", 3);
    let calls = SummedCalls { at: at(), peer, verdict, reason, outcome, would_deny, count, first: at(), last: at() };
    let mut line = Text::default();
    write(&rare(Rare::Summed(calls)), &mut line);
    let text = String::from_utf8(line.bytes).expect("is text");
    let expected = r#""outcome":"turned_away","would_deny":"CALLER_UNAUTHENTICATED","count":3,"#;
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_sum_has_the_fields_of_its_calls_but_for_their_ids() {
    let last = at() + Duration::from_secs(9);
    let mut line = Text::default();
    sum(&Sum { first: hit(), last, count: 1_000 }, at() + Duration::from_secs(60), &mut line);
    let expected = r#"{"timestamp":"2024-03-07T09:40:29.000123Z","event":"decision","caller":"spiffe://example.org/ns/cards/sa/cards","merchant_id":"m\"1\\x","number":"+44…9999","verdict":"allowed","reason":"","outcome":"hit","token_id":"ba7816bf8f01cfea414140de5dae2223","count":1000,"first":"2024-03-07T09:39:29.000123Z","last":"2024-03-07T09:39:38.000123Z","target":"audit"}"#;
    assert_eq!(String::from_utf8(line.bytes).expect("is text"), format!("{expected}\n"));
}
