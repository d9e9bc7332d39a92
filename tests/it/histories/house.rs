//! A broker in this process, and a vault that does as a closure says.

use std::{pin::Pin, sync::Arc, time::Duration};

use token_broker::{
    broker::{Answer, Broker, BrokerError, Request},
    caller::CallerId,
    clock::SystemClock,
    config::{Renewal, User},
    live::{Configuration, Settings},
    policy::Policy,
    secret::Secret,
    signin::Parts,
    telemetry::traces::{Context, Span, Traces},
    tokens::cache::Cache,
    user::{MerchantId, Number, UserKey},
    users::{holds::Rules, refresh_queue::RefreshQueue},
    vault::{Failure, Grant, Refusal, SignIn, SigningIn},
};
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;

pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Grant, Failure>> + Send>>;

/// A vault that does as a closure says, which gets the number and the password.
struct Scripted<F>(F);

impl<F: Fn(String, String) -> Answering + Send + Sync + 'static> SignIn for Scripted<F> {
    fn sign_in<'a>(&'a self, user: &'a UserKey, password: &'a Secret, _: Option<Context>) -> SigningIn<'a> {
        (self.0)(user.number.expose().to_owned(), password.expose().to_owned())
    }
}

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) fn key(n: usize) -> UserKey {
    let merchant = MerchantId::parse("m".to_owned()).expect("is valid");
    UserKey { merchant, number: Number::parse(format!("+4478{n:08}")).expect("is valid") }
}

pub(crate) fn user(n: usize, password: &str) -> User {
    User { key: key(n), password: Secret::from(password), attempt: 0 }
}

pub(crate) fn grant(text: &str, lifetime: Duration) -> Result<Grant, Failure> {
    Ok(Grant { access_token: Secret::from(text), scope: String::new(), lifetime, lifetime_is_bounded: false })
}

pub(crate) fn refused() -> Failure {
    Failure::Refused { why: Refusal::Credentials, vault_error: String::new() }
}

pub(crate) fn down() -> Failure {
    Failure::Unavailable { cause: "down", wait: None, vault_error: String::new() }
}

pub(crate) const RULES: Rules = Rules { min_sign_in_interval: Duration::from_secs(5), refusal_hold: Duration::from_secs(86_400) };

/// Sign-ins at the vault of this name.
pub(crate) fn at(upstream: &str, vault: impl Fn(String, String) -> Answering + Send + Sync + 'static) -> Settings {
    Settings {
        upstream: Arc::from(upstream),
        sign_in: Arc::new(Scripted(vault)),
        rules: RULES,
        renewal: Renewal::Ahead,
        max_concurrent_sign_ins: 64,
        idle_after: secs(3_600),
    }
}

/// A broker in this process.
pub(crate) struct House {
    pub(crate) broker: Arc<Broker>,
    closing: CancellationToken,
}

impl House {
    pub(crate) fn new(users: Vec<User>, settings: Settings) -> Self {
        let clock = Arc::new(SystemClock);
        let parts = Parts {
            clock: clock.clone(),
            cache: Cache::new(users.len()),
            refresh_queue: Arc::new(RefreshQueue::new(clock)),
            metrics: Arc::default(),
            traces: Traces::default(),
            runtime: Handle::current(),
            seed: 7,
        };
        let closing = CancellationToken::new();
        let configuration = Configuration { users, policy: Policy::Everyone, settings };
        let broker = Arc::new(Broker::new(parts, configuration, closing.clone()));
        let renewing = Arc::clone(&broker);
        tokio::spawn(async move { renewing.renew_ahead().await });
        Self { broker, closing }
    }

    pub(crate) fn reload(&self, users: Vec<User>, settings: &Settings) {
        self.broker.reconfigure(Configuration { users, policy: Policy::Everyone, settings: settings.clone() });
    }

    /// A call, under way already when this returns to the runtime.
    pub(crate) fn call(
        &self,
        n: usize,
        patience: Duration,
        rejected: &[String],
    ) -> impl Future<Output = Result<String, BrokerError>> + use<> {
        let request = Request {
            key: key(n),
            min_remaining: Duration::ZERO,
            rejected_token_ids: rejected.to_vec(),
            deadline: Instant::now() + patience,
            span: Span::default(),
        };
        let broker = Arc::clone(&self.broker);
        async move {
            let answer = broker.get_token(&CallerId::Anonymous, &request).await;
            answer.map(|answer| text(&answer)).map_err(|none| none.error)
        }
    }

    pub(crate) async fn token(&self, n: usize) -> String {
        self.call(n, secs(30), &[]).await.expect("there is a token")
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

fn text(answer: &Answer) -> String {
    answer.cached.token.access_token.expose().to_owned()
}

/// A token's id, as callers name it.
pub(crate) fn id(text: &str) -> String {
    token_broker::tokens::token::TokenId::of(text).to_string()
}
