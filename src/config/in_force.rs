//! What is in force by a configuration, with all defaults, as TOML for people.
//!
//! Must never show a secret: passwords, keys, values of headers and users of URLs are left out, numbers are masked, and users are counted.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use super::{
    asked::{Asked, REDACTED, Shape},
    described::{self, Shown},
    faults::Faults,
    findings::Findings,
    load, main_file, reader,
    schema::every_key,
    source::Source,
    values::UserConfig,
};
use crate::plain;

/// The table whose entries are counted.
const USERS: &str = "users";
/// Where a line's remark begins, if it can.
const REMARK: usize = 46;

/// What is in force by the configuration in `file`.
///
/// # Errors
/// The same as [`load`].
pub fn in_force(file: &Path) -> Result<String, Faults> {
    let loaded = load(file)?;
    let asked = asked_of(file)?;
    let mut page = Page { lines: Vec::new(), beside: file.parent().unwrap_or(Path::new("")) };
    page.lines.push(format!("# What token-broker {} has in force by this file:", env!("CARGO_PKG_VERSION")));
    page.lines.push(format!("# {}", plain::on_one_line(&file.display().to_string())));
    page.lines.push("# Passwords, keys, values of headers and users of URLs are left out, and numbers are masked.".to_owned());
    let frame = every_key();
    for (name, shape) in tables(&frame) {
        let keys: Vec<_> = frame.iter().filter(|key| key.table == name && !key.is_table()).collect();
        if name == USERS {
            page.users(&loaded.config.users, &keys);
            continue;
        }
        let mut entries: BTreeMap<usize, Vec<&Asked>> = BTreeMap::new();
        for key in asked.iter().filter(|key| key.table == name && !key.is_table()) {
            entries.entry(key.index).or_default().push(key);
        }
        let head = if shape == Shape::Tables { format!("[[{name}]]") } else { format!("[{name}]") };
        for keys in entries.values() {
            page.table(name, &head, keys);
        }
        if entries.is_empty() {
            page.missing_table(&head, &keys);
        }
    }
    Ok(page.lines.join("\n"))
}

/// What the main file is asked for as it is read.
fn asked_of(file: &Path) -> Result<Vec<Asked>, Faults> {
    let source = match Source::open(file, "name the configuration file with --config, and let this process read it") {
        Ok(source) => source,
        Err(report) => return report.verdict(file, None).map(|(asked, _)| asked),
    };
    let parsed = match reader::parse(&source) {
        Ok(parsed) => parsed,
        Err(report) => return report.verdict(file, None).map(|(asked, _)| asked),
    };
    let findings = Findings::recording(&source);
    drop(main_file::read(&findings, parsed));
    let (report, asked) = findings.into_recorded();
    report.verdict(file, Some(asked)).map(|(asked, _warnings)| asked)
}

/// The tables, each below the one that it belongs to.
fn tables(frame: &[Asked]) -> Vec<(&'static str, Shape)> {
    let mut tables: Vec<(&'static str, Shape)> = Vec::new();
    for key in frame {
        if !tables.iter().any(|(name, _)| *name == key.table) {
            let own = frame.iter().find(|other| other.is_table() && other.path() == key.table);
            tables.push((key.table, own.map_or(Shape::Table, |own| own.shape.clone())));
        }
    }
    tables
}

/// The lines so far.
struct Page<'f> {
    lines: Vec<String>,
    /// Where relative paths begin.
    beside: &'f Path,
}

impl Page<'_> {
    fn table(&mut self, name: &str, head: &str, keys: &[&Asked]) {
        self.lines.push(String::new());
        if !name.is_empty() {
            self.lines.push(head.to_owned());
        }
        for key in keys {
            let line = match (&key.given, &key.default) {
                (Some(given), _) => remarked(&self.pair(key, given), secret(key)),
                (None, Some(default)) => remarked(&self.pair(key, default), "default"),
                (None, None) => remarked(&format!("# {}", name_of(key)), "not set"),
            };
            self.lines.push(line);
        }
    }

    /// A table that is not there, and means that what it is about isn't either.
    fn missing_table(&mut self, head: &str, keys: &[&Asked]) {
        self.lines.push(String::new());
        self.lines.push(remarked(&format!("# {head}"), "not set"));
        for key in keys.iter().filter(|key| key.shape != Shape::Free) {
            let required = described::of(&key.path()).is_some_and(|described| described.required);
            self.lines.push(match key.default.as_ref().filter(|_| !required) {
                Some(default) => remarked(&format!("# {}", self.pair(key, default)), "default"),
                None => format!("# {}", name_of(key)),
            });
        }
    }

    /// How many users there are, by their merchants.
    fn users(&mut self, users: &[UserConfig], keys: &[&Asked]) {
        let names: Vec<_> = keys.iter().map(|key| name_of(key)).collect();
        self.lines.push(String::new());
        self.lines.push(remarked("# [[users]]", &format!("{} in all, counted here by merchant", users.len())));
        self.lines.push(remarked(&format!("# {}", names.join(", ")), "not shown"));
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for user in users {
            *counts.entry(user.key.merchant.as_str()).or_default() += 1;
        }
        self.lines.extend(counts.iter().map(|(merchant, count)| format!("# {}: {count}", toml(&Value::from(*merchant)))));
    }

    fn pair(&self, key: &Asked, value: &Value) -> String {
        let shown = described::of(&key.path()).map(|described| described.shown);
        let value = if shown == Some(Shown::Path) { self.absolute(value) } else { value.clone() };
        format!("{} = {}", name_of(key), toml(&value))
    }

    /// Paths as they are meant, wherever somebody reads this.
    fn absolute(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => {
                let path = self.beside.join(text);
                Value::from(std::path::absolute(&path).unwrap_or(path).display().to_string())
            }
            Value::Array(list) => list.iter().map(|item| self.absolute(item)).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.clone(),
        }
    }
}

/// A key as TOML has it.
fn name_of(key: &Asked) -> String {
    let is_bare = !key.key.is_empty() && key.key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if is_bare { key.key.clone() } else { toml(&Value::from(key.key.as_str())) }
}

/// What to say of a value that is not shown as it is.
fn secret(key: &Asked) -> &'static str {
    match described::of(&key.path()).map(|described| described.shown) {
        Some(Shown::Plain | Shown::Path) => "",
        Some(Shown::Masked) => "masked",
        Some(Shown::WithoutUser) => {
            let is_told = |given: &Value| given.as_str().is_some_and(|given| given.contains(&format!("//{REDACTED}@")));
            if key.given.as_ref().is_some_and(is_told) { "without its user" } else { "" }
        }
        Some(Shown::Never) | None => "not shown",
    }
}

fn remarked(line: &str, remark: &str) -> String {
    if remark.is_empty() { line.to_owned() } else { format!("{line:<REMARK$}  # {remark}") }
}

/// A value as TOML has it; its strings are those of JSON but for one character.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("[{}]", list.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            value.to_string().replace('\u{7f}', "\\u007F")
        }
    }
}
