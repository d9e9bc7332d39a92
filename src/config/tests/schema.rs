//! The schema and the reader agree: on every file that any test here reads, on what is described, and on what is documented.

use std::{collections::BTreeSet, sync::LazyLock};

use jsonschema::Validator;
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::*;
use crate::config::{
    SchemaOf,
    asked::{Asked, Shape},
    described,
    schema::{every_key, schema},
};

/// What the reader says of faults that a schema can tell too: unknown keys, types, ranges, choices.
const TOLD_BY_SCHEMA: [&str; 7] = [
    "is not a known key",
    ", but must be ",
    "is out of range",
    "is not one of its values",
    "is not a duration",
    "is not an address to listen on",
    "is no user's id",
];

static MAIN: LazyLock<Validator> = LazyLock::new(|| validator(SchemaOf::Main));
static CREDENTIALS: LazyLock<Validator> = LazyLock::new(|| validator(SchemaOf::Credentials));

fn validator(of: SchemaOf) -> Validator {
    let schema: Value = serde_json::from_str(&schema(of)).expect("is JSON");
    jsonschema::draft202012::meta::validate(&schema).expect("is a schema");
    jsonschema::draft202012::new(&schema).expect("is a schema")
}

/// A table as a validator sees it. What JSON has no type for is null, which no key of ours is.
fn json(table: &DeTable<'_>) -> Value {
    fn value(found: &DeValue<'_>) -> Value {
        match found {
            DeValue::String(text) => Value::from(text.as_ref()),
            DeValue::Boolean(value) => Value::from(*value),
            DeValue::Integer(digits) => match i128::from_str_radix(digits.as_str(), digits.radix()) {
                Ok(value) => i64::try_from(value).map_or_else(|_| Value::from(1e30_f64), Value::from),
                Err(_) => Value::from(1e30_f64),
            },
            DeValue::Float(digits) => digits.as_str().parse::<f64>().map_or(Value::Null, Value::from),
            DeValue::Datetime(_) => Value::Null,
            DeValue::Array(list) => list.iter().map(|item| value(item.get_ref())).collect(),
            DeValue::Table(table) => json(table),
        }
    }
    Value::Object(table.iter().map(|(key, item)| (key.get_ref().to_string(), value(item.get_ref()))).collect::<Map<_, _>>())
}

/// A duration that is a sum or has a fraction is out of range for the reader alone.
fn is_told(fault: &Fault, text: &str) -> bool {
    let line = fault.line.and_then(|line| text.lines().nth(line - 1)).unwrap_or_default();
    let is_sum =
        fault.message.contains("give a duration from") && line.split('"').nth(1).is_some_and(|it| it.contains([' ', '.']));
    !is_sum && TOLD_BY_SCHEMA.iter().any(|words| fault.message.contains(words))
}

/// Whether the schema says of a file what the reader said of it, as far as both can tell.
pub(super) fn agrees(path: &Path, read: &Result<Loaded, Faults>) {
    let Ok(text) = fs::read_to_string(path) else { return };
    let text = text.trim_start_matches('\u{feff}');
    let Ok(table) = DeTable::parse(text) else { return };
    let is_valid = MAIN.is_valid(&json(table.get_ref()));
    match read {
        Ok(_) => {
            assert!(is_valid, "the reader takes it, and the schema doesn't:\n{text}\n{:?}", MAIN.validate(&json(table.get_ref())))
        }
        Err(faults) => {
            let told: Vec<_> = faults.iter().filter(|fault| &*fault.file == path && is_told(fault, text)).collect();
            assert!(told.is_empty() || !is_valid, "the schema takes it, and the reader doesn't:\n{text}\n{told:?}");
        }
    }
}

#[test]
fn the_committed_schema_is_the_programs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/token-broker.schema.json");
    let committed = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(committed.trim_end(), schema(SchemaOf::Main), "to mend it: token-broker schema > docs/token-broker.schema.json");
}

