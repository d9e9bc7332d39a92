//! Pure: what does an answer of the vault mean?
//!
//! The body decides before the status, since the vault's statuses are not reliable: 400 and 422 were seen for the same thing.
//! Must never put text of the vault's into a result beyond the few characters of `vault_error`, nor anything that was sent.

mod fields;
mod known;
#[cfg(test)]
mod tests;
mod token;
mod wait;

use std::time::{Duration, SystemTime};

use self::{
    fields::Fields,
    known::{Class, by_id, by_name, by_status},
};
use super::{Failure, Grant};

/// Longest `vault_error` and `x-request-id`, in characters: the contract's limit, and enough for every documented name.
const WORD_MAX: usize = 64;

/// HTTP's "too many requests", which is believed against vaguer words of the body.
const TOO_MANY_REQUESTS: u16 = 429;

/// What came back. It can't be printed: the body may hold a token.
#[derive(Clone, Copy)]
pub(super) struct Reply<'a> {
    /// The HTTP status.
    pub(super) status: u16,
    /// The header, where it is there and is text.
    pub(super) retry_after: Option<&'a str>,
    /// The body, or why it is none that can be read.
    pub(super) body: Result<&'a [u8], Unreadable>,
    /// When it came, for `Retry-After` as a date.
    pub(super) now: SystemTime,
}

/// Why there is no body to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is longer than the limit.
    TooLong,
    /// It has a content encoding, and none was asked for.
    Encoded,
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
}

/// Classifies one answer.
pub(super) fn classify(reply: &Reply<'_>, asked: &Asked<'_>) -> Result<Grant, Failure> {
    let fields = match reply.body {
        Ok(body) => Fields::parse(body),
        // A wait that the vault asks for is plain from the status alone; going on unhindered would be the worse reading.
        Err(_) if reply.status == TOO_MANY_REQUESTS => Fields::default(),
        Err(Unreadable::TooLong) => return Err(Failure::Invalid { cause: "its answer is longer than 64 KiB", issued: false }),
        Err(Unreadable::Encoded) => {
            return Err(Failure::Invalid { cause: "its answer has a content encoding nobody asked for", issued: false });
        }
    };
    if (200..300).contains(&reply.status) && fields.has("access_token") {
        return token::grant(&fields, asked);
    }
    let class = match known(&fields) {
        Some(Class::Transient(_)) if reply.status == TOO_MANY_REQUESTS => by_status(reply.status),
        Some(class) => class,
        None => by_status(reply.status),
    };
    Err(failure(class, &fields, reply, asked))
}

/// The class of what the body names, if any of it is known: `errorId`, else `error`, else what v2 has in their place.
///
/// `errorId` 0 stands for anything, so it counts only where nothing else is known.
fn known(fields: &Fields<'_>) -> Option<Class> {
    let id = fields.number("errorId").and_then(|id| by_id(&id.to_string()));
    if let Some(class) = id
        && !matches!(class, Class::Transient(_))
    {
        return Some(class);
    }
    let named = |name: String| by_name(&name);
    fields
        .string("error")
        .and_then(named)
        .or_else(|| fields.list("errors").iter().filter_map(|error| error.string("key")).find_map(named))
        .or_else(|| fields.string("status").and_then(|status| known::by_v2_status(&status)))
        .or(id)
}

/// The failure of a class, with the wait and the name that the answer gives.
fn failure(class: Class, fields: &Fields<'_>, reply: &Reply<'_>, asked: &Asked<'_>) -> Failure {
    let vault_error = vault_error(fields, asked);
    match class {
        Class::Refused(why) => Failure::Refused { why, vault_error },
        Class::Throttled(throttle) => {
            let wait = stated_wait(fields, reply).map_or(throttle.unsaid, |stated| stated.max(throttle.least));
            Failure::Throttled { scope: throttle.scope, wait, vault_error }
        }
        Class::Transient(cause) => Failure::Unavailable { cause, wait: stated_wait(fields, reply), vault_error },
        Class::Senseless(cause) => Failure::Invalid { cause, issued: false },
    }
}

/// The longest wait that the answer states, in its header or in words.
fn stated_wait(fields: &Fields<'_>, reply: &Reply<'_>) -> Option<Duration> {
    let mut texts: Vec<String> = ["message", "error_description"].iter().filter_map(|name| fields.string(name)).collect();
    texts.extend(fields.list("errors").iter().filter_map(|error| error.string("description")));
    let worded = texts.iter().filter_map(|text| wait::worded(text)).max();
    worded.max(reply.retry_after.and_then(|header| wait::retry_after(header, reply.now)))
}

/// The vault's own name for what went wrong, for people: `error`, else `errorId`, else v2's key or status; the first of them
/// that says something and echoes nothing secret.
fn vault_error(fields: &Fields<'_>, asked: &Asked<'_>) -> String {
    let issued = ["access_token", "refresh_token"].map(|name| fields.string(name).unwrap_or_default());
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
    let (text_plain, secret_plain): (String, String) = (plain(text).collect(), plain(secret).collect());
    holds(text, secret) || holds(&text_plain.to_ascii_lowercase(), &secret_plain.to_ascii_lowercase())
}

/// The characters that may be shown.
fn plain(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '-'))
}
