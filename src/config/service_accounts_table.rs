//! `[auth.service_accounts]`: whose tokens are taken, and who says what keys they are signed with.
//!
//! Must never let one issuer's tokens be verified with another's keys, nor leave it open whose keys are whose.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use super::{
    addresses::base_url,
    findings::At,
    limits,
    reader::{Found, OneOrMore, Reader},
    source,
    values::{Issuer, KeySource, ServiceAccountsConfig},
};
use crate::{
    jwks::{self, Published},
    outbound::{self, Target},
    plain::is_plain,
    text,
};

/// What callers' tokens are asked to be for.
const AUDIENCE: &str = "token-broker";
/// How the names begin that API servers give themselves as an audience: kubeadm's and most clouds', kOps', k3s'.
const API_AUDIENCES: [&str; 3] = ["kubernetes.default", "kubernetes.svc.default", "k3s"];
/// Where a cluster publishes its keys, for whoever shows a service account's token.
const JWKS_URL: &str = "https://kubernetes.default.svc/openid/v1/jwks";
/// Where it says whether a token still holds.
const TOKEN_REVIEW_URL: &str = "https://kubernetes.default.svc/apis/authentication.k8s.io/v1/tokenreviews";
/// Where Kubernetes mounts the CA of its API server …
const CLUSTER_CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
/// … and the pod's own token for it.
const OWN_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Reads the table; none where it is at fault.
pub(super) fn read(mut table: Reader<'_, '_>) -> Option<ServiceAccountsConfig> {
    let accounts = put_together(&mut table);
    table.finish();
    accounts
}

