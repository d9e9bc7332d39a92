//! Any set of keys.

use jsonwebtoken::Algorithm;

use super::{KEYS_MAX, NoKeys, Published, Value, read};
use crate::text;

/// What is published.
pub(crate) fn key_set(input: &[u8]) {
    let Published { keys, unusable, is_empty } = read(input);
    assert!(unusable.len() <= KEYS_MAX);
    for key in &unusable {
        let said = key.to_string();
        assert!(!said.chars().any(char::is_control), "{said:?}");
    }
    let listed = serde_json::from_slice::<Value>(input.strip_prefix(text::MARK).unwrap_or(input)).ok();
    let listed = listed.as_ref().and_then(|listed| listed.get("keys")?.as_array());
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
        // Beside the keys may stand what `Value` can't hold, as a number beyond its range.
        Err(NoKeys::Withdrawn) => assert!(listed.is_none_or(|listed| is_empty == listed.is_empty()), "{listed:?}"),
        Err(NoKeys::Unread(_)) => assert!(!is_empty && unusable.is_empty()),
    }
}
