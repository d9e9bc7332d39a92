//! `[vault]`: where and how to sign in.
//!
//! Must never let a configured header change what a sign-in says.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, header};
use zeroize::Zeroizing;

use super::{
    addresses::base_url,
    findings::{At, Findings},
    key_names::shown,
    limits,
    reader::{Found, Reader},
    values::{Renewal, VaultConfig},
};
use crate::outbound::{self, Authorities};

/// Headers that the sign-in or the connection sets itself: another value would change whom it signs in, or how its body is read.
const RESERVED_HEADERS: [HeaderName; 18] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::USER_AGENT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-merchant-id"),
];

/// Of no floor at a vault that may be a real one.
const NO_FLOOR: &str = "is 0s, so that nothing holds the sign-ins of one user apart, not even while its tokens are rejected one after the \
                        other: that is for tests; give a second at least, such as \"5s\"";

/// Reads the table; none where its base URL is missing or faulty.
pub(super) fn read(table: Option<Reader<'_, '_>>, findings: &Findings<'_>) -> Option<VaultConfig> {
    const MISSING: &str = "is missing: give the vault's address, such as \"https://api.vault.sandbox.testessential.net\"";
    let Some(mut table) = table else {
        findings.fault(At::NOWHERE, "vault.base_url", MISSING);
        return None;
    };
    if !table.has("base_url") {
        table.fault(table.at(), "base_url", MISSING);
    }
    let base_url = table
        .string("base_url")
        .and_then(|Found { value, at }| base_url(&value).map_err(|why| table.fault(at, "base_url", why)).ok());
    let ca_file = table.string("ca_file").and_then(|path| {
        if base_url.as_ref().is_some_and(|url| url.as_str().starts_with("http://")) {
            table.findings().warn(
                path.at,
                "vault.ca_file",
                "has no effect, since base_url is http://: remove it, or write https://",
            );
        }
        ca_file(&table, path)
    });
    let headers = table.table("headers", "vault.headers").map(headers).unwrap_or_default();
    let timeout = table.duration("timeout", &limits::TIMEOUT);
    let max_concurrent_sign_ins = table.integer("max_concurrent_sign_ins", &limits::MAX_CONCURRENT_SIGN_INS);
    let min_sign_in_interval = table.duration("min_sign_in_interval", &limits::MIN_SIGN_IN_INTERVAL);
    if min_sign_in_interval.is_zero() && base_url.as_ref().is_some_and(|url| !url.as_str().starts_with("http://")) {
        table.findings().warn(table.at(), "vault.min_sign_in_interval", NO_FLOOR);
    }
    let refusal_hold = table.duration("refusal_hold", &limits::REFUSAL_HOLD);
    let renewals = [("ahead", Renewal::Ahead), ("at_expiry", Renewal::AtExpiry)];
    let renewal = table.choice("renewal", Renewal::Ahead, &renewals);
    let sign_out = table.boolean("sign_out", false).value;
    let assumed_lifetime = table.duration("assumed_lifetime", &limits::ASSUMED_LIFETIME);
    let idle_after = table.duration("idle_after", &limits::IDLE_AFTER);
    let caller_sign_ins_per_minute = table.integer("caller_sign_ins_per_minute", &limits::CALLER_SIGN_INS);
    let caller_forced_sign_ins_per_minute = table.integer("caller_forced_sign_ins_per_minute", &limits::CALLER_FORCED_SIGN_INS);
    table.finish();
    Some(VaultConfig {
        base_url: base_url?,
        ca_file,
        headers,
        timeout,
        max_concurrent_sign_ins: usize::try_from(max_concurrent_sign_ins).unwrap_or(usize::MAX),
        min_sign_in_interval,
        refusal_hold,
        renewal,
        sign_out,
        assumed_lifetime,
        idle_after,
        caller_sign_ins_per_minute: u32::try_from(caller_sign_ins_per_minute).unwrap_or(u32::MAX),
        caller_forced_sign_ins_per_minute: u32::try_from(caller_forced_sign_ins_per_minute).unwrap_or(u32::MAX),
    })
}

/// Reads a file of authorities, all of them fit to be trusted.
pub(super) fn ca_file(table: &Reader<'_, '_>, Found { value, at }: Found<Cow<'_, str>>) -> Option<Authorities> {
    let fault = |why: String| table.fault(at, "ca_file", format!("names a file {why}"));
    let contents = table.findings().source().read_beside(&value, limits::CA_BYTES);
    let contents = contents.map_err(|why| fault(format!("that {why}: give a PEM file, by a path relative to this one"))).ok()?;
    table.findings().writers_of(at, &table.key("ca_file"), contents.permissions);
    let authorities = outbound::authorities(&contents.bytes).map_err(|why| fault(why.to_string())).ok()?;
    table.findings().end_of(at, &table.key("ca_file"), authorities.not_after);
    Some(authorities)
}

/// Reads the extra headers.
fn headers(table: Reader<'_, '_>) -> HeaderMap {
    let findings = table.findings();
    let table_at = table.at();
    let mut headers = HeaderMap::new();
    for (name, Found { value, at }) in table.rest() {
        let fault = |why: &str| findings.fault(at, format!("vault.headers.{}", shown(&name)), why);
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
            fault("is not the name of a header: use letters, digits and dashes");
            continue;
        };
        if RESERVED_HEADERS.contains(&parsed) {
            fault("is set by the broker itself: remove it");
        } else if headers.contains_key(&parsed) {
            fault("stands here twice, since upper and lower case don't matter: remove one");
        } else if value.len() > limits::HEADER_BYTES {
            fault("has a value longer than 4 KiB: shorten it");
        } else {
            // A header would also carry letters outside ASCII, which servers read in different ways.
            let plain = value.is_ascii() && value.trim_ascii() == value;
            match outbound::secret_value(Zeroizing::new(value.into_owned())).filter(|_| plain) {
                Some(value) => drop(headers.insert(parsed, value)),
                None => fault("has a value that a header can't carry: use visible ASCII, with spaces only in between"),
            }
        }
    }
    if headers.len() > limits::HEADERS {
        findings.fault(table_at, "vault.headers", format!("has more than {} headers: remove some", limits::HEADERS));
    }
    if !headers.is_empty() && findings.source().permissions().open_to_others() {
        findings.warn(
            table_at,
            "vault.headers",
            "may hold secrets, and every user of this machine can get at this file: take that away (chmod o-rwx)",
        );
    }
    headers
}
