//! Keys of a cluster, and tokens signed with them.

use std::sync::OnceLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto, jwk::Jwk};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

/// A key with its id.
pub(super) struct Signer {
    kid: String,
    algorithm: Algorithm,
    key: EncodingKey,
    jwk: Value,
}

impl Signer {
    #[allow(clippy::wildcard_enum_match_arm, reason = "all others that are asked for are RSA's")]
    pub(super) fn new(kid: &str, algorithm: Algorithm) -> Self {
        let pair = |kind| KeyPair::generate_for(kind).expect("keys can be made");
        let published = |key: &EncodingKey| {
            let jwk = Jwk::from_encoding_key(key, algorithm).expect("the key fits its algorithm");
            serde_json::to_value(jwk).expect("it is JSON")
        };
        let (key, mut jwk) = match algorithm {
            Algorithm::EdDSA => {
                // jsonwebtoken can't publish a private key that holds its public one, as this does.
                let pair = pair(&PKCS_ED25519);
                let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
                let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x });
                (EncodingKey::from_ed_der(&pair.serialize_der()), jwk)
            }
            _ => {
                let key = match algorithm {
                    Algorithm::ES256 => EncodingKey::from_ec_der(&pair(&PKCS_ECDSA_P256_SHA256).serialize_der()),
                    Algorithm::ES384 => EncodingKey::from_ec_der(&pair(&PKCS_ECDSA_P384_SHA384).serialize_der()),
                    _ => EncodingKey::from_rsa_der(rsa()),
                };
                let jwk = published(&key);
                (key, jwk)
            }
        };
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        Self { kid: kid.to_owned(), algorithm, key, jwk }
    }

    /// As a cluster publishes it.
    pub(super) fn jwk(&self) -> Value {
        self.jwk.clone()
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.algorithm, "kid": self.kid }), self.algorithm, &claims.to_string())
    }

    /// Signed with `algorithm`, whatever the header says.
    pub(super) fn token_with(&self, header: &Value, algorithm: Algorithm, claims: &str) -> String {
        let message = message(header, claims);
        let signature = crypto::sign(message.as_bytes(), &self.key, algorithm).expect("the key fits its algorithm");
        format!("{message}.{signature}")
    }
}

/// Header and claims, ready to be signed.
pub(super) fn message(header: &Value, claims: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims))
}

/// Where PKCS #8 puts the key itself (PKCS #1), which is what the signer wants: behind four bytes of frame, three of version,
/// fifteen that say RSA, and four of frame again.
const PKCS1_AT: usize = 26;

/// One for all tests: finding its primes takes a while.
fn rsa() -> &'static [u8] {
    static KEY: OnceLock<Vec<u8>> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("keys can be made").serialize_der()
    });
    &key[PKCS1_AT..]
}
