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

use super::{Fault, Faults, Loaded, LogFormat, Renewal, load};

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
    load(&directory.path().join("main.toml"))
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
    assert_eq!(config.vault.base_url, "https://vault.example.org");
    assert!(config.vault.ca_file.is_none() && config.vault.headers.is_empty());
    assert_eq!(config.vault.timeout, Duration::from_secs(10));
    assert_eq!(config.vault.max_concurrent_sign_ins, 64);
    assert_eq!(config.vault.min_sign_in_interval, Duration::from_secs(5));
    assert_eq!(config.vault.refusal_hold, Duration::from_secs(24 * 3600));
    assert_eq!(config.vault.renewal, Renewal::Ahead);
    assert_eq!(config.vault.assumed_lifetime, Duration::from_secs(300));
    assert_eq!(config.vault.idle_after, Duration::from_secs(3600));
    assert!(!config.auth.allow_unauthenticated && config.users.is_empty());

    let admin = load_text(&format!("{VAULT}[admin]\n")).expect("is good").config.admin.expect("is there");
    assert_eq!(admin.listen.to_string(), "127.0.0.1:9090");
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
        [log]
        format = "text"
        level = "debug"
        [vault]
        base_url = "http://localhost:8080/"
        ca_file = "tls/ca.crt"
        headers = { "X-Version" = "1.2", authorization = "Basic eHg6eHg=" }
        timeout = "3s"
        max_concurrent_sign_ins = 1_000
        min_sign_in_interval = "0s"
        refusal_hold = "1h"
        renewal = "at_expiry"
        assumed_lifetime = "7d"
        idle_after = "2h"
        [auth]
        allow_unauthenticated = false
        [[users]]
        merchant_id = "m1"
        number = "+447871239999"
        password = " Ünï\u0000\n\" "
        attempt = 4_294_967_295
        [[users]]
        merchant_id = "m1"
        number = "+447871239998"
        password_file = "passwords/1"
    "#;
    let directory = directory(&[
        ("main.toml", main.as_bytes()),
        ("tls/ca.crt", ca().as_bytes()),
        ("passwords/1", b" 1234Qwerty \r\n\r\n"),
        ("credentials/b.toml", USER.as_bytes()),
        ("credentials/a.toml", b"users = [{ merchant_id = 'm2', number = '+447871239999', password_file = '../passwords/1' }]"),
        ("one.toml", b"[[users]]\nmerchant_id = 'm3'\nnumber = '+447871239999'\npassword = 'p'"),
    ]);
    let Loaded { config, warnings } = load_in(&directory).expect("is good");
    assert_eq!(warnings, []);
    assert_eq!(config.grpc.listen.to_string(), "[::1]:0");
    assert_eq!(config.grpc.health_listen.map(|address| address.to_string()).as_deref(), Some("0.0.0.0:50052"));
    assert_eq!(config.grpc.lame_duck, Duration::ZERO);
    assert_eq!(config.grpc.drain, Duration::from_secs(90));
    assert_eq!(config.grpc.call_timeout, Duration::from_millis(250));
    assert_eq!(config.admin.expect("is there").listen.to_string(), "0.0.0.0:9091");
    assert_eq!((config.log.format, config.log.level), (LogFormat::Text, Level::DEBUG));
    assert_eq!(config.vault.base_url, "http://localhost:8080");
    let ca_file = config.vault.ca_file.expect("is there");
    assert_eq!((ca_file.path, ca_file.pem), (directory.path().join("tls/ca.crt"), ca().into_bytes()));
    let headers: Vec<_> = config.vault.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(headers, [("x-version", "1.2"), ("authorization", "Basic eHg6eHg=")]);
    assert_eq!(config.vault.timeout, Duration::from_secs(3));
    assert_eq!(config.vault.max_concurrent_sign_ins, 1_000);
    assert_eq!(config.vault.min_sign_in_interval, Duration::ZERO);
    assert_eq!(config.vault.refusal_hold, Duration::from_secs(3600));
    assert_eq!(config.vault.renewal, Renewal::AtExpiry);
    assert_eq!(config.vault.assumed_lifetime, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(config.vault.idle_after, Duration::from_secs(7200));
    let user = |user: &super::User| (user.key.merchant.to_string(), user.password.expose().to_owned(), user.attempt);
    let expected = [("m1", " Ünï\0\n\" ", u64::from(u32::MAX)), ("m1", " 1234Qwerty \r\n", 0), ("m2", " 1234Qwerty \r\n", 0)];
    let expected = expected.into_iter().chain([("m", "1234Qwerty", 0), ("m3", "p", 0)]);
    let expected: Vec<_> =
        expected.map(|(merchant, password, attempt)| (merchant.to_owned(), password.to_owned(), attempt)).collect();
    assert_eq!(config.users.iter().map(user).collect::<Vec<_>>(), expected);
}

