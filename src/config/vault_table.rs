//! `[vault]`: where and how to sign in.
//!
//! Must never let a password go out in plaintext to another machine, nor a configured header change what a sign-in says.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use http::{HeaderName, HeaderValue, header};

use super::{
    CaFile, Renewal, Vault,
    faults::{At, Findings},
    limits,
    reader::{Found, Reader, shown},
};
use crate::{
    outbound::{self, Target},
    pem,
    secret::Secret,
    x509,
};

/// Headers that the sign-in or the connection sets itself: another value would change whom it signs in, or how its body is read.
pub const RESERVED_HEADERS: [HeaderName; 16] = [
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
    HeaderName::from_static("x-merchant-id"),
];

/// Reads the table; none where its base URL is missing or faulty.
pub(super) fn read(table: Option<Reader<'_, '_>>, findings: &Findings<'_>) -> Option<Vault> {
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
    let ca_file = table.string("ca_file").and_then(|path| ca_file(&table, path));
    let headers = table.table("headers", "vault.headers").map(headers).unwrap_or_default();
    let timeout = table.duration("timeout", &limits::TIMEOUT);
    let max_concurrent_sign_ins = table.integer("max_concurrent_sign_ins", &limits::MAX_CONCURRENT_SIGN_INS);
    let min_sign_in_interval = table.duration("min_sign_in_interval", &limits::MIN_SIGN_IN_INTERVAL);
    let refusal_hold = table.duration("refusal_hold", &limits::REFUSAL_HOLD);
    let renewals = [("ahead", Renewal::Ahead), ("at_expiry", Renewal::AtExpiry)];
    let renewal = table.choice("renewal", Renewal::Ahead, &renewals);
    let assumed_lifetime = table.duration("assumed_lifetime", &limits::ASSUMED_LIFETIME);
    let idle_after = table.duration("idle_after", &limits::IDLE_AFTER);
    table.finish();
    Some(Vault {
        base_url: base_url?,
        ca_file,
        headers,
        timeout,
        max_concurrent_sign_ins: usize::try_from(max_concurrent_sign_ins).unwrap_or(usize::MAX),
        min_sign_in_interval,
        refusal_hold,
        renewal,
        assumed_lifetime,
        idle_after,
    })
}

/// Checks a base URL and writes it in one way: scheme and host in lower case, no default port, no `/` at the end.
///
/// Stricter than RFC 3986, so that no two parsers can read another host out of it. No fault repeats the URL: it may hold a
/// password.
pub(crate) fn base_url(url: &str) -> Result<String, &'static str> {
    address(url, false)
}

