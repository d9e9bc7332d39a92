//! Pure: the file with the holds, byte for byte.
//!
//! A first line with the form's version and a hash, under the directory's key, of all that follows: a line for each user. So what was cut off,
//! mixed up, changed or written elsewhere is not taken for anything. Must never be read in part.

use serde::{Deserialize, Serialize};

use super::SavedHold;
use crate::{
    hex,
    keyed_hash::{KeyedHash, first},
};

/// Longest file, in bytes: some 100,000 users with a hold each are 25 MB.
pub(super) const FILE_BYTES_MAX: usize = 64 << 20;
/// By so much a user is known again: two users with one name happen once in 2¹²⁸.
pub(super) const NAME_BYTES: usize = 16;
/// What the first line begins with, and the version of the form that is written and read here.
const MAGIC: &str = "token-broker holds ";
const VERSION: &str = "1";

/// What is kept of one user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) name: [u8; NAME_BYTES],
    pub(super) holds: Vec<SavedHold>,
}

/// The file with these entries, and how many found no room in it.
pub(super) fn write(entries: &[Entry], key: &KeyedHash) -> (Vec<u8>, usize) {
    let head = MAGIC.len() + VERSION.len() + 2 * NAME_BYTES + 2;
    let (mut lines, mut left_out) = (String::new(), 0);
    for entry in entries {
        match serde_json::to_string(entry) {
            Ok(line) if head + lines.len() + line.len() < FILE_BYTES_MAX => {
                lines.push_str(&line);
                lines.push('\n');
            }
            Ok(_) | Err(_) => left_out += 1,
        }
    }
    (format!("{MAGIC}{VERSION} {}\n{lines}", hash(&lines, key)).into_bytes(), left_out)
}

/// The entries of a file.
///
/// # Errors
/// Says why it is none that was written here.
pub(super) fn read(bytes: &[u8], key: &KeyedHash) -> Result<Vec<Entry>, &'static str> {
    const DAMAGED: &str = "it is damaged, or was written elsewhere";
    let text = str::from_utf8(bytes).ok().and_then(|text| text.strip_prefix(MAGIC)).ok_or(DAMAGED)?;
    let (version, rest) = text.split_once(' ').ok_or(DAMAGED)?;
    if version != VERSION {
        return Err("it is of another version of the broker");
    }
    let (told, lines) = rest.split_once('\n').ok_or(DAMAGED)?;
    if told != hash(lines, key) {
        return Err(DAMAGED);
    }
    lines.lines().map(|line| serde_json::from_str(line).ok().ok_or(DAMAGED)).collect()
}

fn hash(lines: &str, key: &KeyedHash) -> String {
    let hash = key.derived("the file with the holds").of(&[VERSION.as_bytes(), lines.as_bytes()]);
    hex::text(&hex::of(first(&hash))).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever becomes of a file's bytes, it is read as it was or not at all.
        #[test]
        fn a_changed_file_is_none(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let key = KeyedHash::new(&[1; 32]);
            let entries = vec![Entry { name: [7; NAME_BYTES], holds: Vec::new() }, Entry { name: [8; NAME_BYTES], holds: Vec::new() }];
            let (mut bytes, left_out) = write(&entries, &key);
            prop_assert_eq!((read(&bytes, &key), left_out), (Ok(entries), 0));
            prop_assert!(read(&bytes, &KeyedHash::new(&[2; 32])).is_err(), "another directory's");
            let (was, at) = (bytes.clone(), at.index(bytes.len()));
            if cut { bytes.truncate(at) } else { bytes[at] = byte }
            if bytes != was {
                prop_assert!(read(&bytes, &key).is_err());
            }
        }
    }

    #[test]
    fn one_of_another_version_is_told_apart() {
        let key = KeyedHash::new(&[1; 32]);
        let (bytes, _) = write(&[], &key);
        let newer = String::from_utf8(bytes).expect("is text").replace("holds 1", "holds 2");
        assert_eq!(read(newer.as_bytes(), &key), Err("it is of another version of the broker"));
    }
}
