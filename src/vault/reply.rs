//! Pure: what does an answer of the vault mean?
//!
//! The body decides before the status, since the vault's statuses are not reliable: 400 and 422 were seen for the same thing. As
//! much of it is read as can be, and in doubt safety decides: what may be a no is none that is repeated at once. Must never put text of the vault's into a result beyond the few characters of `vault_error`, nor anything that was sent.

mod documented;
mod error_name;
mod fields;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod granted;
#[cfg(test)]
mod tests;
mod wait;

use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use self::{
    documented::{Class, by_status},
    fields::Fields,
};
use super::{Failure, Grant};

/// Longest `vault_error` and `x-request-id`, in characters: the contract's limit, and enough for every documented name.
const WORD_MAX: usize = 64;

/// HTTP's "too many requests", which is believed against vaguer words of the body …
const TOO_MANY_REQUESTS: u16 = 429;
/// … and its "unauthorized": what is not let in was judged.
pub(super) const UNAUTHORIZED: u16 = 401;
/// What is told of an answer that ends too soon and says nothing until there.
const CUT_OFF: &str = "its answer broke off, or took too long, before it was complete";

/// What came back. It can't be printed: the body may hold a token.
#[derive(Clone, Copy)]
pub(super) struct Reply<'a> {
    /// The HTTP status.
    pub(super) status: u16,
    /// The headers of this name, as far as they are text.
    pub(super) retry_after: &'a [&'a str],
    /// The vault's clock, where it says so: the header `Date`, if no `Age` says that it is an old one.
    pub(super) date: Option<SystemTime>,
    /// The body, as far as it was read.
    pub(super) body: &'a [u8],
    /// Why the body is not the whole answer, if so.
    pub(super) unreadable: Option<Unreadable>,
    /// When it came, for `Retry-After` as a date.
    pub(super) now: SystemTime,
}

/// Why a body is not the whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is longer than the limit.
    TooLong,
    /// It has a content encoding, and none was asked for.
    Encoded,
    /// It broke off: the connection did, or what it was written in.
    CutOff,
}

/// What was sent, and what to assume. No part of it may come out again.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// In E.164.
    pub(super) number: &'a str,
    /// As it was sent.
    pub(super) password: &'a str,
    /// A token's lifetime where nothing is said about it.
    pub(super) assumed_lifetime: Duration,
    /// When it was sent, from which lifetimes are counted.
    pub(super) at: SystemTime,
}

/// A token, and what was noticed about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) grant: Grant,
    /// By how many seconds the vault's clock is plainly ahead of ours (or behind, below zero), so that it can't be compared.
    pub(super) clock_ahead_s: Option<i64>,
}

/// Classifies one answer.
pub(super) fn classify(reply: &Reply<'_>, asked: &Asked<'_>) -> Result<Granted, Failure> {
    let text = fields::readable(reply.body);
    let fields = Fields::parse(&text);
    // What stands for anything hides no refusal that is named further in.
    let named = match error_name::in_fields(&fields) {
        vague @ (None | Some(Class::Transient(_))) => error_name::in_text(&text).or(vague),
        named => named,
    };
    if (200..300).contains(&reply.status) {
        let granted = fields.has("access_token");
        match reply.unreadable {
            // All of the object is here: what is missing is the end of what carried it.
            Some(Unreadable::CutOff) if granted && fields.are_whole() => return granted::grant(&fields, reply, asked),
            None if granted => return granted::grant(&fields, reply, asked),
            Some(Unreadable::TooLong) if granted || !is_no(named) => return invalid("its answer is longer than 64 KiB"),
            Some(Unreadable::Encoded) if granted || !is_no(named) => {
                return invalid("its answer has a content encoding nobody asked for");
            }
            Some(_) | None => {}
        }
    }
    let class = match named {
        // Said so, a status counts more than a word that stands for anything.
        Some(Class::Transient(_)) if matches!(reply.status, UNAUTHORIZED | TOO_MANY_REQUESTS) => by_status(reply.status),
        Some(Class::Transient(documented::BUSY)) if (400..500).contains(&reply.status) => by_status(reply.status),
        Some(class) => class,
        None => by_status(reply.status),
    };
    // What broke off before it said anything says little by its status, unless that is a no.
    let says_nothing = named.is_none() && matches!(class, Class::Senseless(_) | Class::Transient(_));
    let class = if says_nothing && reply.unreadable == Some(Unreadable::CutOff) { Class::Transient(CUT_OFF) } else { class };
    Err(failure(class, &fields, &text, reply, asked))
}

