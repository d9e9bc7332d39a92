//! Who may call: `[grpc.tls]`, `[auth]` and `[[callers]]`, and what they must agree on.

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::*;
use crate::config::{KeySource, Merchants, Target};

/// A certificate and its key, both in PEM.
fn pair() -> (String, String) {
    pair_of(KeyPair::generate().expect("keys can be made"))
}

/// A CA's certificate in PEM.
fn authority() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&KeyPair::generate().expect("keys can be made")).expect("is good").pem()
}

fn pair_of(key: KeyPair) -> (String, String) {
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
    fs::write(directory.path().join("ca"), authority()).expect("a file");
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
        // A policy on trial is one that could be enforced.
        (format!("[auth]\nenforce = false\n{ACCOUNTS}{CALLER}"), vec![]),
        (format!("{off}{TLS}{ca}[auth]\nenforce = false\n{CALLER}"), vec![]),
        (format!("[auth]\nenforce = false\n{ACCOUNTS}"), vec![(4, "auth.enforce")]),
        (format!("[auth]\nenforce = false\n{CALLER}"), vec![(4, "auth.enforce")]),
        (
            format!("[auth]\nenforce = false\nallow_unauthenticated = true\n{CALLER}"),
            vec![(4, "auth.enforce"), (5, "auth.allow_unauthenticated")],
        ),
        // And it opens nothing in plaintext.
        (format!("{off}[auth]\nenforce = false\n{ACCOUNTS}{CALLER}"), vec![(4, "grpc.listen")]),
        (format!("{off}[auth]\nenforce = false\n{CALLER}"), vec![(4, "grpc.listen"), (6, "auth.enforce")]),
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
fn what_is_on_trial_is_told_and_so_is_what_it_takes_the_effect_of() {
    let mutual = format!("{TLS}client_ca_file = 'ca'\n");
    let tried = "[[callers]]\nid = '*.example.org'\nmerchants = ['n']\ntrial = true\n";
    let limited = "[[callers]]\nid = 'cards.example.org'\nmerchants = ['m']\n";
    let elsewhere = tried.replace("example.org", "example.net");
    let (on_trial, denies) = (("callers.trial", "this entry is on trial"), ("callers", "denies nothing"));
    for (text, expected) in [
        (tried.to_owned(), vec![on_trial]),
        (format!("[auth]\nenforce = false\n{limited}"), vec![("auth.enforce", "refuses nobody")]),
        (format!("{tried}{limited}"), vec![on_trial, denies]),
        (format!("{limited}{tried}"), vec![denies, on_trial]),
        (format!("{elsewhere}{limited}"), vec![on_trial]),
        // It allows less than another, and lets in all the same; one that does both leaves nothing to the other.
        (format!("{CALLER}{limited}trial = true\n"), vec![denies, on_trial]),
        (format!("{CALLER}trial = true\n{limited}"), vec![on_trial, ("callers", "has no effect")]),
        (format!("{limited}trial = true\n{limited}trial = true\n"), vec![on_trial, ("callers", "has no effect"), on_trial]),
    ] {
        let text = format!("{mutual}{text}{USER}");
        let warnings = load_in(&with_pair(&text)).expect("is good").warnings;
        let is_it = |(warning, (key, words)): (&Fault, &(&str, &str))| warning.key == *key && warning.message.contains(words);
        assert!(warnings.len() == expected.len() && warnings.iter().zip(&expected).all(is_it), "{text}\n{warnings:#?}");
    }
}

#[test]
fn keys_of_every_kind_are_taken() {
    use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256};
    let text = format!("{VAULT}{TLS}");
    for kind in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ECDSA_P521_SHA512, &PKCS_ED25519, &PKCS_RSA_SHA256] {
        let (certificate, key) = pair_of(KeyPair::generate_for(kind).expect("keys can be made"));
        let files = [("main.toml", text.as_bytes()), ("crt", certificate.as_bytes()), ("key", key.as_bytes())];
        let loaded = load_in(&directory(&files)).unwrap_or_else(|faults| panic!("{kind:?}: {faults}"));
        assert!(loaded.config.grpc.tls.is_some());
    }
}

