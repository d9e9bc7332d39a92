//! The cluster's keys, kept fresh: fetched when an unknown one is named or they grow old, by one request at a time.
//!
//! Must never let callers decide how often the API server is asked, throw away good keys because it is away, nor trust old ones
//! again before it was asked what became of them.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{runtime::Handle, time::timeout};
use tracing::{info, warn};

use super::{
    Tasks, Timeouts, Unverified,
    api::{Api, BODY_MAX, Failed, blocking},
    lock,
};
use crate::{
    clock::{Clock, Moment},
    config::{KeySource, read_file},
    jwks::{self, Key, KeySet, NoKeys, Published, Unusable},
    single_flight::{Follower, Leader},
};

/// From the beginning of one fetch to the next: anybody may send tokens with key ids of their own making.
const PAUSE: Duration = Duration::from_secs(10);
/// Older keys are fetched again, behind the callers' backs, so that one that was withdrawn is not trusted for long.
const FRESH: Duration = Duration::from_secs(300);
/// Keys older than this are trusted no more before they were fetched again: callers wait for that. So long a key that was withdrawn
/// is trusted at most. Twice the above, so that under steady calls, and through one fetch that fails, nobody waits.
const SETTLED: Duration = Duration::from_secs(600);
/// A fetch that failed tells for so long that the source of the keys is away, and nobody waits to learn it again: long enough to
/// reach to the end of the next fetch.
const KNOWN_AWAY: Duration = Duration::from_secs(30);
/// So old may keys become while their source is away. Tokens live an hour by default, and a cluster that is away makes no new
/// ones; but keys may be published elsewhere, and what keeps the broker from asking there should be found and mended in a day.
const AWAY_MAX: Duration = Duration::from_secs(86_400);

const AWAY: &str = "the cluster's signing keys can't be had now: try again";

/// The keys.
pub(super) struct Keys {
    shared: Arc<Shared>,
    tasks: Tasks,
}

struct Shared {
    api: Arc<Api>,
    source: KeySource,
    /// Whose they are; the first of several.
    issuer: String,
    clock: Arc<dyn Clock>,
    timeouts: Timeouts,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: Option<Kept>,
    /// When the last fetch began.
    began: Option<Moment>,
    /// When the last one that failed did.
    failed: Option<Moment>,
    /// The one under way.
    fetching: Option<Follower<()>>,
    /// The last one failed.
    failing: bool,
    /// That the keys are too old to serve, as the log was told.
    outdated: bool,
    /// That of the keys that were fetched last.
    generation: Generation,
    /// What is published and can't be used, as the log was told.
    unusable: Vec<Unusable>,
}

/// How far keys may be trusted, by their age.
#[derive(PartialEq, Eq)]
enum Trust {
    Fresh,
    /// They should be fetched again.
    Due,
    /// Only while their source is away.
    Unsettled,
    No,
}

/// Which fetch keys came of: each has its own, also where it brought the same keys again. What was found with keys of one that is not
/// kept any more counts no longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Generation(u64);

/// A key that may be trusted now.
pub(super) struct Found {
    pub(super) key: Arc<Key>,
    pub(super) generation: Generation,
}

struct Kept {
    keys: KeySet,
    generation: Generation,
    /// From before they were asked for.
    at: Moment,
}

impl Kept {
    fn trust(&self, now: Moment) -> Trust {
        match self.at.age_at(now) {
            age if age <= FRESH => Trust::Fresh,
            age if age <= SETTLED => Trust::Due,
            age if age <= AWAY_MAX => Trust::Unsettled,
            _ => Trust::No,
        }
    }
}

impl State {
    fn find(&self, kid: &str) -> Option<Arc<Key>> {
        self.kept.as_ref()?.keys.find(kid)
    }

    fn trust(&self, now: Moment) -> Trust {
        self.kept.as_ref().map_or(Trust::No, |kept| kept.trust(now))
    }

