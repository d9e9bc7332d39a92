//! A Kubernetes cluster, as far as its service accounts' tokens go: made by the test, known nowhere else.

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::KeyPair;
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
pub(crate) const SUBJECT: &str = "system:serviceaccount:cards:cards";

/// A cluster's signing key.
pub(crate) struct Cluster {
    key: KeyPair,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self { key: KeyPair::generate().expect("keys can be made") }
    }

    /// What it publishes (RFC 7517): a P-256 key.
    pub(crate) fn jwks(&self) -> String {
        let point = self.key.public_key_raw();
        let (x, y) = point[1..].split_at(32);
        let text = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "one", "x": text(x), "y": text(y) }] })
            .to_string()
    }

    /// A projected token, but for what `change` does to its claims.
    pub(crate) fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("is later").as_secs();
        let mut claims =
            json!({ "iss": ISSUER, "aud": ["token-broker"], "sub": SUBJECT, "nbf": now - 60, "iat": now - 60, "exp": now + 600 });
        change(&mut claims);
        let header = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, &EncodingKey::from_ec_der(&self.key.serialize_der())).expect("it can be signed")
    }
}
