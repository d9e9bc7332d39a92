//! Pure: the keys that a cluster publishes (a JWKS, RFC 7517), and what each may be used for.
//!
//! Must never make a shared secret out of anything that is published, nor leave a key out without saying so.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::{collections::HashMap, fmt, ops::RangeInclusive, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{json::Object, text};

/// Longest JWKS in bytes: 64 RSA keys of 4,096 bits take 64 KiB.
pub(crate) const BYTES_MAX: usize = 256 * 1024;
/// Most keys that are taken. A cluster publishes one or two, three while it rotates them.
const KEYS_MAX: usize = 64;
/// Lengths of an RSA modulus that are verified with: what the cryptographic library takes.
const RSA_BYTES: RangeInclusive<usize> = 2_048 / 8..=8_192 / 8;
/// A key's id is shown up to this length: what is longer is none that anybody would look for.
const KID_SHOWN: usize = 64;

/// One key, and the algorithms it may be used with.
pub(crate) struct Key {
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
    /// How often it was taken, which nobody gets around who verifies a token.
    #[cfg(test)]
    uses: std::sync::atomic::AtomicUsize,
}

impl Key {
    /// The key, if this algorithm is one of its own.
    pub(crate) fn for_algorithm(&self, algorithm: Algorithm) -> Option<&DecodingKey> {
        #[cfg(test)]
        self.uses.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.algorithms.contains(&algorithm).then_some(&self.decoding)
    }

    #[cfg(test)]
    pub(crate) fn uses(&self) -> usize {
        self.uses.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// The keys by their ids.
pub(crate) struct KeySet(HashMap<String, Arc<Key>>);

impl KeySet {
    pub(crate) fn find(&self, kid: &str) -> Option<Arc<Key>> {
        self.0.get(kid).cloned()
    }
}

/// A key for signatures that no token can be verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unusable {
    /// Which of the keys it is, from 1.
    place: usize,
    kid: Option<String>,
    why: &'static str,
}

impl Unusable {
    pub(crate) fn is(&self, kid: &str) -> bool {
        self.kid.as_deref() == Some(kid)
    }

    /// Whether this is one of those, wherever among the keys each stands.
    pub(crate) fn is_among(&self, others: &[Self]) -> bool {
        others.iter().any(|other| self == other || self.kid.is_some() && (&self.kid, self.why) == (&other.kid, other.why))
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", self.place)?;
        let plain = |kid: &&String| kid.len() <= KID_SHOWN && kid.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(kid) = self.kid.as_ref().filter(plain) {
            write!(f, " ({kid})")?;
        }
        write!(f, " can't be used, and whoever shows a token signed with it is refused: {}", self.why)
    }
}

/// What a JWKS says.
pub(crate) struct Published {
    /// The keys that can be used; or why there is none.
    pub(crate) keys: Result<KeySet, NoKeys>,
    /// Those for signatures that can't.
    pub(crate) unusable: Vec<Unusable>,
    /// It is a set, and nothing is in it yet.
    pub(crate) is_empty: bool,
}

/// Why there is no key, in words for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoKeys {
    /// It can't be told what is published.
    Unread(&'static str),
    /// It is a set, and none of its keys can verify a token: whatever was published before is withdrawn.
    Withdrawn,
}

impl NoKeys {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Unread(why) => why,
            Self::Withdrawn => "it publishes no key that can verify a token",
        }
    }
}

impl fmt::Display for NoKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

#[derive(Deserialize)]
struct Body {
    /// Each is read by itself, so that one of a kind that nobody knows yet does not spoil the rest.
    keys: Vec<Value>,
}

/// Reads a JWKS.
pub(crate) fn read(body: &[u8]) -> Published {
    let none = |why| Published { keys: Err(NoKeys::Unread(why)), unusable: Vec::new(), is_empty: false };
    if text::is_wide(body) {
        return none("what it publishes is UTF-16 or UTF-32, and not a JWKS, which is UTF-8");
    }
    let body = body.strip_prefix(text::MARK).unwrap_or(body);
    let Ok(Object(body)) = serde_json::from_slice::<Object<Body>>(body) else { return none("what it publishes is not a JWKS") };
    if body.keys.len() > KEYS_MAX {
        return none("it publishes more keys than any cluster has");
    }
    let is_empty = body.keys.is_empty();
    let (mut keys, mut unusable) = (HashMap::new(), Vec::new());
    for (index, value) in body.keys.into_iter().enumerate() {
        if !is_for_signatures(&value) {
            continue;
        }
        let text = |member: &str| value.get(member).and_then(Value::as_str);
        let kid = text("kid").map(str::to_owned);
        let why = match usable(&value) {
            Ok((kid, _)) if keys.contains_key(&kid) => "it has the id of one before it, which counts: give each its own",
            Ok((kid, key)) => {
                keys.insert(kid, Arc::new(key));
                continue;
            }
            Err(why) => why,
        };
        unusable.push(Unusable { place: index + 1, kid, why });
    }
    let keys = if keys.is_empty() { Err(NoKeys::Withdrawn) } else { Ok(KeySet(keys)) };
    Published { keys, unusable, is_empty }
}

