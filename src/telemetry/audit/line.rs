//! Records as lines of JSON.
//!
//! Must never change a field's name, order or form: programs of others read them.

use std::{fmt, io, time::SystemTime};

use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;

use super::{Decision, OperatorAct, Rare, Reconfigured, Record, SignInResult, SignOutResult, SummedCalls, sums::Sum};
use crate::{
    plain,
    reason::Reason,
    timestamp,
    user::{MerchantId, Number},
};

/// By which these lines are told from the log's, where both are on standard output.
const TARGET: &str = "audit";

/// Lines that have gathered.
#[derive(Debug, Default)]
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    stamp: Stamp,
}

/// The last instant that was written, up to its second: most often the next is in the same.
#[derive(Debug, Default)]
struct Stamp {
    second: Option<u64>,
    head: String,
}

/// Adds a record's line.
pub(super) fn write(record: &Record, to: &mut Text) {
    match record {
        Record::Decision(call) => decision(call, to),
        Record::Rare(rare) => match &**rare {
            Rare::SignIn(result) => sign_in(result, to),
            Rare::Summed(calls) => summed(calls, to),
            Rare::InForce { at, configured } => in_force(*at, configured, to),
            Rare::Refused { at, faults } => {
                let mut line = Line::begin(to, *at, "configuration");
                line.put("verdict", "refused").put("faults", faults).end();
            }
            Rare::Certificate { at, not_after } => {
                let mut line = Line::begin(to, *at, "certificate");
                line.put("verdict", "in_force").some("not_after", not_after.as_ref()).end();
            }
            Rare::Operator(act) => operator(act, to),
            Rare::SignOut(result) => sign_out(result, to),
        },
    }
}

fn decision(call: &Decision, to: &mut Text) {
    call_line(call, call.at, to)
        .plain("request_id", call.request_id.text().as_str())
        .some("trace_id", call.trace_id.map(Shown))
        .end();
}

/// Adds the line of hits that were summed, at the instant at which it is written.
pub(super) fn sum(sum: &Sum, at: SystemTime, to: &mut Text) {
    let Sum { first, last, count } = sum;
    call_line(first, at, to).counted(*count, first.at, *last);
}

fn summed(calls: &SummedCalls, to: &mut Text) {
    let SummedCalls { at, peer, verdict, reason, outcome, would_deny, count, first, last } = calls;
    let mut line = Line::begin(to, *at, "decision");
    line.plain("peer", peer).plain("verdict", verdict.as_str()).plain("reason", reason).plain("outcome", outcome);
    line.would_deny(*would_deny);
    line.counted(*count, *first, *last);
}

/// What the line of a call and that of a sum have in common.
fn call_line<'o>(call: &Decision, at: SystemTime, to: &'o mut Text) -> Line<'o> {
    let user = call.user.as_deref();
    let mut line = Line::begin(to, at, "decision");
    line.some("caller", call.caller.as_ref().map(Shown))
        .some("merchant_id", user.map(|user| user.merchant.as_str()))
        .number(user.map(|user| &user.number))
        .plain("verdict", call.verdict.as_str())
        .plain("reason", call.reason)
        .plain("outcome", call.outcome)
        .would_deny(call.would_deny);
    if let Some(id) = &call.token_id {
        line.plain("token_id", id.as_str());
    }
    line
}

