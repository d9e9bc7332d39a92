//! Any set of keys.

use jsonwebtoken::Algorithm;

use super::{KEYS_MAX, NoKeys, Published, Value, read};

/// What is published.
pub(crate) fn key_set(input: &[u8]) {
    let Published { keys, unusable, is_empty } = read(input);
    assert!(unusable.len() <= KEYS_MAX);
    for key in &unusable {
        let said = key.to_string();
        assert!(!said.chars().any(char::is_control), "{said:?}");
    }
    let listed = serde_json::from_slice::<Value>(input).unwrap_or_default();
    let listed = listed.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    match keys {
        Ok(keys) => {
            assert!(!is_empty && (1..=KEYS_MAX).contains(&keys.0.len()));
            for (kid, key) in &keys.0 {
                assert!(!kid.is_empty(), "a key that nobody can name");
                let secret = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
                assert!(
                    secret.iter().all(|algorithm| key.for_algorithm(*algorithm).is_none()),
                    "a shared secret of what is published"
                );
                assert!(!key.algorithms.is_empty(), "{kid} is good for nothing");
            }
        }
        Err(NoKeys::Withdrawn) => assert!(is_empty == listed.is_empty(), "{listed:?}"),
        Err(NoKeys::Unread(_)) => assert!(!is_empty && unusable.is_empty()),
    }
}
