//! Any bearer token.

use std::time::{Duration, SystemTime};

use super::{Algorithm, PARTS, Presented, Rules, Unverified, is_of_a_length};
use crate::{authn::service_accounts::token_digest::TokenDigest, jwks};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The public half of the key of RFC 8037, A.2, which signed nothing that has claims of ours.
const KEYS: &[u8] = br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwaaPJHURo0"}]}"#;
/// 2026-11-22T12:00:00Z.
const NOW: Duration = Duration::from_secs(1_795_348_800);
/// What is shorter may be a word of ours: the longest has 16 characters (`service_accounts`).
const PART_LEAST: usize = 24;

/// The text behind `Bearer `.
pub(crate) fn token(input: &[u8]) {
    let Ok(token) = str::from_utf8(input) else { return };
    assert_eq!(is_of_a_length(token).is_err(), token.len() > 8_192);
    if is_of_a_length(token).is_err() {
        return;
    }
    assert!(TokenDigest::of(token) == TokenDigest::of(token) && TokenDigest::of(token) != TokenDigest::of(&format!("{token}.")));
    let presented = match Presented::parse(token) {
        Ok(presented) => presented,
        Err(why) => return says_nothing_of(token, &why),
    };
    assert!(!presented.kid().is_empty() && token.split('.').count() >= PARTS - 1, "{:?}", presented.kid());
    let Some(key) = jwks::read(KEYS).keys.ok().and_then(|keys| keys.find("k")) else { return assert!(KEYS.is_empty(), "no key") };
    let checked = presented.check(&key, &Rules::new(ISSUER, "token-broker"), SystemTime::UNIX_EPOCH + NOW);
    match checked.map(|(name, _)| name) {
        Ok(name) => assert!(name.is_empty() && !name.is_empty(), "{name} was never signed"),
        Err(why) => says_nothing_of(token, &why),
    }
    let symmetric = matches!(presented.algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
    assert!(!symmetric || key.for_algorithm(presented.algorithm).is_none(), "a public key is no shared secret");
}

/// Why it is refused, in words of ours.
fn says_nothing_of(token: &str, why: &Unverified) {
    let said = format!("{why:?}");
    // What is not base64url is no part of anybody's token, and may be one of our own sentences.
    let is_encoded = |part: &&str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    for part in token.split('.').filter(|part| part.len() >= PART_LEAST).filter(is_encoded) {
        assert!(!said.contains(part), "{said}");
    }
}
