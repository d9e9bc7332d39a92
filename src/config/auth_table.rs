//! `[auth]` and `[[callers]]`: who may call, and for whom.
//!
//! Must never let an entry without its merchants mean all of them.

use std::borrow::Cow;

use super::{
    findings::At,
    reader::{Found, Reader},
    service_accounts_table,
    values::{AuthConfig, CallerConfig, Merchants},
};
use crate::{
    caller::CallerPattern,
    user::{MerchantId, Number},
};

/// Alone it stands for all merchants.
const ALL: &str = "*";
/// What others call the keys of an entry, as `[[users]]` does. Left out because it is not known, what limits an entry would limit nothing.
const MISTAKEN: [(&str, &str); 9] = [
    ("caller", "id"),
    ("name", "id"),
    ("merchant", "merchants"),
    ("merchant_id", "merchants"),
    ("merchant_ids", "merchants"),
    ("number", "numbers"),
    ("phone_number", "numbers"),
    ("phone_numbers", "numbers"),
    ("users", "numbers"),
];

/// What is said of an entry that denies nobody.
const ON_TRIAL: &str = "is true: this entry is on trial, and whom it means is let in for every user, and counted \
                        (token_broker_would_deny_total): once nobody is counted who should be let in, take it out";

/// `[auth]`, and where its keys stand.
pub(super) struct Access {
    pub(super) auth: AuthConfig,
    pub(super) enforce_at: At,
    pub(super) allow_at: At,
    pub(super) accounts_at: At,
}

pub(super) fn read_auth(table: Option<Reader<'_, '_>>) -> Access {
    let auth = AuthConfig { enforce: true, allow_unauthenticated: false, service_accounts: None };
    let mut access = Access { auth, enforce_at: At::NOWHERE, allow_at: At::NOWHERE, accounts_at: At::NOWHERE };
    let Some(mut table) = table else { return access };
    let enforce = table.boolean("enforce", true);
    (access.auth.enforce, access.enforce_at) = (enforce.value, enforce.at);
    let allow = table.boolean("allow_unauthenticated", false);
    (access.auth.allow_unauthenticated, access.allow_at) = (allow.value, allow.at);
    if let Some(accounts) = table.table("service_accounts", "auth.service_accounts") {
        access.accounts_at = accounts.at();
        access.auth.service_accounts = service_accounts_table::read(accounts);
    }
    table.finish();
    access
}

/// `[[callers]]`.
pub(super) fn read_callers(root: &mut Reader<'_, '_>) -> Vec<CallerConfig> {
    root.tables("callers", "callers").filter_map(caller).collect()
}

fn caller(mut table: Reader<'_, '_>) -> Option<CallerConfig> {
    let at = table.at();
    let line = at.0.map_or(1, |offset| table.findings().source().line(offset));
    table.mistaken(&MISTAKEN);
    for (key, what) in [
        ("id", "give the caller's SPIFFE id, system:serviceaccount:NAMESPACE:NAME, or DNS name"),
        ("merchants", "list the merchants whose users it may ask for; an empty list means none, and [\"*\"] all"),
    ] {
        if table.lacks(key) {
            table.fault(at, key, format!("is missing: {what}"));
        }
    }
    let id = table
        .string("id")
        .and_then(|Found { value, at }| CallerPattern::parse(&value).map_err(|why| table.fault(at, "id", why.to_string())).ok())
        .inspect(|id| {
            if let Some(why) = id.too_wide() {
                table.findings().warn(at, table.key("id"), why);
            }
        });
    let has_numbers = table.has("numbers");
    let given = table.strings("merchants");
    let merchants = if given.iter().any(|found| found.value == ALL) {
        if let [_, extra, ..] = given.as_slice() {
            table.fault(extra.at, "merchants", "has others beside \"*\", which stands for all: keep that alone, or take it out");
        }
        Some(Merchants::All)
    } else {
        each(&table, "merchants", given, merchant).map(Merchants::Only)
    };
    // Asked for in any case, so that it is among the keys that are known.
    let given = table.strings("numbers");
    let numbers = has_numbers.then(|| each(&table, "numbers", given, Number::parse));
    let Found { value: trial, at: trial_at } = table.boolean("trial", false);
    if trial {
        table.findings().warn(trial_at, table.key("trial"), ON_TRIAL);
    }
    table.finish();
    let numbers = numbers.map_or(Some(None), |numbers| numbers.map(Some))?;
    Some(CallerConfig { id: id?, merchants: merchants?, numbers, trial, line })
}

/// A merchant of an entry. A user's id may have any character, but here `*` in one would look like more than it is.
fn merchant(id: String) -> Result<MerchantId, &'static str> {
    if id.contains(ALL) {
        return Err(
            "has `*` beside other characters, which stands for nothing there: write merchants' ids whole, or [\"*\"] for all",
        );
    }
    MerchantId::parse(id)
}

fn each<T>(
    table: &Reader<'_, '_>,
    key: &'static str,
    given: Vec<Found<Cow<'_, str>>>,
    parse: fn(String) -> Result<T, &'static str>,
) -> Option<Vec<T>> {
    let count = given.len();
    let one = |Found { value, at }: Found<Cow<'_, str>>| {
        parse(value.into_owned()).map_err(|why| table.fault(at, key, format!("has an entry that {why}"))).ok()
    };
    let parsed: Vec<T> = given.into_iter().filter_map(one).collect();
    (parsed.len() == count).then_some(parsed)
}
