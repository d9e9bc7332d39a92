//! Users and their passwords, in one file and in many.

use super::*;

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
        (b" 1234Qwerty  \n", " 1234Qwerty  "),
        (b" \t\n", " \t"),
        ("pä ß".as_bytes(), "pä ß"),
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
        (b"\xef\xbb\xbf1234Qwerty\n", "byte-order mark"),
        (b"\xff\xfe1\x002\x00\n\x00", "UTF-16"),
        (b"1\x002\x00\n\x00", "UTF-16"),
        (b"1234Qwerty\n\n", "more than one line"),
        (b"\n1234Qwerty\n", "more than one line"),
        (b"1234Qwerty\r", "more than one line"),
        (b"password: 1234Qwerty\nuser: x\n", "more than one line"),
        (b"1234\0Qwerty\n", "NUL"),
        (b"1234Qwerty\x1a", "control character"),
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
    for (value, word) in [
        ("\u{feff}1234Qwerty", "byte-order mark"),
        ("1234Qwerty\\uFEFF", "byte-order mark"),
        ("1234Qwerty\\n", "more than one line"),
        ("1234Qwerty\\r\\n", "more than one line"),
        ("\"\"\n1234Qwerty\n\"\"", "more than one line"),
        ("1234\\u0000Qwerty", "NUL"),
        ("1234Qwerty\\u0007", "control character"),
    ] {
        expect_faults(&format!("{VAULT}{}", USER.replace("1234Qwerty", value)), &[(6, "users.password", word)]);
    }
    for (value, warned) in [("1234Qwerty\u{200b}", true), ("\u{a0}1234Qwerty", true), (" 1234Qwerty ", false)] {
        let warnings: &[_] = if warned { &[(6, "users.password")] } else { &[] };
        expect_warnings(&format!("{VAULT}{}", USER.replace("1234Qwerty", value)), warnings);
    }
}

pub(super) fn with_password_file(contents: &[u8]) -> TempDir {
    let user = "[[users]]\nmerchant_id = 'm'\npassword_file = 'p/w'\nnumber = '+447871239999'\n";
    directory(&[("main.toml", format!("{user}{VAULT}").as_bytes()), ("p/w", contents)])
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
    for mode in [0o600, 0o640, 0o440, 0o400] {
        assert_eq!(warned(mode), [], "the group is the broker's own where Kubernetes mounts with fsGroup");
    }
    expect_warnings(VAULT, &[(0, "users")]);
}
