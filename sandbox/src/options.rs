//! How a sandbox begins: its users, and how it treats tokens.
//!
//! Holds no running state. Must never print a password, though these are made up: logs of tests are copied about.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::tls::Tls;

/// What `exp − iat` was in every sample of 2024.
pub const DOCUMENTED_LIFETIME: Duration = Duration::from_secs(86_400);

/// Wrong passwords in a row that lock an account. The vendor names no number: 5 is a guess that is small enough to be noticed.
pub const DEFAULT_WRONG_PASSWORDS: u32 = 5;

/// A user whom the sandbox knows.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Compared with the header `X-Merchant-ID`, exactly.
    pub merchant_id: String,
    /// E.164 with its `+`; compared exactly.
    pub number: String,
    /// Compared exactly: a space at its end belongs to it.
    pub password: String,
}

impl User {
    /// A user from its three parts.
    pub fn new(merchant_id: impl Into<String>, number: impl Into<String>, password: impl Into<String>) -> Self {
        Self { merchant_id: merchant_id.into(), number: number.into(), password: password.into() }
    }

    /// The user of the vendor's documentation.
    #[must_use]
    pub fn documented() -> Self {
        Self::new("bece038f-2e46-49f4-b25e-89cd38d6dc16", "+447871239999", "1234Qwerty")
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("merchant_id", &self.merchant_id).field("number", &self.number).finish_non_exhaustive()
    }
}

/// What a second sign-in does to the token of the first. Which of the three the vault does is not documented.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Each sign-in mints a token; older ones stay valid until they expire.
    #[default]
    Fresh,
    /// Spring's persistent store: the same token until it expires, with a shrinking `expires_in`.
    SameToken,
    /// Each sign-in mints a token and revokes the user's former one.
    RevokeOld,
}

/// How a sandbox begins. `Options { lifetime, ..Options::default() }` changes one thing.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who may sign in. Default: [`User::documented`] alone.
    pub users: Vec<User>,
    /// How long a new token lives. `expires_in` is what is left of it in whole seconds, rounded down as the reply is written,
    /// so the default of 86,400 s shows as 86399, and a lifetime of 1 s shows as 0.
    pub lifetime: Duration,
    /// What a second sign-in does to the first one's token.
    pub mode: Mode,
    /// How long each sign-in takes, beside what a fault adds. Default: zero.
    pub delay: Duration,
    /// Default true: the JWT has a claim `jti` of its own, so that no two are alike. False: only `sub`, `exp` and `iat`, exactly
    /// as documented, so that two sign-ins of a user within one second give the identical token.
    pub unique_tokens: bool,
    /// Wrong passwords in a row that lock the account (default 5). The last of them is still answered as a wrong password,
    /// whatever comes after it as `CUSTOMER_STATUS_INCORRECT`. 0: never.
    pub wrong_passwords_to_lock: u32,
    /// A certificate for the port, which then speaks TLS alone. Default: none.
    pub tls: Option<Tls>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            users: vec![User::documented()],
            lifetime: DOCUMENTED_LIFETIME,
            mode: Mode::Fresh,
            delay: Duration::ZERO,
            unique_tokens: true,
            wrong_passwords_to_lock: DEFAULT_WRONG_PASSWORDS,
            tls: None,
        }
    }
}
