//! The configuration's JSON schema, made of what the reader asks for and of what each key is for.
//!
//! Must never be written by hand: a key that the reader takes and the schema doesn't, or the other way about, would be told of as a
//! mistake of whoever wrote the file.

use std::{path::Path, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    asked::{Asked, Shape, path},
    described::{self, ANY},
    findings::Findings,
    main_file,
    permissions::Permissions,
    reader,
    source::{Contents, Source},
};

mod durations;

/// A configuration that has every table, so that the reader asks for every key.
const EVERY_TABLE: &str = "\
[grpc.tls]\n[admin]\n[audit]\n[log]\n[traces]\n[vault]\nheaders = { X = \"\" }\n[shared]\nkeys = [{}]\n[operator]\n\
[auth.service_accounts]\n[[callers]]\n[[users]]\n";
/// Whose words these are.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
/// IP address and port, as far as a pattern can tell.
const ADDRESS: &str = r"^(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.%]+\]):[0-9]+$";
/// Of which a user has one.
const PASSWORDS: [&str; 2] = ["password", "password_file"];

/// Which file a schema is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaOf {
    /// The main file.
    Main,
    /// One of `credentials_files`.
    Credentials,
}

/// An object of JSON, in its order.
struct Object(Vec<(String, Node)>);

enum Node {
    Value(Value),
    Object(Object),
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|(key, node)| map.serialize_entry(key, node))?;
        map.end()
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(serializer),
            Self::Object(object) => object.serialize(serializer),
        }
    }
}

impl Object {
    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.push((key.to_owned(), Node::Value(value.into())));
        self
    }

    fn with_object(mut self, key: &str, object: Self) -> Self {
        self.0.push((key.to_owned(), Node::Object(object)));
        self
    }
}

/// The schema, as JSON.
#[must_use]
pub fn schema(of: SchemaOf) -> String {
    let keys = every_key();
    let head = Object(Vec::new()).with("$schema", DIALECT);
    let head = match of {
        SchemaOf::Main => head.with("title", "token-broker's configuration"),
        SchemaOf::Credentials => head.with("title", "a credentials file of token-broker's"),
    };
    let of_file = |asked: &Asked| of == SchemaOf::Main || asked.key == "users";
    let root = table(head, "", &keys, &of_file);
    // It is made of texts and numbers: that can't fail.
    serde_json::to_string_pretty(&root).unwrap_or_default()
}

/// Every key that the reader asks for, of all tables.
pub(super) fn every_key() -> Vec<Asked> {
    let contents = Contents { bytes: Zeroizing::new(EVERY_TABLE.as_bytes().to_vec()), permissions: Permissions::OWNER_ALONE };
    let Ok(source) = Source::of(Arc::from(Path::new("")), contents) else { return Vec::new() };
    let Ok(parsed) = reader::parse(&source) else { return Vec::new() };
    let findings = Findings::recording(&source);
    // Most of it is missing, and that is told; nobody wants to know.
    drop(main_file::read(&findings, parsed));
    let (_faults, mut asked) = findings.into_recorded();
    // Of a table with free keys there is one, and it stands for all.
    asked.iter_mut().filter(|asked| asked.shape == Shape::Free).for_each(|asked| ANY.clone_into(&mut asked.key));
    asked
}

/// The schema of a table; `head` is what it begins with.
fn table(head: Object, name: &str, keys: &[Asked], of_file: &dyn Fn(&Asked) -> bool) -> Object {
    let own: Vec<_> = keys.iter().filter(|asked| asked.table == name && of_file(asked)).collect();
    if let Some(free) = own.iter().find(|asked| asked.shape == Shape::Free) {
        return head.with("type", "object").with_object("additionalProperties", key(free, keys));
    }
    let properties = own.iter().map(|asked| (asked.key.clone(), Node::Object(key(asked, keys)))).collect();
    let is_required = |asked: &&&Asked| described::of(&asked.path()).is_some_and(|described| described.required);
    let required: Vec<_> = own.iter().filter(is_required).map(|asked| asked.key.as_str()).collect();
    let mut object = head.with("type", "object").with_object("properties", Object(properties));
    if !required.is_empty() {
        object = object.with("required", required);
    }
    if PASSWORDS.iter().all(|password| own.iter().any(|asked| asked.key == *password) && name == "users") {
        let one: Vec<_> = PASSWORDS.iter().map(|password| json!({ "required": [password] })).collect();
        object = object.with("oneOf", one);
    }
    object.with("additionalProperties", false)
}

/// The schema of a key.
fn key(asked: &Asked, keys: &[Asked]) -> Object {
    let described = described::of(&asked.path());
    let range = range(&asked.shape).map(|range| format!(" {range}.")).unwrap_or_default();
    let what = format!("{}{range}", described.map_or("", |described| described.what));
    let object = Object(Vec::new()).with("description", what);
    let name = path(asked.table, &asked.key);
    let object = match &asked.shape {
        Shape::Text | Shape::Free => object.with("type", "string"),
        Shape::Boolean => object.with("type", "boolean"),
        Shape::Integer(limits) => object.with("type", "integer").with("minimum", limits.least).with("maximum", limits.most),
        Shape::Fraction => object.with("type", "number").with("minimum", 0).with("maximum", 1),
        Shape::Duration(limits) => object.with("type", "string").with("pattern", durations::pattern(limits)),
        Shape::Address => object.with("type", "string").with("pattern", ADDRESS),
        Shape::Choice(words) => object.with("enum", words.clone()),
        Shape::Texts => object.with("type", "array").with("items", json!({ "type": "string" })),
        Shape::Uids => {
            let uid = json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX - 1 });
            object.with("type", "array").with("items", uid)
        }
        Shape::OneOrMore => object.with("type", json!(["string", "array"])).with("items", json!({ "type": "string" })),
        Shape::Table => return table(object, &name, keys, &|_| true),
        Shape::Tables => {
            return object.with("type", "array").with_object("items", table(Object(Vec::new()), &name, keys, &|_| true));
        }
    };
    let required = described.is_some_and(|described| described.required);
    match &asked.default {
        Some(default) if !asked.local && !required => object.with("default", default.clone()),
        Some(_) | None => object,
    }
}

/// From where to where a value may go, in words.
fn range(shape: &Shape) -> Option<String> {
    use humantime::format_duration;
    match shape {
        Shape::Integer(limits) => Some(format!("{} to {}", limits.least, limits.most)),
        Shape::Duration(limits) => Some(format!("{} to {}", format_duration(limits.least), format_duration(limits.most))),
        Shape::Fraction => Some("0.0 to 1.0".to_owned()),
        Shape::Text
        | Shape::Boolean
        | Shape::Address
        | Shape::Choice(_)
        | Shape::Texts
        | Shape::Uids
        | Shape::OneOrMore
        | Shape::Table
        | Shape::Tables
        | Shape::Free => None,
    }
}
