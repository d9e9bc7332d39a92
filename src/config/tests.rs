//! Whole files in, a configuration or faults out.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use tempfile::TempDir;
use tracing::Level;

mod access;
mod accounts;
mod broken;
mod credentials;
mod faulty;
mod halves;
mod reload;
mod schema;
mod shared;
mod traces;
mod unseen;

use super::{AuditConfig, Fault, Faults, Hits, Loaded, LogFormat, Renewal, load};

const VAULT: &str = "[vault]\nbase_url = \"https://vault.example.org\"\n";
const USER: &str = "[[users]]\nmerchant_id = \"m\"\nnumber = \"+447871239999\"\npassword = \"1234Qwerty\"\n";

/// A directory with these files, which only their owner can read; the first is the main one.
fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, contents) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, contents).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("permissions");
    }
    directory
}

fn load_in(directory: &TempDir) -> Result<Loaded, Faults> {
    let path = directory.path().join("main.toml");
    let read = load(&path);
    schema::agrees(&path, &read);
    read
}

fn load_text(text: &str) -> Result<Loaded, Faults> {
    load_in(&directory(&[("main.toml", text.as_bytes())]))
}

fn line_and_key(fault: &Fault) -> (usize, &str) {
    (fault.line.unwrap_or(0), &fault.key)
}

/// Loads files that are at fault; gives file, line (0 for none) and key of each fault.
fn faults_of(files: &[(&str, &[u8])]) -> Vec<(String, usize, String)> {
    let directory = directory(files);
    let faults = load_in(&directory).expect_err("is at fault");
    let place = |fault: &Fault| {
        let file = fault.file.strip_prefix(directory.path()).expect("a file of the test").display().to_string();
        (file, fault.line.unwrap_or(0), fault.key.clone())
    };
    faults.iter().map(place).collect()
}

/// Loads a main file that is at fault; `expected` has line (0 for none), key and a word of each fault.
fn expect_faults(text: &str, expected: &[(usize, &str, &str)]) {
    let faults = load_text(text).expect_err(text);
    let found: Vec<_> = faults.iter().map(line_and_key).collect();
    assert_eq!(found, expected.iter().map(|(line, key, _)| (*line, *key)).collect::<Vec<_>>(), "{text}\n{faults}");
    for (fault, (.., word)) in faults.iter().zip(expected) {
        assert!(fault.message.contains(word), "{text}\n{fault}\nlacks {word:?}");
        assert!(!fault.to_string().contains("1234Qwerty"), "{fault}");
    }
}

/// Loads a main file that is good; `expected` has line (0 for none) and key of each warning.
fn expect_warnings(text: &str, expected: &[(usize, &str)]) {
    let loaded = load_text(text).unwrap_or_else(|faults| panic!("{text}\n{faults}"));
    assert_eq!(loaded.warnings.iter().map(line_and_key).collect::<Vec<_>>(), expected, "{text}");
}

#[test]
fn everything_has_its_default() {
    let config = load_text(VAULT).expect("is good").config;
    assert_eq!(config.grpc.listen.to_string(), "127.0.0.1:50051");
    assert_eq!(config.grpc.health_listen, None);
    assert_eq!(config.grpc.lame_duck, Duration::from_secs(5));
    assert_eq!(config.grpc.drain, Duration::from_secs(20));
    assert_eq!(config.grpc.call_timeout, Duration::from_secs(30));
    assert!(config.admin.is_none());
    assert_eq!((config.log.format, config.log.level), (LogFormat::Json, Level::INFO));
    assert_eq!(config.audit, AuditConfig { file: None, hits: Hits::Each });
    assert_eq!(config.vault.base_url.as_str(), "https://vault.example.org");
    assert!(config.vault.ca_file.is_none() && config.vault.headers.is_empty());
    assert_eq!(config.vault.timeout, Duration::from_secs(10));
    assert_eq!(config.vault.max_concurrent_sign_ins, 64);
    assert_eq!(config.vault.min_sign_in_interval, Duration::from_secs(5));
    assert_eq!(config.vault.refusal_hold, Duration::from_secs(24 * 3600));
    assert_eq!(config.vault.renewal, Renewal::Ahead);
    assert_eq!(config.vault.assumed_lifetime, Duration::from_secs(300));
    assert_eq!(config.vault.idle_after, Duration::from_secs(3600));
    assert_eq!((config.vault.caller_sign_ins_per_minute, config.vault.caller_forced_sign_ins_per_minute), (120_000, 12_000));
    assert!(config.auth.enforce && !config.auth.allow_unauthenticated && config.users.is_empty());

    let admin = load_text(&format!("{VAULT}[admin]\n")).expect("is good").config.admin.expect("is there");
    assert_eq!(admin.listen.to_string(), "127.0.0.1:9090");
}

