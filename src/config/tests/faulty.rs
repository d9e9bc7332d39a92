//! What is wrong, and that it is told in full, in order and in its place.

use super::*;

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
        ("[audit]\nhits = true", (2, "audit.hits", "quotes")),
        ("[grpc]\nlame_duck = 5", (2, "grpc.lame_duck", "write \"5s\"")),
        ("[grpc]\nlame_duck = 1.5", (2, "grpc.lame_duck", "such as \"90s\"")),
        ("[vault]\ntimeout = 12345678", (2, "vault.timeout", "such as \"90s\"")),
        ("[vault]\nmax_concurrent_sign_ins = \"64\"", (2, "vault.max_concurrent_sign_ins", "without quotes")),
        ("[vault]\nheaders = [\"x\"]", (2, "vault.headers", "[vault.headers]")),
        ("[vault.headers]\nX-Version = 1.2", (2, "vault.headers.X-Version", "quotes")),
        ("[auth]\nallow_unauthenticated = \"true\"", (2, "auth.allow_unauthenticated", "true or false")),
        ("[auth]\nenforce = \"false\"", (2, "auth.enforce", "true or false")),
        ("[[callers]]\ntrial = \"yes\"", (2, "callers.trial", "true or false")),
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
    // A mark at the beginning means nothing in TOML; another encoding is said to be one.
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let (plain, marked) = (format!("{VAULT}x = 1\n"), format!("\u{feff}{VAULT}x = 1\n"));
    assert_eq!(faults_of(&[("main.toml", marked.as_bytes())]), [("main.toml".to_owned(), 3, "vault.x".to_owned())]);
    for text in [wide(&plain), wide(&marked)] {
        let main = format!("credentials_files = ['users.toml']\n{VAULT}");
        for files in [vec![("main.toml", &*text)], vec![("main.toml", main.as_bytes()), ("users.toml", &*text)]] {
            let faults = load_in(&directory(&files)).expect_err("is UTF-16").to_string();
            assert!(faults.contains("the file is UTF-16") && faults.contains("save it as UTF-8"), "{faults}");
        }
    }
}

#[test]
fn hits_are_told_in_one_way_or_the_other() {
    expect_faults(&format!("{VAULT}[audit]\nhits = \"none\"\n"), &[(4, "audit.hits", "\"each\", \"summed\"")]);
}

