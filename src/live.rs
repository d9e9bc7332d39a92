//! What is configured, as one value: whoever looks sees one configuration, never the users of one and the vault of another.
//!
//! Must never be changed in place, nor hold anything that is learnt while it is in force.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::{
    config::{self, Renewal},
    policy::Policy,
    tokens::{cached_token::CachedToken, version::Upstream},
    user::UserKey,
    users::{Changes, Configured, Users, holds::Rules},
    vault::SignIn,
};

/// What is to be put in force.
#[derive(Debug)]
pub struct Configuration {
    /// Who has tokens.
    pub users: Vec<config::User>,
    /// Who may ask for them.
    pub policy: Policy,
    /// How they sign in.
    pub settings: Settings,
}

/// What sign-ins obey, and whom they ask.
#[derive(Clone)]
pub struct Settings {
    /// Which vault: another name is another vault, of which nothing is known.
    pub upstream: Arc<str>,
    /// Signs in at the vault.
    pub sign_in: Arc<dyn SignIn>,
    /// When sign-ins may begin.
    pub rules: Rules,
    /// Whether tokens are renewed before they end.
    pub renewal: Renewal,
    /// Most sign-ins at the vault at once.
    pub max_concurrent_sign_ins: usize,
    /// Tokens of users nobody asked for in so long are not renewed.
    pub idle_after: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("rules", &self.rules).field("renewal", &self.renewal).finish_non_exhaustive()
    }
}

/// What is in force.
#[derive(Debug)]
pub struct Snapshot {
    /// Who has tokens, with what signs them in.
    pub users: Users,
    /// Who may ask for them.
    pub policy: Policy,
    /// How they sign in.
    pub settings: Settings,
}

/// What is in force now; replaced as a whole.
pub type Live = Arc<ArcSwap<Snapshot>>;

impl Snapshot {
    /// The first.
    #[must_use]
    pub fn new(Configuration { users, policy, settings }: Configuration) -> Self {
        Self { users: Users::new(users, &settings.upstream), policy, settings }
    }

    /// The next, and what became of the users.
    #[must_use]
    pub fn next(&self, Configuration { users, policy, settings }: Configuration, now: Instant) -> (Self, Changes) {
        let (users, changes) = self.users.reloaded(users, &settings.upstream, now, &settings.rules);
        (Self { users, policy, settings }, changes)
    }

    /// The user, if configured.
    #[must_use]
    pub fn user(&self, key: &UserKey) -> Option<&Configured> {
        self.users.get(key)
    }

    /// Where sign-ins go.
    #[must_use]
    pub fn upstream(&self) -> Upstream {
        self.users.upstream()
    }

    /// Whether a token is good for anything here: one of another vault is void.
    #[must_use]
    pub fn takes(&self, held: &CachedToken) -> bool {
        held.version.upstream == self.upstream()
    }
}
