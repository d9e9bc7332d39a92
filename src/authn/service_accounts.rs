//! Whose service-account token is this? Kubernetes' answer, found offline with its published keys, and asked of its API
//! where the operator wants deleted pods noticed at once.
//!
//! Must never take a token that lacks issuer, audience, end or subject, trust what a token says of itself before its
//! signature is checked, or let a token out into a log or an answer.

mod api;
mod keys;
mod other_issuers;
mod presented;
mod review;
mod token_digest;
mod verified;

#[cfg(any(test, fuzzing))]
pub(crate) use self::presented::fuzz;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, task::JoinSet};

use self::{
    api::Api,
    keys::{Found, Keys},
    other_issuers::OtherIssuers,
    presented::{Presented, Rules},
    review::Reviews,
    token_digest::TokenDigest,
    verified::{Verified, VerifiedTokens},
};
use crate::{
    caller::CallerName,
    clock::Clock,
    config::{Issuer, KeySource, ServiceAccountsConfig},
};

/// How long a connection to the API server may take to come about: it is in the same cluster.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one request to it may take with all that belongs to it, and how long a caller waits for one: a caller without an
/// identity gets nothing, so it had better learn soon that it should try again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a token tells nobody's name. The words are for whoever develops the caller, and hold nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// The token is no good; the same one won't be later.
    #[error("{0}")]
    Refused(&'static str),
    /// It can't be found out now; later it may.
    #[error("{0}")]
    Unavailable(&'static str),
}

/// Verifies the tokens of one cluster, or of those that a migration is between.
pub struct ServiceAccounts {
    trusted: Vec<Trusted>,
    verified: VerifiedTokens,
    others: OtherIssuers,
    reviews: Option<Reviews>,
    clock: Arc<dyn Clock>,
}

/// What a token of one issuer has to say, and the keys it may be signed with.
struct Trusted {
    rules: Rules,
    keys: Arc<Keys>,
}

impl fmt::Debug for ServiceAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reviews = self.reviews.is_some();
        let rules: Vec<_> = self.trusted.iter().map(|trusted| &trusted.rules).collect();
        f.debug_struct("ServiceAccounts").field("rules", &rules).field("reviews", &reviews).finish_non_exhaustive()
    }
}

impl ServiceAccounts {
    /// Prepares a verifier; connects to nothing and reads no file yet. What it asks of the API server it asks on `runtime`, so that a
    /// request and its connection outlive the runtime of the call that needed it.
    #[must_use]
    pub fn new(config: &ServiceAccountsConfig, clock: Arc<dyn Clock>, runtime: &Handle) -> Self {
        Self::with_timeouts(config, clock, runtime, Timeouts { connect: CONNECT_TIMEOUT, request: REQUEST_TIMEOUT })
    }

    fn with_timeouts(config: &ServiceAccountsConfig, clock: Arc<dyn Clock>, runtime: &Handle, timeouts: Timeouts) -> Self {
        let api = Arc::new(Api::new(config, timeouts));
        // Keys that are published in one place are fetched once.
        let mut known: Vec<(&KeySource, Arc<Keys>)> = Vec::new();
        let mut trusted = Vec::with_capacity(config.issuers.len());
        for Issuer { name, keys: source } in &config.issuers {
            let shared = known.iter().find(|(known, _)| *known == source).map(|(_, keys)| Arc::clone(keys));
            let keys = shared.unwrap_or_else(|| {
                let (api, clock) = (Arc::clone(&api), Arc::clone(&clock));
                Arc::new(Keys::new(api, source.clone(), name.clone(), clock, timeouts, runtime.clone()))
            });
            known.push((source, Arc::clone(&keys)));
            trusted.push(Trusted { rules: Rules::new(name, &config.audience), keys });
        }
        let reviews = config.review.as_ref().map(|target| {
            let (url, audience) = (target.url().clone(), config.audience.clone());
            Reviews::new(api, url, audience, Arc::clone(&clock), timeouts, runtime.clone())
        });
        Self { trusted, verified: VerifiedTokens::default(), others: OtherIssuers::default(), reviews, clock }
    }

    /// Whose token this is. `bearer` is the text behind `Bearer `. Dropping the future loses nothing that others wait for.
    ///
    /// # Errors
    /// Says why it can't be told, in words that may be handed to the caller.
    pub async fn verify(&self, bearer: &str) -> Result<CallerName, Unverified> {
        presented::is_of_a_length(bearer)?;
        let digest = TokenDigest::of(bearer);
        let account = match self.recall(&digest) {
            Some(judged) => judged?,
            None => self.verify_anew(bearer, digest).await?,
        };
        if let Some(reviews) = &self.reviews {
            reviews.review(bearer, digest, &account).await?;
        }
        Ok(account)
    }

    /// What verifying the token anew would come to, if it was verified lately and its keys are still the ones that are trusted.
    fn recall(&self, digest: &TokenDigest) -> Option<Result<CallerName, Unverified>> {
        let now = self.clock.now();
        let Verified { account, validity, issuer, keys } = self.verified.find(digest, now)?;
        let still = self.trusted.get(issuer)?.keys.still_trusts(keys, now);
        still.then(|| validity.judge(now.wall).map(|()| account))
    }

    async fn verify_anew(&self, bearer: &str, digest: TokenDigest) -> Result<CallerName, Unverified> {
        let presented = Presented::parse(bearer)?;
        // What the token says of its issuer only chooses by whose keys and rules it is judged.
        let named = self.trusted.iter().enumerate().find(|(_, trusted)| trusted.rules.issuer() == presented.issuer());
        let Some((issuer, Trusted { rules, keys })) = named else {
            let configured = self.trusted.iter().map(|trusted| trusted.rules.issuer());
            self.others.seen(presented.issuer(), configured, self.clock.now());
            return Err(Unverified::Refused(presented::OTHER_ISSUER));
        };
        let Found { key, generation } = keys.find(presented.kid()).await?;
        let now = self.clock.now();
        let (account, validity) = presented.check(&key, rules, now.wall)?;
        let verified = Verified { account: account.clone(), validity, issuer, keys: generation };
        self.verified.remember(digest, verified, now);
        Ok(account)
    }
}

/// How long things may take; tests are less patient.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    connect: Duration,
    request: Duration,
}

/// Requests that go on when the caller who began them is gone, also with its runtime, and end with the verifier.
#[derive(Debug)]
struct Tasks {
    under_way: Mutex<JoinSet<()>>,
    runtime: Handle,
}

impl Tasks {
    fn on(runtime: Handle) -> Self {
        Self { under_way: Mutex::default(), runtime }
    }

    /// What the task spawns itself, as connections and reads of files, is on its runtime too.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut under_way = lock(&self.under_way);
        // Those that ended are let go of here: nobody else waits for them.
        while under_way.try_join_next().is_some() {}
        under_way.spawn_on(task, &self.runtime);
    }
}

/// Nothing of ours panics halfway through a change, so a poisoned lock guards good state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