/// The example of the contract, but for what is not built: it spells out the defaults.
#[test]
fn the_example_is_good_and_states_the_defaults() {
    let example = r#"
credentials_files = ["credentials/*.toml"]   # optional: more [[users]]

[grpc]
listen = "127.0.0.1:50051"
# health_listen = "0.0.0.0:50052"            # health alone, in plaintext, for probes
lame_duck = "5s"                             # SIGTERM → not ready → this long → GOAWAY
drain = "20s"                                # then this long for calls in flight
call_timeout = "30s"                         # for calls without a deadline

[admin]
listen = "127.0.0.1:9090"

[audit]
# file = "audit.jsonl"
hits = "each"                                # or "summed": hits of one caller, user and token in one line a minute

[log]
format = "json"                              # or "text"
level = "info"

[vault]
base_url = "https://api.vault.sandbox.testessential.net"   # the path is /oauth/token; http:// on loopback only
# ca_file = "vault-ca.crt"
# headers = { "X-Version" = "1.2" }
timeout = "10s"                              # one sign-in
max_concurrent_sign_ins = 64
min_sign_in_interval = "5s"
refusal_hold = "24h"
renewal = "ahead"                            # or "at_expiry", where a new token revokes the old
assumed_lifetime = "5m"
idle_after = "1h"

[auth]
enforce = true                               # false: [[callers]] are on trial, and who would be refused is let in
allow_unauthenticated = false

[[users]]
merchant_id = "bece038f-2e46-49f4-b25e-89cd38d6dc16"
number = "+447871239999"
password = "1234Qwerty"                      # or password_file = "…"
# attempt = 2                                # raised by the operator: lifts a hold for one new try
"#;
    let defaults = "vault.base_url = 'https://api.vault.sandbox.testessential.net'\n[admin]\n[[users]]\nnumber = '+447871239999'\n\
                    merchant_id = 'bece038f-2e46-49f4-b25e-89cd38d6dc16'\npassword = '1234Qwerty'";
    let Loaded { config, warnings } = load_text(example).expect("is good");
    let default = load_text(defaults).expect("is good").config;
    assert_eq!(format!("{config:?}"), format!("{default:?}"));
    assert_eq!(config.users, default.users, "Debug hides the password");
    assert_eq!(warnings.iter().map(line_and_key).collect::<Vec<_>>(), [(2, "credentials_files")]);
}

