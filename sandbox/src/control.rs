//! `/_sandbox/…`: what the library's handle can do, for teams that don't write Rust.
//!
//! Must never take half of a request: a list with one fault in it is refused whole. Never shows passwords or tokens.

use std::{collections::BTreeMap, time::Duration};

use hyper::{Method, StatusCode};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::{
    clock,
    core::Core,
    fault::{self, Fault},
    options::Mode,
    shapes::{self, Answer},
    vault,
};

/// How often one entry of a list may be repeated.
const MAX_TIMES: u64 = 1_000;

/// Answers a request for `/_sandbox/` + `path`.
pub(crate) fn answer(core: &Core, method: &Method, path: &str, body: &[u8]) -> Answer {
    let allowed = match path {
        "stats" => "GET",
        "faults" => "POST, DELETE",
        "settings" | "revoke" => "POST",
        _ => {
            let known = "stats, faults, settings, revoke";
            return Answer::json(
                StatusCode::NOT_FOUND,
                &json!({ "fault": format!("/_sandbox/{path} is unknown; there are {known}") }),
            );
        }
    };
    let done = match (path, method) {
        ("stats", &Method::GET) => Ok(stats(core)),
        ("faults", &Method::POST) => add_faults(core, body),
        ("faults", &Method::DELETE) => Ok(json!({ "dropped": core.state().script.clear() })),
        ("settings", &Method::POST) => settings(core, body),
        ("revoke", &Method::POST) => revoke(core, body),
        _ => return vault::method_not_allowed(method, allowed),
    };
    match done {
        Ok(value) => Answer::json(StatusCode::OK, &value),
        Err(why) => Answer::json(StatusCode::BAD_REQUEST, &json!({ "fault": why })),
    }
}

fn stats(core: &Core) -> Value {
    let mut value = json!(*core.stats.borrow());
    if let Some(fields) = value.as_object_mut() {
        fields.insert("unused_faults".to_owned(), json!(core.state().script.left()));
    }
    value
}

