//! Pure: may this token be believed, given the key it names?
//!
//! Must never let the token choose how it is checked: the algorithm has to be one of ours *and* its key's.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde::Deserialize;

use super::Unverified;
use crate::{
    caller::{CallerName, NameKind},
    json::Object,
    jwks::Key,
};

/// Longest token that is looked at, in bytes. Kubernetes' have 1,000 to 2,000, with long names 4,000.
const TOKEN_MAX: usize = 8 * 1024;
/// How far this machine's clock may be from the issuer's. Machines with NTP differ by milliseconds; what is more than this is
/// a broken clock, and each second here is one for which a token outlives its end.
const LEEWAY: Duration = Duration::from_secs(10);
/// The claims without which a token is refused. Each token that the TokenRequest API hands out has them.
const REQUIRED: [&str; 5] = ["iss", "aud", "exp", "nbf", "sub"];
/// Header, claims and signature.
const PARTS: usize = 3;

const NO_JWT: &str =
    "the bearer token is not a JWT with a public-key signature: send the pod's projected token, as it is in its file";
const INCOMPLETE: &str = "the token lacks iss, aud, exp, nbf or sub, or one of them is not as Kubernetes writes it: \
                          send a projected service-account token";

/// A token that none of the issuers made whom the broker takes tokens of.
pub(super) const OTHER_ISSUER: &str = "the token is from another issuer: send one of the cluster whose tokens the broker takes";
const OTHER_ALGORITHM: &str = "the token is signed with an algorithm that the broker can't verify: have the cluster sign with RSA, P-256, \
                               P-384 or Ed25519";

/// What every token of one issuer has to say.
#[derive(Debug)]
pub(super) struct Rules {
    issuer: String,
    validation: Validation,
}

impl Rules {
    pub(super) fn new(issuer: &str, audience: &str) -> Self {
        let mut validation = Validation::default();
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        // Without this, a token that has no issuer or no audience would be good for all of them.
        validation.set_required_spec_claims(&REQUIRED);
        // jsonwebtoken reads the machine's clock itself; `Claims::judge` does the same by ours.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self { issuer: issuer.to_owned(), validation }
    }

    /// Whose tokens these are for.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// For a token that was signed in this way, and in no other.
    fn with(&self, algorithm: Algorithm) -> Validation {
        Validation { algorithms: vec![algorithm], ..self.validation.clone() }
    }
}

/// A token as it was presented: nothing in it is believed yet.
pub(super) struct Presented<'a> {
    token: &'a str,
    algorithm: Algorithm,
    kid: String,
    issuer: String,
}

impl<'a> Presented<'a> {
    /// Of a token that [`is_of_a_length`].
    pub(super) fn parse(token: &'a str) -> Result<Self, Unverified> {
        // `none` and what else is unknown has no name in `Algorithm` and fails here.
        let header = jsonwebtoken::decode_header(token).ok();
        let header = header.ok_or_else(|| Unverified::Refused(if is_signed(token) { OTHER_ALGORITHM } else { NO_JWT }))?;
        if header.crit.is_some() {
            return Err(Unverified::Refused("the token has critical headers, which Kubernetes does not use: send its own token"));
        }
        let kid = header.kid.filter(|kid| !kid.is_empty()).ok_or(Unverified::Refused(
            "the token does not name the key that signed it (kid): send the pod's projected service-account token",
        ))?;
        let Issued { iss } = part(token, 1)?.ok_or(Unverified::Refused(INCOMPLETE))?;
        Ok(Self { token, algorithm: header.alg, kid, issuer: iss })
    }

    /// Who it says issued it.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The key it says it was signed with.
    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    /// Whose it is, and from when to when.
    pub(super) fn check(&self, key: &Key, rules: &Rules, now: SystemTime) -> Result<(CallerName, Validity), Unverified> {
        // A public key is no secret: an algorithm of another kind (HMAC above all) must not be tried with it.
        let decoding = key.for_algorithm(self.algorithm).ok_or(Unverified::Refused(
            "the token is signed with an algorithm that is not its key's: send a token as the cluster signed it",
        ))?;
        let Object(claims): Object<Claims> = jsonwebtoken::decode(self.token, decoding, &rules.with(self.algorithm))
            .map_err(|error| Unverified::Refused(words(error.kind())))?
            .claims;
        claims.judge(now)
    }
}

