//! Pure: the keys that a cluster publishes (a JWKS), and what each may be used for.
//!
//! Must never make a shared secret out of anything that is published.

use std::{collections::HashMap, sync::Arc};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;

/// Most keys that are taken. A cluster publishes one or two, three while it rotates them.
const KEYS_MAX: usize = 64;

/// One key, and the algorithms it may be used with.
pub(super) struct Key {
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

impl Key {
    /// The key, if this algorithm is one of its own.
    pub(super) fn for_algorithm(&self, algorithm: Algorithm) -> Option<&DecodingKey> {
        self.algorithms.contains(&algorithm).then_some(&self.decoding)
    }
}

/// The keys by their ids.
pub(super) struct KeySet(HashMap<String, Arc<Key>>);

#[derive(Deserialize)]
struct Body {
    /// Each is read by itself, so that one of a kind that nobody knows yet does not spoil the rest.
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// What a JWKS says, or why it is none, in words for the log.
    pub(super) fn parse(body: &[u8]) -> Result<Self, &'static str> {
        let body: Body = serde_json::from_slice(body).ok().ok_or("what it publishes is not a JWKS")?;
        if body.keys.len() > KEYS_MAX {
            return Err("it publishes more keys than any cluster has");
        }
        let mut keys = HashMap::new();
        for value in body.keys {
            let jwk: Option<Jwk> = serde_json::from_value(value).ok();
            if let Some((kid, key)) = jwk.and_then(usable) {
                keys.entry(kid).or_insert(Arc::new(key));
            }
        }
        if keys.is_empty() { Err("it publishes no key that can verify a token") } else { Ok(Self(keys)) }
    }

    pub(super) fn find(&self, kid: &str) -> Option<Arc<Key>> {
        self.0.get(kid).cloned()
    }
}

/// The key with its id, if it has one and is meant for signatures that can be checked here.
fn usable(jwk: Jwk) -> Option<(String, Key)> {
    let signs = jwk.common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
    let verifies = jwk.common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let mut algorithms = of_its_type(&jwk.algorithm).to_vec();
    if let Some(its_own) = jwk.common.key_algorithm {
        algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == its_own);
    }
    if !signs || !verifies || algorithms.is_empty() {
        return None;
    }
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    Some((jwk.common.key_id?, Key { algorithms, decoding }))
}

/// The algorithms that fit a key's type: the only ones there are, all of them asymmetric.
fn of_its_type(parameters: &AlgorithmParameters) -> &'static [Algorithm] {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    #[allow(clippy::wildcard_enum_match_arm, reason = "what the crate adds is no key until we know it")]
    match parameters {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => &[ES256],
            EllipticCurve::P384 => &[ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[EdDSA],
        _ => &[],
    }
}
