//! Turn files into valid types; report the faults with file and line.
//!
//! Must never read the environment, let a faulty value become the default, or ignore a key it doesn't know. What it returns
//! has been checked whole; what it reports holds no secret.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tracing::Level;

use crate::{
    caller::CallerPattern,
    secret::Secret,
    user::{MerchantId, Number, UserKey},
};

mod auth_table;
mod credentials;
mod faults;
mod files;
mod fingerprint;
mod grpc_tls;
mod half_written;
mod last_good;
mod limits;
mod main_file;
mod patterns;
mod reader;
mod reading;
mod service_accounts_table;
mod source;
#[cfg(test)]
mod tests;
mod traces_table;
mod vault_table;
mod walk;

pub(crate) use self::source::read as read_file;
#[cfg(test)]
pub(crate) use self::vault_table::base_url;
pub use self::{
    faults::{Fault, Faults},
    files::{Files, Kept, Reloaded},
    grpc_tls::Tls,
    reading::Glance,
    vault_table::RESERVED_HEADERS,
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
    /// `[grpc]`
    pub grpc: Grpc,
    /// `[admin]`; none where the table is missing: no admin port.
    pub admin: Option<Admin>,
    /// `[log]`
    pub log: Log,
    /// `[audit]`
    pub audit: Audit,
    /// `[traces]`; none: none are sent.
    pub traces: Option<Traces>,
    /// `[vault]`
    pub vault: Vault,
    /// `[auth]`
    pub auth: Auth,
    /// `[[callers]]`, in their order.
    pub callers: Vec<Caller>,
    /// `[[users]]` of all files, each (merchant, number) once.
    pub users: Vec<User>,
}

/// `[grpc]`: the port that callers use.
#[derive(Clone, Debug)]
pub struct Grpc {
    /// Where to listen; on loopback unless callers are authenticated or [`Auth::allow_unauthenticated`]. Port 0 lets the system
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
    pub tls: Option<Tls>,
}

/// `[admin]`: the operator's port.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Whether metrics count calls by caller.
    pub label_callers: bool,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// For machines or for people.
    pub format: LogFormat,
    /// The least important level that is written.
    pub level: Level,
}

/// `[audit]`: where the audit trail goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Lines are added to this file; none: standard output.
    pub file: Option<PathBuf>,
}

/// `[traces]`: where spans go.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// The collector's OTLP address, over gRPC: `http://…` or `https://…`.
    pub endpoint: String,
    /// The only CAs that its certificate may come from; there exactly where the address is `https://`.
    pub ca_file: Option<CaFile>,
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
pub struct Vault {
    /// `https://…`, or `http://…` on loopback; scheme and host in lower case, no user, query or fragment, no `/` at the end. A dot at the
    /// end of the host is there if it was written.
    pub base_url: String,
    /// The only CAs that the vault's certificate may come from, instead of the public ones.
    pub ca_file: Option<CaFile>,
    /// Headers to add to each sign-in, the names in lower case; none that the sign-in sets itself.
    pub headers: Vec<(String, Secret)>,
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
    /// The lifetime of a token that says nothing about it: 1 s to 7 days.
    pub assumed_lifetime: Duration,
    /// A user whom nobody asked for within this time is not renewed ahead: 1 s to 30 days.
    pub idle_after: Duration,
}

/// A file of CA certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaFile {
    /// Where it was read.
    pub path: PathBuf,
    /// Its certificates, at least one and all of them fit to be trust anchors, in PEM that any reader takes as it is meant.
    pub pem: Vec<u8>,
    /// The end of the one that ends first; none where none of them says.
    pub not_after: Option<SystemTime>,
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
pub struct Auth {
    /// Callers are anonymous and may all.
    pub allow_unauthenticated: bool,
    /// `[auth.service_accounts]`; none: their tokens are not taken.
    pub service_accounts: Option<ServiceAccounts>,
}

/// `[auth.service_accounts]`: callers that show a Kubernetes service account's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccounts {
    /// Whose tokens are taken: at least one, each once.
    pub issuers: Vec<Issuer>,
    /// What `aud` must hold.
    pub audience: String,
    /// Where to ask whether a token still holds, if that is wanted.
    pub review: Option<String>,
    /// The only CAs that the API server's certificate may come from, in PEM; none: the public ones.
    pub ca_file: Option<PathBuf>,
    /// The broker's own token for the API server.
    pub token_file: PathBuf,
}

/// An issuer of tokens, and where its keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// What `iss` must be.
    pub name: String,
    /// Its keys; no other issuer's tokens are verified with them unless it has the same.
    pub keys: Keys,
    /// Whether the broker may show its own token to whoever publishes them: not to another cluster.
    pub with_token: bool,
}

/// Where a cluster's keys are (a JWKS, RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// `https://…`, or `http://…` on loopback.
    Url(String),
    /// A file.
    File(PathBuf),
}

/// `[[callers]]`: one caller, and whose tokens it may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who it is.
    pub id: CallerPattern,
    /// The merchants whose users it may ask for.
    pub merchants: Merchants,
    /// Only these numbers, if so.
    pub numbers: Option<Vec<Number>>,
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
pub struct User {
    /// Whose it is.
    pub key: UserKey,
    /// 1 byte to 4 KiB of UTF-8, exactly as it was given.
    pub password: Secret,
    /// Raised by the operator to lift a hold for one new try: 0 to 2³² − 1.
    pub attempt: u64,
}

/// Reads the main file at `path` and every file it names.
///
/// # Errors
/// Every fault at once, by file and line; but where the syntax or a TOML type is wrong, those faults alone.
pub fn load(path: &Path) -> Result<Loaded, Faults> {
    Files::open(path).map(|(_, loaded)| loaded)
}
