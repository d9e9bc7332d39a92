//! Who may call: `[grpc.tls]`, `[auth]` and `[[callers]]`, and what they must agree on.

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::config::{Keys, Merchants};

/// A certificate and its key, both in PEM.
fn pair() -> (String, String) {
    let key = KeyPair::generate().expect("keys can be made");
    let certificate = CertificateParams::new(["localhost".to_owned()]).expect("is a name").self_signed(&key).expect("is good");
    (certificate.pem(), key.serialize_pem())
}

const TLS: &str = "[grpc.tls]\ncertificate_file = 'crt'\nkey_file = 'key'\n";
const CALLER: &str = "[[callers]]\nid = 'cards.example.org'\nmerchants = ['*']\n";
const ACCOUNTS: &str = "[auth.service_accounts]\nissuer = 'https://example.org'\njwks_file = 'jwks'\n";

fn with_pair(text: &str) -> TempDir {
    let (certificate, key) = pair();
    let text = format!("{VAULT}{text}");
    let directory = directory(&[("main.toml", text.as_bytes()), ("crt", certificate.as_bytes()), ("key", key.as_bytes())]);
    fs::write(directory.path().join("ca"), pair().0).expect("a file");
    directory
}

#[test]
fn who_is_let_in_is_spelled_out() {
    let off = "[grpc]\nlisten = '0.0.0.0:1'\n";
    let ca = "client_ca_file = 'ca'\n";
    for (text, expected) in [
        (format!("{off}{TLS}{ca}{CALLER}"), vec![]),
        (format!("{off}{TLS}{ACCOUNTS}{CALLER}"), vec![]),
        (format!("{ACCOUNTS}{CALLER}"), vec![]),
        (format!("{off}{TLS}[auth]\nallow_unauthenticated = true\n"), vec![]),
        // With authentication and without callers, nobody may.
        (format!("{off}{TLS}{ca}"), vec![(5, "callers")]),
        (ACCOUNTS.to_owned(), vec![(3, "callers")]),
        // Nobody is asked, and everybody can connect.
        (format!("{off}{TLS}"), vec![(4, "grpc.listen")]),
        (format!("{off}{TLS}{CALLER}"), vec![(4, "grpc.listen")]),
        (format!("{off}{CALLER}"), vec![(4, "grpc.listen")]),
        // Tokens in plaintext.
        (format!("{off}{ACCOUNTS}{CALLER}"), vec![(4, "grpc.listen")]),
        // Everybody may, and not everybody.
        (format!("{TLS}{ca}[auth]\nallow_unauthenticated = true\n"), vec![(8, "auth.allow_unauthenticated")]),
        (format!("[auth]\nallow_unauthenticated = true\n{ACCOUNTS}"), vec![(4, "auth.allow_unauthenticated")]),
    ] {
        let directory = with_pair(&text);
        let faults = load_in(&directory).err();
        let found: Vec<_> = faults.iter().flat_map(|faults| faults.iter()).map(line_and_key).collect();
        assert_eq!(found, expected, "{text}\n{faults:?}");
    }
    let warnings = load_in(&with_pair(CALLER)).expect("is good").warnings;
    assert!(warnings.iter().any(|warning| warning.to_string().contains("nobody is let in")), "{warnings:?}");
}

#[test]
fn a_certificate_needs_its_own_key() {
    let (certificate, key) = pair();
    let (other, _) = pair();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (certificate, key, ca, line, expected, word) in [
        (&*other, &*key, &*certificate, 4, "grpc.tls.certificate_file", "doesn't belong"),
        ("", &*key, &*certificate, 4, "grpc.tls.certificate_file", "without a certificate"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &*key,
            &*certificate,
            4,
            "grpc.tls.certificate_file",
            "can't be read",
        ),
        (&*certificate, &*certificate, &*certificate, 5, "grpc.tls.key_file", "without a private key"),
        (&*certificate, encrypted, &*certificate, 5, "grpc.tls.key_file", "not encrypted"),
        (&*certificate, &*key, &*key, 6, "grpc.tls.client_ca_file", "without a certificate"),
    ] {
        let text = format!("{VAULT}{TLS}client_ca_file = 'ca'\n{CALLER}");
        let files =
            [("main.toml", text.as_bytes()), ("crt", certificate.as_bytes()), ("key", key.as_bytes()), ("ca", ca.as_bytes())];
        let faults = load_in(&directory(&files)).expect_err(word);
        assert_eq!(faults.iter().map(line_and_key).collect::<Vec<_>>(), [(line, expected)], "{faults}");
        assert!(faults.to_string().contains(word), "{faults}");
    }
    expect_faults(
        &format!("{VAULT}[grpc.tls]\nx = 1\n"),
        &[
            (3, "grpc.tls.certificate_file", "is missing"),
            (3, "grpc.tls.key_file", "is missing"),
            (4, "grpc.tls.x", "certificate_file, key_file, client_ca_file"),
        ],
    );
}

#[test]
fn callers_and_service_accounts_are_read() {
    let text = format!(
        "{ACCOUNTS}token_review = true\n[[callers]]\nid = 'spiffe://example.org/a'\nmerchants = ['m', 'n']\nnumbers = ['+447871239999']\n{CALLER}"
    );
    let config = load_in(&with_pair(&text)).expect("is good").config;
    let [first, second] = &config.callers[..] else { panic!("{:?}", config.callers) };
    let numbers = first.numbers.as_ref().map(Vec::len);
    assert_eq!((first.id.as_str(), first.line, numbers), ("spiffe://example.org/a", 7, Some(1)));
    assert!(matches!(&first.merchants, Merchants::Only(two) if two.len() == 2));
    assert_eq!((second.merchants.clone(), second.numbers.clone()), (Merchants::All, None));
    let accounts = config.auth.service_accounts.expect("is there");
    assert_eq!((accounts.issuer.as_str(), accounts.audience.as_str()), ("https://example.org", "token-broker"));
    assert!(matches!(accounts.keys, Keys::File(path) if path.is_absolute() && path.ends_with("jwks")));
    assert_eq!(accounts.review.as_deref(), Some("https://kubernetes.default.svc/apis/authentication.k8s.io/v1/tokenreviews"));

    expect_faults(
        &format!(
            "{VAULT}[auth.service_accounts]\njwks_url = 'http://example.org'\njwks_file = 'x'\n[[callers]]\nid = 'a b'\n\
             merchants = ['*', 'm']\n[[callers]]\nid = 'a'\nmerchants = ['']\nnumbers = ['0']\n"
        ),
        &[
            (3, "auth.service_accounts.issuer", "is missing"),
            (3, "auth.service_accounts.jwks_url", "keep one"),
            (4, "auth.service_accounts.jwks_url", "https"),
            (7, "callers.id", "neither"),
            (8, "callers.merchants", "beside"),
            (11, "callers.merchants", "is missing"),
            (12, "callers.numbers", "`+`"),
        ],
    );
}
