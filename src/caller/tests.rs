//! Names and patterns, good and bad.

use proptest::prelude::*;

use super::*;

#[test]
fn ids_name_a_caller_or_a_whole_segment() {
    let (label, account) = ("n".repeat(63), "a".repeat(253));
    for (good, kind) in [
        ("spiffe://example.org/ns/cards/sa/cards", NameKind::Spiffe),
        ("spiffe://example.org/ns/*/sa/cards", NameKind::Spiffe),
        ("spiffe://example.org/A-1_b.c/...", NameKind::Spiffe),
        ("system:serviceaccount:cards:cards", NameKind::ServiceAccount),
        ("system:serviceaccount:*:cards.v2", NameKind::ServiceAccount),
        (&format!("system:serviceaccount:{label}:{account}"), NameKind::ServiceAccount),
        ("cards.example.org", NameKind::Dns),
        ("*.example.org", NameKind::Dns),
        ("localhost", NameKind::Dns),
        (&label, NameKind::Dns),
    ] {
        let pattern = CallerPattern::parse(good).expect(good);
        let is_wild = good.contains('*');
        assert_eq!((pattern.as_str(), pattern.exact().is_none(), CallerName::parse(good).is_err()), (good, is_wild, is_wild));
        assert_eq!(NameKind::of(good), kind, "{good}");
    }
    let domain = "d".repeat(256);
    for (bad, why) in [
        ("", BadName::Dns),
        ("*", BadName::Nobody),
        ("*.*", BadName::Nobody),
        ("spiffe://", BadName::TrustDomain),
        ("spiffe:///x", BadName::TrustDomain),
        ("spiffe://*/ns/cards", BadName::TrustDomain),
        ("spiffe://Example.org/x", BadName::TrustDomain),
        ("spiffe://.example.org/x", BadName::TrustDomain),
        ("spiffe://example..org/x", BadName::TrustDomain),
        ("spiffe://../x", BadName::TrustDomain),
        ("spiffe://example.org:8443/x", BadName::TrustDomain),
        ("spiffe://user@example.org/x", BadName::TrustDomain),
        ("spiffe://example%2eorg/x", BadName::TrustDomain),
        ("spiffe://ex\u{e4}mple.org/x", BadName::TrustDomain),
        ("spiffe://example.org", BadName::NoPath),
        ("spiffe://example.org/", BadName::Path),
        ("spiffe://example.org//x", BadName::Path),
        ("spiffe://example.org/x/", BadName::Path),
        ("spiffe://example.org/x*", BadName::Path),
        ("spiffe://example.org/./x", BadName::Path),
        ("spiffe://example.org/../x", BadName::Path),
        ("spiffe://example.org/ns/..", BadName::Path),
        ("spiffe://example.org/a%2Fb", BadName::Path),
        ("spiffe://example.org/a?b", BadName::Path),
        ("spiffe://example.org/a#b", BadName::Path),
        ("spiffe://example.org/a\nb", BadName::Path),
        ("spiffe://example.org/a\u{1b}[31mb", BadName::Path),
        ("spiffe://example.org/a\u{202e}b", BadName::Path),
        ("spiffe://example.org/a\0", BadName::Path),
        ("spiffe://example.org/a b", BadName::Path),
        ("spiffe://example.org/a\"b", BadName::Path),
        ("SPIFFE://example.org/x", BadName::Dns),
        (" spiffe://example.org/x", BadName::Dns),
        (&format!("spiffe://{domain}/x"), BadName::TooLong),
        (&format!("spiffe://example.org/{}", "x".repeat(2_028)), BadName::TooLong),
        ("https://example.org/x", BadName::Dns),
        ("system:serviceaccount:", BadName::ServiceAccount),
        ("system:serviceaccount::cards", BadName::ServiceAccount),
        ("system:serviceaccount:cards:", BadName::ServiceAccount),
        ("system:serviceaccount:cards", BadName::ServiceAccount),
        ("system:serviceaccount:cards:cards:more", BadName::ServiceAccount),
        ("system:serviceaccount:cards:..", BadName::ServiceAccount),
        ("system:serviceaccount:cards:a\nb", BadName::ServiceAccount),
        ("system:serviceaccount:Cards:cards", BadName::ServiceAccount),
        ("system:serviceaccount:ca*:cards", BadName::ServiceAccount),
        (&format!("system:serviceaccount:{label}n:cards"), BadName::ServiceAccount),
        (&format!("system:serviceaccount:cards:{account}a"), BadName::ServiceAccount),
        ("system:node:worker", BadName::Dns),
        ("Cards.example.org", BadName::Dns),
        ("cards*.example.org", BadName::Dns),
        ("cards..example.org", BadName::Dns),
        (".example.org", BadName::Dns),
        ("example.org.", BadName::Dns),
        ("-a.example.org", BadName::Dns),
        ("a-.example.org", BadName::Dns),
        ("a_b.example.org", BadName::Dns),
        ("cards example", BadName::Dns),
        ("cards\n.example.org", BadName::Dns),
        ("cards%2eexample.org", BadName::Dns),
        (&format!("{label}n.example.org"), BadName::Dns),
        (&format!("{label}.{label}.{label}.{label}"), BadName::TooLong),
    ] {
        assert_eq!(CallerPattern::parse(bad).err(), Some(why), "{bad:?}");
        assert_eq!(CallerName::parse(bad).err(), Some(why), "{bad:?}");
    }
}

