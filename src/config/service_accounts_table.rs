//! `[auth.service_accounts]`: whose tokens are taken, and who says what keys they are signed with.
//!
//! Must never let one issuer's tokens be verified with another's keys, nor leave it open whose keys are whose.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use super::{
    Issuer, Keys, ServiceAccounts,
    auth_table::path,
    faults::At,
    limits,
    reader::{Found, OneOrMore, Reader},
    source,
    vault_table::base_url,
};
use crate::{
    jwks::{self, Published},
    outbound, pem, text,
};

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

/// Reads the table; none where it is at fault.
pub(super) fn read(mut table: Reader<'_, '_>) -> Option<ServiceAccounts> {
    let accounts = put_together(&mut table);
    table.finish();
    accounts
}

fn put_together(table: &mut Reader<'_, '_>) -> Option<ServiceAccounts> {
    let names = issuers(table);
    let audience = table.string("audience").map(|Found { value, at }| {
        if value.is_empty() {
            table.fault(at, "audience", "is empty: give a value, or remove the key");
        }
        value.into_owned()
    });
    let keys = keys(table, names.as_ref().map(Vec::len));
    let token_review = table.boolean("token_review", false);
    let review_url = match table.string("token_review_url") {
        Some(Found { value, at }) => base_url(&value).map_err(|why| table.fault(at, "token_review_url", why)).ok(),
        None => Some(TOKEN_REVIEW_URL.to_owned()),
    };
    let ca_file = path(table, "ca_file").or_else(|| Some(PathBuf::from(CLUSTER_CA)).filter(|path| path.exists()));
    if let Some(why) = ca_file.as_ref().and_then(|path| authorities(path).err()) {
        table.fault(table.at(), "ca_file", format!("names a file {why}"));
    }
    let token_file = path(table, "token_file").unwrap_or_else(|| PathBuf::from(OWN_TOKEN));
    if let Err(why) = own_token(&token_file) {
        table.fault(table.at(), "token_file", format!("names a file that {why}"));
    }
    let (names, keys, review_url) = (names?, keys?, review_url?);
    if token_review.value && keys.windows(2).any(|pair| matches!(pair, [one, other] if one != other)) {
        let message = "asks one API server about the tokens of all issuers, and it refuses those of another cluster: unset it until the \
                       migration is over, unless all keys are of this cluster";
        table.findings().warn(token_review.at, table.key("token_review"), message);
    }
    let issuers = names.into_iter().zip(&keys).map(|(name, keys_of_it)| Issuer {
        name,
        keys: keys_of_it.clone(),
        with_token: may_see_token(keys_of_it, &keys, &review_url),
    });
    let issuers = issuers.collect();
    let audience = audience.unwrap_or_else(|| AUDIENCE.to_owned());
    Some(ServiceAccounts { issuers, audience, review: token_review.value.then_some(review_url), ca_file, token_file })
}

/// The issuers' names, each once.
fn issuers(table: &mut Reader<'_, '_>) -> Option<Vec<String>> {
    const KEY: &str = "issuer";
    const GIVE: &str = "give the cluster's issuer, such as \"https://kubernetes.default.svc.cluster.local\" (kubectl get --raw \
                        /.well-known/openid-configuration shows it)";
    if !table.has(KEY) {
        table.fault(table.at(), KEY, format!("is missing: {GIVE}"));
    }
    let Found { value: OneOrMore { values: given, .. }, at } = table.one_or_more(KEY)?;
    let mut names: Vec<String> = Vec::with_capacity(given.len());
    if given.is_empty() {
        table.fault(at, KEY, format!("is an empty list: {GIVE}"));
        return None;
    }
    if given.len() > limits::ISSUERS {
        table.fault(
            at,
            KEY,
            format!("has more than {} issuers: remove those whose tokens nobody shows any more", limits::ISSUERS),
        );
        return None;
    }
    for Found { value, at } in given {
        if value.is_empty() {
            table.fault(at, KEY, "is empty: give a value, or remove the key");
        } else if names.iter().any(|name| *name == value) {
            table.fault(at, KEY, "names an issuer twice: remove one");
        } else {
            names.push(value.into_owned());
            continue;
        }
        return None;
    }
    Some(names)
}

