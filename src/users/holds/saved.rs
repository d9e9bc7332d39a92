//! What outlives the process of what is known against a credential, as it is written down.
//!
//! Must never hold a credential, nor more of its version than the mark.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Moment,
    tokens::version::Mark,
    vault::{Failure, Refusal, Scope, UNREADABLE},
};

/// What stands against one version of a credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedHold {
    /// Of that version.
    pub(super) mark: Mark,
    pub(super) failure: SavedFailure,
    /// When that was.
    pub(super) since: SystemTime,
    /// For how long it was to be left alone; after a refusal the hold counts that is in force, or this where it is longer.
    pub(super) wait: Duration,
    /// For how long it would be without a wait that the vault asked for.
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    pub(super) beneath: Duration,
    /// Whether that was for undocumented answers alone.
    pub(super) undocumented: bool,
    /// Undocumented answers in a row.
    pub(super) tries: u32,
    /// Those and waits since anybody got a token. Whether somebody has since then is not known any more: the count goes on.
    pub(super) ungranted: u32,
    pub(super) forgiven: bool,
}

impl SavedHold {
    /// The same, begun at another instant.
    #[must_use]
    pub fn begun(self, since: SystemTime) -> Self {
        Self { since, ..self }
    }

    /// Whether the vault asked to wait, and refused nothing.
    #[must_use]
    pub fn is_wait(&self) -> bool {
        matches!(self.failure, SavedFailure::UserThrottled { .. } | SavedFailure::MerchantThrottled { .. })
    }

    /// The same, with the vault's wait lifted: what that covered and what was counted stays.
    #[must_use]
    pub fn lifted(self) -> Self {
        Self { wait: self.beneath, ..self }
    }

    /// How long ago that was, by the clock that it was begun by.
    #[must_use]
    pub fn age(&self, now: Moment) -> Duration {
        now.wall.duration_since(self.since).unwrap_or_default()
    }
}

/// What the vault said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum SavedFailure {
    CredentialsRejected { vault_error: String },
    SecondFactorRequired { vault_error: String },
    RequestRejected { vault_error: String },
    Undocumented { status: u16, vault_error: String },
    UserThrottled { vault_error: String },
    MerchantThrottled { vault_error: String },
}

impl SavedFailure {
    pub(super) fn of(failure: &Failure) -> Self {
        match failure {
            Failure::Refused { why, vault_error } => {
                let vault_error = vault_error.clone();
                match why {
                    Refusal::Credentials => Self::CredentialsRejected { vault_error },
                    Refusal::SecondFactor => Self::SecondFactorRequired { vault_error },
                    Refusal::Request => Self::RequestRejected { vault_error },
                }
            }
            Failure::Undocumented { status, vault_error, .. } => {
                Self::Undocumented { status: *status, vault_error: vault_error.clone() }
            }
            Failure::Throttled { scope: Scope::User, vault_error, .. } => {
                Self::UserThrottled { vault_error: vault_error.clone() }
            }
            Failure::Throttled { scope: Scope::Merchant, vault_error, .. } => {
                Self::MerchantThrottled { vault_error: vault_error.clone() }
            }
            // Kept for the answers before it, which count: for a minute it is not known which they were.
            Failure::Unavailable { .. } | Failure::Invalid { .. } | Failure::Broken => {
                Self::Undocumented { status: UNREADABLE, vault_error: String::new() }
            }
        }
    }

    pub(super) fn failure(self, wait: Duration) -> Failure {
        match self {
            Self::CredentialsRejected { vault_error } => Failure::Refused { why: Refusal::Credentials, vault_error },
            Self::SecondFactorRequired { vault_error } => Failure::Refused { why: Refusal::SecondFactor, vault_error },
            Self::RequestRejected { vault_error } => Failure::Refused { why: Refusal::Request, vault_error },
            Self::Undocumented { status, vault_error } => Failure::Undocumented { status, wait: None, vault_error },
            Self::UserThrottled { vault_error } => Failure::Throttled { scope: Scope::User, wait, vault_error },
            Self::MerchantThrottled { vault_error } => Failure::Throttled { scope: Scope::Merchant, wait, vault_error },
        }
    }
}