#[test]
fn every_key_is_taken() {
    let main = r#"
        credentials_files = ["credentials/*.toml", "one.toml"]
        [grpc]
        listen = "[::1]:0"
        health_listen = "0.0.0.0:50052"
        lame_duck = "0s"
        drain = "1m 30s"
        call_timeout = "250ms"
        [admin]
        listen = "0.0.0.0:9091"
        [audit]
        file = "trail.jsonl"
        hits = "summed"
        [log]
        format = "text"
        level = "debug"
        [vault]
        base_url = "https://localhost:8080/"
        ca_file = "tls/ca.crt"
        headers = { "X-Version" = "1.2", authorization = "Basic eHg6eHg=" }
        timeout = "3s"
        max_concurrent_sign_ins = 1_000
        min_sign_in_interval = "0s"
        refusal_hold = "1h"
        renewal = "at_expiry"
        assumed_lifetime = "7d"
        idle_after = "2h"
        caller_sign_ins_per_minute = 5_000
        caller_forced_sign_ins_per_minute = 1
        [auth]
        allow_unauthenticated = false
        [[users]]
        merchant_id = "m1"
        number = "+447871239999"
        password = " Ünï\t\" "
        attempt = 4_294_967_295
        [[users]]
        merchant_id = "m1"
        number = "+447871239998"
        password_file = "passwords/1"
    "#;
    let directory = directory(&[
        ("main.toml", main.as_bytes()),
        ("tls/ca.crt", ca().as_bytes()),
        ("passwords/1", b" 1234Qwerty \r\n"),
        ("credentials/b.toml", USER.as_bytes()),
        ("credentials/a.toml", b"users = [{ merchant_id = 'm2', number = '+447871239999', password_file = '../passwords/1' }]"),
        ("one.toml", b"[[users]]\nmerchant_id = 'm3'\nnumber = '+447871239999'\npassword = 'p'"),
    ]);
    let Loaded { config, warnings } = load_in(&directory).expect("is good");
    assert_eq!(warnings.iter().map(line_and_key).collect::<Vec<_>>(), [(17, "vault.min_sign_in_interval")]);
    assert_eq!(config.grpc.listen.to_string(), "[::1]:0");
    assert_eq!(config.grpc.health_listen.map(|address| address.to_string()).as_deref(), Some("0.0.0.0:50052"));
    assert_eq!(config.grpc.lame_duck, Duration::ZERO);
    assert_eq!(config.grpc.drain, Duration::from_secs(90));
    assert_eq!(config.grpc.call_timeout, Duration::from_millis(250));
    assert_eq!(config.admin.expect("is there").listen.to_string(), "0.0.0.0:9091");
    assert_eq!(config.audit, AuditConfig { file: Some(directory.path().join("trail.jsonl")), hits: Hits::Summed });
    assert_eq!((config.log.format, config.log.level), (LogFormat::Text, Level::DEBUG));
    assert_eq!(config.vault.base_url.as_str(), "https://localhost:8080");
    let ca_file = config.vault.ca_file.expect("is there");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca_der()).expect("is one");
    assert_eq!(ca_file.roots.roots, roots.roots);
    let headers: Vec<_> = config.vault.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(headers, [("x-version", &b"1.2"[..]), ("authorization", b"Basic eHg6eHg=")]);
    assert!(config.vault.headers.values().all(http::HeaderValue::is_sensitive));
    assert_eq!(config.vault.timeout, Duration::from_secs(3));
    assert_eq!(config.vault.max_concurrent_sign_ins, 1_000);
    assert_eq!(config.vault.min_sign_in_interval, Duration::ZERO);
    assert_eq!(config.vault.refusal_hold, Duration::from_secs(3600));
    assert_eq!(config.vault.renewal, Renewal::AtExpiry);
    assert_eq!(config.vault.assumed_lifetime, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(config.vault.idle_after, Duration::from_secs(7200));
    assert_eq!((config.vault.caller_sign_ins_per_minute, config.vault.caller_forced_sign_ins_per_minute), (5_000, 1));
    let user = |user: &super::UserConfig| (user.key.merchant.to_string(), user.password.expose().to_owned(), user.attempt);
    let expected = [("m1", " Ünï\t\" ", u64::from(u32::MAX)), ("m1", " 1234Qwerty ", 0), ("m2", " 1234Qwerty ", 0)];
    let expected = expected.into_iter().chain([("m", "1234Qwerty", 0), ("m3", "p", 0)]);
    let expected: Vec<_> =
        expected.map(|(merchant, password, attempt)| (merchant.to_owned(), password.to_owned(), attempt)).collect();
    assert_eq!(config.users.iter().map(user).collect::<Vec<_>>(), expected);
}

/// A real CA certificate in PEM.
fn ca() -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(ca_der()))
}

fn ca_der() -> rustls::pki_types::CertificateDer<'static> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.first().expect("there are roots").clone()
}