fn put_together(table: &mut Reader<'_, '_>) -> Option<ServiceAccountsConfig> {
    let names = issuers(table);
    let audience = table.string("audience").map(|Found { value, at }| {
        if let Some(why) = audience_fault(&value, names.as_deref().unwrap_or_default()) {
            table.fault(at, "audience", why);
        }
        value.into_owned()
    });
    table.unless_given(AUDIENCE);
    let keys = keys(table, names.as_ref().map(Vec::len));
    let token_review = table.boolean("token_review", false);
    let review_url = table.string("token_review_url");
    table.unless_given(TOKEN_REVIEW_URL);
    let review_url = match review_url {
        Some(Found { value, at }) => base_url(&value).map_err(|why| table.fault(at, "token_review_url", why)).ok(),
        None => Target::parse(TOKEN_REVIEW_URL),
    };
    let mounted = Some(PathBuf::from(CLUSTER_CA)).filter(|path| path.exists());
    let ca_file = table.path("ca_file");
    if mounted.is_some() {
        table.here_unless_given(CLUSTER_CA);
    }
    let ca_file = ca_file.or(mounted);
    if let Some(why) = ca_file.as_ref().and_then(|path| authorities(table, path).err()) {
        table.fault(table.at(), "ca_file", format!("names a file {why}"));
    }
    let token_file = table.path("token_file").unwrap_or_else(|| PathBuf::from(OWN_TOKEN));
    table.unless_given(OWN_TOKEN);
    if let Err(why) = own_token(table, &token_file) {
        table.fault(table.at(), "token_file", format!("names a file that {why}"));
    }
    let (names, keys, review_url) = (names?, keys?, review_url?);
    if token_review.value && keys.windows(2).any(|pair| matches!(pair, [one, other] if one != other)) {
        let message = "asks one API server about the tokens of all issuers, and it refuses those of another cluster: unset it until the \
                       migration is over, unless all keys are of this cluster";
        table.findings().warn(token_review.at, table.key("token_review"), message);
    }
    let issuers = names.into_iter().zip(show_token(keys, &review_url)).map(|(name, keys)| Issuer { name, keys }).collect();
    let audience = audience.unwrap_or_else(|| AUDIENCE.to_owned());
    Some(ServiceAccountsConfig { issuers, audience, review: token_review.value.then_some(review_url), ca_file, token_file })
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
fn keys(table: &mut Reader<'_, '_>, issuers: Option<usize>) -> Option<Vec<KeySource>> {
    let has_file = table.has("jwks_file");
    if table.has("jwks_url") && has_file {
        table.fault(table.at(), "jwks_url", "stands beside jwks_file: keep one of the two");
    }
    let urls = table.one_or_more("jwks_url");
    if !has_file {
        table.unless_given(JWKS_URL);
    }
    let files = table.one_or_more("jwks_file");
    let urls = urls.map(|found| {
        each(table, "jwks_url", found, issuers, |table, Found { value, at }| {
            base_url(&value).map(published_at).map_err(|why| table.fault(at, "jwks_url", why)).ok()
        })
    });
    let files = files.map(|found| {
        each(table, "jwks_file", found, issuers, |table, Found { value, at }| {
            let path = table.findings().source().beside(&value);
            look_at(table, at, &path);
            Some(KeySource::File(path))
        })
    });
    match files.or(urls) {
        Some(keys) => keys,
        // An API server publishes one set for all issuers that it has.
        None => Some(vec![published_at(Target::parse(JWKS_URL)?); issuers.unwrap_or(1)]),
    }
}

/// One for each issuer, in their order.
fn each<'i>(
    table: &Reader<'_, 'i>,
    key: &'static str,
    Found { value: OneOrMore { values: given, is_list }, at }: Found<OneOrMore<'i>>,
    issuers: Option<usize>,
    parse: impl Fn(&Reader<'_, 'i>, Found<Cow<'i, str>>) -> Option<KeySource>,
) -> Option<Vec<KeySource>> {
    let count = given.len();
    let keys: Vec<KeySource> = given.into_iter().filter_map(|found| parse(table, found)).collect();
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

/// Keys that a server publishes; whether that may see the broker's own token is known once all are.
fn published_at(url: Target) -> KeySource {
    KeySource::Url { url, with_token: false }
}

/// Lets requests for keys carry the broker's own token where they go to its own API server. Where keys come from one server alone, it
/// is that; where from several, the one that reviews tokens.
fn show_token(mut keys: Vec<KeySource>, review_url: &Target) -> Vec<KeySource> {
    let all = keys.clone();
    for source in &mut keys {
        if let KeySource::Url { url, with_token } = source {
            let is_same = |other: &KeySource| matches!(other, KeySource::Url { url: other, .. } if url.is_same_server(other));
            *with_token = all.iter().all(is_same) || url.is_same_server(review_url);
        }
    }
    keys
}

/// Says of a file of keys what will be said when it is read; it is read anew every few minutes, so it may be mended at any time.
fn look_at(table: &Reader<'_, '_>, at: At, path: &Path) {
    let warn = |message: String| table.findings().warn(at, table.key("jwks_file"), message);
    let contents = match read_named(table, "jwks_file", path, u64::try_from(jwks::BYTES_MAX).unwrap_or(u64::MAX)) {
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

/// Reads a file that is read anew as it is needed, and says who else may write to it.
fn read_named(
    table: &Reader<'_, '_>,
    key: &'static str,
    path: &Path,
    limit: u64,
) -> Result<source::Contents, source::Unreadable> {
    table.findings().source().names(path);
    let contents = source::read(path, limit)?;
    table.findings().writers_of(table.at(), &table.key(key), contents.permissions);
    Ok(contents)
}

/// What is wrong with an audience, if anything.
fn audience_fault(audience: &str, issuers: &[String]) -> Option<&'static str> {
    let is_api_servers =
        API_AUDIENCES.iter().any(|known| audience.strip_prefix("https://").unwrap_or(audience).starts_with(known));
    if audience.is_empty() {
        Some("is empty: give a value, or remove the key")
    } else if audience.contains(|char: char| char.is_whitespace() || !is_plain(char)) {
        Some("has white space or a character that nobody sees, so that no token is for it: write it as callers' volumes have it")
    } else if is_api_servers || issuers.iter().any(|issuer| issuer == audience) {
        // An API server without --api-audiences takes its issuer for one.
        Some(
            "is the API server's own, which each pod's default token has, so that whoever is handed one for another purpose could use it \
             here: give callers a projected token with an audience of the broker's own, such as \"token-broker\"",
        )
    } else {
        None
    }
}

/// Whether the API server's authorities can be read now. They are read anew for each request, and not by a reload.
fn authorities(table: &Reader<'_, '_>, path: &Path) -> Result<(), String> {
    let unreadable = |why| format!("that {why}: give the API server's CA in PEM, by a path relative to this file");
    let contents = read_named(table, "ca_file", path, limits::CA_BYTES).map_err(unreadable)?;
    let authorities = outbound::authorities(&contents.bytes).map_err(|fault| fault.to_string())?;
    table.findings().end_of(table.at(), &table.key("ca_file"), authorities.not_after);
    Ok(())
}

/// Whether the broker's own token can be sent as it is now. It need not be there yet, and is read anew for each request.
fn own_token(table: &Reader<'_, '_>, path: &Path) -> Result<(), String> {
    match read_named(table, "token_file", path, limits::TOKEN_BYTES) {
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
        let review_url = Target::parse("https://b:6443/apis").expect("is one");
        for (keys, expected) in [
            (vec!["https://a/openid"], vec![true]),
            (vec!["https://a/openid", "https://a/openid"], vec![true, true]),
            (vec!["https://a/openid", "https://a/other"], vec![true, true]),
            (vec!["https://a/openid", "https://b:6443/jwks"], vec![false, true]),
            (vec!["https://a/openid", "https://a./openid"], vec![false, false]),
            (vec!["jwks"], vec![false]),
            (vec!["https://a/openid", "jwks"], vec![false, false]),
        ] {
            let source = |text: &&str| Target::parse(text).map_or_else(|| KeySource::File((*text).into()), published_at);
            let shown = show_token(keys.iter().map(source).collect(), &review_url);
            let shown: Vec<_> = shown.iter().map(|source| matches!(source, KeySource::Url { with_token: true, .. })).collect();
            assert_eq!(shown, expected, "{keys:?}");
        }
    }
}
