//! A broker in this process, without a wire: any vault, any clock, paused time.

use std::{ops::Deref, sync::Arc, time::Duration};

use token_broker::{
    broker::{Answer, Broker, BrokerError, Request},
    caller::CallerId,
    clock::{Clock, SystemClock},
    config::{Renewal, SealingKey, SharedConfig, SharedServer, UserConfig},
    keyed_hash::SecretKey,
    live::{CallerLimits, Configuration, Live, Serving, Settings, Snapshot},
    policy::Policy,
    secret::Secret,
    signin::Parts,
    telemetry::{
        audit::Audit,
        metrics::Metrics,
        traces::{Span, Traces},
    },
    tier::{Dial, Tier},
    tokens::cache::Cache,
    user::{MerchantId, Number, UserKey},
    users::{hold_file::HoldFile, holds::Rules, refresh_queue::RefreshQueue},
    vault::SignIn,
};
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;

pub(crate) const RULES: Rules = Rules { min_sign_in_interval: Duration::from_secs(5), refusal_hold: Duration::from_secs(86_400) };

/// Callers may begin as many sign-ins as they like.
pub(crate) const UNLIMITED: CallerLimits = CallerLimits { sign_ins_per_minute: u32::MAX, forced_sign_ins_per_minute: u32::MAX };

/// A user of the one merchant.
pub(crate) fn key(n: usize) -> UserKey {
    let merchant = MerchantId::parse("m".to_owned()).expect("is valid");
    UserKey { merchant, number: Number::parse(format!("+4478{n:08}")).expect("is valid") }
}

pub(crate) fn user(n: usize, password: &str) -> UserConfig {
    UserConfig { key: key(n), password: Secret::from(password), attempt: 0 }
}

/// Sign-ins at the vault of this name.
pub(crate) fn settings(upstream: &str, sign_in: Arc<dyn SignIn>) -> Settings {
    Settings {
        upstream: Arc::from(upstream),
        sign_in,
        timeout: Duration::from_secs(10),
        rules: RULES,
        renewal: Renewal::Ahead,
        sign_out: false,
        max_concurrent_sign_ins: 64,
        idle_after: Duration::from_secs(3_600),
        caller_limits: UNLIMITED,
    }
}

pub(crate) fn configuration(users: Vec<UserConfig>, settings: Settings) -> Configuration {
    Configuration { users, policy: Policy::Everyone, settings, serving: Serving::default() }
}

/// What a broker for so many users is made with.
pub(crate) fn parts(clock: Arc<dyn Clock>, users: usize, seed: u64) -> Parts {
    Parts {
        clock: Arc::clone(&clock),
        cache: Cache::new(users),
        hold_file: HoldFile::default(),
        tier: Tier::default(),
        refresh_queue: Arc::new(RefreshQueue::new(clock)),
        metrics: Arc::default(),
        traces: Traces::default(),
        audit: Audit::default(),
        runtime: Handle::current(),
        seed,
    }
}

/// A tier that is reached as a test says, whatever its address.
pub(crate) fn shared_config() -> SharedConfig {
    SharedConfig {
        server: SharedServer {
            tls: false,
            host: "simulated".to_owned(),
            port: 6379,
            user: None,
            database: 0,
            password: None,
            ca_file: None,
        },
        name_key: SecretKey::of(&[9; 32]),
        keys: vec![SealingKey { id: 1, key: SecretKey::of(&[1; 32]) }],
    }
}

/// A broker by the machine's clocks that renews ahead, until this is dropped.
pub(crate) struct BrokerInMemory {
    broker: Arc<Broker>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tier: Tier,
    closing: CancellationToken,
}

impl BrokerInMemory {
    pub(crate) fn new(users: Vec<UserConfig>, settings: Settings) -> Self {
        Self::with_seed(users, settings, 7)
    }

    pub(crate) fn with_seed(users: Vec<UserConfig>, settings: Settings, seed: u64) -> Self {
        let parts = parts(Arc::new(SystemClock), users.len(), seed);
        Self::made_with(parts, users, settings)
    }

    /// One of several that share a tier, which is reached so.
    pub(crate) fn sharing(users: Vec<UserConfig>, settings: Settings, clock: Arc<dyn Clock>, dial: Arc<dyn Dial>) -> Self {
        let parts = parts(Arc::clone(&clock), users.len(), 7);
        let tier = Tier::reached_by(dial, &shared_config(), clock, Arc::clone(&parts.metrics), Handle::current());
        Self::made_with(Parts { tier, ..parts }, users, settings)
    }

    fn made_with(parts: Parts, users: Vec<UserConfig>, settings: Settings) -> Self {
        let (metrics, tier, closing) = (Arc::clone(&parts.metrics), parts.tier.clone(), CancellationToken::new());
        let live = Live::new(Snapshot::recalling(HoldFile::default(), tier.versions(), configuration(users, settings)));
        let broker = Arc::new(Broker::new(parts, live, closing.clone()));
        let (renewing, hearing) = (Arc::clone(&broker), Arc::clone(&broker));
        tokio::spawn(async move { renewing.renew_ahead().await });
        tokio::spawn(async move { hearing.hear_of_others().await });
        Self { broker, metrics, tier, closing }
    }

    pub(crate) fn reload(&self, users: Vec<UserConfig>, settings: &Settings) {
        self.broker.reconfigure(configuration(users, settings.clone()));
    }

    /// A call, under way already when this returns to the runtime.
    pub(crate) fn answer(
        &self,
        n: usize,
        patience: Duration,
        rejected: &[String],
    ) -> impl Future<Output = Result<Answer, BrokerError>> + Send + use<> {
        self.answer_as(&CallerId::Anonymous, n, patience, rejected)
    }

    /// The same of a caller with a name.
    pub(crate) fn answer_as(
        &self,
        caller: &CallerId,
        n: usize,
        patience: Duration,
        rejected: &[String],
    ) -> impl Future<Output = Result<Answer, BrokerError>> + Send + use<> {
        let request = Request {
            key: Arc::new(key(n)),
            min_remaining: Duration::ZERO,
            rejected_token_ids: rejected.to_vec(),
            deadline: Instant::now() + patience,
            span: Span::default(),
        };
        let (broker, caller) = (Arc::clone(&self.broker), caller.clone());
        async move { broker.get_token(broker.in_force(), &caller, &request, || ()).await.map_err(|none| none.error) }
    }

    /// The same, and the token's text.
    pub(crate) fn call(
        &self,
        n: usize,
        patience: Duration,
        rejected: &[String],
    ) -> impl Future<Output = Result<String, BrokerError>> + Send + use<> {
        let answer = self.answer(n, patience, rejected);
        async move { answer.await.map(|answer| answer.cached.token.access_token.expose().to_owned()) }
    }

    /// A call for a token that lives for so much longer at least.
    pub(crate) async fn longer(&self, n: usize, min_remaining: Duration) -> Result<Answer, BrokerError> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let (key, span) = (Arc::new(key(n)), Span::default());
        let request = Request { key, min_remaining, rejected_token_ids: Vec::new(), deadline, span };
        let answer = self.broker.get_token(self.broker.in_force(), &CallerId::Anonymous, &request, || ()).await;
        answer.map_err(|none| none.error)
    }

    pub(crate) async fn token(&self, n: usize) -> String {
        self.call(n, Duration::from_secs(30), &[]).await.expect("there is a token")
    }
}

impl Deref for BrokerInMemory {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        &self.broker
    }
}

impl Drop for BrokerInMemory {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}
