//! Addresses to send requests to, written in one way.
//!
//! Must never let a password or a token go out in plaintext to another machine, nor take what two parsers read differently.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::outbound::Target;

/// Checks a base URL and writes it in one way: scheme and host in lower case, no default port, no `/` at the end.
///
/// Stricter than RFC 3986, so that no two parsers can read another host out of it. No fault repeats the URL: it may hold a
/// password.
pub(super) fn base_url(url: &str) -> Result<Target, &'static str> {
    address(url, false)
}

/// The same for other addresses; `plaintext`: http:// may lead anywhere, since no secret goes there.
pub(super) fn address(url: &str, plaintext: bool) -> Result<Target, &'static str> {
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
    Target::parse(&url).ok_or(HOST)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            assert_eq!(base_url(url).as_ref().map(Target::as_str), Ok(expected), "{url}");
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

    /// What may stand in a URL.
    fn piece() -> impl Strategy<Value = String> {
        let fixed = [
            "https://",
            "http://",
            "a",
            "xn--a",
            "xn--4ca",
            "localhost",
            "127.0.0.1",
            "[::1]",
            ".",
            ".",
            "-",
            "_",
            ":443",
            ":1",
            "/",
            "/v1",
            "1",
            "0x7f",
            "A",
        ];
        prop::sample::select(fixed.to_vec()).prop_map(str::to_owned)
    }

    proptest! {
        /// What the configuration takes can be asked, at the host that it names, and that host is one that a certificate can have.
        #[test]
        fn whatever_the_configuration_takes_can_be_asked(pieces in prop::collection::vec(piece(), 0..8), scheme in 0..3) {
            let text = format!("{}{}", if scheme == 0 { "" } else { "https://" }, pieces.concat());
            if let Ok(target) = base_url(&text) {
                let url = target.as_str();
                let host = target.url().host_str().expect("has one");
                prop_assert!(!host.ends_with('.') && text.to_ascii_lowercase().contains(host), "{} {}", text, host);
                prop_assert_eq!(target.absolute().is_some(), url.split('/').nth(2).is_some_and(|authority| authority.starts_with(&format!("{host}."))), "{}", url);
                let name = host.trim_matches(['[', ']']);
                prop_assert!(rustls::pki_types::ServerName::try_from(name).is_ok(), "{}", host);
            }
        }
    }
}
