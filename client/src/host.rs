//! Pure: hosts that are written with a dot at their end, as `api.example.org.`, so that no search domain is tried.
//!
//! Must never let that dot into a certificate's name, SNI or a `Host`: there names have none (RFC 6066, 3), and servers compare.

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
