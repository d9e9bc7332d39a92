//! HMAC-SHA256 under a key of the broker's own: names and marks that say nothing to whoever hasn't the key.
//!
//! Must never show the key, nor join parts so that others, cut elsewhere, look the same.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use aws_lc_rs::{hmac, rand};
use zeroize::Zeroizing;

/// How long a key is, in bytes: as long as what SHA-256 gives, so that guessing it is no easier than guessing that.
pub const KEY_BYTES: usize = 32;

/// A key that can be kept.
pub type KeyBytes = Zeroizing<[u8; KEY_BYTES]>;

/// A key that is configured, in memory once: clones hold the same bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(Arc<KeyBytes>);

impl SecretKey {
    /// These bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        key.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Self(Arc::new(key))
    }

    /// The key itself. Each call is a place to look at when secrets are reviewed.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Hashes under one key.
#[derive(Clone)]
pub struct KeyedHash(hmac::Key);

impl KeyedHash {
    /// Under this key.
    #[must_use]
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Under another key, which follows from this one and `purpose`: what is made for one purpose says nothing about another.
    #[must_use]
    pub fn derived(&self, purpose: &str) -> Self {
        Self::new(&self.of(&[purpose.as_bytes()]))
    }

    /// Of these parts, in their order.
    #[must_use]
    pub fn of(&self, parts: &[&[u8]]) -> [u8; KEY_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        first(context.sign().as_ref())
    }
}

impl fmt::Debug for KeyedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyedHash")
    }
}

/// Under a key that is this process's alone, and good enough for what never leaves it.
impl Default for KeyedHash {
    fn default() -> Self {
        let random = RandomState::new();
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        for (n, bytes) in key.chunks_exact_mut(size_of::<u64>()).enumerate() {
            bytes.copy_from_slice(&random.hash_one(n).to_le_bytes());
        }
        Self::new(&key)
    }
}

/// The first bytes of some.
#[must_use]
pub fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut first = [0; N];
    first.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    first
}

/// A key that nobody can guess; none where the system has no randomness to give.
#[must_use]
pub fn random_key() -> Option<KeyBytes> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    rand::fill(&mut *key).ok().map(|()| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keys_and_purposes_are_told_apart() {
        let hash = KeyedHash::new(&[1; KEY_BYTES]);
        let all = [
            hash.of(&[b"ab", b"c"]),
            hash.of(&[b"a", b"bc"]),
            hash.of(&[b"abc"]),
            hash.of(&[b"abc", b""]),
            KeyedHash::new(&[2; KEY_BYTES]).of(&[b"abc"]),
            hash.derived("a").of(&[b"abc"]),
            hash.derived("b").of(&[b"abc"]),
            KeyedHash::default().of(&[b"abc"]),
            KeyedHash::default().of(&[b"abc"]),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(all.iter().skip(n + 1).all(|other| one != other), "{n}");
        }
        assert_eq!(hash.of(&[b"abc"]), KeyedHash::new(&[1; KEY_BYTES]).of(&[b"abc"]));
        assert_ne!(random_key().expect("there is randomness"), random_key().expect("there is randomness"));
    }
}