#[test]
fn every_key_is_described_once_and_no_other() {
    let asked: Vec<_> = every_key().iter().map(Asked::path).collect();
    let described: Vec<_> = described::KEYS.iter().map(|described| described.path.to_owned()).collect();
    for (one, other) in [(&asked, &described), (&described, &asked)] {
        let unique: BTreeSet<_> = one.iter().collect();
        assert_eq!(unique.len(), one.len(), "each stands once: {one:?}");
        let missing: Vec<_> = one.iter().filter(|key| !other.contains(key)).collect();
        assert!(missing.is_empty(), "asked for and not described in described.rs, or the other way about: {missing:?}");
    }
    for described in described::KEYS {
        let what = described.what;
        assert!(what.ends_with('.') && what.len() <= 120 && !what.contains('\n'), "{what}");
    }
}

/// What the reader says is missing where every table is empty is what the schema requires.
#[test]
fn what_is_required_is_what_the_reader_misses() {
    let text = "[grpc.tls]\n[traces]\nca_file = 'x'\n[vault]\n[shared]\nkeys = [{}]\n[operator]\n[auth.service_accounts]\n[[callers]]\n[[users]]\n";
    let faults = load_text(text).expect_err("most of it is missing");
    let missed: BTreeSet<_> =
        faults.iter().filter(|fault| fault.message.starts_with("is missing")).map(|fault| &*fault.key).collect();
    // Either will do, which the schema has as `oneOf`; and of the last two the schema knows that they are tables.
    let expected: BTreeSet<_> =
        described::KEYS.iter().filter(|described| described.required).map(|described| described.path).collect();
    let expected = expected.into_iter().chain(["users.password"]).filter(|key| !["vault", "shared.keys"].contains(key)).collect();
    assert_eq!(missed, expected);
}

#[test]
fn a_file_of_credentials_has_a_schema_of_its_own() {
    let valid = |text: &str| CREDENTIALS.is_valid(&json(DeTable::parse(text).expect("is TOML").get_ref()));
    assert!(valid(USER) && valid(&USER.replace("password =", "password_file =")));
    for text in [&format!("{VAULT}{USER}"), &format!("{USER}password_file = 'x'\n"), &USER.replace("password", "pasword")] {
        assert!(!valid(text), "{text}");
    }
}

/// The documentation has every key under its table, with the default and the range that the reader has.
#[test]
fn every_key_is_documented_with_its_default_and_range() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md")).expect("is there");
    let block = page.split("```toml\n").find(|block| block.contains("credentials_files =")).expect("has all keys");
    let block = block.split("```").next().expect("ends");
    let mut table = "";
    let mut documented: Vec<(String, &str)> = Vec::new();
    for line in block.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)) {
        if let Some(name) = line.strip_prefix('[').map(|line| line.trim_start_matches('[')) {
            table = name.split(']').next().unwrap_or_default();
        } else if let Some((key, rest)) = line.split_once(" = ").filter(|(key, _)| !key.contains([' ', '#'])) {
            documented.push((if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }, rest));
        }
    }
    for asked in
        every_key().iter().filter(|asked| !asked.is_table() && asked.shape != Shape::Free && asked.table != "shared.keys")
    {
        let path = asked.path();
        if path == "auth.service_accounts.jwks_file" {
            continue; // It stands in the line of `jwks_url`.
        }
        let (_, rest) = documented.iter().find(|(key, _)| *key == path).unwrap_or_else(|| panic!("{path} is not documented"));
        let (value, remark) = rest.split_once('#').unwrap_or((rest, ""));
        let is_optional = !described::of(&path).is_some_and(|described| described.required);
        match (&asked.shape, &asked.default) {
            (Shape::Duration(limits), _) => {
                let shown = humantime::parse_duration(value.trim().trim_matches('"')).expect("is a duration");
                assert_eq!(shown, limits.default, "{path}");
                let range = |d| humantime::format_duration(d).to_string();
                assert!(remark.contains(&format!("{} to {}", range(limits.least), range(limits.most))), "{path}: {remark}");
            }
            (_, Some(default)) if is_optional && !asked.local => assert_eq!(value.trim(), default.to_string(), "{path}"),
            _ => {}
        }
    }
}
