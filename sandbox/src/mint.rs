//! Makes tokens that look like the vault's: HS256 JWTs, and random strings.
//!
//! For development only: its key comes from the standard library's hash seeds, which are no source for secrets.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::SystemTime,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;

use crate::clock;

/// HMAC-SHA256's block; a key of this length needs no further hashing.
const KEY_BYTES: usize = 64;

/// The documented samples' `jti` and `refresh_token` are 27 characters: 20 bytes.
const RANDOM_BYTES: usize = 20;

/// What a token says of itself.
pub(crate) struct Claims<'a> {
    pub(crate) subject: &'a str,
    pub(crate) issued: SystemTime,
    pub(crate) expires: SystemTime,
    /// Not in the documented tokens; keeps those minted within one second apart.
    pub(crate) unique: Option<&'a str>,
}

/// A key and a counter.
pub(crate) struct Mint {
    key: [u8; KEY_BYTES],
    made: u64,
}

impl Mint {
    /// A mint whose tokens no other mint would make, nor take for its own.
    pub(crate) fn new() -> Self {
        let mut key = [0; KEY_BYTES];
        for part in key.chunks_mut(8) {
            // Each `RandomState` has seeds of its own.
            part.copy_from_slice(&RandomState::new().build_hasher().finish().to_le_bytes());
        }
        Self { key, made: 0 }
    }

    /// A JWT like the documented ones.
    pub(crate) fn token(&self, claims: &Claims<'_>) -> String {
        let Claims { subject, issued, expires, unique } = claims;
        let unique = unique.map(|jti| format!(r#","jti":"{jti}""#)).unwrap_or_default();
        // Written by hand: the documented order is sub, exp, iat. All three, and `jti`, are ours and need no escaping.
        let payload = format!(r#"{{"sub":"{subject}","exp":{},"iat":{}{unique}}}"#, clock::unix(*expires), clock::unix(*issued));
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#), URL_SAFE_NO_PAD.encode(payload));
        let signature = URL_SAFE_NO_PAD.encode(self.mac(signed.as_bytes()).finalize().into_bytes());
        format!("{signed}.{signature}")
    }

    /// Whether this mint made `token` and its `exp` is past.
    pub(crate) fn is_ours_and_expired(&self, token: &str, now: SystemTime) -> bool {
        let Some((signed, signature)) = token.rsplit_once('.') else { return false };
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        if self.mac(signed.as_bytes()).verify_slice(&signature).is_err() {
            return false;
        }
        let payload = signed.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims: Option<Value> = payload.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        claims.and_then(|claims| claims.get("exp")?.as_u64()).is_some_and(|exp| exp <= clock::unix(now))
    }

    /// 27 characters that don't come twice.
    pub(crate) fn random(&mut self) -> String {
        let bytes = self.bytes();
        URL_SAFE_NO_PAD.encode(bytes.get(..RANDOM_BYTES).unwrap_or(&bytes))
    }

    /// A UUID that doesn't come twice.
    pub(crate) fn request_id(&mut self) -> String {
        uuid(self.bytes())
    }

    fn bytes(&mut self) -> [u8; 32] {
        self.made += 1;
        self.mac(&self.made.to_le_bytes()).finalize().into_bytes().into()
    }

    fn mac(&self, over: &[u8]) -> Hmac<Sha256> {
        <Hmac<Sha256> as hmac::digest::KeyInit>::new((&self.key).into()).chain_update(over)
    }
}

/// A user's `sub`: the same in every sandbox, and no secret.
pub(crate) fn subject(merchant_id: &str, number: &str) -> String {
    let mac = <Hmac<Sha256> as hmac::digest::KeyInit>::new((&[0; KEY_BYTES]).into());
    uuid(mac.chain_update(merchant_id).chain_update([0]).chain_update(number).finalize().into_bytes().into())
}

/// The first 128 bits in the form of a version 4 UUID.
fn uuid(bytes: [u8; 32]) -> String {
    let mut bits = bytes.iter().take(16).fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    bits = bits & !(0xF << 76) | 4 << 76; // the version
    bits = bits & !(0b11 << 62) | 0b10 << 62; // the variant
    let hex = format!("{bits:032x}");
    let mut out = String::with_capacity(36);
    for (at, digit) in hex.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            out.push('-');
        }
        out.push(digit);
    }
    out
}
