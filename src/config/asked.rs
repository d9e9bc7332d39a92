//! What the reader asks a file for: each key with its type, its range, its default, and what was given.
//!
//! Must never cost a read anything that nobody records, nor hold a secret: of a key that is not described as fit to be shown, it is noted
//! that it was given, and not what.

use std::time::Duration;

use humantime::format_duration;
use serde_json::{Number as JsonNumber, Value};
use toml::de::DeValue;

use super::{
    described::{self, Shown},
    limits::Limits,
};
use crate::user::Number;

/// Stands where a secret does.
pub(super) const REDACTED: &str = "redacted";
/// The table whose entries there may be 100,000 of, and nobody prints.
const USERS: &str = "users";

/// What a key may hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    Text,
    Boolean,
    Integer(Limits<u64>),
    /// From 0 to 1.
    Fraction,
    Duration(Limits<Duration>),
    /// IP address and port.
    Address,
    Choice(Vec<String>),
    Texts,
    Uids,
    OneOrMore,
    Table,
    Tables,
    /// Of a table whose keys are free.
    Free,
}

/// One key, as it was asked for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// The table's full name; empty for the file itself.
    pub(super) table: &'static str,
    /// Which of the tables of that name, from 0.
    pub(super) index: usize,
    pub(super) key: String,
    pub(super) shape: Shape,
    pub(super) default: Option<Value>,
    /// Whether the default depends on what there is on this machine.
    pub(super) local: bool,
    /// As the file has it, without secrets; tables are null.
    pub(super) given: Option<Value>,
}

impl Asked {
    /// The key with its table's name.
    pub(super) fn path(&self) -> String {
        path(self.table, &self.key)
    }

    /// Whether it holds other keys rather than a value.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.shape, Shape::Table | Shape::Tables)
    }
}

/// A key with its table's name.
pub(super) fn path(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// Takes note of what is asked for while one file is read.
#[derive(Debug, Default)]
pub(super) struct Record(Vec<Asked>);

impl Record {
    /// A key is asked for.
    pub(super) fn note(
        &mut self,
        (table, index): (&'static str, usize),
        key: &str,
        (shape, default): (Shape, Option<Value>),
        given: Option<&DeValue<'_>>,
    ) {
        if table == USERS && index > 0 {
            return;
        }
        let shown = described::of(&described_key(table, key)).map_or(Shown::Never, |described| described.shown);
        let given = given.map(|value| masked(shown, plain(value)));
        self.0.push(Asked { table, index, key: key.to_owned(), shape, default, local: false, given });
    }

    /// The key that was asked for last means this where it is missing; `local`: on this machine.
    pub(super) fn unless_given(&mut self, default: &str, local: bool) {
        if let Some(last) = self.0.last_mut() {
            (last.default, last.local) = (Some(Value::from(default)), local);
        }
    }

    /// All that was asked for, in that order.
    pub(super) fn into_asked(self) -> Vec<Asked> {
        self.0
    }
}

/// A key's name in the list of descriptions: of a table with free keys there is one for all.
fn described_key(table: &str, key: &str) -> String {
    if described::of(&path(table, described::ANY)).is_some() { path(table, described::ANY) } else { path(table, key) }
}

/// A duration as people write it.
pub(super) fn duration(value: Duration) -> Value {
    Value::from(format_duration(value).to_string())
}

/// A part of a whole.
pub(super) fn fraction(value: f64) -> Value {
    JsonNumber::from_f64(value).map_or(Value::Null, Value::Number)
}

fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(value) => Value::from(*value),
        DeValue::Integer(value) => u64::from_str_radix(value.as_str(), value.radix()).map_or(Value::Null, Value::from),
        DeValue::Float(value) => value.as_str().parse().map_or(Value::Null, fraction),
        DeValue::Array(list) => list.iter().map(|item| plain(item.get_ref())).collect(),
        DeValue::Datetime(_) | DeValue::Table(_) => Value::Null,
    }
}

/// The same without what nobody else is to see.
fn masked(shown: Shown, value: Value) -> Value {
    match (shown, value) {
        (Shown::Plain | Shown::Path, value) => value,
        (Shown::Never, Value::Null) => Value::Null,
        (Shown::Never, _) => Value::from(REDACTED),
        (Shown::Masked, Value::Array(list)) => list.into_iter().map(|item| masked(shown, item)).collect(),
        (Shown::Masked, Value::String(text)) => {
            Value::from(Number::parse(text).map_or_else(|_| REDACTED.to_owned(), |number| number.to_string()))
        }
        (Shown::WithoutUser, Value::String(text)) => Value::from(without_user(&text)),
        (Shown::Masked | Shown::WithoutUser, _) => Value::from(REDACTED),
    }
}

/// A URL whose user is not told.
fn without_user(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    match authority.rsplit_once('@') {
        Some((_, server)) => format!("{scheme}://{REDACTED}@{server}{path}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_to_be_seen_is_not_noted() {
        for (shown, value, expected) in [
            (Shown::Plain, "a", "a"),
            (Shown::Never, "1234Qwerty", REDACTED),
            (Shown::WithoutUser, "rediss://broker@host:1/2", "rediss://redacted@host:1/2"),
            (Shown::WithoutUser, "rediss://host/a@b", "rediss://host/a@b"),
            (Shown::Masked, "no number", REDACTED),
        ] {
            assert_eq!(masked(shown, Value::from(value)), Value::from(expected), "{value}");
        }
        let numbers = masked(Shown::Masked, Value::from(vec!["+447871239999"])).to_string();
        assert!(numbers.contains("+44") && !numbers.contains("7871239999"), "{numbers}");
    }
}