fn sign_in(SignInResult { at, user, result, took, trace_id }: &SignInResult, to: &mut Text) {
    Line::begin(to, *at, "sign_in")
        .put("merchant_id", user.merchant.as_str())
        .number(Some(&user.number))
        .put("verdict", if result.is_ok() { "granted" } else { "failed" })
        .some("reason", result.as_ref().err())
        .some("token_id", result.as_ref().ok().map(|id| id.as_str()))
        .put("took_ms", u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
        .some("trace_id", trace_id.map(Shown))
        .end();
}

fn sign_out(SignOutResult { at, user, token_id, result }: &SignOutResult, to: &mut Text) {
    Line::begin(to, *at, "sign_out")
        .put("merchant_id", user.merchant.as_str())
        .number(Some(&user.number))
        .put("verdict", if result.is_ok() { "ended" } else { "failed" })
        .some("reason", result.err())
        .put("token_id", token_id.as_str())
        .end();
}

fn operator(act: &OperatorAct, to: &mut Text) {
    let merchant = act.user.as_ref().map(|user| &user.merchant).or(act.merchant.as_ref());
    let mut line = Line::begin(to, act.at, "operator");
    line.put("uid", act.uid)
        .put("pid", act.pid)
        .plain("act", act.act)
        .some("merchant_id", merchant.map(MerchantId::as_str))
        .number(act.user.as_ref().map(|user| &user.number))
        .some("revealed", act.revealed.then_some(true))
        .plain("verdict", act.verdict.as_str())
        .plain("reason", act.reason)
        .some("token_id", act.token_id.as_ref().map(|id| id.as_str()))
        .end();
}

fn in_force(at: SystemTime, Reconfigured { users, added, changed, removed, callers }: &Reconfigured, to: &mut Text) {
    let mut line = Line::begin(to, at, "configuration");
    line.put("verdict", "in_force").put("users", users).put("added", added);
    line.put("changed", changed).put("removed", removed).put("callers", callers).end();
}

impl Stamp {
    /// Adds an instant as [`timestamp::rfc3339_micros`] has it, which is asked once a second.
    fn write(&mut self, at: SystemTime, to: &mut Vec<u8>) {
        let at = timestamp::with_a_text(at);
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.second.replace(since.as_secs()) != Some(since.as_secs()) {
            self.head = timestamp::rfc3339_micros(at).to_string();
            self.head.truncate(self.head.find('.').unwrap_or(self.head.len()));
        }
        to.extend_from_slice(self.head.as_bytes());
        let (mut digits, mut left) = (*b".000000Z", since.subsec_micros());
        for digit in digits[1..7].iter_mut().rev() {
            *digit += u8::try_from(left % 10).unwrap_or_default();
            left /= 10;
        }
        to.extend_from_slice(&digits);
    }
}

/// What is shown as text by its `Display`.
struct Shown<T>(T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A line that is being written.
struct Line<'o> {
    to: &'o mut Vec<u8>,
}

impl<'o> Line<'o> {
    fn begin(Text { bytes, stamp }: &'o mut Text, at: SystemTime, event: &str) -> Self {
        bytes.push(b'{');
        let mut line = Self { to: bytes };
        line.name("timestamp");
        line.to.push(b'"');
        stamp.write(at, line.to);
        line.to.push(b'"');
        line.plain("event", event);
        line
    }

    /// Adds a field.
    fn put(&mut self, name: &str, value: impl Serialize) -> &mut Self {
        self.to.push(b',');
        self.value(name, value);
        self
    }

    /// Adds a field that not every line has.
    fn some(&mut self, name: &str, value: Option<impl Serialize>) -> &mut Self {
        if let Some(value) = value {
            self.put(name, value);
        }
        self
    }

    /// Ends a line that stands for so many calls.
    fn counted(&mut self, count: u64, first: SystemTime, last: SystemTime) {
        self.put("count", count);
        self.put("first", Shown(timestamp::rfc3339_micros(first))).put("last", Shown(timestamp::rfc3339_micros(last))).end();
    }

    fn end(&mut self) {
        self.plain("target", TARGET);
        self.to.extend_from_slice(b"}\n");
    }

    /// Adds a number, masked: digits, which need no escaping.
    fn number(&mut self, number: Option<&Number>) -> &mut Self {
        if let Some(number) = number {
            self.to.extend_from_slice(b",\"number\":\"");
            number.masked().into_iter().for_each(|part| self.to.extend_from_slice(part.as_bytes()));
            self.to.push(b'"');
        }
        self
    }

    /// Adds the reason for which a call was not refused, if it is one.
    fn would_deny(&mut self, reason: Option<Reason>) -> &mut Self {
        if let Some(reason) = reason {
            self.plain("would_deny", reason.as_str());
        }
        self
    }

    /// Adds a field whose text is made by us and has nothing to escape: most of a line, for each call.
    fn plain(&mut self, name: &str, text: &str) -> &mut Self {
        debug_assert!(
            text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\'),
            "{name}: {text:?}"
        );
        self.to.push(b',');
        self.name(name);
        self.to.push(b'"');
        self.to.extend_from_slice(text.as_bytes());
        self.to.push(b'"');
        self
    }

    /// The names are ours, and need no escaping.
    fn name(&mut self, name: &str) {
        self.to.push(b'"');
        self.to.extend_from_slice(name.as_bytes());
        self.to.extend_from_slice(b"\":");
    }

    fn value(&mut self, name: &str, value: impl Serialize) {
        self.name(name);
        // Memory takes everything that is written to it, and no value here fails to say what it is.
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut *self.to, Plain)).ok();
    }
}

/// JSON on one line that hides nothing: what JSON itself would leave as it is, terminals and people may read differently.
struct Plain;

impl Formatter for Plain {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        writer.write_all(plain::on_one_line(fragment).as_bytes())
    }
}

#[cfg(test)]
mod tests {
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
        Decision {
            at: at(),
            caller,
            user: None,
            verdict,
            reason,
            outcome,
            would_deny,
            token_id: None,
            request_id,
            trace_id: None,
        }
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
        let configured = Reconfigured { users: 5, added: 1, changed: 2, removed: 3, callers: 4 };
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
        let same =
            [at(), at() + Duration::from_micros(999_877), at() + Duration::from_micros(999_876), at() - second, at() + second];
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
}
