//! What is in force, as one value: whoever looks sees one configuration, never the users of one and the vault of another.
//!
//! Must never be changed in place. What is learnt while it is in force (of users, of signing keys) outlives it, and is only pointed to.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, Guard};
use tokio::{sync::watch, time::Instant};

use crate::{
    authn::Authenticator,
    config::{self, Renewal},
    net::tls::ServerTls,
    policy::Policy,
    tokens::{
        cached_token::CachedToken,
        version::{Upstream, Versions},
    },
    user::UserKey,
    users::{Changes, Configured, Users, hold_file::HoldFile, holds::Rules},
    vault::SignIn,
};

/// The deadline of calls that bring none, where nothing else is configured: the contract's.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long connections may last, where nothing else is configured: the longest that may be.
const CONNECTION_AGE: Duration = Duration::from_secs(24 * 3_600);
/// A connection's age differs from the configured one by this part at most, so that those which came together go one by one.
const AGE_JITTER: f64 = 0.1;

/// What is to be put in force.
#[derive(Debug)]
pub struct Configuration {
    /// Who has tokens.
    pub users: Vec<config::UserConfig>,
    /// Who may ask for them.
    pub policy: Policy,
    /// How they sign in.
    pub settings: Settings,
    /// How calls and connections are served.
    pub serving: Serving,
}

/// What sign-ins obey, and whom they ask.
#[derive(Clone)]
pub struct Settings {
    /// Which vault: another name is another vault, of which nothing is known.
    pub upstream: Arc<str>,
    /// Signs in at the vault.
    pub sign_in: Arc<dyn SignIn>,
    /// How long a sign-in takes at most.
    pub timeout: Duration,
    /// When sign-ins may begin.
    pub rules: Rules,
    /// Whether tokens are renewed before they end.
    pub renewal: Renewal,
    /// Whether tokens are ended at the vault whose users are removed, or that an operator drops.
    pub sign_out: bool,
    /// Most sign-ins at the vault at once.
    pub max_concurrent_sign_ins: usize,
    /// Tokens of users nobody asked for in so long are not renewed.
    pub idle_after: Duration,
    /// What the calls of one caller may cost.
    pub caller_limits: CallerLimits,
}

/// How many sign-ins the calls of one caller may begin in a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerLimits {
    /// In all.
    pub sign_ins_per_minute: u32,
    /// Of those, for users who have a good token: since it was rejected, or has too little of its life left.
    pub forced_sign_ins_per_minute: u32,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("rules", &self.rules).field("renewal", &self.renewal).finish_non_exhaustive()
    }
}

/// What calls and connections obey. The default serves everybody, in plaintext.
#[derive(Clone, Debug)]
pub struct Serving {
    /// How callers are identified.
    pub authenticator: Authenticator,
    /// The deadline of calls that bring none.
    pub call_timeout: Duration,
    /// Whether metrics count calls by caller.
    pub label_callers: bool,
    /// Whether they have calls by OpenTelemetry's conventions too.
    pub rpc_metrics: bool,
    /// From the beginning of the shutdown until GOAWAY.
    pub lame_duck: Duration,
    /// How long calls in flight may take after that.
    pub drain: Duration,
    /// How long connections may last, about.
    pub max_connection_age: Duration,
    /// What handshakes are made with; none: plaintext.
    pub tls: Option<Arc<ServerTls>>,
    /// How many `[[callers]]` there are, for the operator.
    pub callers: usize,
    /// What certificates there are, and the first end of each kind, for the operator.
    pub certificates: Vec<(&'static str, SystemTime)>,
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            authenticator: Authenticator::default(),
            call_timeout: CALL_TIMEOUT,
            label_callers: false,
            rpc_metrics: false,
            lame_duck: Duration::ZERO,
            drain: Duration::ZERO,
            max_connection_age: CONNECTION_AGE,
            tls: None,
            callers: 0,
            certificates: Vec::new(),
        }
    }
}

impl Serving {
    /// How long a connection that opens now may last. `jitter`: 0 to 1, anew for each.
    #[must_use]
    pub fn connection_age(&self, jitter: f64) -> Duration {
        self.max_connection_age.mul_f64(1.0 + AGE_JITTER * (2.0 * jitter - 1.0))
    }
}

/// What is in force at a moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Who has tokens, with what signs them in.
    pub users: Users,
    /// Who may ask for them.
    pub policy: Policy,
    /// How they sign in.
    pub settings: Settings,
    /// How calls and connections are served.
    pub serving: Serving,
}

impl Snapshot {
    /// The first.
    #[must_use]
    pub fn new(Configuration { users, policy, settings, serving }: Configuration) -> Self {
        Self { users: Users::new(users, &settings.upstream), policy, settings, serving }
    }

    /// The same, with what an earlier process learnt of the users, and versions as other replicas make them.
    #[must_use]
    pub fn recalling(
        hold_file: HoldFile,
        versions: Option<Versions>,
        Configuration { users, policy, settings, serving }: Configuration,
    ) -> Self {
        Self { users: Users::recalling(hold_file, versions, users, &settings.upstream), policy, settings, serving }
    }

    /// The next, and what became of the users.
    #[must_use]
    pub fn next(&self, next: Configuration, now: Instant) -> (Self, Changes) {
        let Configuration { users, policy, settings, serving } = next;
        let (users, changes) = self.users.reloaded(users, &settings.upstream, now, &settings.rules);
        (Self { users, policy, settings, serving }, changes)
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
    pub fn takes(&self, cached: &CachedToken) -> bool {
        cached.version.upstream == self.upstream()
    }
}

/// A look at what is in force, cheaper than keeping it.
pub type Look = Guard<Arc<Snapshot>>;

/// What is in force now, wherever it is needed: replaced as a whole, and in this one place.
#[derive(Clone, Debug)]
pub struct Live(Arc<Current>);

#[derive(Debug)]
struct Current {
    snapshot: ArcSwap<Snapshot>,
    changed: watch::Sender<()>,
}

impl Live {
    /// Begins with this.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        Self(Arc::new(Current { snapshot: ArcSwap::from_pointee(snapshot), changed: watch::Sender::default() }))
    }

    /// A short look, not to be kept over a wait.
    #[must_use]
    pub fn load(&self) -> Look {
        self.0.snapshot.load()
    }

    /// What is in force, to be kept.
    #[must_use]
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.0.snapshot.load_full()
    }

    /// Puts another in force, and notifies whoever waits for that.
    pub fn store(&self, snapshot: Arc<Snapshot>) {
        self.0.snapshot.store(snapshot);
        self.0.changed.send_replace(());
    }

    /// Notified of each change from now on.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }
}
