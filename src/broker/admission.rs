//! Whether a call goes on: what comes of the policy's no, and whether its user is configured.
//!
//! Must never look for the user of a call that the policy denies, but on trial.

use super::BrokerError;
use crate::{caller::CallerId, live::Snapshot, user::UserKey, users::Configured};

/// What comes of a denial: nothing but the word of it where that is on trial.
pub(super) fn denied(snapshot: &Snapshot, caller: &CallerId, key: &UserKey, on_trial: impl FnOnce()) -> Result<(), BrokerError> {
    match snapshot.policy.lets_in(caller) {
        Some(_) => {
            on_trial();
            Ok(())
        }
        None => Err(BrokerError::NotAllowed { caller: caller.clone(), user: key.clone() }),
    }
}

pub(super) fn configured<'a>(snapshot: &'a Snapshot, key: &UserKey) -> Result<&'a Configured, BrokerError> {
    snapshot.user(key).ok_or_else(|| BrokerError::NotConfigured(key.clone()))
}
