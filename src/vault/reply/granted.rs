//! From a reply that holds an access token to a [`Grant`].
//!
//! Must never let a token out that a header can't carry, nor one of a type that callers don't know how to use.

use std::time::SystemTime;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::{
    Asked, Fields, Granted, Reply, echoes,
    fields::{number, readable, unquoted},
};
use crate::{
    secret::Secret,
    tokens::lifetime::lifetime,
    vault::{Failure, Grant},
};

/// Longest access token, in characters: many times a large JWT, and about what servers take as one header.
const TOKEN_MAX: usize = 16_384;
/// Longest scope, in characters: the documented one has ten.
const SCOPE_MAX: usize = 1_024;

/// By so many seconds clocks that are set by NTP may differ, with what an answer takes on its way.
const LEEWAY: f64 = 5.0;
/// A token that ended so many seconds ago is no old one from some cache: those live for an hour or a day in all, and whoever keeps
/// them throws them away sooner or later. It is the clock that is hours or time zones off.
const PLAINLY_OFF: f64 = 3_600.0;

/// Beyond this (in seconds the year 33658, in milliseconds 2001) a time is in milliseconds: tokens that never end say the year 9999.
const SECONDS_MAX: f64 = 1e12;

/// Checks and takes over the token.
pub(super) fn grant(fields: &Fields<'_>, reply: &Reply<'_>, asked: &Asked<'_>) -> Result<Granted, Failure> {
    let Some(token) = fields.raw("access_token").and_then(unquoted).map(Zeroizing::new) else {
        return invalid("its access token is not a string");
    };
    if !(1..=TOKEN_MAX).contains(&token.len()) {
        return invalid("its access token is empty or too long");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return invalid("its access token has characters that a header can't carry");
    }
    // RFC 6749 wants the type, but a vault that leaves it out can mean one only.
    let bearer = |kind: &str| unquoted(kind).is_some_and(|kind| kind.eq_ignore_ascii_case("bearer"));
    if !fields.raw("token_type").is_none_or(bearer) {
        return invalid("its token is of another type than bearer");
    }
    let claims = claims(&token);
    let clock = judge_clock(claims, reply, asked.at);
    let jwt = jwt_bound(claims, clock, asked.at);
    // Given twice, the shorter counts.
    let expires_in = fields.all("expires_in").filter_map(number).reduce(f64::min);
    let Some(lifetime) = lifetime(expires_in, jwt, asked.assumed_lifetime) else {
        return invalid("its token had no time to live when it came");
    };
    let scope = scope(fields, &token, asked);
    let grant = Grant { access_token: Secret::from(token.as_str()), scope, lifetime, lifetime_is_bounded: jwt.is_some() };
    Ok(Granted { grant, clock_ahead_s: clock.ahead_s() })
}

fn invalid<T>(cause: &'static str) -> Result<T, Failure> {
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
            && !echoes(scope, asked.number.trim_start_matches('+'))
    };
    fields.string("scope").filter(usable).unwrap_or_default()
}

/// When a JWT was issued and when it ends, in seconds since 1970.
#[derive(Clone, Copy, Default)]
struct Claims {
    iat: Option<f64>,
    exp: Option<f64>,
}

/// What a token says of itself, where it is a JWT.
fn claims(token: &str) -> Claims {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Claims::default();
    };
    // They are a bound, so that to read them leniently is the safe side: padding, the other alphabet, strings, milliseconds.
    let mut usual = Zeroizing::new(String::with_capacity(payload.len()));
    usual.extend(payload.trim_end_matches('=').chars().map(|char| match char {
        '+' => '-',
        '/' => '_',
        char => char,
    }));
    let payload = usual;
    let Some(payload) = URL_SAFE_NO_PAD.decode(&*payload).ok().map(Zeroizing::new) else { return Claims::default() };
    let payload = readable(&payload);
    let claims = Fields::parse(&payload);
    let seconds = |name| claims.all(name).filter_map(number).map(|at| if at > SECONDS_MAX { at / 1_000.0 } else { at });
    Claims { iat: seconds("iat").reduce(f64::max), exp: seconds("exp").reduce(f64::min) }
}

/// How the vault's clock stands to ours.
#[derive(Clone, Copy, PartialEq)]
enum VaultClock {
    /// It can be compared.
    Ours,
    /// It is so many seconds ahead, as its `Date` says.
    Ahead(f64),
    /// It is so far off (that the token seems to be so many seconds past its end) that it can't be compared.
    Unknown(f64),
}

impl VaultClock {
    /// By how much it is plainly ahead, in whole seconds, for people.
    #[allow(clippy::cast_possible_truncation, reason = "the conversion keeps to the range of i64")]
    fn ahead_s(self) -> Option<i64> {
        match self {
            Self::Ours => None,
            Self::Ahead(seconds) => Some(seconds as i64),
            Self::Unknown(seconds) => Some(-seconds as i64),
        }
    }
}

/// Whether the vault's clock can be compared with ours. Its `Date` says so, which was written between `sent` and the answer's coming;
/// without one, a token that is past its end by hours as it comes is a sign of a clock that is off rather than of an old token.
fn judge_clock(claims: Claims, reply: &Reply<'_>, sent: SystemTime) -> VaultClock {
    let Some(exp) = claims.exp else { return VaultClock::Ours };
    let (sent, came) = (since_1970(sent), since_1970(reply.now));
    let date = reply.date.map(since_1970);
    let ahead = date.map_or(0.0, |date| (date - came).max(0.0) + (date - sent).min(0.0));
    if ahead.abs() > LEEWAY {
        VaultClock::Ahead(ahead)
    } else if sent - exp > PLAINLY_OFF {
        VaultClock::Unknown(sent - exp)
    } else {
        VaultClock::Ours
    }
}

/// How many seconds the token itself says that it lives from `sent` on, the instant that it was asked for.
fn jwt_bound(claims: Claims, clock: VaultClock, sent: SystemTime) -> Option<f64> {
    let exp = claims.exp?;
    let life = claims.iat.map(|iat| exp - iat).filter(|life| !life.is_nan());
    let vaults_now = match clock {
        VaultClock::Unknown(_) => return life,
        VaultClock::Ours => since_1970(sent),
        VaultClock::Ahead(ahead) => since_1970(sent) + ahead,
    };
    let left = Some(exp - vaults_now).filter(|left| left.is_finite());
    // Issued just now, the token lives as long as it says: to count from its `iat` would take what the clocks differ off it.
    let issued_now = claims.iat.is_some_and(|iat| (iat - vaults_now).abs() <= LEEWAY);
    match (life, left) {
        (Some(life), Some(left)) => Some(if issued_now { life } else { life.min(left) }),
        (life, left) => life.or(left),
    }
}

fn since_1970(at: SystemTime) -> f64 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}
