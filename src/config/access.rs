//! `[auth]`, `[auth.service_accounts]` and `[[callers]]`: who may call, and for whom.
//!
//! Must never let an entry mean more callers than it says: a wildcard is one whole segment, and never a trust domain.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use super::{
    Auth, Caller, Keys, Merchants, ServiceAccounts,
    faults::At,
    limits,
    reader::{Found, Reader},
    source,
    vault::base_url,
};
use crate::{
    model::{MerchantId, Number},
    outbound, pem, text,
};

/// Stands for one whole segment of a caller's id, and alone for all merchants.
pub const WILDCARD: &str = "*";

/// What callers' tokens are asked to be for.
const AUDIENCE: &str = "token-broker";
/// Where a cluster publishes its keys, for whoever shows a service account's token.
const JWKS_URL: &str = "https://kubernetes.default.svc/openid/v1/jwks";
/// Where it says whether a token still holds.
const TOKEN_REVIEW_URL: &str = "https://kubernetes.default.svc/apis/authentication.k8s.io/v1/tokenreviews";
/// Where Kubernetes mounts the CA of its API server …
const CLUSTER_CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
/// … and the pod's own token for it.
const OWN_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
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
        access.auth.service_accounts = service_accounts(accounts);
    }
    table.finish();
    access
}

fn service_accounts(mut table: Reader<'_, '_>) -> Option<ServiceAccounts> {
    const ISSUER: &str = "is missing: give the cluster's issuer, such as \"https://kubernetes.default.svc.cluster.local\" (kubectl get --raw \
         /.well-known/openid-configuration shows it)";
    if !table.has("issuer") {
        table.fault(table.at(), "issuer", ISSUER);
    }
    let issuer = words(&mut table, "issuer");
    let audience = words(&mut table, "audience").unwrap_or_else(|| AUDIENCE.to_owned());
    let file = path(&mut table, "jwks_file");
    let url_at = table.has("jwks_url").then(|| table.at());
    let keys_url = url(&mut table, "jwks_url", JWKS_URL);
    if let (Some(at), Some(_)) = (url_at, &file) {
        table.fault(at, "jwks_url", "stands beside jwks_file: keep one of the two");
    }
    let token_review = table.boolean("token_review", false).value;
    let review_url = url(&mut table, "token_review_url", TOKEN_REVIEW_URL);
    let ca_file = path(&mut table, "ca_file").or_else(|| Some(PathBuf::from(CLUSTER_CA)).filter(|path| path.exists()));
    if let Some(why) = ca_file.as_ref().and_then(|path| authorities(path).err()) {
        table.fault(table.at(), "ca_file", format!("names a file {why}"));
    }
    let token_file = path(&mut table, "token_file").unwrap_or_else(|| PathBuf::from(OWN_TOKEN));
    if let Err(why) = own_token(&token_file) {
        table.fault(table.at(), "token_file", format!("names a file that {why}"));
    }
    table.finish();
    let keys = match file {
        Some(file) => Keys::File(file),
        None => Keys::Url(keys_url?),
    };
    let review = if token_review { Some(review_url?) } else { None };
    Some(ServiceAccounts { issuer: issuer?, audience, keys, review, ca_file, token_file })
}

/// Whether the API server's authorities can be read now. They are read anew for each request, and not by a reload.
fn authorities(path: &Path) -> Result<(), String> {
    let unreadable = |why| format!("that {why}: give the API server's CA in PEM, by a path relative to this file");
    let contents = source::read(path, limits::CA_BYTES).map_err(unreadable)?;
    pem::authorities(&contents.bytes).and_then(|blocks| outbound::anchors(&blocks)).map_err(|fault| fault.to_string())?;
    Ok(())
}

/// Whether the broker's own token can be sent as it is now. It need not be there yet, and is read anew for each request.
fn own_token(path: &Path) -> Result<(), String> {
    match source::read(path, limits::TOKEN_BYTES) {
        Ok(contents) => text::token(&contents.bytes).map(drop).map_err(|flaw| flaw.to_string()),
        Err(source::Unreadable::Io(_)) => Ok(()),
        Err(why) => Err(format!("{why}: name the broker's own projected token")),
    }
}

/// A string that says something.
fn words(table: &mut Reader<'_, '_>, key: &'static str) -> Option<String> {
    let Found { value, at } = table.string(key)?;
    if value.is_empty() {
        table.fault(at, key, "is empty: give a value, or remove the key");
    }
    Some(value.into_owned())
}

/// A path, from where the configuration file stands.
pub(super) fn path(table: &mut Reader<'_, '_>, key: &'static str) -> Option<PathBuf> {
    let Found { value, .. } = table.string(key)?;
    Some(table.findings().source().path().parent().unwrap_or(Path::new("")).join(&*value))
}

/// `https://…`, or `http://…` on loopback.
fn url(table: &mut Reader<'_, '_>, key: &'static str, default: &str) -> Option<String> {
    let Some(Found { value, at }) = table.string(key) else { return Some(default.to_owned()) };
    base_url(&value).map_err(|why| table.fault(at, key, why)).ok()
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