/// A real CA certificate in PEM.
fn ca() -> String {
    let der = webpki_root_certs::TLS_SERVER_ROOT_CERTS.first().expect("there are roots");
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
}

#[test]
fn syntax_errors_and_wrong_types_are_told_alone() {
    // In each text there is another fault too: an unknown key, or no `[vault]`.
    for (text, expected) in [
        ("x = 1\n[grpc\n", (2, "", "not valid TOML")),
        ("x = 1\nx = 2", (2, "", "duplicate key")),
        ("x = 1\n[[users]]\npassword = 1234Qwerty", (3, "", "not valid TOML")),
        ("x = 1\n[[users]]\npassword = \"1234Qwerty", (3, "", "not valid TOML")),
        ("x = 1\n[[users]]\npassword 1234Qwerty", (3, "", "not valid TOML")),
        ("credentials_files = \"x\"\nx = 1", (1, "credentials_files", "square brackets")),
        ("credentials_files = [\n1]\nx = 1", (2, "credentials_files", "quotes")),
        ("x = 1\ngrpc = 1", (2, "grpc", "[grpc]")),
        ("[grpc]\nx = 1\nlisten = 50051", (3, "grpc.listen", "quotes")),
        ("[grpc]\nlame_duck = 5", (2, "grpc.lame_duck", "write \"5s\"")),
        ("[grpc]\nlame_duck = 1.5", (2, "grpc.lame_duck", "such as \"90s\"")),
        ("[vault]\ntimeout = 12345678", (2, "vault.timeout", "such as \"90s\"")),
        ("[vault]\nmax_concurrent_sign_ins = \"64\"", (2, "vault.max_concurrent_sign_ins", "without quotes")),
        ("[vault]\nheaders = [\"x\"]", (2, "vault.headers", "[vault.headers]")),
        ("[vault.headers]\nX-Version = 1.2", (2, "vault.headers.X-Version", "quotes")),
        ("[auth]\nallow_unauthenticated = \"true\"", (2, "auth.allow_unauthenticated", "true or false")),
        ("[users]\npassword = \"1234Qwerty\"", (1, "users", "[[users]]")),
        ("users = [1]", (1, "users", "[[users]]")),
        ("[[users]]\npassword = 1234", (2, "users.password", "quotes")),
        ("[[users]]\npassword.1234Qwerty = 1", (2, "users.password", "a table")),
        ("[[users]]\nattempt = 1.0", (2, "users.attempt", "an integer")),
    ] {
        expect_faults(text, &[expected]);
    }
    expect_faults(
        "[grpc]\ndrain = 1\nlisten = true\n[log]\nlevel = 3\n",
        &[(2, "grpc.drain", "\"1s\""), (3, "grpc.listen", "a boolean"), (5, "log.level", "an integer")],
    );
    assert_eq!(faults_of(&[("main.toml", b"x = 1\n\xff\n")]), [("main.toml".to_owned(), 2, String::new())]);
}

