//! What the operator's commands print: tables for people, JSON for programs.
//!
//! Must never print what the broker did not say, nor let a text of others' change a terminal.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::{
    clock::{Clock as _, SystemClock},
    operator::proto::{self, Reach, UserState},
    plain, timestamp,
};

/// An answer, both ways.
pub(super) struct Said {
    pub(super) text: String,
    pub(super) json: Value,
}

impl Said {
    fn new(text: &str, json: Value) -> Self {
        Self { text: plain::in_lines(text.trim_end()).into_owned(), json }
    }
}

/// A list of users.
pub(super) fn users(users: &[proto::User], total: u32) -> Said {
    let now = SystemClock.now().wall;
    let heading = ["MERCHANT", "NUMBER", "STATE", "TOKEN ENDS", "ASKED FOR", "WHY"].map(str::to_owned);
    let row = |user: &proto::User| {
        let token = user.token.as_ref().and_then(|token| token.expires_at);
        let failure = user.failure.as_ref().or(user.merchant_wait.as_ref());
        [
            user.merchant_id.clone(),
            user.number.clone(),
            states(user).join(","),
            relative(token, now),
            relative(user.asked_at, now),
            failure.map(|failure| format!("{}{}", failure.reason, until(failure, now))).unwrap_or_default(),
        ]
    };
    let mut text = table([heading].into_iter().chain(users.iter().map(row)));
    let listed = users.len();
    if usize::try_from(total).unwrap_or(usize::MAX) > listed {
        // Names are few, so this can't fail.
        let _written = write!(text, "{listed} of {total} users: --limit, --merchant-id and --state choose others");
    } else {
        let _written = write!(text, "{total} user{}", if total == 1 { "" } else { "s" });
    }
    Said::new(&text, json!({ "users": users.iter().map(user_json).collect::<Vec<_>>(), "total": total }))
}

/// One user.
pub(super) fn user(user: &proto::User) -> Said {
    Said::new(&user_text(user), user_json(user))
}

/// What came of a renewal.
pub(super) fn renewed(answer: &proto::RenewTokenResponse) -> Said {
    let user = answer.user.clone().unwrap_or_default();
    let how = if answer.taken_from_another { "another replica had a newer token, which is taken" } else { "renewed" };
    let text = format!("{how}: {}\n{}", reach_text(answer.reach()), user_text(&user));
    let json = json!({
        "user": user_json(&user),
        "taken_from_another": answer.taken_from_another,
        "reach": reach(answer.reach()),
    });
    Said::new(&text, json)
}

/// What came of a drop.
pub(super) fn dropped(answer: &proto::DropTokenResponse) -> Said {
    let text = if answer.token_id.is_empty() {
        format!("there was no token to drop: {}", reach_text(answer.reach()))
    } else {
        let signs_out = if answer.signs_out { ", and the vault is asked to end it" } else { "" };
        format!("dropped {}{signs_out}: {}", answer.token_id, reach_text(answer.reach()))
    };
    let token_id = Some(&answer.token_id).filter(|id| !id.is_empty());
    Said::new(&text, json!({ "token_id": token_id, "signs_out": answer.signs_out, "reach": reach(answer.reach()) }))
}

/// What came of lifting a hold.
pub(super) fn lifted(answer: &proto::LiftHoldResponse) -> Said {
    let now = SystemClock.now().wall;
    let text = match &answer.lifted {
        Some(stop) => {
            format!("lifted: {}{}\n{}; the next call tries once more", stop.reason, until(stop, now), reach_text(answer.reach()))
        }
        None if answer.reach() == Reach::AllReplicas => "nothing stopped this user here; what did elsewhere is lifted".to_owned(),
        None => format!("nothing stopped this user by itself: {}", reach_text(answer.reach())),
    };
    Said::new(&text, json!({ "lifted": failure_json(answer.lifted.as_ref()), "reach": reach(answer.reach()) }))
}

/// What came of lifting a merchant's waits.
pub(super) fn lifted_waits(answer: &proto::LiftWaitsResponse) -> Said {
    let now = SystemClock.now().wall;
    let whole = answer.lifted.as_ref().map(|stop| format!("the merchant's wait{}", until(stop, now)));
    let single =
        (answer.users > 0).then(|| format!("those of {} user{}", answer.users, if answer.users == 1 { "" } else { "s" }));
    let text = match (whole, single) {
        (None, None) => format!("nothing of this merchant waits for the vault: {}", reach_text(answer.reach())),
        (Some(whole), Some(single)) => format!("lifted: {whole}, and {single}\n{}", reach_text(answer.reach())),
        (Some(one), None) | (None, Some(one)) => format!("lifted: {one}\n{}", reach_text(answer.reach())),
    };
    let json = json!({
        "lifted": failure_json(answer.lifted.as_ref()),
        "users": answer.users,
        "reach": reach(answer.reach()),
    });
    Said::new(&text, json)
}