/// The same for other addresses; `plaintext`: http:// may lead anywhere, since no secret goes there.
pub(super) fn address(url: &str, plaintext: bool) -> Result<String, &'static str> {
    const EXAMPLE: &str = "is not an address: write it as \"https://host\", \"https://host:port\" or \"https://host/path\"";
    const HOST: &str = "has a host that is neither a DNS name nor an IP address: write it as \"https://host\"; \
                        names beyond ASCII in their xn-- form";
    const PATH: &str = "has a path with something other than letters, digits, `-`, `.`, `_`, `~` between single slashes: \
                        write it as \"https://host/path\"";
    let (scheme, rest) = url.split_once("://").ok_or(EXAMPLE)?;
    let scheme = scheme.to_ascii_lowercase();
    if rest.contains(['?', '#']) {
        return Err("has a query or a fragment: leave out everything from `?` or `#` on");
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err("names a user before the host: leave that out; credentials belong in [[users]] or vault.headers");
    }
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of an IPv6 address end with its bracket.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let host = host.to_ascii_lowercase();
    // A dot at the end of a name keeps search domains out, and is looked up with it; this machine's own name is in no DNS.
    let (bare, dot) = match host.strip_suffix('.') {
        Some(bare) if is_name(bare) => (bare, if bare == "localhost" { "" } else { "." }),
        Some(bare) if bare.parse::<Ipv4Addr>().is_ok() => return Err("has a dot behind its IP address: leave that out"),
        Some(_) | None => (host.as_str(), ""),
    };
    let host = bare;
    let loopback = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().ok().map(|address| IpAddr::V6(address).to_canonical().is_loopback()),
        None if is_name(host) => Some(host == "localhost"),
        None => host.parse::<Ipv4Addr>().ok().map(|address| address.is_loopback()),
    }
    .ok_or(HOST)?;
    match scheme.as_str() {
        "https" => {}
        "http" if loopback || plaintext => {}
        "http" => return Err("would send passwords in plaintext: write https://; http:// is for loopback addresses only"),
        _ => return Err("has a scheme other than https: write it as \"https://host\""),
    }
    let default_port = if scheme == "https" { 443 } else { 80 };
    let port = match port.map(|port| (port.bytes().all(|byte| byte.is_ascii_digit()), port.parse::<u16>())) {
        None => String::new(),
        Some((true, Ok(port))) if port == default_port => String::new(),
        Some((true, Ok(port))) if port != 0 => format!(":{port}"),
        Some(_) => return Err("has a port that is not a number from 1 to 65535"),
    };
    let path = path.trim_end_matches('/');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if !path.is_empty() && !path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.bytes().all(is_plain)) {
        return Err(PATH);
    }
    let slash = if path.is_empty() { "" } else { "/" };
    let url = format!("{scheme}://{host}{dot}{port}{slash}{path}");
    // What looks like a name and is none to whoever makes the request, as `xn--a`.
    Target::parse(&url).map(|_target| url).ok_or(HOST)
}

/// Whether a host is a DNS name, and not an IPv4 address in one of the ways that only some parsers know (`127.1`, `0x7f.1`).
fn is_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = host.rsplit('.').next().unwrap_or(host);
    host.len() <= 253 && host.split('.').all(is_label) && !last.starts_with(|first: char| first.is_ascii_digit())
}

/// Reads the CA file and sees that it is good for something.
pub(super) fn ca_file(table: &Reader<'_, '_>, Found { value, at }: Found<Cow<'_, str>>) -> Option<CaFile> {
    let fault = |why: String| table.fault(at, "ca_file", format!("names a file {why}"));
    let (path, contents) = table.findings().source().read_beside(&value, limits::CA_BYTES);
    let contents = contents.map_err(|why| fault(format!("that {why}: give a PEM file, by a path relative to this one"))).ok()?;
    let blocks = pem::authorities(&contents.bytes).map_err(|why| fault(why.to_string())).ok()?;
    outbound::anchors(&blocks).map_err(|why| fault(why.to_string())).ok()?;
    let not_after = blocks.iter().fold(None, |first, block| x509::first_end(first, &block.der));
    Some(CaFile { path, pem: pem::write(&blocks).to_vec(), not_after })
}