fn add_faults(core: &Core, body: &[u8]) -> Result<Value, String> {
    let entries: Vec<Value> =
        serde_json::from_slice(body).map_err(|error| format!("a JSON list of faults is wanted: {error}"))?;
    let mut faults = Vec::new();
    for (at, entry) in entries.into_iter().enumerate() {
        let entry = Entry::read(entry).map_err(|why| format!("fault {}: {why}", at + 1))?;
        faults.extend((0..entry.times).map(|_| (entry.number.clone(), entry.fault.clone())));
    }
    let mut state = core.state();
    state.script.add(faults)?;
    Ok(json!({ "unused_faults": state.script.left() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    lifetime: Option<String>,
    delay: Option<String>,
    mode: Option<Mode>,
    /// `null` ends the outage; absent leaves it as it is.
    #[serde(default, deserialize_with = "present")]
    always: Option<Value>,
}

/// Tells a `null` from an absent key.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

fn settings(core: &Core, body: &[u8]) -> Result<Value, String> {
    let settings: Settings = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let lifetime = settings.lifetime.as_deref().map(clock::duration).transpose()?;
    let delay = settings.delay.as_deref().map(clock::duration).transpose()?;
    let always = match settings.always {
        None => None,
        Some(Value::Null) => Some(None),
        Some(entry) => {
            let entry = Entry::read(entry).map_err(|why| format!("always: {why}"))?;
            if entry.number.is_some() || entry.times != 1 {
                return Err("always: the standing fault is everybody's and has no end, so no `number` and no `times`".to_owned());
            }
            Some(Some(entry.fault))
        }
    };
    let mut state = core.state();
    state.vault.lifetime = lifetime.unwrap_or(state.vault.lifetime);
    state.vault.mode = settings.mode.unwrap_or(state.vault.mode);
    state.delay = delay.unwrap_or(state.delay);
    if let Some(always) = always {
        state.script.always = always;
    }
    Ok(json!({
        "lifetime": written(state.vault.lifetime),
        "delay": written(state.delay),
        "mode": state.vault.mode,
        "outage": state.script.always.is_some(),
    }))
}

/// A duration as the settings take it.
fn written(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 { format!("{}s", duration.as_secs()) } else { format!("{}ms", duration.as_millis()) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    access_token: Option<String>,
    #[serde(default)]
    all: bool,
}

fn revoke(core: &Core, body: &[u8]) -> Result<Value, String> {
    let revoke: Revoke = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let revoked = match (revoke.access_token, revoke.all) {
        (Some(token), false) => usize::from(core.state().vault.revoke(&token)),
        (None, true) => core.state().vault.revoke_all(),
        _ => return Err(r#"write {"access_token": "…"} or {"all": true}"#.to_owned()),
    };
    Ok(json!({ "revoked": revoked }))
}

/// One entry of a list of faults: the fault, whose it is, how often.
struct Entry {
    number: Option<String>,
    times: u64,
    fault: Fault,
}

/// What goes with every kind.
#[derive(Deserialize)]
struct Common {
    number: Option<String>,
    after: Option<String>,
    times: Option<u64>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// The keys of [`Common`]; the rest of an entry is its [`Kind`], which knows its keys itself.
const COMMON: [&str; 4] = ["number", "after", "times", "headers"];

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum Kind {
    Truth {},
    Reply { status: u16, body: Option<String>, json: Option<Value> },
    Refusal { error_id: Option<i64>, error: Option<String>, message: String },
    SecondFactor {},
    Spring { status: u16, error: String, description: String },
    V2 { status: u16, word: String, message: String },
    Html { status: u16 },
    Redirect { status: u16, location: String },
    Reset {},
    ResetMidBody {},
    Close {},
    CloseMidBody {},
    Drip { bytes: usize, every: String },
    Endless {},
    Hang {},
}

impl Entry {
    fn read(entry: Value) -> Result<Self, String> {
        let Value::Object(fields) = entry else { return Err("an object like {\"kind\": \"reset\"} is wanted".to_owned()) };
        let (common, kind): (Map<_, _>, Map<_, _>) = fields.into_iter().partition(|(key, _)| COMMON.contains(&key.as_str()));
        let common: Common = serde_json::from_value(common.into()).map_err(|error| error.to_string())?;
        let kind: Kind = serde_json::from_value(kind.into()).map_err(|error| error.to_string())?;
        let mut fault = kind.fault()?;
        for (name, value) in &common.headers {
            fault = fault.try_header(name.as_bytes(), value.as_bytes())?;
        }
        if let Some(after) = common.after {
            fault = fault.after(clock::duration(&after)?);
        }
        let times = common.times.unwrap_or(1);
        if !(1..=MAX_TIMES).contains(&times) {
            return Err(format!("`times` must be within 1 to {MAX_TIMES}"));
        }
        Ok(Self { number: common.number, times, fault })
    }
}

impl Kind {
    fn fault(self) -> Result<Fault, String> {
        // The constructors of `Fault` panic on a status or a header that can't be: here they are looked at first.
        let checked = |status: u16| fault::status_of(status).map(|_| status);
        Ok(match self {
            Self::Truth {} => Fault::truth(),
            Self::Reply { status, body, json: None } => Fault::reply(checked(status)?, body.unwrap_or_default()),
            Self::Reply { status, body: None, json: Some(json) } => Fault::reply(checked(status)?, json.to_string()),
            Self::Reply { body: Some(_), json: Some(_), .. } => return Err("`body` or `json`, not both".to_owned()),
            Self::Refusal { error_id, error, message } => {
                Fault::reply(400, shapes::vendor(error_id, error.as_deref(), &message).to_string())
            }
            Self::SecondFactor {} => Fault::second_factor(),
            Self::Spring { status, error, description } => {
                if error.chars().any(|c| !(' '..='~').contains(&c)) {
                    return Err("`error` stands in a header, so it must be visible ASCII".to_owned());
                }
                Fault::spring(checked(status)?, &error, &description)
            }
            Self::V2 { status, word, message } => Fault::v2(checked(status)?, &word, &message),
            Self::Html { status } => Fault::html(checked(status)?),
            Self::Redirect { status, location } => {
                Fault::reply(checked(status)?, "").try_header(b"location", location.as_bytes())?
            }
            Self::Reset {} => Fault::Reset,
            Self::ResetMidBody {} => Fault::ResetMidBody,
            Self::Close {} => Fault::Close,
            Self::CloseMidBody {} => Fault::CloseMidBody,
            Self::Drip { bytes: 0, .. } => return Err("`bytes` must be at least 1".to_owned()),
            Self::Drip { bytes, every } => Fault::Drip { bytes, every: clock::duration(&every)? },
            Self::Endless {} => Fault::Endless,
            Self::Hang {} => Fault::Hang,
        })
    }
}
