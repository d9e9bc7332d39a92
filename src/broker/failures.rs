//! What callers are told of a failure at the vault.
//!
//! Must never tell a text of the vault's beyond its name for the error.

use std::time::Duration;

use super::broker_error::BrokerError;
use crate::{
    clock::Moment,
    vault::{Failure, NO_HTTP, UNDOCUMENTED, UNREADABLE},
};

/// The error for callers who come with `wait` left of what the failure stops.
pub(super) fn error_of(failure: &Failure, wait: Duration, now: Moment) -> BrokerError {
    match failure {
        Failure::Refused { why, vault_error } => {
            BrokerError::Refused { why: *why, vault_error: vault_error.clone(), held_until: now.plus(wait).wall }
        }
        Failure::Throttled { vault_error, .. } => BrokerError::Throttled { wait, vault_error: vault_error.clone() },
        Failure::Undocumented { status: UNREADABLE, .. } => BrokerError::VaultResponseInvalid { cause: NO_HTTP, wait },
        Failure::Undocumented { .. } => BrokerError::VaultUnavailable { cause: UNDOCUMENTED, wait },
        Failure::Unavailable { cause, .. } => BrokerError::VaultUnavailable { cause, wait },
        Failure::Invalid { cause, .. } => BrokerError::VaultResponseInvalid { cause, wait },
        Failure::Broken => BrokerError::Internal,
    }
}