    /// What is kept, if it may be trusted as it is.
    fn trusted(&self, now: Moment) -> Option<&Kept> {
        let away = || self.failed.is_some_and(|failed| failed.age_at(now) <= KNOWN_AWAY);
        let may = match self.trust(now) {
            Trust::Fresh | Trust::Due => true,
            Trust::Unsettled => away(),
            Trust::No => false,
        };
        self.kept.as_ref().filter(|_| may)
    }

    /// The key, if it may be trusted as it is.
    fn trusted_key(&self, kid: &str, now: Moment) -> Option<Found> {
        let Kept { keys, generation, .. } = self.trusted(now)?;
        keys.find(kid).map(|key| Found { key, generation: *generation })
    }

    /// What it means that a key is not there, or may not be trusted: only who has asked knows that it is not published.
    fn unknown(&self, kid: &str) -> Unverified {
        if self.unusable.iter().any(|unusable| unusable.is(kid)) {
            return Unverified::Refused(
                "the token is signed with a key that the broker can't verify, whose log says why: have the cluster sign with RSA, P-256, \
                 P-384 or Ed25519",
            );
        }
        if self.failing || self.kept.is_none() || self.find(kid).is_some() {
            return Unverified::Unavailable(AWAY);
        }
        Unverified::Refused(
            "the token is signed with a key the cluster does not publish: send one of the cluster whose tokens the broker takes",
        )
    }
}

impl Keys {
    /// Fetches on `runtime`, whatever runtime asks.
    pub(super) fn new(
        api: Arc<Api>,
        source: KeySource,
        issuer: String,
        clock: Arc<dyn Clock>,
        timeouts: Timeouts,
        runtime: Handle,
    ) -> Self {
        let shared = Shared { api, source, issuer, clock, timeouts, state: Mutex::default() };
        Self { shared: Arc::new(shared), tasks: Tasks::on(runtime) }
    }

    /// The key of this id, fetched if it must be.
    pub(super) async fn find(&self, kid: &str) -> Result<Found, Unverified> {
        let fetching = {
            let mut state = self.shared.state();
            let now = self.shared.clock.now();
            if let Some(found) = state.trusted_key(kid, now) {
                self.keep_fresh(&mut state, now);
                return Ok(found);
            }
            let fetching = self.fetch(&mut state, now);
            fetching.ok_or_else(|| state.unknown(kid))?
        };
        let late = timeout(self.shared.timeouts.request, fetching.result()).await.is_err();
        let mut state = self.shared.state();
        let now = self.shared.clock.now();
        if late {
            // The fetch ends in the same moment, and may come to say so after us.
            state.failed = Some(now);
        }
        state.trusted_key(kid, now).ok_or_else(|| if late { Unverified::Unavailable(AWAY) } else { state.unknown(kid) })
    }

    /// Whether those keys are still the ones that are trusted. They are then fetched again just as [`Keys::find`] would have it; if
    /// not, it alone knows what to do.
    pub(super) fn still_trusts(&self, generation: Generation, now: Moment) -> bool {
        let mut state = self.shared.state();
        let still = state.trusted(now).is_some_and(|kept| kept.generation == generation);
        if still {
            self.keep_fresh(&mut state, now);
        }
        still
    }

    /// Has keys that are trusted fetched again, if it is time.
    fn keep_fresh(&self, state: &mut State, now: Moment) {
        if state.trust(now) != Trust::Fresh {
            // Nobody waits for it.
            drop(self.fetch(state, now));
        }
    }

    /// Whether the key is here, without looking for it.
    #[cfg(test)]
    pub(super) fn holds(&self, kid: &str) -> bool {
        self.shared.state().find(kid).is_some()
    }

    /// How often the key that is here was taken to verify a token.
    #[cfg(test)]
    pub(super) fn uses(&self, kid: &str) -> usize {
        self.shared.state().find(kid).map_or(0, |key| key.uses())
    }

    #[cfg(test)]
    pub(super) fn is_fetching(&self) -> bool {
        self.shared.state().fetching.is_some()
    }

