//! A token, and the id by which it may be spoken of.
//!
//! Must never show the token itself.

use std::{fmt, sync::Arc, time::Duration};

use sha2::{Digest, Sha256};

use crate::{clock::Moment, hex, secret::Secret};

/// The first 128 bits of SHA-256 of an access token: safe to log, and the same everywhere. Kept in hex, since it is read far more
/// often than made.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenId([u8; 32]);

impl TokenId {
    /// The id of an access token.
    #[must_use]
    pub fn of(access_token: &str) -> Self {
        let digest = Sha256::digest(access_token.as_bytes());
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(digest) {
            *to = from;
        }
        Self(hex::of(id))
    }

    /// The id in hex.
    #[must_use]
    pub fn as_str(&self) -> &str {
        hex::text(&self.0)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a sign-in gave, and until when it holds.
#[derive(Clone, Debug)]
pub struct Token {
    /// The secret itself: visible ASCII, so that a header can carry it.
    pub access_token: Secret,
    /// Its id, in hex.
    pub id: TokenId,
    /// What it is good for, as the vault said; empty where it said nothing. Most tokens share one, so the pointer to it is a thin one.
    pub scope: Arc<String>,
    /// The instant at which it ends, by both clocks.
    pub expires: Moment,
    /// How long it was to live when the request for it was sent.
    pub lifetime: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_id_is_the_head_of_sha_256() {
        assert_eq!(TokenId::of("abc").to_string(), "ba7816bf8f01cfea414140de5dae2223");
    }
}
