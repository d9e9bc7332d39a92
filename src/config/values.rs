//! What is configured, as values that nobody has to parse or check again.
//!
//! Must never be made but by this room's readers, nor hold a text where there is a type for it.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use rustls::{RootCertStore, sign::CertifiedKey};
use tracing::Level;

use super::faults::{Fault, Faults};
use crate::{
    caller::CallerPattern,
    keyed_hash::SecretKey,
    outbound::{Authorities, Target},
    secret::Secret,
    user::{MerchantId, Number, UserKey},
};

/// A configuration that can be used, and what a person should look at nevertheless.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Secrets that others can read, patterns without a match, and the like.
    pub warnings: Vec<Fault>,
}

/// Everything that is configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// `state_directory`; none: nothing outlives the process.
    pub state_directory: Option<PathBuf>,
    /// `[grpc]`
    pub grpc: GrpcConfig,
    /// `[admin]`; none where the table is missing: no admin port.
    pub admin: Option<AdminConfig>,
    /// `[log]`
    pub log: LogConfig,
    /// `[audit]`
    pub audit: AuditConfig,
    /// `[traces]`; none: none are sent.
    pub traces: Option<TracesConfig>,
    /// `[vault]`
    pub vault: VaultConfig,
    /// `[operator]`; none: nobody acts on single users.
    pub operator: Option<OperatorConfig>,
    /// `[shared]`; none: each replica is by itself.
    pub shared: Option<SharedConfig>,
    /// `[auth]`
    pub auth: AuthConfig,
    /// `[[callers]]`, in their order.
    pub callers: Vec<CallerConfig>,
    /// `[[users]]` of all files, each (merchant, number) once.
    pub users: Vec<UserConfig>,
}

/// `[grpc]`: the port that callers use.
#[derive(Clone, Debug)]
pub struct GrpcConfig {
    /// Where to listen; on loopback unless callers are authenticated or [`AuthConfig::allow_unauthenticated`]. Port 0 lets the system
    /// choose.
    pub listen: SocketAddr,
    /// Where health alone is answered, in plaintext.
    pub health_listen: Option<SocketAddr>,
    /// From SIGTERM until GOAWAY: 0 to 5 minutes.
    pub lame_duck: Duration,
    /// How long calls in flight may take after that: 0 to 10 minutes.
    pub drain: Duration,
    /// The deadline of calls that bring none: 1 ms to 10 minutes.
    pub call_timeout: Duration,
    /// A connection is told to go after this long, give or take a tenth: 1 s to 1 day.
    pub max_connection_age: Duration,
    /// `[grpc.tls]`; none: plaintext.
    pub tls: Option<TlsConfig>,
}

/// `[grpc.tls]`: what the broker shows callers, and asks of them.
#[derive(Clone)]
pub struct TlsConfig {
    /// The certificate, those that lead to its CA, and the key.
    pub certificate: Arc<CertifiedKey>,
    /// Its end.
    pub not_after: SystemTime,
    /// The CAs that callers' certificates may come from; none where callers aren't asked for one.
    pub client_ca: Option<Arc<RootCertStore>>,
    /// The end of the one that ends first.
    pub client_ca_not_after: Option<SystemTime>,
}

impl TlsConfig {
    /// Whether callers are shown the same certificate, and asked for one of the same CAs.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let same_roots = match (&self.client_ca, &other.client_ca) {
            (Some(one), Some(other)) => one.roots == other.roots,
            (one, other) => one.is_none() && other.is_none(),
        };
        self.certificate.cert == other.certificate.cert && same_roots
    }
}

/// Without the key, whose own `Debug` is a library's.
impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig")
            .field("not_after", &self.not_after)
            .field("client_ca", &self.client_ca.is_some())
            .finish_non_exhaustive()
    }
}

/// `[admin]`: the operator's port.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Whether metrics count calls by caller.
    pub label_callers: bool,
    /// Whether they have calls by OpenTelemetry's conventions too.
    pub rpc_metrics: bool,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// For machines or for people.
    pub format: LogFormat,
    /// The least important level that is written.
    pub level: Level,
}

/// `[audit]`: where the audit trail goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditConfig {
    /// Lines are added to this file; none: standard output.
    pub file: Option<PathBuf>,
    /// How hits are told.
    pub hits: Hits,
}

/// How the audit trail tells of hits: calls that are answered from the cache at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hits {
    /// In a line each.
    #[default]
    Each,
    /// Those of one caller for one user and token in one line a minute.
    Summed,
}

/// `[traces]`: where spans go.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesConfig {
    /// The collector's OTLP address, over gRPC: `http://…` or `https://…`.
    pub endpoint: Target,
    /// The only CAs that its certificate may come from; there exactly where the address is `https://`.
    pub ca_file: Option<Authorities>,
    /// The part of the calls that is recorded, of those whose callers don't say: 0 to 1.
    pub sample_ratio: f64,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Text,
}

