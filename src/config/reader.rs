//! Takes typed keys out of a TOML table; what is left at the end is unknown.
//!
//! Must never judge a value beyond its type and its range, nor repeat one that may be a secret.

use std::{borrow::Cow, net::SocketAddr, path::PathBuf, time::Duration};

use humantime::format_duration;
use serde_json::Value;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    asked::{self, Shape},
    faults::{Fault, Report},
    findings::{At, Findings},
    key_names::{nearest, shown},
    limits::Limits,
    source::Source,
    wrong_types::{duration_remedy, wrong_type},
};

/// A value, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) at: At,
}

/// What may be a string or a list of them.
pub(super) struct OneOrMore<'i> {
    pub(super) values: Vec<Found<Cow<'i, str>>>,
    pub(super) is_list: bool,
}

/// One table while its keys are taken.
pub(super) struct Reader<'f, 'i> {
    findings: &'f Findings<'f>,
    /// The table's name; empty for the file itself.
    name: &'static str,
    /// Which of the tables of that name.
    index: usize,
    at: At,
    table: DeTable<'i>,
    /// The keys that were asked for.
    known: Vec<&'static str>,
    /// Keys that don't exist, and which one each is likely to stand for.
    mistaken: &'static [(&'static str, &'static str)],
}

/// Parses a file's text.
pub(super) fn parse(source: &Source) -> Result<DeTable<'_>, Report> {
    DeTable::parse(source.text()).map(Spanned::into_inner).map_err(|error| {
        // The message alone: the error's own display shows the line, which may hold a password.
        let message = format!("is not valid TOML ({}): mend the syntax here or on the line before", error.message());
        let line = error.span().map(|span| source.line(span.start));
        Report::of_shape(Fault { file: source.path().clone(), line, key: String::new(), message })
    })
}

impl<'f, 'i> Reader<'f, 'i> {
    /// The table that is the file.
    pub(super) fn root(findings: &'f Findings<'f>, table: DeTable<'i>) -> Self {
        Self::of(findings, ("", 0), At::NOWHERE, table)
    }