#[test]
fn a_certificate_needs_its_own_key() {
    let (certificate, key) = pair();
    let (other, _) = pair();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let good_ca = authority();
    for (certificate, key, ca, line, expected, word) in [
        (&*other, &*key, &*good_ca, 4, "grpc.tls.certificate_file", "doesn't belong"),
        ("", &*key, &*good_ca, 4, "grpc.tls.certificate_file", "without a certificate"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &*key,
            &*good_ca,
            4,
            "grpc.tls.certificate_file",
            "can't be read",
        ),
        (
            &*format!("{certificate}{certificate}").replace("END", "end"),
            &*key,
            &*good_ca,
            4,
            "grpc.tls.certificate_file",
            "END line",
        ),
        (&*format!("{certificate}{other}{}", pair().1), &*key, &*good_ca, 4, "grpc.tls.certificate_file", "other than"),
        (&*certificate, &*certificate, &*good_ca, 5, "grpc.tls.key_file", "without a private key"),
        (&*certificate, encrypted, &*good_ca, 5, "grpc.tls.key_file", "not encrypted"),
        (&*certificate, &*format!("{key}{key}"), &*good_ca, 5, "grpc.tls.key_file", "second private key"),
        (&*certificate, &*key, &*key, 6, "grpc.tls.client_ca_file", "private key"),
        (&*certificate, &*key, &*format!("{certificate}{key}"), 6, "grpc.tls.client_ca_file", "private key"),
        (&*certificate, &*key, "", 6, "grpc.tls.client_ca_file", "without a certificate"),
        (&*certificate, &*key, &*certificate, 6, "grpc.tls.client_ca_file", "CA:TRUE"),
        (&*certificate, &*key, &*ca(), 6, "grpc.tls.client_ca_file", "public CA"),
    ] {
        let text = format!("{VAULT}{TLS}client_ca_file = 'ca'\n{CALLER}");
        let files =
            [("main.toml", text.as_bytes()), ("crt", certificate.as_bytes()), ("key", key.as_bytes()), ("ca", ca.as_bytes())];
        let faults = load_in(&directory(&files)).expect_err(word);
        assert_eq!(faults.iter().map(line_and_key).collect::<Vec<_>>(), [(line, expected)], "{faults}");
        assert!(faults.to_string().contains(word), "{faults}");
    }
    // However they are written, all of them are taken: those that lead to the CA, and all CAs.
    let chain = format!("{}{}\u{feff}{other}", certificate.trim_end(), other.trim_end());
    let both = format!("{key}{chain}");
    let cas = format!("{}{}\u{feff}{}", authority().trim_end(), authority().trim_end(), authority());
    for (certificate, key, ca) in [(&chain, &key, &cas), (&both, &both, &cas), (&chain, &both, &cas.replace('\n', "\r"))] {
        let text = format!("{VAULT}{USER}{TLS}client_ca_file = 'ca'\n{CALLER}");
        let files =
            [("main.toml", text.as_bytes()), ("crt", certificate.as_bytes()), ("key", key.as_bytes()), ("ca", ca.as_bytes())];
        let Loaded { config, warnings } = load_in(&directory(&files)).expect("is good");
        let tls = config.grpc.tls.expect("is there");
        assert_eq!((tls.certificate.cert.len(), tls.client_ca.map(|roots| roots.len())), (3, Some(3)));
        assert_eq!(warnings, []);
    }
    let text = format!("{VAULT}{USER}{TLS}[auth]\nallow_unauthenticated = true\n");
    let files = [("main.toml", text.as_bytes()), ("crt", certificate.as_bytes()), ("key", both.as_bytes())];
    let warnings = load_in(&directory(&files)).expect("is good").warnings;
    let shown: Vec<_> =
        warnings.iter().map(|warning| (line_and_key(warning), warning.message.contains("shown to nobody"))).collect();
    assert_eq!(shown, [((9, "grpc.tls.key_file"), true)], "{warnings:?}");

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
    let [issuer] = &accounts.issuers[..] else { panic!("{accounts:?}") };
    assert_eq!((issuer.name.as_str(), accounts.audience.as_str()), ("https://example.org", "token-broker"));
    assert!(matches!(&issuer.keys, KeySource::File(path) if path.is_absolute() && path.ends_with("jwks")));
    assert_eq!(
        accounts.review.as_ref().map(Target::as_str),
        Some("https://kubernetes.default.svc/apis/authentication.k8s.io/v1/tokenreviews")
    );

    let own = |token: &[u8]| {
        let directory = with_pair(&format!("{ACCOUNTS}token_file = 'own'\n{CALLER}"));
        fs::write(directory.path().join("own"), token).expect("a file");
        load_in(&directory).map_or_else(|faults| faults.to_string(), |_loaded| "good".to_owned())
    };
    assert_eq!(own(b"a.b.c\n"), "good");
    for (token, word) in
        [(&b"\xef\xbb\xbfa.b.c"[..], "byte-order mark"), (b"a.b.c\nd", "one token"), (b"a\0b\0", "UTF-16"), (b"", "empty")]
    {
        let said = own(token);
        assert!(
            said.contains("main.toml:3: auth.service_accounts.token_file: names a file that ") && said.contains(word),
            "{said}"
        );
    }

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
