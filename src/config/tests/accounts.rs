//! `[auth.service_accounts]`: whose tokens are taken, and whose keys are whose.

use serde_json::json;

use super::{TempDir, USER, VAULT, directory, expect_faults, line_and_key, load_in};
use crate::config::{Issuer, KeySource, ServiceAccountsConfig};

const CALLER: &str = "[[callers]]\nid = 'system:serviceaccount:cards:cards'\nmerchants = ['*']\n";

/// A configuration whose table begins in line 8.
fn with(table: &str, jwks: &str) -> TempDir {
    let text = format!("{VAULT}{USER}\n[auth.service_accounts]\n{table}{CALLER}");
    directory(&[("main.toml", text.as_bytes()), ("a", jwks.as_bytes()), ("b", jwks.as_bytes())])
}

fn accounts(table: &str) -> ServiceAccountsConfig {
    let loaded = load_in(&with(table, "")).unwrap_or_else(|faults| panic!("{table}\n{faults}"));
    loaded.config.auth.service_accounts.expect("is there")
}

#[test]
fn each_issuer_has_its_keys_or_all_have_one_place_for_them() {
    let name = |keys: &KeySource| match keys {
        KeySource::Url { url, with_token } => (url.as_str().to_owned(), *with_token),
        KeySource::File(path) => (path.file_name().expect("has one").to_string_lossy().into_owned(), false),
    };
    let cluster = "https://kubernetes.default.svc/openid/v1/jwks";
    for (table, expected) in [
        ("issuer = 'x'\n", vec![("x", cluster, true)]),
        ("issuer = ['x']\n", vec![("x", cluster, true)]),
        ("issuer = ['x', 'y']\n", vec![("x", cluster, true), ("y", cluster, true)]),
        ("issuer = ['x', 'y']\njwks_url = 'https://a/k'\n", vec![("x", "https://a/k", true), ("y", "https://a/k", true)]),
        ("issuer = ['x', 'y']\njwks_file = 'a'\n", vec![("x", "a", false), ("y", "a", false)]),
        ("issuer = ['x', 'y']\njwks_file = ['a', 'b']\n", vec![("x", "a", false), ("y", "b", false)]),
        ("issuer = 'x'\njwks_file = ['a']\n", vec![("x", "a", false)]),
        // Two clusters: the other one is not shown our token.
        (
            "issuer = ['x', 'y']\njwks_url = ['https://kubernetes.default.svc/k', 'https://OTHER.example.org:443/k']\n",
            vec![("x", "https://kubernetes.default.svc/k", true), ("y", "https://other.example.org/k", false)],
        ),
        (
            "issuer = ['x', 'y', 'z']\njwks_url = ['https://a/k', 'https://a/k', 'https://b/k']\ntoken_review_url = 'https://b/r'\n",
            vec![("x", "https://a/k", false), ("y", "https://a/k", false), ("z", "https://b/k", true)],
        ),
    ] {
        let issuers = accounts(table).issuers;
        let found: Vec<_> = issuers.iter().map(|Issuer { name: of, keys }| (of.clone(), name(keys))).collect();
        let expected: Vec<_> = expected.into_iter().map(|(of, keys, token)| (of.to_owned(), (keys.to_owned(), token))).collect();
        assert_eq!(found, expected, "{table}");
    }
}

#[test]
fn whose_keys_are_whose_is_never_left_open() {
    const ISSUER: &str = "auth.service_accounts.issuer";
    const URL: &str = "auth.service_accounts.jwks_url";
    const FILE: &str = "auth.service_accounts.jwks_file";
    for (table, expected) in [
        ("", vec![(8, ISSUER, "is missing")]),
        ("issuer = ''\n", vec![(9, ISSUER, "is empty")]),
        ("issuer = []\n", vec![(9, ISSUER, "is an empty list: give")]),
        ("issuer = ['x',\n'']\n", vec![(10, ISSUER, "is empty")]),
        ("issuer = ['x',\n'x']\n", vec![(10, ISSUER, "twice: remove one")]),
        ("issuer = ['1', '2', '3', '4', '5', '6', '7', '8', '9']\n", vec![(9, ISSUER, "more than 8")]),
        ("issuer = ['x', 'y']\njwks_url = ['https://a']\n", vec![(10, URL, "has 1 entries for 2 of issuer: give one for each")]),
        ("issuer = 'x'\njwks_url = ['https://a', 'https://b']\n", vec![(10, URL, "has 2 entries for 1 of issuer")]),
        ("issuer = ['x', 'y']\njwks_file = ['a', 'b', 'c']\n", vec![(10, FILE, "has 3 entries for 2 of issuer")]),
        ("issuer = ['x', 'y']\njwks_file = []\n", vec![(10, FILE, "has 0 entries for 2 of issuer")]),
        ("issuer = ['x', 'y']\njwks_url = ['https://a',\n'http://b']\n", vec![(11, URL, "plaintext")]),
        ("issuer = 'x'\njwks_url = 'https://a'\njwks_file = 'a'\n", vec![(8, URL, "keep one")]),
        ("issuer = 7\n", vec![(9, ISSUER, "in quotes")]),
        ("issuer = ['x', 7]\n", vec![(9, ISSUER, "in quotes")]),
    ] {
        expect_faults(&format!("{VAULT}{USER}\n[auth.service_accounts]\n{table}{CALLER}"), &expected);
    }
}

#[test]
fn what_of_keys_and_reviews_will_not_do_is_said() {
    let (x, y) = ("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
    let good = json!({ "kty": "EC", "crv": "P-256", "kid": "one", "x": x, "y": y });
    let p521 = json!({ "kty": "EC", "crv": "P-521", "kid": "two", "x": x, "y": y });
    let warned = |table: &str, jwks: &str| {
        let warnings = load_in(&with(table, jwks)).expect("is good").warnings;
        warnings.iter().map(|warning| (line_and_key(warning).0, warning.to_string())).collect::<Vec<_>>()
    };
    let file = "issuer = 'x'\njwks_file = 'a'\n";
    assert_eq!(warned(file, &json!({ "keys": [good] }).to_string()), []);
    assert_eq!(warned(file, "{\"keys\": []}"), []);
    assert_eq!(warned(file, &format!("\u{feff}{}", json!({ "keys": [good] }))), []);
    for (jwks, words) in [
        (json!({ "keys": [good, p521] }).to_string(), vec!["key 2 (two)", "P-521 (ES512)"]),
        (json!({ "keys": [p521] }).to_string(), vec!["key 1 (two)", "no token can be verified"]),
        ("-----BEGIN PUBLIC KEY-----".to_owned(), vec!["not a JWKS"]),
        (" ".repeat(256 * 1024 + 1), vec!["longer than 256 KiB"]),
    ] {
        let warnings = warned(file, &jwks);
        assert!(
            warnings.iter().all(|(line, text)| *line == 10 && text.contains("auth.service_accounts.jwks_file: names a file "))
        );
        assert!(words.iter().all(|word| warnings.iter().any(|(_, text)| text.contains(word))), "{warnings:?}");
    }
    let [(10, missing)] = &warned("issuer = 'x'\njwks_file = 'c'\n", "")[..] else { panic!("one warning") };
    assert!(missing.contains("does not exist"), "{missing}");

    let reviewed = "issuer = ['x', 'y']\ntoken_review = true\n";
    assert_eq!(warned(reviewed, ""), []);
    let [(10, review)] = &warned(&format!("{reviewed}jwks_url = ['https://a', 'https://b']\n"), "")[..] else {
        panic!("one warning")
    };
    assert!(review.contains("auth.service_accounts.token_review") && review.contains("another cluster"), "{review}");
}