/// A span as people say it.
pub(super) fn span(span: Duration) -> String {
    let whole = if span < Duration::from_secs(1) { span.as_millis().div_ceil(100) * 100 } else { 0 };
    match whole {
        0 => humantime::format_duration(Duration::from_secs(span.as_secs())).to_string(),
        millis => format!("{millis}ms"),
    }
}

fn user_text(user: &proto::User) -> String {
    let now = SystemClock.now().wall;
    let at = |at: Option<Timestamp>| {
        let text = at.and_then(system_time).and_then(timestamp::rfc3339);
        text.map(|text| format!("{text} ({})", relative(at, now)))
    };
    let token = user.token.as_ref();
    let outdated = token.is_some_and(|token| token.outdated).then(|| "of another password, and being renewed".to_owned());
    let stop = |stop: Option<&proto::Failure>| stop.map(|stop| format!("{}: {}{}", stop.reason, stop.what, until(stop, now)));
    let lines = [
        ("merchant", Some(user.merchant_id.clone())),
        ("number", Some(user.number.clone())),
        ("state", Some(states(user)).filter(|states| !states.is_empty()).map(|states| states.join(", "))),
        ("token", token.map(|token| token.token_id.clone())),
        ("", outdated),
        ("token ends", token.and_then(|token| at(token.expires_at))),
        ("renewed", at(user.renews_at)),
        ("signing in", user.signing_in.then(|| "now".to_owned())),
        ("last sign-in", at(user.signed_in_at)),
        ("floor ends", at(user.floor_ends_at)),
        ("asked for", at(user.asked_at)),
        ("last failure", stop(user.failure.as_ref())),
        ("merchant waits", stop(user.merchant_wait.as_ref())),
    ];
    let shown = lines.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name:<16}{value}\n")));
    shown.collect()
}

fn user_json(user: &proto::User) -> Value {
    let token = user
        .token
        .as_ref()
        .map(|token| json!({ "token_id": token.token_id, "expires_at": time(token.expires_at), "outdated": token.outdated }));
    json!({
        "merchant_id": user.merchant_id,
        "number": user.number,
        "states": states(user),
        "token": token,
        "asked_at": time(user.asked_at),
        "signed_in_at": time(user.signed_in_at),
        "floor_ends_at": time(user.floor_ends_at),
        "renews_at": time(user.renews_at),
        "signing_in": user.signing_in,
        "failure": failure_json(user.failure.as_ref()),
        "merchant_wait": failure_json(user.merchant_wait.as_ref()),
    })
}

fn failure_json(failure: Option<&proto::Failure>) -> Value {
    failure.map_or(Value::Null, |failure| json!({ "reason": failure.reason, "what": failure.what, "until": time(failure.until) }))
}

fn states(user: &proto::User) -> Vec<&'static str> {
    let name = |state| match state {
        UserState::Unspecified => "unknown",
        UserState::Cached => "cached",
        UserState::Dry => "dry",
        UserState::Held => "held",
        UserState::Failing => "failing",
    };
    user.states().map(name).collect()
}

fn reach(reach: Reach) -> &'static str {
    match reach {
        Reach::Unspecified => "unknown",
        Reach::ThisReplica => "this_replica",
        Reach::AllReplicas => "all_replicas",
    }
}

fn reach_text(reach: Reach) -> &'static str {
    match reach {
        Reach::Unspecified => "how far it reached is not known",
        Reach::ThisReplica => "at this replica alone; do the same at the others",
        Reach::AllReplicas => "at all replicas that reach the shared tier",
    }
}

fn until(failure: &proto::Failure, now: SystemTime) -> String {
    failure.until.map(|at| format!(", until {}", relative(Some(at), now))).unwrap_or_default()
}

fn system_time(at: Timestamp) -> Option<SystemTime> {
    SystemTime::try_from(at).ok()
}

fn time(at: Option<Timestamp>) -> Option<String> {
    at.and_then(system_time).and_then(timestamp::rfc3339)
}

/// How far off an instant is; nothing where there is none.
fn relative(at: Option<Timestamp>, now: SystemTime) -> String {
    let Some(at) = at.and_then(system_time) else { return String::new() };
    match at.duration_since(now) {
        Ok(ahead) => format!("in {}", span(ahead)),
        Err(past) if past.duration() < Duration::from_secs(1) => "just now".to_owned(),
        Err(past) => format!("{} ago", span(past.duration())),
    }
}

/// Rows with each column as wide as its widest cell.
fn table<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<_> = rows.collect();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  "));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    rows.iter().map(line).collect()
}