/// Whether a key says that it is for something else, as encryption: no token is signed with it, so nobody misses it.
fn is_for_signatures(key: &Value) -> bool {
    let signs = key.get("use").and_then(Value::as_str).is_none_or(|purpose| purpose == "sig");
    let operations = key.get("key_ops").and_then(Value::as_array);
    signs && operations.is_none_or(|operations| operations.iter().any(|operation| operation == "verify"))
}

/// The key with its id, if a signature can be checked with it here; else why not.
fn usable(value: &Value) -> Result<(String, Key), &'static str> {
    const REMEDY: &str = "it is of a kind that can't be verified here: have the cluster sign with RSA, P-256, P-384 or Ed25519";
    let text = |member: &str| value.get(member).and_then(Value::as_str);
    match (text("kty"), text("crv")) {
        (Some("RSA"), _) | (Some("EC"), Some("P-256" | "P-384")) | (Some("OKP"), Some("Ed25519")) => {}
        (Some("EC"), Some("P-521")) => {
            return Err(
                "its curve is P-521 (ES512), which can't be verified here: have the cluster sign with RSA, P-256, P-384 or Ed25519",
            );
        }
        (Some("oct"), _) => {
            return Err("it is a shared secret, which has no place in what is published: take it out, and replace it");
        }
        (Some(_), _) => return Err(REMEDY),
        (None, _) => return Err("it is not a JWK, since it has no type (kty)"),
    }
    let jwk: Option<Jwk> = serde_json::from_value(value.clone()).ok();
    // What the crate can't make a key of, it keeps as one of another type.
    let jwk = jwk
        .filter(|jwk| !of_its_type(&jwk.algorithm).is_empty())
        .ok_or("it can't be read as a JWK: give it as it was published")?;
    let mut algorithms = of_its_type(&jwk.algorithm).to_vec();
    if let Some(its_own) = jwk.common.key_algorithm {
        algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == its_own);
    }
    if algorithms.is_empty() {
        return Err(
            "its algorithm (alg) is not one that can be verified here, or not one of its type: have the cluster sign with another",
        );
    }
    let decoding = DecodingKey::from_jwk(&jwk).ok().filter(|_| is_whole(&jwk.algorithm)).ok_or(
        "its numbers can't be read, or are shorter or longer than such keys have (RSA: 2,048 to 8,192 bits): give it as it was published",
    )?;
    let kid = jwk.common.key_id.filter(|kid| !kid.is_empty()).ok_or("it has no id (kid), which tokens name: give it one")?;
    let key = Key {
        algorithms,
        decoding,
        #[cfg(test)]
        uses: std::sync::atomic::AtomicUsize::default(),
    };
    Ok((kid, key))
}

