//! [`BrokerError`]: every reason why there is no token, in words that say what to do.
//!
//! Must never hold a secret, a number in clear, or a text of the vault's beyond its name for the error.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use thiserror::Error;

use crate::{caller::CallerId, reason::Reason, signin::Shed, user::UserKey, vault::Refusal};

/// Why there is no token.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BrokerError {
    /// Fields of the request are at fault.
    #[error("the request is malformed: {}", .0.iter().map(|fault| format!("{} {}", fault.field, fault.fault)).collect::<Vec<_>>().join("; "))]
    InvalidRequest(Vec<FieldFault>),
    /// Its metadata is more than is taken.
    #[error("the metadata is larger than 16 KiB: send less")]
    MetadataTooLarge,
    /// Who is calling is unknown.
    #[error("the broker doesn't know who calls: {why}")]
    Unauthenticated {
        /// What is missing or wrong.
        why: &'static str,
    },
    /// It can't be found out now.
    #[error("who calls can't be found out now ({why}): try again after the wait")]
    IdentityUnavailable {
        /// What happened.
        why: &'static str,
    },
    /// The caller may not.
    #[error(
        "{caller} may not ask for {user}: have [[callers]] in the broker's configuration extended, or check both fields for a typing error"
    )]
    NotAllowed {
        /// Who asked.
        caller: CallerId,
        /// For whom.
        user: UserKey,
    },
    /// The configuration knows no such user.
    #[error("{0} is not configured: add it to [[users]] in the broker's configuration, or check both fields for a typing error")]
    NotConfigured(UserKey),
    /// The vault said a definite no, and is not asked again before `held_until`.
    #[error("{}", refused_text(.why, .vault_error))]
    Refused {
        /// Which no.
        why: Refusal,
        /// The vault's name for it.
        vault_error: String,
        /// When the broker would try again by itself.
        held_until: SystemTime,
    },
    /// The vault asks to wait.
    #[error("the vault asks to wait{}: try again once the wait is over", in_brackets(.vault_error))]
    Throttled {
        /// The wait that is left.
        wait: Duration,
        /// The vault's name for it.
        vault_error: String,
    },
    /// It is out of reach, slow or failing.
    #[error("the vault can't be used now ({cause}): try again after the wait")]
    VaultUnavailable {
        /// What happened.
        cause: &'static str,
        /// When to try again.
        wait: Duration,
    },
    /// Its answer makes no sense.
    #[error("the vault's answer can't be used ({cause}): try again after the wait")]
    VaultResponseInvalid {
        /// What is wrong with it.
        cause: &'static str,
        /// When to try again.
        wait: Duration,
    },
    /// The floor between two sign-ins ends after the deadline.
    #[error("the user signed in a moment ago, and the next sign-in may begin only after your deadline: try again after the wait")]
    SignInTooSoon {
        /// The rest of the floor.
        wait: Duration,
    },
    /// No token lives as long as asked.
    #[error("the vault's tokens for this user live {} s at most: ask for a shorter min_remaining", longest.as_secs())]
    MinRemainingUnattainable {
        /// What the newest token had.
        longest: Duration,
    },
    /// The caller's deadline passed.
    #[error(
        "the deadline passed before there was a token; a sign-in under way goes on, so that a later call finds what it brings"
    )]
    DeadlineExceeded,
    /// Too many wait, or begin sign-ins.
    #[error("{}: try again after the wait", overload_text(*.why))]
    Overloaded {
        /// Whose fault it is.
        why: Shed,
        /// When to try again.
        wait: Duration,
    },
    /// The process ends.
    #[error("this broker is shutting down: call another replica")]
    ShuttingDown,
    /// A fault of ours.
    #[error("the broker is at fault: report it with the request id")]
    Internal,
}

impl BrokerError {
    /// The reason that stands for it on the wire, in logs and in metrics: the contract's.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::InvalidRequest(_) | Self::MetadataTooLarge => Reason::InvalidRequest,
            Self::Unauthenticated { .. } => Reason::CallerUnauthenticated,
            Self::IdentityUnavailable { .. } => Reason::IdentityUnavailable,
            Self::NotAllowed { .. } => Reason::CallerNotAllowed,
            Self::NotConfigured(_) => Reason::UserNotConfigured,
            Self::Refused { why: Refusal::Credentials, .. } => Reason::CredentialsRejected,
            Self::Refused { why: Refusal::SecondFactor, .. } => Reason::SecondFactorRequired,
            Self::Refused { why: Refusal::Request, .. } => Reason::VaultRequestRejected,
            Self::Throttled { .. } => Reason::VaultThrottled,
            Self::VaultUnavailable { .. } => Reason::VaultUnavailable,
            Self::VaultResponseInvalid { .. } => Reason::VaultResponseInvalid,
            Self::SignInTooSoon { .. } => Reason::SignInTooSoon,
            Self::MinRemainingUnattainable { .. } => Reason::MinRemainingUnattainable,
            Self::DeadlineExceeded => Reason::DeadlineExceeded,
            Self::Overloaded { .. } => Reason::BrokerOverloaded,
            Self::ShuttingDown => Reason::BrokerShuttingDown,
            Self::Internal => Reason::Internal,
        }
    }
}

/// A field at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldFault {
    /// The field's name in the request, with the place in it where it is a list.
    pub field: Cow<'static, str>,
    /// What is wrong with it and what to do, in words that follow the name and don't repeat the value.
    pub fault: String,
}

fn refused_text(why: &Refusal, vault_error: &str) -> String {
    let name = in_brackets(vault_error);
    match why {
        Refusal::Credentials => format!(
            "the vault refuses this user's password or account{name}, and repeating it could lock the account: \
             have the password in the broker's configuration corrected, or `attempt` raised once the account is in order"
        ),
        Refusal::SecondFactor => format!(
            "the vault wants a second factor for this user{name}: a person has to complete it; then have `attempt` raised"
        ),
        Refusal::Request => format!(
            "the vault refuses the broker's request{name}: have the merchant and [vault] in the broker's configuration checked"
        ),
    }
}

fn overload_text(why: Shed) -> &'static str {
    match why {
        Shed::Full => "the broker has too many calls waiting for the vault",
        Shed::Share => "too many of your calls wait for the vault, and what the broker has left is for other callers",
        Shed::Rate => {
            "your calls began as many sign-ins as one caller may in a minute (vault.caller_sign_ins_per_minute, or \
             vault.caller_forced_sign_ins_per_minute where there is a good token)"
        }
    }
}

fn in_brackets(vault_error: &str) -> String {
    if vault_error.is_empty() { String::new() } else { format!(" ({vault_error})") }
}