    /// Joins the fetch under way or begins one; `None` while it is too soon for that.
    fn fetch(&self, state: &mut State, now: Moment) -> Option<Follower<()>> {
        // One that broke off is over, too.
        if let Some(fetching) = state.fetching.as_ref().filter(|fetching| !fetching.is_over()) {
            return Some(fetching.clone());
        }
        if state.began.is_some_and(|began| began.age_at(now) < PAUSE) {
            return None;
        }
        let leader = Leader::new();
        let fetching = leader.follower();
        state.began = Some(now);
        state.fetching = Some(fetching.clone());
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            shared.refresh(now).await;
            leader.finish(());
        });
        Some(fetching)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    async fn refresh(&self, began: Moment) {
        let late = Failed::Away("its answer took too long");
        let result = timeout(self.timeouts.request, self.read()).await.unwrap_or(Err(late));
        let (keys, unusable) = match result {
            Ok(Published { keys, unusable, .. }) => (Ok(keys), Some(unusable)),
            Err(failed) => (Err(failed), None),
        };
        let failure = match &keys {
            Ok(Ok(_)) => None,
            Ok(Err(none)) => Some(Failed::Away(none.words())),
            Err(failed) => Some(*failed),
        };
        let (failed_before, none, outdated) = {
            let mut state = self.state();
            state.fetching = None;
            let now = self.clock.now();
            match keys {
                Ok(Ok(keys)) => {
                    state.generation = Generation(state.generation.0 + 1);
                    state.kept = Some(Kept { keys, generation: state.generation, at: began });
                }
                Ok(Err(NoKeys::Withdrawn)) => state.kept = None,
                Ok(Err(NoKeys::Unread(_))) | Err(_) => {}
            }
            if let Some(unusable) = unusable {
                self.tell_of(&unusable, &state.unusable);
                state.unusable = unusable;
            }
            state.failed = failure.map(|_| now);
            let outdated = state.kept.is_some() && state.trust(now) == Trust::No;
            let told = mem::replace(&mut state.outdated, outdated);
            (mem::replace(&mut state.failing, failure.is_some()), state.kept.is_none(), outdated && !told)
        };
        if outdated {
            warn!(
                issuer = self.issuer,
                age_max_s = AWAY_MAX.as_secs(),
                "the cluster's signing keys could not be had for too long: the last ones are trusted no more, and callers with tokens \
                 are told to try again"
            );
        }
        self.tell(failure, failed_before, none);
    }

    fn tell(&self, failure: Option<Failed>, failed_before: bool, none: bool) {
        // Once in a row of failures: callers may bring one about every ten seconds.
        match failure {
            None if failed_before => info!(issuer = self.issuer, "the cluster's signing keys can be had again"),
            None => {}
            Some(_) if failed_before => {}
            Some(Failed::Away(cause)) => {
                warn!(
                    issuer = self.issuer,
                    cause,
                    no_keys_at_all = none,
                    "the cluster's signing keys can't be had: the last ones go on serving, if any, for a day at most"
                );
            }
            Some(Failed::Denied) => warn!(
                issuer = self.issuer,
                no_keys_at_all = none,
                "the API server does not give the broker its signing keys: bind the ClusterRole \
                 system:service-account-issuer-discovery to the broker's service account, and name the cluster's CA file, \
                 without which it is not sent the broker's token"
            ),
        }
    }

    /// Once for each, for as long as it is published: keys are fetched every few minutes.
    fn tell_of(&self, unusable: &[Unusable], told: &[Unusable]) {
        for unusable in unusable.iter().filter(|unusable| !unusable.is_among(told)) {
            warn!(issuer = self.issuer, "of the cluster's signing keys {unusable}");
        }
    }

    async fn read(&self) -> Result<Published, Failed> {
        let body = match &self.source {
            KeySource::Url { url, with_token } => self.api.get(url.url(), *with_token).await?,
            KeySource::File(path) => {
                let path = path.clone();
                let limit = u64::try_from(BODY_MAX).unwrap_or(u64::MAX);
                let contents = blocking(move || read_file(&path, limit).ok()).await?;
                contents.ok_or(Failed::Away("the file can't be read, or is too long"))?.bytes
            }
        };
        Ok(jwks::read(&body))
    }
}