#[test]
fn headers_that_cannot_be_used_are_told_without_their_values() {
    for (headers, word) in [
        (r#""X-A\n" = "secret""#, "not the name"),
        (r#""" = "secret""#, "not the name"),
        (r#"X-A = "secret\r\nX-B: 1""#, "can't carry"),
        ("X-A = 'secret\u{e4}'", "can't carry"),
        ("x-merchant-ID = 'secret'", "remove it"),
        ("Accept-Encoding = 'secret'", "remove it"),
        ("X-A = 'secret'\nx-a = 'secret'", "twice"),
    ] {
        let faults = load_text(&format!("{VAULT}[vault.headers]\n{headers}\n")).expect_err(headers).to_string();
        assert!(faults.contains(word) && !faults.contains("secret"), "{headers}\n{faults}");
    }
}

#[test]
fn a_password_is_in_memory_once_however_many_hold_the_configuration() {
    let config = load_text(&format!("{VAULT}{USER}")).expect("is good").config;
    let place = |config: &super::Config| config.users[0].password.expose().as_ptr();
    assert_eq!(place(&config), place(&config.clone()));
}

#[test]
fn nothing_that_is_loaded_shows_a_secret() {
    let text = format!("{VAULT}headers = {{ A = '1234Qwerty' }}\n{USER}");
    let shown = format!("{:?}", load_text(&text).expect("is good"));
    assert!(!shown.contains("1234Qwerty") && !shown.contains("7871239999"), "{shown}");
}

#[test]
fn a_hundred_thousand_users_are_loaded() {
    let users: String = (0..100_000)
        .map(|user| format!("[[users]]\nmerchant_id = \"m{}\"\nnumber = \"+4478{user:08}\"\npassword = \"p{user}\"\n", user % 7))
        .collect();
    let loaded = load_text(&format!("{VAULT}{users}")).expect("is good");
    assert_eq!(loaded.config.users.len(), 100_000);
    for (index, user) in loaded.config.users.iter().enumerate() {
        assert_eq!(user.password.expose(), format!("p{index}"));
        assert_eq!(user.key.number.expose(), format!("+4478{index:08}"));
    }
}

/// Pieces that make almost-configurations, so that random files get beyond the first syntax error.
fn piece() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        "[grpc]\n",
        "[vault]\n",
        "[[users]]\n",
        "[users]\n",
        "[auth]\n",
        "[vault.headers]\n",
        "[[users.password]]\n",
        "[a.b.c]\n",
        "listen = ",
        "timeout = ",
        "base_url = ",
        "password = ",
        "password_file = ",
        "attempt = ",
        "headers = ",
        "credentials_files = ",
        "users = ",
        "users.password = ",
        "\"S3CRET-pass\"\n",
        "'S3CRET-pass'\n",
        "\"\"\"\nS3CRET-pass\"\"\"\n",
        "S3CRET-pass",
        "[\"*\"]\n",
        "[\"S3CRET-pass\", ",
        "{ x = \"S3CRET-pass\" }\n",
        "1\n",
        "-1\n",
        "1e9\n",
        "true\n",
        "0x\n",
        "\"90s\"\n",
        "{",
        "}",
        "[",
        "]",
        ",",
        "=",
        ".",
        "\n",
        "#",
        "\"",
        "\u{feff}",
        "\0",
        "\"\u{feff}S3CRET-pass\\n\"\n",
    ]);
    prop_oneof![8 => fixed.prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)]
}

/// As a key, or a part of one, it may be shown: it is no secret there.
fn without_unknown_keys(faults: &str) -> String {
    let mut parts: Vec<_> = faults.split(": is not a known").collect();
    let last = parts.pop().unwrap_or_default();
    let kept = parts.iter().map(|part| part.rsplit_once(char::is_whitespace).map_or("", |(before, _key)| before));
    kept.chain([last]).collect()
}

proptest! {
    #[test]
    fn no_file_panics_or_gives_its_secret_away(pieces in prop::collection::vec(piece(), 0..40)) {
        let faults = match load_text(&pieces.concat()) {
            Ok(Loaded { config, warnings }) => format!("{config:?} {warnings:?}"),
            Err(faults) => format!("{faults}\n{faults:?}"),
        };
        prop_assert!(!without_unknown_keys(&faults).contains("S3CRET-pass"), "{}", faults);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let directory = directory(&[("main.toml", &bytes)]);
        prop_assert!(load_in(&directory).is_err(), "without [vault] no file is good");
    }

    #[test]
    fn any_password_is_taken_exactly(password in "[\\PC--[\u{2028}\u{2029}]]{1,40}|[\\t -~]{1,40}") {
        let directory = credentials::with_password_file(format!("{password}\r\n").as_bytes());
        let user = &load_in(&directory).expect("is good").config.users[0];
        prop_assert_eq!(user.password.expose(), password);
    }
}