/// Segments that no name has, and that a wildcard must not stand for.
#[test]
fn a_wildcard_stands_for_what_could_be_written_in_its_place() {
    for segment in ["", ".", "..", "*", "%2F", "a%2Fb", "a\nb", "\u{1b}[31m", "a\"b", "a b", "\u{202e}", "a\0"] {
        for pattern in ["spiffe://example.org/ns/*/sa/ledger", "system:serviceaccount:*:ledger", "*.wild.internal"] {
            let text = pattern.replace('*', segment);
            let met = CallerName::parse(&text).is_ok_and(|name| CallerPattern::parse(pattern).expect(pattern).matches(&name));
            assert!(!met, "{pattern} {text:?}");
        }
    }
}

#[test]
fn what_means_more_than_is_known_is_told() {
    for (pattern, told) in [
        ("spiffe://example.org/*", true),
        ("spiffe://example.org/*/*/*/*", true),
        ("spiffe://example.org/ns/*/sa/*", true),
        ("spiffe://example.org/ns/*/sa/default", true),
        ("spiffe://example.org/ns/*/sa/cards", false),
        ("spiffe://example.org/ns/cards/sa/*", false),
        ("spiffe://example.org/cards/*", false),
        ("spiffe://example.org/ns/cards/sa/cards", false),
        ("system:serviceaccount:*:*", true),
        ("system:serviceaccount:*:default", true),
        ("system:serviceaccount:*:cards", false),
        ("system:serviceaccount:cards:*", false),
        ("system:serviceaccount:default:default", false),
        ("*.com", true),
        ("*.internal", true),
        ("cards.*", true),
        ("cards.*.com", true),
        ("*.co.uk", true),
        ("*.example.co.uk", false),
        ("*.example.org", false),
        ("*.*.example.org", false),
        ("*.ab.de", false),
        ("com", false),
    ] {
        assert_eq!(CallerPattern::parse(pattern).expect(pattern).too_wide().is_some(), told, "{pattern}");
    }
}

#[test]
fn a_wildcard_is_one_whole_segment() {
    for (pattern, name, expected) in [
        ("spiffe://example.org/ns/*/sa/cards", "spiffe://example.org/ns/a/sa/cards", true),
        ("spiffe://example.org/ns/*/sa/cards", "spiffe://example.org/ns/a/b/sa/cards", false),
        ("spiffe://example.org/ns/*/sa/cards", "spiffe://other.org/ns/a/sa/cards", false),
        ("spiffe://example.org/*", "spiffe://example.org/a", true),
        ("system:serviceaccount:*:cards", "system:serviceaccount:a:cards", true),
        ("system:serviceaccount:*:cards", "system:serviceaccount:a:card", false),
        ("system:serviceaccount:cards:*", "system:serviceaccount:cards:a.b", true),
        ("*.example.org", "a.example.org", true),
        ("*.example.org", "a.b.example.org", false),
        ("*.example.org", "example.org", false),
        // Another kind of name is never meant.
        ("*.example.org", "spiffe://a/example.org", false),
        ("cards.example.org", "cards.example.org", true),
        ("cards.example.org", "cards.example.com", false),
    ] {
        let found = CallerPattern::parse(pattern).expect(pattern).matches(&CallerName::parse(name).expect(name));
        assert_eq!(found, expected, "{pattern} {name}");
    }
}

proptest! {
    #[test]
    fn a_name_is_meant_by_itself_and_by_its_wildcards(segments in prop::collection::vec("[a-z0-9]{1,3}", 1..5), wild in any::<[bool; 5]>()) {
        let write = |segments: &[String]| [
            format!("spiffe://example.org/{}", segments.join("/")),
            format!("system:serviceaccount:a:{}", segments.join(".")),
            segments.join("."),
        ];
        let wildcards: Vec<_> = segments.iter().zip(wild).map(|(segment, wild)| if wild { "*".to_owned() } else { segment.clone() }).collect();
        for (text, pattern) in write(&segments).iter().zip(write(&wildcards)) {
            let name = CallerName::parse(text).expect("is a name");
            prop_assert!(CallerPattern::parse(text).expect("is one").matches(&name));
            if let Ok(pattern) = CallerPattern::parse(&pattern) {
                let longer = CallerName::parse(&format!("{text}{}more", name.kind().separator()));
                prop_assert!(pattern.matches(&name) && !longer.is_ok_and(|longer| pattern.matches(&longer)));
            }
        }
    }

    /// Whatever a peer calls itself: what is taken has nothing that a log, a page or another parser could read differently.
    #[test]
    fn what_is_taken_is_plain(text in "(spiffe://|system:serviceaccount:)?([a-z.:/*%@ A-Z0-9_-]|\\PC|\\p{C}){0,12}") {
        if let Ok(name) = CallerName::parse(&text) {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/".contains(&byte);
            let path = name.strip_prefix(SPIFFE).unwrap_or(&name);
            prop_assert!(name.bytes().all(plain) && path.split(name.kind().separator()).all(|part| !matches!(part, "" | "." | "..")));
        }
    }
}