    fn of(findings: &'f Findings<'f>, (name, index): (&'static str, usize), at: At, table: DeTable<'i>) -> Self {
        Self { findings, name, index, at, table, known: Vec::new(), mistaken: &[] }
    }

    /// Where to tell what is wrong.
    pub(super) fn findings(&self) -> &'f Findings<'f> {
        self.findings
    }

    /// Where the table begins.
    pub(super) fn at(&self) -> At {
        self.at
    }

    /// A key with its table's name, as faults show it.
    pub(super) fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// A fault of one of the table's keys.
    pub(super) fn fault(&self, at: At, key: &str, message: impl Into<String>) {
        self.findings.fault(at, self.key(key), message);
    }

    /// Whether the key stands here and wasn't taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Takes a key out; `asked` says what it may hold, and what it means where it is missing.
    fn take(&mut self, key: &'static str, asked: impl FnOnce() -> (Shape, Option<Value>)) -> Option<Found<DeValue<'i>>> {
        self.known.push(key);
        let taken = self.table.remove(key).map(found);
        self.findings.record(|record| {
            record.note((self.name, self.index), key, asked(), taken.as_ref().map(|taken| &taken.value));
        });
        taken
    }

    /// Says what the key that was asked for last means where it is missing.
    pub(super) fn unless_given(&self, default: &str) {
        self.findings.record(|record| record.unless_given(default, false));
    }

    /// The same of what depends on this machine.
    pub(super) fn here_unless_given(&self, default: &str) {
        self.findings.record(|record| record.unless_given(default, true));
    }

    fn text(&self, key: &str, Found { value, at }: Found<DeValue<'i>>) -> Option<Found<Cow<'i, str>>> {
        if let DeValue::String(value) = value {
            return Some(Found { value, at });
        }
        self.wrong_type(at, key, &value, "a string", "write it in quotes");
        None
    }

    fn wrong_type(&self, at: At, key: &str, value: &DeValue<'_>, expected: &str, remedy: &str) {
        wrong_type(self.findings, at, self.key(key), value, expected, remedy);
    }

    /// A string; none where the key is missing or of another type (which is reported).
    pub(super) fn string(&mut self, key: &'static str) -> Option<Found<Cow<'i, str>>> {
        self.string_of(key, || (Shape::Text, None))
    }

    fn string_of(&mut self, key: &'static str, asked: impl FnOnce() -> (Shape, Option<Value>)) -> Option<Found<Cow<'i, str>>> {
        let found = self.take(key, asked)?;
        self.text(key, found)
    }

    /// A path, relative to where the file stands.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let Found { value, .. } = self.string(key)?;
        Some(self.findings.source().beside(&value))
    }

    /// A boolean, `default` where it is missing.
    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> Found<bool> {
        let missing = Found { value: default, at: At::NOWHERE };
        let asked = || (Shape::Boolean, Some(Value::from(default)));
        let Some(Found { value, at }) = self.take(key, asked) else { return missing };
        if let DeValue::Boolean(value) = value {
            return Found { value, at };
        }
        self.wrong_type(at, key, &value, "a boolean", "write true or false, without quotes");
        missing
    }

    /// A whole number within its limits.
    pub(super) fn integer(&mut self, key: &'static str, limits: &Limits<u64>) -> u64 {
        let asked = || (Shape::Integer(*limits), Some(Value::from(limits.default)));
        let Some(Found { value, at }) = self.take(key, asked) else { return limits.default };
        let DeValue::Integer(value) = value else {
            self.wrong_type(at, key, &value, "an integer", "write digits, without quotes");
            return limits.default;
        };
        match u64::from_str_radix(value.as_str(), value.radix()) {
            Ok(value) if (limits.least..=limits.most).contains(&value) => value,
            _ => {
                self.fault(at, key, format!("is out of range: give a number from {} to {}", limits.least, limits.most));
                limits.default
            }
        }
    }

    /// A part of a whole, from 0 to 1.
    pub(super) fn fraction(&mut self, key: &'static str, default: f64) -> f64 {
        let asked = || (Shape::Fraction, Some(asked::fraction(default)));
        let Some(Found { value, at }) = self.take(key, asked) else { return default };
        let text = match &value {
            DeValue::Float(value) => value.as_str().to_owned(),
            DeValue::Integer(value) if value.radix() == 10 => value.as_str().to_owned(),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                self.wrong_type(at, key, &value, "a number", "write a number from 0.0 to 1.0, without quotes");
                return default;
            }
        };
        match text.parse() {
            Ok(value) if (0.0..=1.0).contains(&value) => value,
            _ => {
                self.fault(at, key, "is out of range: give a number from 0.0 to 1.0");
                default
            }
        }
    }

    /// A duration within its limits.
    pub(super) fn duration(&mut self, key: &'static str, limits: &Limits<Duration>) -> Duration {
        let asked = || (Shape::Duration(*limits), Some(asked::duration(limits.default)));
        let Some(Found { value, at }) = self.take(key, asked) else { return limits.default };
        let DeValue::String(value) = value else {
            self.wrong_type(at, key, &value, "a string with a duration", &duration_remedy(&value));
            return limits.default;
        };
        match humantime::parse_duration(&value) {
            Ok(value) if (limits.least..=limits.most).contains(&value) => value,
            Ok(_) => {
                let (least, most) = (format_duration(limits.least), format_duration(limits.most));
                self.fault(at, key, format!("is out of range: give a duration from {least} to {most}"));
                limits.default
            }
            Err(_) => {
                self.fault(at, key, "is not a duration: write a number with its unit, such as \"90s\", \"250ms\" or \"1h 30m\"");
                limits.default
            }
        }
    }

    /// An address to listen on.
    pub(super) fn address(&mut self, key: &'static str) -> Option<Found<SocketAddr>> {
        let Found { value, at } = self.string_of(key, || (Shape::Address, None))?;
        let address = value.parse().ok();
        if address.is_none() {
            self.fault(
                at,
                key,
                "is not an address to listen on: write an IP address and a port, such as \"127.0.0.1:50051\" or \"[::1]:50051\"",
            );
        }
        address.map(|value| Found { value, at })
    }

    /// The same, `default` where it is missing.
    pub(super) fn address_or(&mut self, key: &'static str, default: SocketAddr, missing_at: At) -> Found<SocketAddr> {
        let found = self.address(key);
        self.unless_given(&default.to_string());
        found.unwrap_or(Found { value: default, at: missing_at })
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy + PartialEq>(&mut self, key: &'static str, default: T, choices: &[(&str, T)]) -> T {
        let asked = || {
            let meant = choices.iter().find(|(_, choice)| *choice == default).map(|(word, _)| Value::from(*word));
            (Shape::Choice(choices.iter().map(|(word, _)| (*word).to_owned()).collect()), meant)
        };
        let Some(Found { value, at }) = self.string_of(key, asked) else { return default };
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == value) {
            return *choice;
        }
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.fault(at, key, format!("is not one of its values: write one of {}", words.join(", ")));
        default
    }

    /// A list of strings.
    pub(super) fn strings(&mut self, key: &'static str) -> Vec<Found<Cow<'i, str>>> {
        let Some(Found { value, at }) = self.take(key, || (Shape::Texts, None)) else { return Vec::new() };
        let DeValue::Array(array) = value else {
            self.wrong_type(at, key, &value, "an array of strings", "write it in square brackets, such as [\"…\"]");
            return Vec::new();
        };
        array.into_iter().filter_map(|item| self.text(key, found(item))).collect()
    }

    /// A list of ids of users of the system; none where it is missing, which means `default`.
    pub(super) fn uids(&mut self, key: &'static str, default: &[u32]) -> Option<Vec<u32>> {
        let Found { value, at } = self.take(key, || (Shape::Uids, Some(Value::from(default))))?;
        let DeValue::Array(array) = value else {
            self.wrong_type(at, key, &value, "an array of integers", "write it in square brackets, such as [1000]");
            return None;
        };
        let uid = |item: Spanned<DeValue<'i>>| {
            let Found { value, at } = found(item);
            let DeValue::Integer(value) = value else {
                self.wrong_type(at, key, &value, "an integer", "write digits, without quotes");
                return None;
            };
            // The highest stands for nobody, and is what the kernel says where it knows none.
            let uid = u32::from_str_radix(value.as_str(), value.radix()).ok().filter(|uid| *uid < u32::MAX);
            if uid.is_none() {
                self.fault(at, key, format!("is no user's id: give a number from 0 to {}", u32::MAX - 1));
            }
            uid
        };
        Some(array.into_iter().filter_map(uid).collect())
    }

    /// A string, or a list of them.
    pub(super) fn one_or_more(&mut self, key: &'static str) -> Option<Found<OneOrMore<'i>>> {
        let Found { value, at } = self.take(key, || (Shape::OneOrMore, None))?;
        let is_list = value.is_array();
        let given =
            if let DeValue::Array(array) = value { array.into_iter().map(found).collect() } else { vec![Found { value, at }] };
        let values = given.into_iter().filter_map(|one| self.text(key, one)).collect();
        Some(Found { value: OneOrMore { values, is_list }, at })
    }

    /// A table; `name` is its full name.
    pub(super) fn table(&mut self, key: &'static str, name: &'static str) -> Option<Self> {
        let Found { value, at } = self.take(key, || (Shape::Table, None))?;
        if let DeValue::Table(table) = value {
            return Some(Self::of(self.findings, (name, 0), at, table));
        }
        self.wrong_type(at, key, &value, "a table", &format!("write [{name}] on a line of its own"));
        None
    }

    /// A table that is the same where it is missing as where it is empty.
    pub(super) fn table_or_empty(&mut self, key: &'static str, name: &'static str) -> Self {
        self.table(key, name).unwrap_or_else(|| Self::of(self.findings, (name, 0), At::NOWHERE, DeTable::new()))
    }

    /// An array of tables; `name` is its full name.
    pub(super) fn tables(&mut self, key: &'static str, name: &'static str) -> impl Iterator<Item = Self> + use<'f, 'i> {
        let findings = self.findings;
        let remedy = format!("write [[{name}]] on a line of its own");
        let array = match self.take(key, || (Shape::Tables, None)) {
            Some(Found { value: DeValue::Array(array), .. }) => Some(array),
            Some(Found { value, at }) => {
                self.wrong_type(at, key, &value, "an array of tables", &remedy);
                None
            }
            None => None,
        };
        array.into_iter().flatten().map(found).enumerate().filter_map(move |(index, Found { value, at })| {
            if let DeValue::Table(table) = value {
                return Some(Self::of(findings, (name, index), at, table));
            }
            wrong_type(findings, at, name.to_owned(), &value, "a table", &remedy);
            None
        })
    }

    /// Takes every key that is left, for a table whose keys are free: pairs of a key and its value, which must be a string.
    pub(super) fn rest(mut self) -> Vec<(Cow<'i, str>, Found<Cow<'i, str>>)> {
        let table = std::mem::take(&mut self.table);
        let pair = |(key, value): (Spanned<Cow<'i, str>>, Spanned<DeValue<'i>>)| {
            let at = At(Some(key.span().start));
            let key = key.into_inner();
            self.findings.record(|record| record.note((self.name, self.index), &key, (Shape::Free, None), Some(value.get_ref())));
            self.text(&shown(&key), Found { at, ..found(value) }).map(|value| (key, value))
        };
        table.into_iter().filter_map(pair).collect()
    }

    /// Takes note of keys that don't exist, each with the one that is meant, where that can't be told by its letters.
    pub(super) fn mistaken(&mut self, mistaken: &'static [(&'static str, &'static str)]) {
        self.mistaken = mistaken;
    }

    /// Whether the key is missing, and not merely misspelt, which is told by itself.
    pub(super) fn lacks(&self, key: &'static str) -> bool {
        !self.has(key) && !self.table.keys().any(|given| self.meant(given.get_ref(), &[key]) == Some(key))
    }

    /// The key that this one is likely to be.
    fn meant(&self, key: &str, known: &[&'static str]) -> Option<&'static str> {
        let mistaken = self.mistaken.iter().find(|(mistaken, meant)| *mistaken == key && known.contains(meant));
        mistaken.map(|(_, meant)| *meant).or_else(|| nearest(key, known))
    }

    /// Ends the table: every key that nobody asked for is a fault.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let remedy = match self.meant(key.get_ref(), &self.known) {
                Some(known) => format!("did you mean `{known}`?"),
                None if self.name.is_empty() => format!("the keys here are {}", self.known.join(", ")),
                None => format!("the keys of [{}] are {}", self.name, self.known.join(", ")),
            };
            let at = At(Some(key.span().start));
            self.fault(at, &shown(key.get_ref()), format!("is not a known key: {remedy}"));
        }
    }
}

fn found<T>(spanned: Spanned<T>) -> Found<T> {
    let at = At(Some(spanned.span().start));
    Found { value: spanned.into_inner(), at }
}