#[test]
fn all_other_faults_are_told_together_in_order() {
    let text = "\
credentials_files = [\"missing.toml\", \"[\"]
gprc = 1
\"a\\nb\" = 1

[grpc]
lisen = \"127.0.0.1:1\"
listen = \"localhost:50051\"
lame_duck = \"6m\"
drain = \"soon\"
call_timeout = \"0s\"

[log]
level = \"INFO\"
format = \"xml\"

[vault]
timeout = \"99ms\"
max_concurrent_sign_ins = 0
refusal_hold = \"-1s\"
renewal = \"later\"
headers = { Host = \"x\", \"X Y\" = \"x\", A = \" x\", B = \"1\", b = \"2\" }
ca_file = \"missing.crt\"

[[users]]
number = \"0\"
password = \"\"
attempt = -1

[[users]]
merchant_id = \"m 1\"
number = \"+447871239999\"
pasword = \"1234Qwerty\"

[[users]]
merchant_id = \"m\"
number = \"+447871239999\"
password = \"1234Qwerty\"
password_file = \"1234Qwerty\"
attempt = 4294967296
";
    expect_faults(
        text,
        &[
            (1, "credentials_files", "does not exist"),
            (1, "credentials_files", "not a pattern"),
            (2, "gprc", "did you mean `grpc`?"),
            (3, "\"a\\nb\"", "the keys here are credentials_files, grpc,"),
            (6, "grpc.lisen", "did you mean `listen`?"),
            (7, "grpc.listen", "127.0.0.1:50051"),
            (8, "grpc.lame_duck", "from 0s to 5m"),
            (9, "grpc.drain", "\"90s\""),
            (10, "grpc.call_timeout", "from 1ms to 10m"),
            (13, "log.level", "\"error\", \"warn\", \"info\", \"debug\", \"trace\""),
            (14, "log.format", "\"json\", \"text\""),
            (16, "vault.base_url", "is missing"),
            (17, "vault.timeout", "from 100ms to 2m"),
            (18, "vault.max_concurrent_sign_ins", "from 1 to 10000"),
            (19, "vault.refusal_hold", "not a duration"),
            (20, "vault.renewal", "\"ahead\", \"at_expiry\""),
            (21, "vault.headers.A", "can't carry"),
            (21, "vault.headers.Host", "remove it"),
            (21, "vault.headers.\"X Y\"", "not the name"),
            (21, "vault.headers.b", "twice"),
            (22, "vault.ca_file", "does not exist"),
            (24, "users.merchant_id", "is missing"),
            (25, "users.number", "does not begin with `+`"),
            (26, "users.password", "is empty"),
            (27, "users.attempt", "from 0 to 4294967295"),
            (29, "users.password", "is missing"),
            (30, "users.merchant_id", "visible ASCII"),
            (32, "users.pasword", "did you mean `password`?"),
            (38, "users.password_file", "keep one"),
            (39, "users.attempt", "out of range"),
        ],
    );
    expect_faults("", &[(0, "vault.base_url", "is missing")]);
}

#[test]
fn what_is_not_built_is_refused_once_a_table() {
    let text = format!(
        "{VAULT}[grpc]\nlisten = \"0.0.0.0:1\"\n[grpc.tls]\nx = 1\n[auth.service_accounts]\n[[callers]]\nid = 1\n[[callers]]\n[shared]\n"
    );
    let built = "is not built yet in this version; remove it";
    expect_faults(
        &text,
        &[(5, "grpc.tls", built), (7, "auth.service_accounts", built), (8, "callers", built), (11, "shared", built)],
    );
}

#[test]
fn tables_that_contradict_each_other_are_refused() {
    let remedies = "auth.allow_unauthenticated = true";
    for (text, expected) in [
        ("[grpc]\nlisten = \"0.0.0.0:1\"", vec![(4, "grpc.listen", "listen on 127.0.0.1")]),
        ("[grpc]\nlisten = \"[2001:db8::1]:1\"\n[auth]\nallow_unauthenticated = false", vec![(4, "grpc.listen", remedies)]),
        (
            "[auth]\nallow_unauthenticated = true\n[[callers]]",
            vec![(4, "auth.allow_unauthenticated", "[[callers]]"), (5, "callers", "built")],
        ),
        ("[grpc]\nhealth_listen = \"127.0.0.1:50051\"", vec![(4, "grpc.health_listen", "grpc.listen")]),
        ("[grpc]\nlisten = \"127.0.0.1:9090\"\n[admin]", vec![(5, "admin.listen", "grpc.listen")]),
        (
            "[grpc]\nhealth_listen = \"0.0.0.0:9090\"\n[admin]\nlisten = \"127.0.0.1:9090\"",
            vec![(6, "admin.listen", "grpc.health_listen")],
        ),
    ] {
        expect_faults(&format!("{VAULT}{text}"), &expected);
    }
    let good = format!("{VAULT}{USER}");
    expect_warnings(&format!("{good}[grpc]\nlisten = \"127.0.0.1:0\"\nhealth_listen = \"127.0.0.1:0\""), &[]);
    expect_warnings(&format!("{good}[auth]\nallow_unauthenticated = true"), &[]);
    let open = format!("{good}[grpc]\nlisten = \"0.0.0.0:1\"\n[auth]\nallow_unauthenticated = true");
    expect_warnings(&open, &[(10, "auth.allow_unauthenticated")]);
}

#[test]
fn a_user_stands_once_in_all_files() {
    let main = format!("credentials_files = [\"c/*\"]\n{VAULT}{USER}{USER}");
    let other = format!("\n{}{USER}", USER.replace("\"m\"", "\"M\""));
    let files = [("main.toml", main.as_bytes()), ("c/1", other.as_bytes()), ("c/2", other.as_bytes())];
    let places = faults_of(&files);
    let expected =
        [("main.toml", 8), ("c/1", 6), ("c/2", 2), ("c/2", 6)].map(|(file, line)| (file.to_owned(), line, "users".to_owned()));
    assert_eq!(places, expected);
    let directory = directory(&files);
    let faults = load_in(&directory).expect_err("is at fault").to_string();
    let last = format!(
        "{0}/c/2:2: users: +44…9999 of merchant M is configured already, at {0}/c/1:2: remove",
        directory.path().display()
    );
    assert!(faults.contains(&last), "{faults}");
    assert!(!faults.contains("1234Qwerty") && !faults.contains("7871239999"), "{faults}");
}

#[test]
fn credentials_files_hold_users_only_and_are_read_once() {
    let main = format!("credentials_files = [\"c/*.toml\", \"c/a.toml\", \"*.toml\"]\n{VAULT}");
    let directory = directory(&[
        ("main.toml", main.as_bytes()),
        ("c/..2026/a.toml", USER.as_bytes()),
        ("c/.#b.toml", b"[["),
        ("c/d.toml/x", b"[["),
    ]);
    let mount = directory.path().join("c");
    std::os::unix::fs::symlink("..2026", mount.join("..data")).expect("a link");
    std::os::unix::fs::symlink("..data/a.toml", mount.join("a.toml")).expect("a link");
    let loaded = load_in(&directory).expect("is good");
    assert_eq!((loaded.config.users.len(), loaded.warnings.len()), (1, 0));
    for (pattern, users) in [("c/*/*.toml", 0), ("c/..*/a.toml", 1), ("**/a.toml", 1), ("c/nothing*", 0)] {
        fs::write(directory.path().join("main.toml"), format!("credentials_files = [\"{pattern}\"]\n{VAULT}")).expect("a file");
        let loaded = load_in(&directory).unwrap_or_else(|faults| panic!("{pattern}: {faults}"));
        assert_eq!(loaded.config.users.len(), users, "{pattern}");
        let expected: &[_] = if users == 0 { &[(0, "users"), (1, "credentials_files")] } else { &[] };
        assert_eq!(loaded.warnings.iter().map(line_and_key).collect::<Vec<_>>(), expected, "{pattern}");
    }

    let main = format!("credentials_files = [\"c/*\"]\nx = 1\n{VAULT}");
    let faults = faults_of(&[("main.toml", main.as_bytes()), ("c/1", VAULT.as_bytes()), ("c/2", b"\nuser = 1")]);
    let expected = [("main.toml", 2, "x"), ("c/1", 1, "vault"), ("c/2", 2, "user")]
        .map(|(file, line, key)| (file.to_owned(), line, key.to_owned()));
    assert_eq!(faults, expected);
    let faults = faults_of(&[("main.toml", main.as_bytes()), ("c/1", VAULT.as_bytes()), ("c/2", b"\n[["), ("c/3", b"users = 1")]);
    assert_eq!(faults, [("c/2".to_owned(), 2, String::new()), ("c/3".to_owned(), 1, "users".to_owned())], "shape alone");
}

#[test]
fn password_files_are_taken_exactly() {
    let long = [b'x'; 4096];
    for (contents, expected) in [
        (&b"1234Qwerty"[..], "1234Qwerty"),
        (b"1234Qwerty\n", "1234Qwerty"),
        (b"1234Qwerty\r\n", "1234Qwerty"),
        (b"1234Qwerty\n\n", "1234Qwerty\n"),
        (b"1234Qwerty\r", "1234Qwerty\r"),
        (b" \t\n", " \t"),
        (b"\n\n", "\n"),
        ("pä\0ß".as_bytes(), "pä\0ß"),
        (&[&long[..], b"\r\n"].concat(), std::str::from_utf8(&long).expect("is ASCII")),
    ] {
        let loaded = load_in(&with_password_file(contents)).expect("is good");
        assert_eq!(loaded.config.users[0].password.expose(), expected);
    }
    for (contents, word) in [
        (&b""[..], "empty"),
        (b"\n", "empty"),
        (b"\r\n", "empty"),
        (b"1234Qwerty\xff", "UTF-8"),
        (&[&long[..], b"x"].concat(), "4 KiB"),
        (&[&long[..], b"\r\n\n"].concat(), "4 KiB"),
    ] {
        let faults = load_in(&with_password_file(contents)).expect_err(word);
        assert_eq!(faults.iter().map(line_and_key).collect::<Vec<_>>(), [(3, "users.password_file")]);
        assert!(faults.to_string().contains(word) && !faults.to_string().contains("1234Qwerty"), "{faults}");
    }
    for (path, word) in [("1234Qwerty", "does not exist"), (".", "is not a regular file")] {
        let text = format!("{VAULT}[[users]]\nmerchant_id = 'm'\nnumber = '+447871239999'\npassword_file = '{path}'");
        expect_faults(&text, &[(6, "users.password_file", word)]);
    }
    expect_faults(&format!("{VAULT}{}", USER.replace("1234Qwerty", &"x".repeat(4097))), &[(6, "users.password", "4 KiB")]);
}

fn with_password_file(contents: &[u8]) -> TempDir {
    let user = "[[users]]\nmerchant_id = 'm'\npassword_file = 'p/w'\nnumber = '+447871239999'\n";
    directory(&[("main.toml", format!("{user}{VAULT}").as_bytes()), ("p/w", contents)])
}

#[test]
fn ca_files_hold_certificates() {
    for (contents, word) in [
        ("", "without a certificate"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "without a certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "can't be read"),
        (&format!("{}-----BEGIN CERTIFICATE-----\n", ca()), "can't be read"),
        (&"\n".repeat((1 << 20) + 1), "longer than 1 MiB"),
    ] {
        let directory = directory(&[("main.toml", format!("{VAULT}ca_file = 'c'").as_bytes()), ("c", contents.as_bytes())]);
        let faults = load_in(&directory).expect_err(word);
        assert_eq!(faults.iter().map(line_and_key).collect::<Vec<_>>(), [(3, "vault.ca_file")]);
        assert!(faults.to_string().contains(word), "{faults}");
    }
}

#[test]
fn secrets_that_others_can_read_get_a_warning() {
    let main = format!("credentials_files = ['c']\n{VAULT}headers = {{ A = '1234Qwerty' }}\n{USER}");
    let user = "[[users]]\nmerchant_id = 'n'\nnumber = '+447871239999'\npassword_file = 'p'\n";
    let directory = directory(&[("main.toml", main.as_bytes()), ("c", user.as_bytes()), ("p", b"1234Qwerty")]);
    let warned = |mode| {
        for file in ["main.toml", "c", "p"] {
            fs::set_permissions(directory.path().join(file), Permissions::from_mode(mode)).expect("permissions");
        }
        let warnings = load_in(&directory).expect("is good").warnings;
        assert!(warnings.iter().all(|warning| !warning.to_string().contains("1234Qwerty")), "{warnings:?}");
        warnings.iter().map(|warning| (warning.line.unwrap_or(0), warning.key.clone())).collect::<Vec<_>>()
    };
    let all = [(4, "vault.headers"), (8, "users.password"), (4, "users.password_file")].map(|(line, key)| (line, key.to_owned()));
    assert_eq!(warned(0o604), all);
    assert_eq!(warned(0o602), all, "others could put in a password of their own");
    assert_eq!(warned(0o660), [], "the group is the broker's own where Kubernetes mounts with fsGroup");
    expect_warnings(VAULT, &[(0, "users")]);
}

#[test]
fn a_main_file_that_cannot_be_read_is_one_fault() {
    for (path, word) in
        [("/nonexistent/x.toml", "does not exist"), ("/", "is not a regular file"), ("/dev/zero", "is not a regular file")]
    {
        let faults = load(Path::new(path)).expect_err(path).to_string();
        assert!(faults.starts_with(&format!("{path}: the file {word}")) && faults.contains("--config"), "{faults}");
    }
    let directory = directory(&[("main.toml", b"")]);
    let file = fs::File::options().write(true).open(directory.path().join("main.toml")).expect("a file");
    file.set_len((64 << 20) + 1).expect("a long file");
    let faults = load_in(&directory).expect_err("too long").to_string();
    assert!(faults.contains("longer than 64 MiB"), "{faults}");
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

#[test]
fn lines_are_found_far_down_and_many_at_once() {
    let users: String = (0..20_000)
        .map(|user| format!("[[users]]\nmerchant_id = \"m\"\nnumber = \"+4478{user:08}\"\npasword = \"1234Qwerty\"\n"))
        .collect();
    let faults = load_text(&format!("{VAULT}{users}")).expect_err("is at fault");
    assert_eq!(faults.iter().count(), 40_000);
    for (index, pair) in faults.iter().collect::<Vec<_>>().chunks(2).enumerate() {
        let line = 3 + index * 4;
        assert_eq!([line_and_key(pair[0]), line_and_key(pair[1])], [(line, "users.password"), (line + 3, "users.pasword")]);
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
    ]);
    prop_oneof![8 => fixed.prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)]
}

proptest! {
    #[test]
    fn no_file_panics_or_gives_its_secret_away(pieces in prop::collection::vec(piece(), 0..40)) {
        let faults = match load_text(&pieces.concat()) {
            Ok(Loaded { config, warnings }) => format!("{config:?} {warnings:?}"),
            Err(faults) => format!("{faults}\n{faults:?}"),
        };
        // As a key it may be shown: it is no secret there.
        prop_assert!(!faults.replace("S3CRET-pass: is not a known", "").contains("S3CRET-pass"), "{}", faults);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let directory = directory(&[("main.toml", &bytes)]);
        prop_assert!(load_in(&directory).is_err(), "without [vault] no file is good");
    }

    #[test]
    fn any_password_is_taken_exactly(password in "\\PC{1,40}|[\\x00-\\x7f]{1,40}") {
        let directory = with_password_file(format!("{password}\r\n").as_bytes());
        let user = &load_in(&directory).expect("is good").config.users[0];
        prop_assert_eq!(user.password.expose(), password);
    }
}