/// Whether a key has numbers of a length that can be verified with.
fn is_whole(parameters: &AlgorithmParameters) -> bool {
    let length =
        |number: &str| URL_SAFE_NO_PAD.decode(number).map_or(0, |bytes| bytes.iter().skip_while(|byte| **byte == 0).count());
    let exact = |number: &str, expected| URL_SAFE_NO_PAD.decode(number).is_ok_and(|bytes| bytes.len() == expected);
    #[allow(clippy::wildcard_enum_match_arm, reason = "what the crate adds is no key until we know it")]
    match parameters {
        AlgorithmParameters::RSA(key) => RSA_BYTES.contains(&length(&key.n)) && length(&key.e) > 0,
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => exact(&key.x, 32) && exact(&key.y, 32),
            EllipticCurve::P384 => exact(&key.x, 48) && exact(&key.y, 48),
            _ => false,
        },
        AlgorithmParameters::OctetKeyPair(key) => exact(&key.x, 32),
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512};
    use serde_json::json;

    use super::*;

    fn elliptic(kid: &str, curve: &str) -> Value {
        let (kind, size) = match curve {
            "P-256" => (&PKCS_ECDSA_P256_SHA256, 32),
            "P-384" => (&PKCS_ECDSA_P384_SHA384, 48),
            _ => (&PKCS_ECDSA_P521_SHA512, 66),
        };
        let pair = KeyPair::generate_for(kind).expect("keys can be made");
        let (x, y) = pair.public_key_raw()[1..].split_at(size);
        json!({ "kty": "EC", "crv": curve, "kid": kid, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
    }

    fn with(mut key: Value, member: &str, value: Value) -> Value {
        key[member] = value;
        key
    }

    #[test]
    fn each_key_for_signatures_is_taken_or_said() {
        let good = || elliptic("good", "P-256");
        for (key, why) in [
            (elliptic("k", "P-384"), None),
            (with(elliptic("k", "P-256"), "alg", json!("ES256")), None),
            (with(elliptic("k", "P-256"), "key_ops", json!(["verify"])), None),
            // For encryption: nobody's tokens are signed with it.
            (with(elliptic("k", "P-256"), "use", json!("enc")), None),
            (with(elliptic("k", "P-521"), "key_ops", json!(["deriveKey"])), None),
            (
                elliptic("k", "P-521"),
                Some("key 2 (k) can't be used, and whoever shows a token signed with it is refused: its curve is P-521 (ES512)"),
            ),
            (with(elliptic("k", "P-521"), "alg", json!("ES512")), Some("P-521")),
            (with(elliptic("k", "P-256"), "crv", json!("secp256k1")), Some("of a kind")),
            (json!({ "kty": "OKP", "crv": "Ed448", "kid": "k", "x": "AA" }), Some("of a kind")),
            (json!({ "kty": "AKP", "alg": "ML-DSA-44", "kid": "k", "pub": "AA" }), Some("of a kind")),
            (json!({ "kty": "oct", "kid": "k", "k": "AA" }), Some("shared secret")),
            (with(elliptic("k", "P-256"), "alg", json!("ES384")), Some("(alg)")),
            (with(elliptic("k", "P-256"), "alg", json!("HS256")), Some("(alg)")),
            (with(elliptic("k", "P-256"), "alg", json!("RSA-OAEP")), Some("(alg)")),
            (with(elliptic("k", "P-256"), "x", json!("!")), Some("numbers")),
            (with(elliptic("k", "P-256"), "x", json!("AAAA")), Some("numbers")),
            (with(elliptic("k", "P-384"), "crv", json!("P-256")), Some("numbers")),
            (json!({ "kty": "RSA", "kid": "k", "n": URL_SAFE_NO_PAD.encode([255; 128]), "e": "AQAB" }), Some("2,048")),
            (json!({ "kty": "RSA", "kid": "k", "n": URL_SAFE_NO_PAD.encode([255; 256]), "e": "AQAB" }), None),
            (json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "AA" }), Some("numbers")),
            (with(elliptic("k", "P-256"), "x", json!(7)), Some("as a JWK")),
            (with(elliptic("k", "P-256"), "kid", json!(null)), Some("(kid)")),
            (with(elliptic("k", "P-256"), "kid", json!("")), Some("(kid)")),
            (with(elliptic("k", "P-521"), "kid", json!("k\nk")), Some("key 2 can't be used")),
            (with(elliptic("k", "P-256"), "kid", json!("good")), Some("one before it")),
            (json!(7), Some("(kty)")),
            (json!({}), Some("(kty)")),
        ] {
            let text = json!({ "keys": [good(), key] }).to_string();
            for text in [text.clone(), format!("\u{feff}{text}")] {
                let Published { keys, unusable, .. } = read(text.as_bytes());
                assert!(keys.expect("one is good").find("good").is_some(), "{key}");
                assert_eq!(unusable.len(), usize::from(why.is_some()), "{key} {unusable:?}");
                let said = unusable.first().map(ToString::to_string).unwrap_or_default();
                assert!(said.contains(why.unwrap_or_default()), "{key}: {said}");
            }
        }
        let Published { keys, unusable, .. } = read(json!({ "keys": [elliptic("k", "P-521")] }).to_string().as_bytes());
        assert!(keys.is_err() && unusable.len() == 1 && unusable[0].is("k"));
        for body in [&b""[..], b"{}", b"\xff\xfe{\0}\0", br#"{"keys": []}"#] {
            assert!(read(body).keys.is_err());
        }
        let a_list_for_a_set = json!([[good()]]).to_string();
        assert!(matches!(read(a_list_for_a_set.as_bytes()).keys, Err(NoKeys::Unread(_))));
    }
}