#[test]
fn an_operators_socket_is_a_path_and_its_users_are_numbers() {
    let operator = |rest: &str| format!("{VAULT}[operator]\n{rest}\n");
    let long = format!("socket = \"/{}\"", "x".repeat(120));
    for (rest, expected) in [
        ("uids = [0]", (3, "operator.socket", "is missing: name the socket")),
        ("sokcet = \"/x\"", (4, "operator.sokcet", "did you mean `socket`?")),
        ("socket = \"\"", (4, "operator.socket", "is empty")),
        (&*long, (4, "operator.socket", "is too long for a socket")),
        ("socket = \"/x\"\nuids = [-1]", (5, "operator.uids", "from 0 to 4294967294")),
        ("socket = \"/x\"\nuids = [4294967295]", (5, "operator.uids", "from 0 to 4294967294")),
        ("socket = \"/x\"\nuids = [\"root\"]", (5, "operator.uids", "must be an integer")),
        ("socket = \"/x\"\nuids = 0", (5, "operator.uids", "square brackets")),
        ("socket = 1", (4, "operator.socket", "quotes")),
    ] {
        expect_faults(&operator(rest), &[expected]);
    }
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
headers = { Host = \"x\", \"X Y\" = \"x\", A = \" x\", C = \"x\u{e4}\", B = \"1\", b = \"2\" }
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
            (3, "\"a\\nb\"", "the keys here are credentials_files, state_directory, grpc,"),
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
            (21, "vault.headers.Host", "remove it"),
            (21, "vault.headers.\"X Y\"", "not the name"),
            (21, "vault.headers.A", "can't carry"),
            (21, "vault.headers.C", "can't carry"),
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
fn a_state_directory_is_one_or_can_be_made() {
    let top = |value: &str| format!("state_directory = \"{value}\"\n{VAULT}");
    for (value, message) in [
        ("", "is empty"),
        ("/dev/null", "names something that is no directory"),
        ("/nowhere/at/all", "is to be in /nowhere/at, which is no directory: make it, or mend the path"),
    ] {
        expect_faults(&top(value), &[(1, "state_directory", message)]);
    }
    let directory = tempfile::tempdir().expect("a directory");
    for path in [directory.path().to_owned(), directory.path().join("made")] {
        let loaded = load_text(&top(&path.display().to_string())).expect("is good");
        assert_eq!(loaded.config.state_directory, Some(path));
    }
}

#[test]
fn tables_that_contradict_each_other_are_refused() {
    let remedies = "auth.allow_unauthenticated = true";
    for (text, expected) in [
        ("[grpc]\nlisten = \"0.0.0.0:1\"", vec![(4, "grpc.listen", "listen on 127.0.0.1")]),
        ("[grpc]\nlisten = \"[2001:db8::1]:1\"\n[auth]\nallow_unauthenticated = false", vec![(4, "grpc.listen", remedies)]),
        (
            "[auth]\nallow_unauthenticated = true\n[[callers]]",
            vec![
                (4, "auth.allow_unauthenticated", "[[callers]]"),
                (5, "callers.id", "is missing"),
                (5, "callers.merchants", "is missing"),
            ],
        ),
        (
            "[auth]\nenforce = false",
            vec![(4, "auth.enforce", "no [[callers]] to try"), (4, "auth.enforce", "aren't asked who they")],
        ),
        (
            "[auth]\nenforce = false\nallow_unauthenticated = true",
            vec![(4, "auth.enforce", "contradicts auth.allow_unauthenticated")],
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
fn ca_files_hold_certificates() {
    for (contents, word) in [
        ("", "without a certificate"),
        ("-----BEGIN PRIVATE KEY-----\nMAMCAQA=\n-----END PRIVATE KEY-----\n", "line 1 begins a private key"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "line 1 begins a block whose contents can't be read"),
        ("-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----\n", "line 1 begins a certificate that can't be read"),
        (&format!("{}-----BEGIN CERTIFICATE-----\n", ca()), "line 4 begins a block that does not end"),
        (&format!("{}{}", ca(), ca().replace("CERTIFICATE", "TRUSTED CERTIFICATE")), "line 4 begins a TRUSTED CERTIFICATE"),
        (&format!("{}# {}", ca(), ca()), "line 4 begins a block otherwise"),
        (&"\n".repeat((1 << 20) + 1), "longer than 1 MiB"),
    ] {
        let directory = directory(&[("main.toml", format!("{VAULT}ca_file = 'c'").as_bytes()), ("c", contents.as_bytes())]);
        let faults = load_in(&directory).expect_err(word);
        assert_eq!(faults.iter().map(line_and_key).collect::<Vec<_>>(), [(3, "vault.ca_file")]);
        assert!(faults.to_string().contains(word), "{faults}");
    }
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

#[test]
fn no_fault_repeats_a_value() {
    let tables: [(&str, &[&str]); 7] = [
        ("", &["grpc", "callers"]),
        ("[grpc]", &["listen", "health_listen", "lame_duck", "drain", "call_timeout", "tls"]),
        ("[admin]", &["listen"]),
        ("[log]", &["format", "level"]),
        (
            "[vault]",
            &["base_url", "ca_file", "headers", "timeout", "max_concurrent_sign_ins", "refusal_hold", "renewal", "idle_after"],
        ),
        ("[vault.headers]", &["Host", "\"X Y\""]),
        ("[[users]]", &["merchant_id", "number", "password_file", "attempt", "unknown"]),
    ];
    for (table, keys) in tables {
        for key in keys {
            for value in ["\"http://x:S3CRET@y\"", "\" S3CRET\"", "[\"S3CRET[\"]", "{ x = \"S3CRET\" }", "\"S3CRET", "S3CRET"] {
                let text = format!("{table}\n{key} = {value}\n");
                let faults = load_text(&text).expect_err(&text).to_string();
                assert!(!faults.contains("S3CRET"), "{text}\n{faults}");
            }
        }
    }
    let faults = load_text("credentials_files = [\"S3CRET\", \"S3CRET[\", \"**S3CRET\"]").expect_err("is at fault").to_string();
    assert!(!faults.contains("S3CRET"), "{faults}");
}
