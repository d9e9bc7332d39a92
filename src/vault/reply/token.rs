//! From a reply that holds an access token to a [`Grant`].
//!
//! Must never let a token out that a header can't carry, nor one of a type that callers don't know how to use.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::{Asked, Fields, echoes};
use crate::{
    expiry::lifetime::lifetime,
    secret::Secret,
    vault::{Failure, Grant},
};

/// Longest access token, in characters: many times a large JWT, and about what servers take as one header.
const TOKEN_MAX: usize = 16_384;
/// Longest scope, in characters: the documented one has ten.
const SCOPE_MAX: usize = 1_024;

/// Checks and takes over the token.
pub(super) fn grant(fields: &Fields<'_>, asked: &Asked<'_>) -> Result<Grant, Failure> {
    let Some(token) = fields.string("access_token").map(Zeroizing::new) else {
        return invalid("its access token is not a string");
    };
    if !(1..=TOKEN_MAX).contains(&token.len()) {
        return invalid("its access token is empty or too long");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return invalid("its access token has characters that a header can't carry");
    }
    if !fields.string("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return invalid("its token is of another type than bearer");
    }
    let jwt = jwt_seconds(&token);
    let Some(lifetime) = lifetime(fields.number("expires_in"), jwt, asked.assumed_lifetime) else {
        return invalid("its token had no time to live when it came");
    };
    let scope = scope(fields, &token, asked);
    Ok(Grant { access_token: Secret::from(token.as_str()), scope, lifetime, lifetime_is_bounded: jwt.is_some() })
}

fn invalid(cause: &'static str) -> Result<Grant, Failure> {
    Err(Failure::Invalid { cause, issued: true })
}

/// The scope, where it is one that can be passed on. It only informs, so a token is not thrown away for a bad one; cut short
/// it would say something else, so it is left out whole.
fn scope(fields: &Fields<'_>, token: &str, asked: &Asked<'_>) -> String {
    let usable = |scope: &String| {
        scope.len() <= SCOPE_MAX
            && scope.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
            && !echoes(scope, asked.password)
            && !echoes(scope, token)
    };
    fields.string("scope").filter(usable).unwrap_or_default()
}

/// `exp − iat` in seconds, where the token is a JWT that holds both as numbers.
fn jwt_seconds(token: &str) -> Option<f64> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let payload = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).ok()?);
    let claims = Fields::parse(&payload);
    // RFC 7519 knows them as JSON numbers only.
    let number = |name| claims.number(name).filter(|_| claims.string(name).is_none());
    let seconds = number("exp")? - number("iat")?;
    (!seconds.is_nan()).then_some(seconds)
}
