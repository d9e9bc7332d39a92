//! What brought a token: which credential, at which upstream.
//!
//! Must never give a password away.

use crate::{
    keyed_hash::{KeyedHash, first},
    secret::Secret,
};

/// Tells one upstream from another, wherever versions are made under the same key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upstream(pub(crate) u64);

/// What a user signs in with and where, together: what is known of one pair says nothing of another. Their maker hashes with a key
/// of its own, so that it gives no password away. That two differ and look the same happens once in 2⁶⁴.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    pub(crate) credential: u64,
    pub(crate) upstream: Upstream,
}

/// Bytes of a version's mark.
///
/// Three, no more: whoever has a file with marks, and the key beside it, may try passwords against them, and of a list of a billion some
/// sixty fit each, which is too many to try at a vault that locks an account after a few. No fewer either: of sixteen million changed
/// passwords one is taken for the former one, and its user left alone until the hold ends or `attempt` is raised.
const MARK_BYTES: usize = 3;

/// By what a version is known again, where all of it would say too much: on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mark([u8; MARK_BYTES]);

impl Mark {
    /// As bytes, to be hashed with others.
    #[must_use]
    pub fn bytes(self) -> [u8; MARK_BYTES] {
        self.0
    }
}

impl Version {
    /// Its mark.
    #[must_use]
    pub fn mark(self) -> Mark {
        Mark(first(&self.credential.to_le_bytes()))
    }
}

/// Makes versions, each the same for the same key.
#[derive(Clone, Debug, Default)]
pub struct Versions(KeyedHash);

impl Versions {
    /// Under this key.
    #[must_use]
    pub fn new(key: KeyedHash) -> Self {
        Self(key)
    }

    /// Of the upstream with this name.
    #[must_use]
    pub fn upstream(&self, name: &str) -> Upstream {
        Upstream(u64::from_le_bytes(first(&self.0.of(&[name.as_bytes()]))))
    }

    /// Of a credential there.
    #[must_use]
    pub fn of(&self, password: &Secret, attempt: u64, upstream: Upstream) -> Version {
        let hash = self.0.of(&[password.expose().as_bytes(), &attempt.to_le_bytes(), &upstream.0.to_le_bytes()]);
        Version { credential: u64::from_le_bytes(first(&hash)), upstream }
    }
}