/// Whether what is named is a refusal or a wait.
fn is_no(named: Option<Class>) -> bool {
    matches!(named, Some(Class::Refused(_) | Class::Throttled(_)))
}

fn invalid<T>(cause: &'static str) -> Result<T, Failure> {
    Err(Failure::Invalid { cause, issued: false })
}

/// The failure of a class, with the wait and the name that the answer gives.
fn failure(class: Class, fields: &Fields<'_>, text: &str, reply: &Reply<'_>, asked: &Asked<'_>) -> Failure {
    let vault_error = vault_error(fields, asked);
    match class {
        Class::Refused(why) => Failure::Refused { why, vault_error },
        Class::Throttled(throttle) => {
            // Which words are about the wait is not known where the answer has a form of its own: any may be.
            let wait = stated_wait(fields, reply).or_else(|| wait::worded(text));
            let wait = wait.map_or(throttle.unsaid, |stated| stated.max(throttle.least));
            Failure::Throttled { scope: throttle.scope, wait, vault_error }
        }
        Class::Undocumented => Failure::Undocumented { status: reply.status, wait: stated_wait(fields, reply), vault_error },
        Class::Transient(cause) => Failure::Unavailable { cause, wait: stated_wait(fields, reply), vault_error },
        Class::Senseless(cause) => Failure::Invalid { cause, issued: false },
    }
}

/// The longest wait that the answer states, in its headers or in words.
fn stated_wait(fields: &Fields<'_>, reply: &Reply<'_>) -> Option<Duration> {
    let mut texts: Vec<String> = ["message", "error_description"].iter().filter_map(|name| fields.string(name)).collect();
    texts.extend(fields.list("errors").iter().filter_map(|error| error.string("description")));
    let worded = texts.iter().filter_map(|text| wait::worded(text)).max();
    worded.max(reply.retry_after.iter().filter_map(|header| wait::retry_after(header, reply.now)).max())
}

/// The vault's own name for what went wrong, for people: `error`, else `errorId`, else v2's key or status; the first of them
/// that says something and echoes nothing secret.
fn vault_error(fields: &Fields<'_>, asked: &Asked<'_>) -> String {
    let issued = ["access_token", "refresh_token"].map(|name| Zeroizing::new(fields.string(name).unwrap_or_default()));
    let error = fields.string("error").into_iter();
    let id = fields.string("errorId").or_else(|| fields.raw("errorId").map(str::to_owned));
    let keys = fields.list("errors");
    let keys = keys.iter().filter_map(|error| error.string("key"));
    error
        .chain(id)
        .chain(keys)
        .chain(fields.string("status"))
        .find_map(|name| {
            let leaks = issued.iter().any(|token| echoes(&name, token));
            if leaks { None } else { harmless(&name, asked) }
        })
        .unwrap_or_default()
}

/// The part of a text of the vault's that may be shown: at most 64 characters of `[A-Za-z0-9_.-]`, the others left out.
/// `None` where nothing is left or where it echoes what was sent.
pub(super) fn harmless(text: &str, asked: &Asked<'_>) -> Option<String> {
    let digits = asked.number.trim_start_matches('+');
    if echoes(text, asked.password) || echoes(text, digits) {
        return None;
    }
    let word: String = plain(text).take(WORD_MAX).collect();
    (!word.is_empty()).then_some(word)
}

/// Whether the text holds the secret, as it is or in what is left of both once they are cut down to plain characters; in any
/// case, since some vaults change it.
fn echoes(text: &str, secret: &str) -> bool {
    let holds = |text: &str, secret: &str| !secret.is_empty() && text.contains(secret);
    // With room for all of it, so that it never moves and leaves a copy behind.
    let cut_down = |text: &str| {
        let mut kept = Zeroizing::new(String::with_capacity(text.len()));
        kept.extend(plain(text).map(|char| char.to_ascii_lowercase()));
        kept
    };
    holds(text, secret) || holds(&cut_down(text), &cut_down(secret))
}

/// The characters that may be shown.
fn plain(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '-'))
}
