//! Pure: hosts and ports as people write them; hosts with a dot at their end, as `api.example.org.`, so that no search domain is tried.
//!
//! Must never let that dot into a certificate's name, SNI or a `Host`: there names have none (RFC 6066, 3), and servers compare; nor
//! take a port that can't be for none, which would be another.

use std::{
    net::IpAddr,
    num::{NonZeroU16, ParseIntError},
};

/// The port in a URL, or in what stands in one between `//` and `/`; none where it isn't written.
///
/// # Errors
/// Where what is written is no port: libraries take it for none.
pub fn port(url: &str) -> Result<Option<u16>, ParseIntError> {
    let rest = url.find("://").and_then(|scheme| url.get(scheme + "://".len()..)).unwrap_or(url);
    let authority = rest.get(..rest.find(['/', '?', '#']).unwrap_or(rest.len())).unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    // Not the colons of an address of IPv6.
    let behind = host.rsplit(']').next().unwrap_or_default();
    match behind.split_once(':').map(|(_, port)| port) {
        None | Some("") => Ok(None),
        Some(port) => port.parse().map(|port: NonZeroU16| Some(port.get())),
    }
}

/// Whether this host of a URL is this machine, whatever names are looked up where: an address of loopback, or `localhost` (RFC 6761, 6.3).
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    address.map_or_else(|_name| host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
}

/// A URL without the dot at the end of its host, and that host; `None` where there is no dot.
pub fn without_dot(url: &str) -> Option<(String, &str)> {
    let authority = url.find("://").map(|scheme| scheme + "://".len())?;
    let (before, rest) = url.split_at_checked(authority)?;
    let end = rest.find([':', '/', '?', '#']).unwrap_or(rest.len());
    let (host, behind) = rest.split_at_checked(end)?;
    let host = host.strip_suffix('.').filter(|host| !host.is_empty())?;
    Some((format!("{before}{host}{behind}"), host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine_alone() {
        for host in ["127.0.0.1", "127.9.9.9", "[::1]", "localhost", "LOCALHOST"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["10.0.0.1", "[::2]", "localhost.example.org", "127.0.0.1.example.org", "", "0.0.0.0"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_port_that_cannot_be_is_not_none() {
        for (url, expected) in [
            ("https://api.example.org", Ok(None)),
            ("https://api.example.org:/a:b", Ok(None)),
            ("http://user:1@a:50051/a:1", Ok(Some(50_051))),
            ("http://[::1]", Ok(None)),
            ("http://[::1]:1?a=:2", Ok(Some(1))),
            ("a:65535", Ok(Some(65_535))),
            ("https://a:65536", Err(())),
            ("https://a:0", Err(())),
            ("https://a:b", Err(())),
            ("https://[::1]:99999", Err(())),
        ] {
            assert_eq!(port(url).map_err(|_unfit| ()), expected, "{url}");
        }
    }

    #[test]
    fn the_dot_goes_and_nothing_else() {
        for (url, expected) in [
            ("https://api.example.org.", Some(("https://api.example.org", "api.example.org"))),
            ("https://api.example.org./a.b/", Some(("https://api.example.org/a.b/", "api.example.org"))),
            ("http://a.:50051", Some(("http://a:50051", "a"))),
            ("https://api.example.org", None),
            ("https://api.example.org/a.", None),
            ("https://[::1]:1/", None),
            ("https://.", None),
            ("api.example.org.", None),
        ] {
            assert_eq!(without_dot(url), expected.map(|(url, host)| (url.to_owned(), host)), "{url}");
        }
    }
}
