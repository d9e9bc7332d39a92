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
        .some("count", Some(act.count).filter(|count| *count > 1))
        .end();
}

fn in_force(at: SystemTime, configured: &Reconfigured, to: &mut Text) {
    let Reconfigured { users, added, changed, removed, callers, on_trial, callers_on_trial } = configured;
    let mut line = Line::begin(to, at, "configuration");
    line.put("verdict", "in_force").put("users", users).put("added", added);
    line.put("changed", changed).put("removed", removed).put("callers", callers);
    line.some("on_trial", on_trial.then_some(true));
    line.some("callers_on_trial", Some(callers_on_trial).filter(|entries| **entries > 0)).end();
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
mod tests;
