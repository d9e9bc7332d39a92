//! What a caller asks for, and what it gets.
//!
//! Must never hold what was not parsed.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{clock::Moment, expiry::HeldToken, model::UserKey};

/// What a caller asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose token.
    pub key: UserKey,
    /// The token must live at least this long.
    pub min_remaining: Duration,
    /// The `token_id`, in hex, of a token that the vault's API refused; empty for none.
    pub rejected_token_id: String,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// A token, and how it was come by.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The token.
    pub held: Arc<HeldToken>,
    /// How it was come by.
    pub outcome: Outcome,
    /// When it was judged valid; `expires_in` counts from here.
    pub at: Moment,
}

/// How a token was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was held, and fresh.
    Hit,
    /// It was held; the next is being fetched.
    Due,
    /// A sign-in under way brought it.
    Joined,
    /// A sign-in that this call began brought it.
    SignedIn,
    /// It was held, in its margin; no other came within a second.
    Kept,
}

impl Outcome {
    /// Its name in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Due => "due",
            Self::Joined => "joined",
            Self::SignedIn => "signed_in",
            Self::Kept => "kept",
        }
    }
}
