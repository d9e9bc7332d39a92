//! `[auth]` and `[[callers]]`: who may call, and for whom.
//!
//! Must never let an entry mean more callers than it says: a wildcard is one whole segment, and never a trust domain.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use super::{
    Auth, Caller, Merchants,
    faults::At,
    reader::{Found, Reader},
    service_accounts_table,
};
use crate::user::{MerchantId, Number};

/// Stands for one whole segment of a caller's id, and alone for all merchants.
pub const WILDCARD: &str = "*";

/// Longest id: the longest SPIFFE id (SPIFFE-ID, 2.3).
const ID_MAX: usize = 2_048;
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
const SPIFFE: &str = "spiffe://";

/// `[auth]`, and where its keys stand.
pub(super) struct Access {
    pub(super) auth: Auth,
    pub(super) allow_at: At,
    pub(super) accounts_at: At,
}

pub(super) fn read_auth(table: Option<Reader<'_, '_>>) -> Access {
    let auth = Auth { allow_unauthenticated: false, service_accounts: None };
    let mut access = Access { auth, allow_at: At::NOWHERE, accounts_at: At::NOWHERE };
    let Some(mut table) = table else { return access };
    let allow = table.boolean("allow_unauthenticated", false);
    (access.auth.allow_unauthenticated, access.allow_at) = (allow.value, allow.at);
    if let Some(accounts) = table.table("service_accounts", "auth.service_accounts") {
        access.accounts_at = accounts.at();
        access.auth.service_accounts = service_accounts_table::read(accounts);
    }
    table.finish();
    access
}

/// A path, from where the configuration file stands.
pub(super) fn path(table: &mut Reader<'_, '_>, key: &'static str) -> Option<PathBuf> {
    let Found { value, .. } = table.string(key)?;
    Some(table.findings().source().path().parent().unwrap_or(Path::new("")).join(&*value))
}

/// `[[callers]]`.
pub(super) fn read_callers(root: &mut Reader<'_, '_>) -> Vec<Caller> {
    root.tables("callers", "callers").filter_map(caller).collect()
}

fn caller(mut table: Reader<'_, '_>) -> Option<Caller> {
    let at = table.at();
    let line = at.0.map_or(1, |offset| table.findings().source().line(offset));
    for (key, what) in [
        ("id", "give the caller's SPIFFE id, system:serviceaccount:NAMESPACE:NAME, or DNS name"),
        ("merchants", "list the merchants whose users it may ask for, or [\"*\"] for all"),
    ] {
        if !table.has(key) {
            table.fault(at, key, format!("is missing: {what}"));
        }
    }
    let id = table.string("id").and_then(|Found { value, at }| {
        check_id(&value).map_err(|why| table.fault(at, "id", why)).ok()?;
        Some(value.into_owned())
    });
    let given = table.strings("merchants");
    let merchants = if given.iter().any(|found| found.value == WILDCARD) {
        if let [_, extra, ..] = given.as_slice() {
            table.fault(extra.at, "merchants", "has others beside \"*\", which stands for all: keep that alone, or take it out");
        }
        Some(Merchants::All)
    } else {
        each(&table, "merchants", given, MerchantId::parse).map(Merchants::Only)
    };
    let numbers = if table.has("numbers") {
        let given = table.strings("numbers");
        Some(each(&table, "numbers", given, Number::parse))
    } else {
        None
    };
    table.finish();
    Some(Caller { id: id?, merchants: merchants?, numbers: numbers.map_or(Some(None), |numbers| numbers.map(Some))?, line })
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

/// Whether an id can be what a caller is known by.
fn check_id(id: &str) -> Result<(), &'static str> {
    if id.len() > ID_MAX {
        return Err("is longer than 2,048 characters, which no id is");
    }
    if let Some(rest) = id.strip_prefix(SPIFFE) {
        return check_spiffe(rest);
    }
    if let Some(rest) = id.strip_prefix(SERVICE_ACCOUNT) {
        let good = rest.split_once(':').is_some_and(|(namespace, name)| {
            (namespace == WILDCARD || is_label(namespace)) && (name == WILDCARD || name.split('.').all(is_label))
        });
        return if good { Ok(()) } else { Err("is not a service account: write system:serviceaccount:NAMESPACE:NAME") };
    }
    let mut segments = id.split('.');
    if !segments.clone().any(|segment| segment != WILDCARD) {
        return Err("names nobody in particular: give a SPIFFE id, system:serviceaccount:NAMESPACE:NAME, or a DNS name");
    }
    if segments.all(|segment| segment == WILDCARD || is_label(segment)) {
        Ok(())
    } else {
        Err(
            "is neither a SPIFFE id (spiffe://…), nor system:serviceaccount:NAMESPACE:NAME, nor a DNS name in lower case; `*` stands \
             for one whole segment",
        )
    }
}

/// What comes behind `spiffe://` (SPIFFE-ID, 2).
fn check_spiffe(rest: &str) -> Result<(), &'static str> {
    let mut segments = rest.split('/');
    let domain = segments.next().unwrap_or_default();
    let in_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    if domain.is_empty() || !domain.bytes().all(in_domain) {
        return Err("has no trust domain that can be: lower case letters, digits, `.`, `-` and `_`, and no wildcard");
    }
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let good = |segment: &str| segment == WILDCARD || (!matches!(segment, "" | "." | "..") && segment.bytes().all(in_path));
    if segments.all(good) {
        Ok(())
    } else {
        Err(
            "has a path with something other than letters, digits, `.`, `-` and `_` between single slashes; `*` stands for one whole \
             segment",
        )
    }
}

/// A label of a DNS name in lower case (RFC 1123).
fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_a_caller_or_a_whole_segment() {
        for good in [
            "spiffe://example.org/ns/cards/sa/cards",
            "spiffe://example.org/ns/*/sa/cards",
            "spiffe://example.org",
            "system:serviceaccount:cards:cards",
            "system:serviceaccount:*:cards.v2",
            "cards.example.org",
            "*.example.org",
            "localhost",
        ] {
            assert_eq!(check_id(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "*",
            "*.*",
            "spiffe://",
            "spiffe://*/ns/cards",
            "spiffe://Example.org/x",
            "spiffe://example.org/",
            "spiffe://example.org//x",
            "spiffe://example.org/x*",
            "spiffe://example.org/../x",
            "spiffe://example.org:8443/x",
            "spiffe://user@example.org/x",
            "https://example.org/x",
            "system:serviceaccount:cards",
            "system:serviceaccount:cards:cards:more",
            "system:serviceaccount:Cards:cards",
            "system:serviceaccount:ca*:cards",
            "system:node:worker",
            "Cards.example.org",
            "cards*.example.org",
            "cards..example.org",
            "cards example",
        ] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }
}
