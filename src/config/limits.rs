//! The defaults and ranges of the configuration, each with its reason.
//!
//! Must never hold a limit that something else than the configuration is held to.

use std::time::Duration;

/// A value's default, and the least and the most it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits<T> {
    pub(super) default: T,
    pub(super) least: T,
    pub(super) most: T,
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A configuration file's length in bytes: 100,000 users take some 15 MiB, and whoever names a disk image by mistake is to
/// learn it before memory is gone.
pub(super) const FILE_BYTES: u64 = 64 << 20;
/// A password's length in bytes: far above any that a person or a generator makes, far below what a form body may hold.
pub(super) const PASSWORD_BYTES: u64 = 4 << 10;
/// A CA file's length in bytes: all the public roots together are a fifth of it.
pub(super) const CA_BYTES: u64 = 1 << 20;
/// A bearer token's length in bytes: what a request's headers may have in all.
pub(super) const TOKEN_BYTES: u64 = 16 << 10;
/// Issuers of callers' tokens: a migration is between two, or three while it is between two others.
pub(super) const ISSUERS: usize = 8;
/// Keys of the shared tier: while one takes another's place there are two, or three where a rotation is taken back.
pub(super) const SEALING_KEYS: usize = 8;
/// `shared.keys.id`: what a person counts up to.
pub(super) const SEALING_KEY_ID: Limits<u64> = Limits { default: 1, least: 1, most: u32::MAX as u64 };
/// Credentials files in all: one a merchant is plenty; a pattern that finds more has strayed into a foreign tree.
pub(super) const CREDENTIALS_FILES: usize = 10_000;
/// Extra headers of a sign-in: a gateway wants a few; servers refuse some hundred.
pub(super) const HEADERS: usize = 32;
/// An extra header's value in bytes: servers refuse heads beyond 8 KiB, and ours adds little else.
pub(super) const HEADER_BYTES: usize = 4 << 10;

/// `grpc.lame_duck`: load balancers notice within a few seconds; Kubernetes' patience is rarely longer than minutes. 0 is for
/// callers that retry by themselves.
pub(super) const LAME_DUCK: Limits<Duration> = Limits { default: secs(5), least: secs(0), most: secs(5 * MINUTE) };
/// `grpc.drain`: with the lame duck it stays below Kubernetes' 30 s; no call lasts longer than `call_timeout`'s 10 minutes.
pub(super) const DRAIN: Limits<Duration> = Limits { default: secs(20), least: secs(0), most: secs(10 * MINUTE) };
/// `grpc.call_timeout`: two sign-ins and the wait between them; no caller waits 10 minutes on purpose.
pub(super) const CALL_TIMEOUT: Limits<Duration> =
    Limits { default: secs(30), least: Duration::from_millis(1), most: secs(10 * MINUTE) };
/// `grpc.max_connection_age`: callers find new replicas, and a drained node empties, within half an hour; a second is for tests. A
/// connection is opened again at the cost of one handshake.
pub(super) const MAX_CONNECTION_AGE: Limits<Duration> = Limits { default: secs(30 * MINUTE), least: secs(1), most: secs(DAY) };
/// `vault.timeout`: a sign-in takes a second at worst; below 100 ms not even the TLS handshake is sure to end, and a sign-in
/// given up too soon is one more that the vault counts. Beyond 2 minutes it is lost.
pub(super) const TIMEOUT: Limits<Duration> =
    Limits { default: secs(10), least: Duration::from_millis(100), most: secs(2 * MINUTE) };
/// `vault.max_concurrent_sign_ins`: each holds a connection. 64 at 0.2 s each sign in 300 users a second; 10,000 connections
/// fit under the usual limits of file descriptors and of ports to one address.
pub(super) const MAX_CONCURRENT_SIGN_INS: Limits<u64> = Limits { default: 64, least: 1, most: 10_000 };
/// `vault.min_sign_in_interval`: 0 leaves no floor, nor one that doubles, for tests; with an hour, a revoked token is missed for an hour.
pub(super) const MIN_SIGN_IN_INTERVAL: Limits<Duration> = Limits { default: secs(5), least: secs(0), most: secs(HOUR) };
/// `vault.refusal_hold`: a wrong password tried once a day locks no account. Seconds are for tests; beyond a month it is for
/// ever.
pub(super) const REFUSAL_HOLD: Limits<Duration> = Limits { default: secs(DAY), least: secs(1), most: secs(30 * DAY) };
/// `vault.assumed_lifetime`: short, since it is a guess; the contract believes no lifetime beyond 7 days.
pub(super) const ASSUMED_LIFETIME: Limits<Duration> = Limits { default: secs(5 * MINUTE), least: secs(1), most: secs(7 * DAY) };
/// `vault.idle_after`: a user who is asked for once an hour is in use. Beyond a month it means never.
pub(super) const IDLE_AFTER: Limits<Duration> = Limits { default: secs(HOUR), least: secs(1), most: secs(30 * DAY) };
/// `vault.caller_sign_ins_per_minute`: a cold start of 100,000 users that one caller asks for fits, at whatever pace. It is for who wants
/// less; that others have places left and their turn is seen to without it.
pub(super) const CALLER_SIGN_INS: Limits<u64> = Limits { default: 120_000, least: 1, most: 10_000_000 };
/// `vault.caller_forced_sign_ins_per_minute`: two thirds of what 64 sign-ins at 0.2 s each do: whatever a caller complains of, a third
/// is left for users without a token.
pub(super) const CALLER_FORCED_SIGN_INS: Limits<u64> = Limits { default: 12_000, least: 1, most: 10_000_000 };
/// `users.attempt`: a person raises it one by one.
pub(super) const ATTEMPT: Limits<u64> = Limits { default: 0, least: 0, most: u32::MAX as u64 };
