//! Whose undocumented answers are to be forgotten, since it was the vault that was out of order, or a box before it.
//!
//! Must never forget anything before the vault has given somebody a token: while it gives none, nobody knows whose fault it is.

use std::sync::Arc;

use crate::{tokens::version::Version, users::KnownUser};

/// What happened since the vault last gave a token.
#[derive(Debug, Default)]
pub(super) struct UndocumentedAnswers {
    /// Who got some, and with what: each user three at most, then it is held.
    users: Vec<(Arc<KnownUser>, Version)>,
    /// Whether so many users did in a row that it was taken for an outage.
    outage: bool,
    /// How many tokens it gave so far, to anybody.
    grants: u64,
}

impl UndocumentedAnswers {
    /// A user got one.
    pub(super) fn add(&mut self, user: &Arc<KnownUser>, version: Version) {
        self.users.push((Arc::clone(user), version));
    }

    /// The vault counts as down from now on.
    pub(super) fn outage(&mut self) {
        self.outage = true;
    }

    /// The vault gave a token. Returns whose undocumented answers are to be forgotten.
    pub(super) fn granted(&mut self) -> Vec<(Arc<KnownUser>, Version)> {
        self.grants = self.grants.saturating_add(1);
        let users = std::mem::take(&mut self.users);
        if std::mem::take(&mut self.outage) { users } else { Vec::new() }
    }

    /// Of another vault, of which nothing is known; it goes on counting, so that a count means the same afterwards.
    pub(super) fn of_another(&self) -> Self {
        Self { grants: self.grants, ..Self::default() }
    }

    /// How many tokens the vault gave so far.
    pub(super) fn grants(&self) -> u64 {
        self.grants
    }
}
