//! Sign in upstream; classify what comes back. Behind the one trait, [`SignIn`], so that a simulation can stand in its place.
//!
//! Must never send a password or a token anywhere but to the configured URL, send a password twice for one call once it may have been
//! read, or show either.

mod reply;
mod sign_out;
mod wire;

#[cfg(any(test, fuzzing))]
pub(crate) use self::reply::fuzz;
pub use self::wire::HttpVault;
pub use crate::outbound::HttpClientError;

use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
    time::Duration,
};

use crate::{secret::Secret, telemetry::traces::Span, user::UserKey};

/// The status of an answer whose head can't be read: what it was meant to say, a no perhaps, nobody knows.
pub const UNREADABLE: u16 = 0;
/// What people are told of that.
pub const NO_HTTP: &str = "its answer is not HTTP/1.1 that can be read";
/// What people are told of [`Failure::Undocumented`].
pub const UNDOCUMENTED: &str = "it refuses the sign-in in a way that is not documented";

/// Where sign-ins go, under the base URL.
pub const SIGN_IN_PATH: &str = "/oauth/token";
/// How spans of sign-ins are named: by OpenTelemetry's conventions for HTTP, method and path.
pub const SIGN_IN_SPAN: &str = "POST /oauth/token";

/// Signs one user in, and out.
pub trait SignIn: Send + Sync + 'static {
    /// Sends one sign-in and classifies its answer; ends within the configured time. The vault is told the span's place, and the span how it
    /// went.
    fn sign_in<'a>(&'a self, user: &'a UserKey, password: &'a Secret, span: &'a Span) -> SigningIn<'a>;

    /// Ends a token of the user's that this vault gave; returns within the configured time. Not every stand-in offers it.
    fn sign_out<'a>(&'a self, _user: &'a UserKey, _token: &'a Secret) -> SigningOut<'a> {
        Box::pin(ready(Err("it offers no sign-out")))
    }
}

/// What [`SignIn::sign_in`] returns.
pub type SigningIn<'a> = Pin<Box<dyn Future<Output = Result<Grant, Failure>> + Send + 'a>>;

/// What [`SignIn::sign_out`] returns: why the token is not known to be ended, in fixed words for people.
pub type SigningOut<'a> = Pin<Box<dyn Future<Output = Result<(), &'static str>> + Send + 'a>>;

/// What the vault gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The token: visible ASCII.
    pub access_token: Secret,
    /// What it is good for; empty where the vault said nothing.
    pub scope: String,
    /// How long it lives, counted from the instant the request was sent: above zero, at most seven days.
    pub lifetime: Duration,
    /// Whether a JWT's `iat` and `exp` bound the lifetime, so that the same token seen again can't live longer.
    pub lifetime_is_bounded: bool,
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A definite no; repeating it could lock the account.
    Refused {
        /// Which kind of no.
        why: Refusal,
        /// The vault's `error`, else its `errorId`: at most 64 characters of `[A-Za-z0-9_.-]`, never holding the password; may be empty.
        vault_error: String,
    },
    /// A no that names nothing which is documented: it may be about the credentials, the request, or neither.
    Undocumented {
        /// The HTTP status: 4xx, or [`UNREADABLE`].
        status: u16,
        /// How long to wait at least, where the vault says so.
        wait: Option<Duration>,
        /// As above.
        vault_error: String,
    },
    /// The vault asks to wait.
    Throttled {
        /// Whom the wait is about.
        scope: Scope,
        /// How long, as the vault says or is documented to mean.
        wait: Duration,
        /// As above.
        vault_error: String,
    },
    /// It is out of reach, slow or failing.
    Unavailable {
        /// What happened, in fixed words for people: no text of the vault's.
        cause: &'static str,
        /// How long to wait, where the vault says so.
        wait: Option<Duration>,
        /// As above.
        vault_error: String,
    },
    /// Its answer makes no sense.
    Invalid {
        /// What is wrong with it, in fixed words for people.
        cause: &'static str,
        /// It was the vault's all the same, and held a token, though none that can be used: the vault is there.
        issued: bool,
    },
    /// The sign-in broke off inside the broker: a fault of ours, not of the vault's.
    Broken,
}

impl Failure {
    /// Its kind, as metrics and traces name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused { why: Refusal::Credentials, .. } => "credentials_rejected",
            Self::Refused { why: Refusal::SecondFactor, .. } => "second_factor_required",
            Self::Refused { why: Refusal::Request, .. } => "request_rejected",
            Self::Undocumented { .. } => "undocumented",
            Self::Throttled { .. } => "throttled",
            Self::Unavailable { .. } => "unavailable",
            Self::Invalid { .. } => "invalid",
            Self::Broken => "broken",
        }
    }
}

/// For the operator's log: fixed words, the vault's name for it, and nothing else of the vault's.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (words, vault_error) = match self {
            Self::Refused { why: Refusal::Credentials, vault_error } => {
                ("the vault refuses the credentials or the account", vault_error.as_str())
            }
            Self::Refused { why: Refusal::SecondFactor, vault_error } => {
                ("the vault wants a second factor", vault_error.as_str())
            }
            Self::Refused { why: Refusal::Request, vault_error } => ("the vault refuses our request", vault_error.as_str()),
            Self::Undocumented { status: UNREADABLE, .. } => (NO_HTTP, ""),
            Self::Undocumented { status, vault_error, .. } if vault_error.is_empty() => {
                return write!(f, "{UNDOCUMENTED} (HTTP {status})");
            }
            Self::Undocumented { vault_error, .. } => (UNDOCUMENTED, vault_error.as_str()),
            Self::Throttled { vault_error, .. } => ("the vault asks to wait", vault_error.as_str()),
            Self::Unavailable { cause, vault_error, .. } => (*cause, vault_error.as_str()),
            Self::Invalid { cause, .. } => (*cause, ""),
            Self::Broken => ("the sign-in broke off inside the broker", ""),
        };
        if vault_error.is_empty() { f.write_str(words) } else { write!(f, "{words} ({vault_error})") }
    }
}

/// The kinds of a definite no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The credentials or the account.
    Credentials,
    /// A second factor is wanted: a person is needed.
    SecondFactor,
    /// Our request.
    Request,
}

/// Whom a wait is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This user.
    User,
    /// All users of the merchant: the vault judged the caller's address.
    Merchant,
}