/// The keys of each issuer: from one place for all, or one for each.
fn keys(table: &mut Reader<'_, '_>, issuers: Option<usize>) -> Option<Vec<Keys>> {
    if table.has("jwks_url") && table.has("jwks_file") {
        table.fault(table.at(), "jwks_url", "stands beside jwks_file: keep one of the two");
    }
    let urls = table.one_or_more("jwks_url");
    let files = table.one_or_more("jwks_file");
    let urls = urls.map(|found| {
        each(table, "jwks_url", found, issuers, |table, Found { value, at }| {
            base_url(&value).map(Keys::Url).map_err(|why| table.fault(at, "jwks_url", why)).ok()
        })
    });
    let files = files.map(|found| {
        each(table, "jwks_file", found, issuers, |table, Found { value, at }| {
            let path = table.findings().source().path().parent().unwrap_or(Path::new("")).join(&*value);
            look_at(table, at, &path);
            Some(Keys::File(path))
        })
    });
    match files.or(urls) {
        Some(keys) => keys,
        // An API server publishes one set for all issuers that it has.
        None => Some(vec![Keys::Url(JWKS_URL.to_owned()); issuers.unwrap_or(1)]),
    }
}

/// One for each issuer, in their order.
fn each<'i>(
    table: &Reader<'_, 'i>,
    key: &'static str,
    Found { value: OneOrMore { values: given, is_list }, at }: Found<OneOrMore<'i>>,
    issuers: Option<usize>,
    parse: impl Fn(&Reader<'_, 'i>, Found<Cow<'i, str>>) -> Option<Keys>,
) -> Option<Vec<Keys>> {
    let count = given.len();
    let keys: Vec<Keys> = given.into_iter().filter_map(|found| parse(table, found)).collect();
    if keys.len() != count {
        return None;
    }
    let issuers = issuers?;
    match keys.as_slice() {
        [one] if !is_list => Some(vec![one.clone(); issuers]),
        _ if count == issuers => Some(keys),
        _ => {
            let message = format!(
                "has {count} entries for {issuers} of issuer: give one for each, in the same order, or a string alone that serves all"
            );
            table.fault(at, key, message);
            None
        }
    }
}

/// Whether a request for these keys may carry the broker's own token: to its own API server. Where keys come from one server alone, it
/// is that; where from several, the one that reviews tokens.
fn may_see_token(keys: &Keys, all: &[Keys], review_url: &str) -> bool {
    let origin = |keys: &Keys| match keys {
        Keys::Url(url) => Some(origin(url).to_owned()),
        Keys::File(_) => None,
    };
    let own = origin(keys);
    own.is_some() && (all.iter().all(|other| origin(other) == own) || own.as_deref() == Some(self::origin(review_url)))
}

/// Scheme, host and port of a URL that is written in the one way.
fn origin(url: &str) -> &str {
    let authority = url.find("://").map_or(0, |scheme| scheme + "://".len());
    let end = url.get(authority..).and_then(|rest| rest.find('/')).map_or(url.len(), |path| authority + path);
    url.get(..end).unwrap_or(url)
}

/// Says of a file of keys what will be said when it is read; it is read anew every few minutes, so it may be mended at any time.
fn look_at(table: &Reader<'_, '_>, at: At, path: &Path) {
    let warn = |message: String| table.findings().warn(at, table.key("jwks_file"), message);
    let contents = match source::read(path, u64::try_from(jwks::BYTES_MAX).unwrap_or(u64::MAX)) {
        Ok(contents) => contents,
        Err(why) => {
            warn(format!("names a file that {why}: no token can be verified until the cluster's keys (a JWKS) are there"));
            return;
        }
    };
    let Published { keys, unusable, is_empty } = jwks::read(&contents.bytes);
    for unusable in unusable {
        warn(format!("names a file of which {unusable}"));
    }
    // A set with nothing in it says so itself: whoever wrote that is to put the keys there.
    if let Err(why) = keys.map(drop)
        && !is_empty
    {
        warn(format!("names a file with which no token can be verified, since {why}: write there what the cluster publishes"));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_brokers_own_api_server_sees_its_token() {
        let url = |url: &str| Keys::Url(url.to_owned());
        let (a, b, file) = (url("https://a/openid"), url("https://b:6443/jwks"), Keys::File("jwks".into()));
        for (keys, all, expected) in [
            (&a, vec![a.clone()], true),
            (&a, vec![a.clone(), a.clone()], true),
            (&a, vec![a.clone(), url("https://a/other")], true),
            (&a, vec![a.clone(), b.clone()], false),
            (&b, vec![a.clone(), b.clone()], true),
            (&file, vec![file.clone()], false),
        ] {
            assert_eq!(may_see_token(keys, &all, "https://b:6443/apis"), expected, "{keys:?} of {all:?}");
        }
        assert_eq!(origin("https://a"), "https://a");
    }
}
