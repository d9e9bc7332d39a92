//! `config` and `schema`, as a person and a program meet them.

use std::{collections::BTreeSet, path::Path};

use crate::support::{
    MERCHANT, NUMBER, PASSWORD,
    process::{run, written},
    user,
};

/// A key of 32 bytes in base64: of a letter whose last bits are none, such as A or Q.
fn key(letter: char) -> String {
    format!("{}=\n", letter.to_string().repeat(43))
}

/// A configuration with much in it, and what in it nobody is to see.
fn rich() -> (tempfile::TempDir, std::path::PathBuf, Vec<String>) {
    let text = format!(
        "[log]\nlevel = \"debug\"\n[vault]\nbase_url = \"https://localhost:8080/\"\nheaders = {{ X-Version = \"s3cret-1\", \"x.y\" = \"s3cret-2\" }}\n\
         timeout = \"3s\"\nmax_concurrent_sign_ins = 0x10\n[shared]\nurl = \"rediss://s3cret-user@redis.example.org:6379/2\"\n\
         password_file = \"password\"\nname_key_file = \"names\"\nkeys = [{{ id = 7, file = \"one\" }}]\n[operator]\nsocket = \"operator.sock\"\n\
         [[callers]]\nid = \"cards.example.org\"\nmerchants = [\"{MERCHANT}\"]\nnumbers = [\"{NUMBER}\"]\n\
         [[callers]]\nid = \"loans.example.org\"\nmerchants = [\"*\"]\n{}",
        user(NUMBER, PASSWORD)
    );
    let (files, path) = written(&text);
    for (name, contents) in [("password", "s3cret-3\n".to_owned()), ("names", key('A')), ("one", key('Q'))] {
        std::fs::write(files.path().join(name), contents).expect("is written");
    }
    let secrets = ["s3cret", PASSWORD, NUMBER, key('A').trim(), key('Q').trim()].map(str::to_owned).to_vec();
    (files, path, secrets)
}

#[tokio::test]
async fn what_is_in_force_is_shown_with_every_key_and_no_secret() {
    let (files, path, secrets) = rich();
    let (code, shown, stderr) = run(&["config", "--config", path.to_str().expect("is UTF-8")]).await;
    assert_eq!(code, Some(0), "{stderr}");
    for secret in &secrets {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
    let line = |start: &str| {
        let found = shown.lines().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("{start}: {shown}"))
    };
    assert!(!line("timeout = \"3s\"").contains("default") && line("drain = \"20s\"").ends_with("# default"));
    assert!(line("max_concurrent_sign_ins").starts_with("max_concurrent_sign_ins = 16"), "{shown}");
    assert!(line("# [traces]").ends_with("# not set") && line("# [[users]]").contains("1 in all"));
    assert!(line(&format!("# \"{MERCHANT}\"")).ends_with(": 1"));
    assert!(line("socket = ").contains(&format!("{}/operator.sock", files.path().display())));

    // Every key of the schema is there.
    let (_, schema, _) = run(&["schema"]).await;
    let schema: serde_json::Value = serde_json::from_str(&schema).expect("is JSON");
    let words: BTreeSet<&str> = shown.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_')).collect();
    fn keys(schema: &serde_json::Value, into: &mut Vec<String>) {
        for (key, below) in schema["properties"].as_object().into_iter().flatten() {
            into.push(key.clone());
            keys(below, into);
            keys(&below["items"], into);
        }
    }
    let mut all = Vec::new();
    keys(&schema, &mut all);
    assert!(all.len() > 70, "{all:?}");
    for key in all {
        assert!(words.contains(key.as_str()), "{key}: {shown}");
    }
}

/// But for what is left out, and but for users, who are counted.
#[tokio::test]
async fn what_is_shown_means_the_same_when_it_is_read() {
    let (files, path, _) = rich();
    let again = files.path().join("again.toml");
    let (_, shown, _) = run(&["config", "--config", path.to_str().expect("is UTF-8")]).await;
    std::fs::write(&again, &shown).expect("is written");
    // A number that is masked is no number: who takes the page for a configuration learns so, and opens nothing.
    let (code, _, stderr) = run(&["check", "--config", again.to_str().expect("is UTF-8")]).await;
    assert!(code == Some(78) && stderr.lines().count() == 1 && stderr.contains("callers.numbers"), "{stderr}");
    let masked = shown.lines().find(|line| line.starts_with("numbers = ")).expect("is there");
    std::fs::write(&again, shown.replace(masked, &format!("numbers = [\"{NUMBER}\"]"))).expect("is written");
    let (code, twice, stderr) = run(&["config", "--config", again.to_str().expect("is UTF-8")]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let values = |page: &str| -> Vec<String> {
        let value = |line: &str| line.split("  #").next().unwrap_or_default().trim_end().to_owned();
        page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(value).collect()
    };
    assert_eq!(values(&twice), values(&shown));
    assert!(values(&shown).len() > 30, "{shown}");
}

#[tokio::test]
async fn a_configuration_at_fault_is_not_shown() {
    let (_files, path) = written("[vault]\nbase_url = \"https://localhost\"\ntimeout = \"s3cret\"\n");
    let (code, stdout, stderr) = run(&["config", "--config", path.to_str().expect("is UTF-8")]).await;
    assert_eq!((code, stdout.as_str()), (Some(78), ""));
    assert!(stderr.contains("vault.timeout") && !stderr.contains("s3cret"), "{stderr}");
}

#[tokio::test]
async fn the_schema_that_is_printed_is_the_one_that_is_committed() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/token-broker.schema.json");
    let (code, printed, _) = run(&["schema"]).await;
    assert_eq!((code, printed), (Some(0), std::fs::read_to_string(committed).expect("is there")));
    let (code, credentials, _) = run(&["schema", "--credentials"]).await;
    let schema: serde_json::Value = serde_json::from_str(&credentials).expect("is JSON");
    assert_eq!((code, schema["properties"].as_object().map(serde_json::Map::len)), (Some(0), Some(1)));
}
