//! A token's digest, by which a token is known again that nobody keeps.
//!
//! Must never be a digest of less than the whole token, nor be cut short: two tokens that share one would share an identity.

use sha2::{Digest as _, Sha256};

/// SHA-256 of a token. Digests are compared and not tokens, so the time that takes tells nothing of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// One that no token has, for tests of what is kept by digests.
    #[cfg(test)]
    pub(super) fn numbered(number: usize) -> Self {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        Self(digest)
    }
}