/// `[vault]`: where and how to sign in.
#[derive(Clone, Debug)]
pub struct VaultConfig {
    /// `https://…`, or `http://…` on loopback; no `/` at the end.
    pub base_url: Target,
    /// The only CAs that the vault's certificate may come from, instead of the public ones.
    pub ca_file: Option<Authorities>,
    /// Headers to add to each sign-in; none that the sign-in sets itself.
    pub headers: HeaderMap,
    /// How long one sign-in may take: 100 ms to 2 minutes.
    pub timeout: Duration,
    /// How many may be under way at once: 1 to 10,000.
    pub max_concurrent_sign_ins: usize,
    /// The floor between a user's sign-ins: 0 to 1 hour.
    pub min_sign_in_interval: Duration,
    /// How long a refused credential is not tried again: 1 s to 30 days.
    pub refusal_hold: Duration,
    /// When a token is renewed.
    pub renewal: Renewal,
    /// Whether a token is ended at the vault whose user is removed, or that an operator drops.
    pub sign_out: bool,
    /// The lifetime of a token that says nothing about it: 1 s to 7 days.
    pub assumed_lifetime: Duration,
    /// A user whom nobody asked for within this time is not renewed ahead: 1 s to 30 days.
    pub idle_after: Duration,
    /// How many sign-ins the calls of one caller may begin in a minute: 1 to 10 million.
    pub caller_sign_ins_per_minute: u32,
    /// How many of them for users who have a good token: 1 to 10 million.
    pub caller_forced_sign_ins_per_minute: u32,
}

/// When a token is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Before it ends, while the old one is still answered.
    Ahead,
    /// Only once it has ended: for vaults where a new token revokes the old.
    AtExpiry,
}

/// `[auth]`: who may call.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// Whether the policy refuses anybody; where it doesn't, it is on trial: who would be refused is let in, and that is told.
    pub enforce: bool,
    /// Callers are anonymous and may all.
    pub allow_unauthenticated: bool,
    /// `[auth.service_accounts]`; none: their tokens are not taken.
    pub service_accounts: Option<ServiceAccountsConfig>,
}

/// `[auth.service_accounts]`: callers that show a Kubernetes service account's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountsConfig {
    /// Whose tokens are taken: at least one, each once.
    pub issuers: Vec<Issuer>,
    /// What `aud` must hold.
    pub audience: String,
    /// Where to ask whether a token still holds, if that is wanted.
    pub review: Option<Target>,
    /// The only CAs that the API server's certificate may come from, in PEM, read anew for each request; none: the public ones.
    pub ca_file: Option<PathBuf>,
    /// The broker's own token for the API server, read anew for each request, since it rotates. A review is always asked with it.
    pub token_file: PathBuf,
}

/// An issuer of tokens, and the only keys that they may be signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// What `iss` must be.
    pub name: String,
    /// Its keys; issuers with the same source share what is fetched.
    pub keys: KeySource,
}

/// Where signing keys are published (a JWKS, RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// By a server.
    Url {
        /// `https://…`, or `http://…` on loopback.
        url: Target,
        /// Whether the broker may show its own token to that server: not to another cluster's.
        with_token: bool,
    },
    /// In a file, read anew as a URL would be.
    File(PathBuf),
}

/// `[operator]`: where an operator acts on single users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorConfig {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Users of the system whose acts are taken besides those of the broker's own.
    pub uids: Vec<u32>,
}

/// `[shared]`: the tier that replicas share.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedConfig {
    /// Where it is.
    pub server: SharedServer,
    /// What entries and locks are named with.
    pub name_key: SecretKey,
    /// What entries are sealed with: the first seals, all open; at least one.
    pub keys: Vec<SealingKey>,
}

/// A server that speaks Redis' protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedServer {
    /// `rediss://`; without, on loopback only.
    pub tls: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    /// Of its ACL; none: its default user.
    pub user: Option<String>,
    /// Its number.
    pub database: u32,
    /// The user's; there wherever a user is named.
    pub password: Option<Secret>,
    /// The only CAs that its certificate may come from, instead of the public ones.
    pub ca_file: Option<Authorities>,
}

/// A key that entries are sealed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealingKey {
    /// By which an entry says what it is sealed with.
    pub id: u32,
    /// The key.
    pub key: SecretKey,
}

/// `[[callers]]`: one caller, and whose tokens it may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerConfig {
    /// Who it is.
    pub id: CallerPattern,
    /// The merchants whose users it may ask for.
    pub merchants: Merchants,
    /// Only these numbers, if so.
    pub numbers: Option<Vec<Number>>,
    /// Whether the callers that it means are let in all the same where it, and every other entry, denies them.
    pub trial: bool,
    /// Where it stands in the main file, from 1.
    pub line: usize,
}

/// Merchants that a caller may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merchants {
    /// `["*"]`
    All,
    /// These; none where the list is empty.
    Only(Vec<MerchantId>),
}

impl Config {
    /// Whether callers can prove who they are.
    #[must_use]
    pub fn authenticates(&self) -> bool {
        self.grpc.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) || self.auth.service_accounts.is_some()
    }

    /// Whether callers are asked who they are: with `[[callers]]` even if they can't prove it, and then nobody is let in.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.authenticates() || !self.callers.is_empty()
    }
}

/// `[[users]]`: one user and the credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserConfig {
    /// Whose it is.
    pub key: UserKey,
    /// 1 byte to 4 KiB of UTF-8, exactly as it was given.
    pub password: Secret,
    /// Raised by the operator to lift a hold for one new try: 0 to 2³² − 1.
    pub attempt: u64,
}

/// What a reload came to.
#[derive(Debug)]
pub struct Reloaded {
    /// What is configured now.
    pub config: Config,
    /// The same as [`Loaded::warnings`].
    pub warnings: Vec<Fault>,
    /// Credentials files whose new version is at fault.
    pub kept: Vec<Kept>,
    /// When to read again although nothing looks other than now: a file that was written in place lacks users, or callers, and is
    /// taken once it has stood still for long; of that [`Self::warnings`] tell.
    pub again_in: Option<Duration>,
    /// Whether any file was taken anew, added or left out: without that, `config` is what it was.
    pub changed: bool,
}

/// A credentials file at fault. Its last good version is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// How many users its last good version names; none where it never had one, and so none of its users are known.
    pub users: Option<usize>,
    /// What is wrong with its new version.
    pub faults: Faults,
}