/// Reads the extra headers.
fn headers(table: Reader<'_, '_>) -> Vec<(String, Secret)> {
    let findings = table.findings();
    let table_at = table.at();
    let mut headers: Vec<(String, Secret)> = Vec::new();
    for (name, Found { value, at }) in table.rest() {
        let fault = |why: &str| findings.fault(at, format!("vault.headers.{}", shown(&name)), why);
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
            fault("is not the name of a header: use letters, digits and dashes");
            continue;
        };
        if RESERVED_HEADERS.contains(&parsed) {
            fault("is set by the broker itself: remove it");
        } else if headers.iter().any(|(other, _)| *other == parsed.as_str()) {
            fault("stands here twice, since upper and lower case don't matter: remove one");
        } else if value.len() > limits::HEADER_BYTES {
            fault("has a value longer than 4 KiB: shorten it");
        } else if !value.is_ascii() || HeaderValue::from_str(&value).is_err() || value.trim_ascii() != value {
            fault("has a value that a header can't carry: use visible ASCII, with spaces only in between");
        } else {
            headers.push((parsed.as_str().to_owned(), Secret::from(value.into_owned())));
        }
    }
    if headers.len() > limits::HEADERS {
        findings.fault(table_at, "vault.headers", format!("has more than {} headers: remove some", limits::HEADERS));
    }
    if !headers.is_empty() && findings.source().open_to_others() {
        findings.warn(
            table_at,
            "vault.headers",
            "may hold secrets, and every user of this machine can get at this file: take that away (chmod o-rwx)",
        );
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_written_in_one_way() {
        for (url, expected) in [
            ("https://api.vault.sandbox.testessential.net", "https://api.vault.sandbox.testessential.net"),
            ("HTTPS://API.example.org/", "https://api.example.org"),
            ("https://api.example.org:443/v1//", "https://api.example.org/v1"),
            ("https://api.example.org:8443/v1/x", "https://api.example.org:8443/v1/x"),
            ("https://192.0.2.1", "https://192.0.2.1"),
            ("https://[2001:DB8::1]:8443", "https://[2001:db8::1]:8443"),
            ("http://localhost:80", "http://localhost"),
            ("http://localhost:8080/", "http://localhost:8080"),
            ("http://127.200.0.1:1", "http://127.200.0.1:1"),
            ("http://[::1]:1", "http://[::1]:1"),
            ("http://[::ffff:127.0.0.1]", "http://[::ffff:127.0.0.1]"),
            ("https://my_vault", "https://my_vault"),
            ("https://API.example.org./", "https://api.example.org."),
            ("https://api.example.org.:8443/v1/", "https://api.example.org.:8443/v1"),
            ("https://vault.", "https://vault."),
            ("https://localhost.:8080", "https://localhost:8080"),
            ("http://LOCALHOST.:8080/", "http://localhost:8080"),
        ] {
            assert_eq!(base_url(url).as_deref(), Ok(expected), "{url}");
        }
    }

    #[test]
    fn base_urls_that_could_betray_a_password_are_refused() {
        for (url, word) in [
            ("", "not an address"),
            ("api.example.org", "not an address"),
            ("ftp://localhost", "scheme"),
            ("http://api.example.org", "plaintext"),
            ("http://localhost.example.org", "plaintext"),
            ("http://128.0.0.1", "plaintext"),
            ("http://127.1", "host"),
            ("http://0x7f.0.0.1", "host"),
            ("https://0177.0.0.1", "host"),
            ("https://api.0x7f", "host"),
            ("https://api.0x7f.", "host"),
            ("https://api.example.org..", "host"),
            ("https://.", "host"),
            ("https://.api.example.org", "host"),
            ("https://xn--a.example.org", "host"),
            ("https://xn--.example.org", "host"),
            ("https://192.0.2.1.", "dot behind its IP address"),
            ("http://127.0.0.1.:8080", "dot behind its IP address"),
            ("https://127.1.", "host"),
            ("https://[::1].", "host"),
            ("http://api.example.org.", "plaintext"),
            ("http://localhost.example.org.", "plaintext"),
            ("https://", "host"),
            ("https:///path", "host"),
            ("https://a..b", "host"),
            ("https://-a", "host"),
            ("https://[::1", "host"),
            ("https://::1", "host"),
            ("https://[::1%eth0]", "host"),
            ("https://host name", "host"),
            ("https://hö.example", "host"),
            ("https://host\\@evil.example", "user"),
            ("https://user:word@host", "user"),
            ("https://host:0", "port"),
            ("https://host:", "port"),
            ("https://host:+1", "port"),
            ("https://host:65536", "port"),
            ("https://host?x", "query"),
            ("https://host/#x", "query"),
            ("https://host/a//b", "path"),
            ("https://host/../b", "path"),
            ("https://host/%2e", "path"),
            ("https://host/a b", "path"),
            ("https://host/\\b", "path"),
        ] {
            let why = base_url(url).expect_err(url);
            assert!(why.contains(word), "{url}: {why}");
        }
    }
}
