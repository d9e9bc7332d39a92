//! Pure: the names of keys, as faults show them, and which one was meant by another.
//!
//! Must never show a key on more than its line, nor all of a long one: a secret may stand where a key should.

/// A key longer than this is cut where a fault names it.
const KEY_SHOWN: usize = 64;
/// "Did you mean" takes this many slips at most: more, and any short key resembles any other.
const SLIPS: usize = 2;

/// A key as faults show it: bare where TOML allows that, else quoted and escaped, so that it stays on its line.
pub(super) fn shown(key: &str) -> String {
    let cut = key.char_indices().nth(KEY_SHOWN).and_then(|(end, _)| key.get(..end));
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    match cut {
        Some(cut) => format!("{:?}", format!("{cut}…")),
        None if bare => key.to_owned(),
        None => format!("{key:?}"),
    }
}

/// The known key that `key` most likely stands for.
pub(super) fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    if key.len() > KEY_SHOWN {
        return None;
    }
    known
        .iter()
        .map(|known| (strsim::levenshtein(key, known), *known))
        .filter(|(slips, known)| *slips <= SLIPS && *slips * 2 <= known.len())
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_offered() {
        let known = ["listen", "level", "drain", "id"];
        for (key, expected) in [
            ("lisen", Some("listen")),
            ("lsiten", Some("listen")),
            ("levle", Some("level")),
            ("ix", Some("id")),
            ("xy", None),
            ("base", None),
        ] {
            assert_eq!(nearest(key, &known), expected, "{key}");
        }
    }

    #[test]
    fn keys_are_shown_on_one_line() {
        assert_eq!(shown("base_url"), "base_url");
        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown("a\nb"), "\"a\\nb\"");
        assert_eq!(shown(&"x".repeat(65)), format!("\"{}…\"", "x".repeat(64)));
    }
}
