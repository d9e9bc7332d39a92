//! Whose service-account token is this? Kubernetes' answer, found offline with its published keys, and asked of its API
//! where the operator wants deleted pods noticed at once.
//!
//! Must never take a token that lacks issuer, audience, end or subject, trust what a token says of itself before its
//! signature is checked, or let a token out into a log or an answer.

mod api;
mod keys;
mod presented;
mod review;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::Url;
use tokio::task::JoinSet;

use self::{
    api::Api,
    keys::{Keys, Source},
    presented::{Presented, Rules},
    review::Reviews,
};
use crate::{caller::CallerName, clock::Clock, outbound::Target};

/// How long a connection to the API server may take to come about: it is in the same cluster.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one request to it may take with all that belongs to it, and how long a caller waits for one: a caller without an
/// identity gets nothing, so it had better learn soon that it should try again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// `[auth.service_accounts]`, resolved. What a configuration allows beyond this (such as plain `http` on loopback only) it
/// checks itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose tokens are taken: at least one.
    pub issuers: Vec<Issuer>,
    /// What `aud` has to contain.
    pub audience: String,
    /// The URL of the TokenReview API; `None`: tokens are judged offline only, and a deleted pod's is good until it ends.
    pub review: Option<String>,
    /// The API server's authorities (PEM), read anew for each request; `None`: those compiled in.
    pub ca_file: Option<PathBuf>,
    /// The broker's own token, read anew for each request, since it rotates. A review is always asked with it. A request for
    /// keys carries it if the file is there and the server is the cluster's own (vouched for by `ca_file`, or on loopback over
    /// plain http): keys may also be published by a stranger, who could use it.
    pub token_file: PathBuf,
}

/// An issuer, and the only keys that its tokens may be signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// What `iss` has to be.
    pub name: String,
    /// Where its signing keys are published. Issuers with the same source share what is fetched.
    pub keys: KeySource,
    /// Whether a request for them may carry the broker's own token.
    pub with_token: bool,
}

/// Where the signing keys (a JWKS) are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `https://` or `http://`.
    Url(String),
    /// A file, read anew as a URL would be.
    File(PathBuf),
}

/// Why no token can be verified with these settings.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The URL of the keys or of the TokenReview API.
    #[error("the URL of the {0} must be http:// or https:// with a host, and without user and fragment")]
    Url(&'static str),
    /// The file of authorities.
    #[error("the CA file {0}")]
    CaFile(String),
    /// TLS or the client itself.
    #[error("the HTTP client can't be built: {0}")]
    Client(String),
}

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
    /// Prepares a verifier; connects to nothing yet, and reads no file but that of the authorities.
    ///
    /// # Errors
    /// Says which setting can't be used.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        Self::with_timeouts(settings, clock, Timeouts { connect: CONNECT_TIMEOUT, request: REQUEST_TIMEOUT })
    }

    fn with_timeouts(settings: Settings, clock: Arc<dyn Clock>, timeouts: Timeouts) -> Result<Self, BuildError> {
        let mut absolute = Vec::new();
        let review = settings.review.map(|text| url(&text, "TokenReview API", &mut absolute)).transpose()?;
        let sources = sources(&settings.issuers, &mut absolute)?;
        let api = Arc::new(Api::new(settings.ca_file, settings.token_file, absolute, timeouts)?);
        // Keys that are published in one place are fetched once.
        let mut known: Vec<(&KeySource, Arc<Keys>)> = Vec::new();
        let mut trusted = Vec::with_capacity(sources.len());
        for (issuer, source) in sources {
            let shared = known.iter().find(|(source, _)| **source == issuer.keys).map(|(_, keys)| Arc::clone(keys));
            let keys = shared.unwrap_or_else(|| {
                Arc::new(Keys::new(Arc::clone(&api), source, issuer.name.clone(), Arc::clone(&clock), timeouts))
            });
            known.push((&issuer.keys, Arc::clone(&keys)));
            trusted.push(Trusted { rules: Rules::new(&issuer.name, &settings.audience), keys });
        }
        let reviews = review.map(|url| Reviews::new(Arc::clone(&api), url, settings.audience, Arc::clone(&clock), timeouts));
        Ok(Self { trusted, reviews, clock })
    }

    /// Whose token this is. `bearer` is the text behind `Bearer `. Dropping the future loses nothing that others wait for.
    ///
    /// # Errors
    /// Says why it can't be told, in words that may be handed to the caller.
    pub async fn verify(&self, bearer: &str) -> Result<CallerName, Unverified> {
        let presented = Presented::parse(bearer)?;
        // What the token says of its issuer only chooses by whose keys and rules it is judged.
        let trusted = self.trusted.iter().find(|trusted| trusted.rules.issuer() == presented.issuer());
        let Trusted { rules, keys } = trusted.ok_or(Unverified::Refused(presented::OTHER_ISSUER))?;
        let key = keys.find(presented.kid()).await?;
        let account = presented.check(&key, rules, self.clock.now().wall)?;
        if let Some(reviews) = &self.reviews {
            reviews.review(bearer, &account).await?;
        }
        Ok(account)
    }
}

/// Each issuer, and where its keys are.
fn sources<'s>(issuers: &'s [Issuer], absolute: &mut Vec<String>) -> Result<Vec<(&'s Issuer, Source)>, BuildError> {
    let source = |issuer: &'s Issuer| {
        let source = match &issuer.keys {
            KeySource::Url(text) => Source::Url { url: url(text, "keys", absolute)?, with_token: issuer.with_token },
            KeySource::File(path) => Source::File(path.as_path().into()),
        };
        Ok((issuer, source))
    };
    issuers.iter().map(source).collect()
}

/// The URL, whose host goes to the names to look up with a dot if that is how it is written.
fn url(text: &str, what: &'static str, absolute: &mut Vec<String>) -> Result<Url, BuildError> {
    let Target { url, absolute: host } = Target::parse(text).ok_or(BuildError::Url(what))?;
    absolute.extend(host);
    Ok(url)
}

/// How long things may take; tests are less patient.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    connect: Duration,
    request: Duration,
}

/// Requests that go on when the caller who began them is gone, and end with the verifier.
#[derive(Debug, Default)]
struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.0);
        // Those that ended are let go of here: nobody else waits for them.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// Nothing of ours panics halfway through a change, so a poisoned lock guards good state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
