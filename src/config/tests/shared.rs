//! `[shared]`: where, as whom, and with which keys.

use super::{USER, VAULT, directory, load_in};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const THIRD: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

fn files<'f>(main: &'f str, key: &'f str) -> [(&'static str, &'f [u8]); 5] {
    [
        ("main.toml", main.as_bytes()),
        ("names", KEY.as_bytes()),
        ("1", key.as_bytes()),
        ("2", THIRD.as_bytes()),
        ("password", b"a secret \n"),
    ]
}

#[test]
fn a_tier_has_a_server_and_keys() {
    let main = format!(
        "{VAULT}[shared]\nurl = 'rediss://broker@redis.example.org/2'\npassword_file = 'password'\nname_key_file = 'names'\n\
         keys = [{{ id = 7, file = '1' }}, {{ id = 2, file = '2' }}]\n{USER}"
    );
    let loaded = load_in(&directory(&files(&main, &format!("{OTHER}\n")))).expect("is good");
    assert_eq!(loaded.warnings, []);
    let shared = loaded.config.shared.expect("is there");
    assert_eq!(shared.server.password.as_ref().map(|password| password.expose()), Some("a secret "));
    assert_eq!((shared.server.host.as_str(), shared.server.port, shared.server.database), ("redis.example.org", 6379, 2));
    assert_eq!(shared.keys.iter().map(|key| key.id).collect::<Vec<_>>(), [7, 2]);
    assert_eq!((shared.name_key.expose()[..3].to_vec(), shared.keys[0].key.expose()), (vec![0, 1, 2], &[1; 32]));
    let shown = format!("{shared:?}");
    assert!(!shown.contains("secret") && !shown.contains("[1, 1") && !shown.contains("0, 1, 2"), "{shown}");
}

#[test]
fn what_is_wrong_with_it_is_said_with_its_line_and_without_its_keys() {
    const GOOD: &str = "url = 'rediss://h'\nname_key_file = 'names'\nkeys = [{ id = 1, file = '1' }]\n";
    for (table, key, expected) in [
        ("", OTHER, vec![(3, "shared.url"), (3, "shared.name_key_file"), (3, "shared.keys")]),
        ("url = 'redis://h'\nname_key_file = 'names'\nkeys = [{ id = 1, file = '1' }]\n", OTHER, vec![(4, "shared.url")]),
        (
            "url = 'rediss://u@h'\nname_key_file = 'names'\nkeys = [{ id = 1, file = '1' }]\n",
            OTHER,
            vec![(3, "shared.password_file")],
        ),
        (
            "url = 'rediss://h'\nname_key_file = 'none'\nkeys = [{ id = 1, file = '1' }]\n",
            OTHER,
            vec![(5, "shared.name_key_file")],
        ),
        ("url = 'rediss://h'\nname_key_file = 'names'\nkeys = []\n", OTHER, vec![(3, "shared.keys")]),
        ("url = 'rediss://h'\nname_key_file = 'names'\nkeys = [{ file = '1' }]\n", OTHER, vec![(6, "shared.keys.id")]),
        ("url = 'rediss://h'\nname_key_file = 'names'\nkeys = [{ id = 1 }]\n", OTHER, vec![(6, "shared.keys.file")]),
        ("url = 'rediss://h'\nname_key_file = 'names'\nkeys = [{ id = 0, file = '1' }]\n", OTHER, vec![(6, "shared.keys.id")]),
        (
            "url = 'rediss://h'\nname_key_file = 'names'\nkeys = [{ id = 1, file = '1' }, { id = 1, file = '2' }]\n",
            OTHER,
            vec![(6, "shared.keys.id")],
        ),
        (
            "url = 'rediss://h'\nname_key_file = 'names'\nkeys = [{ id = 1, file = '1' }, { id = 2, file = '1' }]\n",
            OTHER,
            vec![(6, "shared.keys.file")],
        ),
        (GOOD, KEY, vec![(6, "shared.keys.file")]),
        (GOOD, "short", vec![(6, "shared.keys.file")]),
        (GOOD, "AAAA", vec![(6, "shared.keys.file")]),
        (GOOD, "", vec![(6, "shared.keys.file")]),
        ("uri = 'rediss://h'\nname_key_file = 'names'\nkeys = [{ id = 1, file = '1' }]\n", OTHER, vec![(4, "shared.uri")]),
    ] {
        let main = format!("{VAULT}[shared]\n{table}");
        let faults = load_in(&directory(&files(&main, key))).expect_err(table);
        let found: Vec<_> = faults.iter().map(|fault| (fault.line.unwrap_or(0), fault.key.as_str())).collect();
        assert_eq!(found, expected, "{table}{faults}");
        assert!(![KEY, OTHER, THIRD].iter().any(|key| faults.to_string().contains(key)), "{faults}");
    }
}