/// Whether a token is short enough to be looked at.
pub(super) fn is_of_a_length(token: &str) -> Result<(), Unverified> {
    if token.len() > TOKEN_MAX {
        return Err(Unverified::Refused(
            "the bearer token is too long: send the pod's projected service-account token, as it is in its file",
        ));
    }
    Ok(())
}

/// A part of a token, unverified; `None` where it is JSON of another shape, or none.
fn part<T: for<'de> Deserialize<'de>>(token: &str, index: usize) -> Result<Option<T>, Unverified> {
    let encoded = token.split('.').nth(index).ok_or(Unverified::Refused(NO_JWT))?;
    let json = URL_SAFE_NO_PAD.decode(encoded).ok().ok_or(Unverified::Refused(NO_JWT))?;
    Ok(serde_json::from_slice(&json).ok().map(|Object(part)| part))
}

/// Whether it is a JWT all the same, with an algorithm that has no name in `Algorithm`.
fn is_signed(token: &str) -> bool {
    #[derive(Deserialize)]
    struct Header {
        alg: String,
    }
    let is_other = |Header { alg }: Header| !alg.eq_ignore_ascii_case("none") && alg.parse::<Algorithm>().is_err();
    token.split('.').count() == PARTS && part(token, 0).ok().flatten().is_some_and(is_other)
}

/// What is wrong with a token; never in the error's own words, which may quote it.
fn words(kind: &ErrorKind) -> &'static str {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the crate may add to it at any time")]
    match kind {
        ErrorKind::InvalidIssuer => OTHER_ISSUER,
        ErrorKind::InvalidAudience => "the token is for another audience: mount a projected token with the broker's audience",
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::Json(_) => INCOMPLETE,
        ErrorKind::InvalidSignature => "the token's signature is wrong: send it as it is in its file",
        _ => NO_JWT,
    }
}

/// Who says so, before it is known whether that is true.
#[derive(Deserialize)]
struct Issued {
    iss: String,
}

/// The claims that are judged here; issuer and audience have been.
#[derive(Deserialize)]
struct Claims {
    /// One issuer: jsonwebtoken would take a list that contains ours.
    #[serde(rename = "iss")]
    _issuer: String,
    exp: f64,
    nbf: f64,
    sub: String,
}

impl Claims {
    fn judge(self, now: SystemTime) -> Result<(CallerName, Validity), Unverified> {
        let validity = Validity { exp: self.exp, nbf: self.nbf };
        validity.judge(now)?;
        // As strict as `[[callers]]`, so that no subject is what a pattern could take for another one.
        let account = CallerName::parse(&self.sub)
            .ok()
            .filter(|name| name.kind() == NameKind::ServiceAccount)
            .ok_or(Unverified::Refused("the token's subject is not a service account: send the pod's projected token"))?;
        Ok((account, validity))
    }
}

/// From when to when a token is good, as it says itself: in seconds since 1970, which JSON lets be of any size and sign and have a fraction;
/// comparing floats takes them all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    exp: f64,
    nbf: f64,
}

impl Validity {
    /// Whether it is good at this time. This alone judges that, also of a token that was verified before.
    pub(super) fn judge(self, now: SystemTime) -> Result<(), Unverified> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
        let leeway = LEEWAY.as_secs_f64();
        if now >= self.exp + leeway {
            return Err(Unverified::Refused(
                "the token has expired: read its file anew for each call, since the kubelet renews it there",
            ));
        }
        if now < self.nbf - leeway {
            return Err(Unverified::Refused(
                "the token is not valid yet: see that the machines' clocks agree, or try again later",
            ));
        }
        Ok(())
    }

    /// Without an end, for tests of what is kept of tokens.
    #[cfg(test)]
    pub(super) fn for_ever() -> Self {
        Self { exp: f64::INFINITY, nbf: f64::NEG_INFINITY }
    }
}
