//! The tier that replicas share: a server like Redis, on which they find each other's tokens and waits, one signs in for all, and all
//! hear of it.
//!
//! Must never be waited for by a call that has its token here already, nor for longer than a constant by any; nor tell a caller that it
//! failed: without it each replica is by itself. Must never put anything on the server that is not sealed, nor believe what it finds there
//! further than the seal goes.

mod bounded;
mod entry;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod keeper;
mod link;
mod seal;
mod watchers;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use self::{
    entry::{StopEntry, TokenEntry},
    keeper::Condition,
    link::LinkError,
    seal::{Name, Subject},
    watchers::Waiter,
};
use self::{
    keeper::State,
    link::{Link, Places, Standing, Stands, Writing},
    seal::{Kind, Namer, Sealer, Unopened},
    watchers::Watchers,
};
use crate::{
    clock::{Clock, Moment},
    config::{SharedConfig, SharedServer},
    hex,
    keyed_hash::{first, random_key},
    telemetry::metrics::{Metrics, SharedEntry, SharedOperation},
    tokens::version::{Version, Versions},
    user::UserKey,
    users::KnownUser,
};

/// A lock is held for as much longer than a sign-in may take: to ask for it, to write what came of it, and for a busy moment.
const LEASE_SLACK: Duration = Duration::from_millis(1_500);
/// Entries that can't be opened are told of so often at most: whoever writes to the server writes as many as it likes.
const UNOPENED_TOLD_EVERY: Duration = Duration::from_secs(60);

/// The tier; by default none.
#[derive(Clone, Debug, Default)]
pub struct Tier(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    namer: Namer,
    sealer: Mutex<Arc<Sealer>>,
    server: watch::Sender<Arc<SharedServer>>,
    state: watch::Sender<State>,
    watchers: Arc<Watchers>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// Where locks are given back that nobody waits for.
    runtime: Handle,
    unopened_told: Mutex<Option<Instant>>,
}

/// What stands of a subject, opened.
#[derive(Debug)]
pub struct Known {
    /// Just before it was asked for: from then on counts how long the server keeps it.
    pub asked: Moment,
    /// A token, and how long it is kept yet.
    pub token: Option<(TokenEntry, Duration)>,
    /// Why the user is not to sign in, and how long that is kept yet.
    pub stop: Option<(StopEntry, Duration)>,
    /// Why nobody of the merchant is.
    pub merchant: Option<(StopEntry, Duration)>,
}

/// What came of asking for a lock.
#[derive(Debug)]
pub enum Leasing {
    /// It is ours; and what stands now.
    Won(Box<Lease>, Known),
    /// Another replica has it; and what stands now.
    Busy(Known),
    /// Nobody can be asked, or the server takes no lock: each is by itself.
    Alone,
}

/// What is to be told to the other replicas.
#[derive(Debug, Default)]
pub struct Publication {
    /// A new token.
    pub token: Option<TokenEntry>,
    /// What stops the user, and for how long that is to be kept.
    pub stop: Option<(StopEntry, Duration)>,
    /// What stops the whole merchant, and for how long.
    pub merchant: Option<(StopEntry, Duration)>,
}

impl Tier {
    /// The tier that is configured; connects to nothing yet.
    #[must_use]
    pub fn new(config: &SharedConfig, clock: Arc<dyn Clock>, metrics: Arc<Metrics>, runtime: Handle) -> Self {
        Self(Some(Arc::new(Shared {
            namer: Namer::new(&config.name_key),
            sealer: Mutex::new(Arc::new(Sealer::new(&config.keys))),
            server: watch::Sender::new(Arc::new(config.server.clone())),
            state: watch::Sender::new(State::Connecting),
            watchers: Arc::default(),
            clock,
            metrics,
            runtime,
            unopened_told: Mutex::default(),
        })))
    }

    /// Takes over other keys, another password, or another server.
    pub fn reconfigure(&self, config: &SharedConfig) {
        let Some(shared) = &self.0 else { return };
        *shared.sealer.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Sealer::new(&config.keys));
        shared.server.send_if_modified(|server| {
            let differs = **server != config.server;
            if differs {
                *server = Arc::new(config.server.clone());
            }
            differs
        });
    }

    /// What makes versions that are the same for all replicas, where there is a tier.
    #[must_use]
    pub fn versions(&self) -> Option<Versions> {
        self.0.as_ref().map(|shared| shared.namer.versions())
    }

    /// Who is meant; none where there is no tier.
    #[must_use]
    pub fn subject(&self, user: &UserKey, version: Version) -> Option<Subject> {
        self.0.as_ref().map(|shared| shared.namer.subject(user, version))
    }

    /// How it is; none where there is none.
    #[must_use]
    pub fn condition(&self) -> Option<Condition> {
        self.0.as_ref().map(|shared| shared.condition())
    }

    /// Whether the server can be used, as one try says.
    ///
    /// # Errors
    /// Why it can't be.
    pub async fn try_out(server: &SharedServer) -> Result<(), LinkError> {
        Link::open(server).await.map(drop)
    }

    /// Connects, again and again, and hands on whose news there is, until `closing`. To be spawned once.
    pub async fn keep(self, news: impl Fn(Arc<KnownUser>) + Send + Sync, closing: CancellationToken) {
        if let Some(shared) = &self.0 {
            closing.run_until_cancelled(shared.keep(&news)).await;
        }
    }

    /// Has news of this subject be handed on from now on, for this user.
    pub fn follow(&self, subject: &Subject, user: &Arc<KnownUser>) {
        if let Some(shared) = &self.0 {
            shared.watchers.follow(subject.name(), user);
        }
    }

    /// Is woken by news of this subject, from now on until it is dropped.
    #[must_use]
    pub fn waiter(&self, subject: &Subject) -> Option<Waiter> {
        self.0.as_ref().map(|shared| Waiter::new(&shared.watchers, subject.name()))
    }

    /// What stands of a subject; none where nobody can be asked.
    pub async fn look(&self, subject: &Subject) -> Option<Known> {
        let shared = self.0.as_ref()?;
        let connected = shared.connected(SharedOperation::Look).await?;
        let asked = shared.clock.now();
        let places = places(subject);
        let stands = shared.timed(&connected, SharedOperation::Look, connected.link.look(&places)).await.ok()?;
        Some(shared.open(subject, stands, asked))
    }

    /// Asks for the lock, for a sign-in that takes `timeout` at most.
    pub async fn lease(&self, subject: &Subject, timeout: Duration) -> Leasing {
        let Some(shared) = &self.0 else { return Leasing::Alone };
        let Some(connected) = shared.connected(SharedOperation::Lease).await else { return Leasing::Alone };
        let Some(owner) = random_key().map(|key| hex::text(&hex::of(first(&*key))).to_owned()) else { return Leasing::Alone };
        let (asked, lasts, places) = (shared.clock.now(), lease_of(timeout), places(subject));
        let leasing = connected.link.lease(&places, &owner, lasts);
        // Whatever becomes of the question, the lock may be ours.
        let lease = Lease {
            shared: Arc::clone(shared),
            subject: *subject,
            owner: owner.clone(),
            ends: asked.mono + lasts,
            is_over: false,
        };
        match shared.timed(&connected, SharedOperation::Lease, leasing).await {
            Ok((true, stands)) => Leasing::Won(Box::new(lease), shared.open(subject, stands, asked)),
            Ok((false, stands)) => {
                lease.forget();
                Leasing::Busy(shared.open(subject, stands, asked))
            }
            // Should the lock be ours all the same, it is given back as the lease is dropped.
            Err(_) => Leasing::Alone,
        }
    }

    /// Counts what became of an entry that was opened.
    pub fn count(&self, entry: SharedEntry) {
        if let Some(shared) = &self.0 {
            shared.metrics.shared.entry(entry);
        }
    }
}

/// How long a lock lasts for a sign-in that takes `timeout` at most.
#[must_use]
pub fn lease_of(timeout: Duration) -> Duration {
    timeout.saturating_add(LEASE_SLACK)
}

fn places(subject: &Subject) -> Places {
    Places {
        token: subject.key(Kind::Token),
        stop: subject.key(Kind::Stop),
        merchant: subject.key(Kind::Merchant),
        lock: subject.lock(),
    }
}

impl Shared {
    fn sealer(&self) -> Arc<Sealer> {
        Arc::clone(&self.sealer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn open(&self, subject: &Subject, Stands { token, stop, merchant }: Stands, asked: Moment) -> Known {
        let sealer = self.sealer();
        if token.is_none() {
            self.metrics.shared.entry(SharedEntry::None);
        }
        let token = self.opened(&sealer, subject, Kind::Token, token, TokenEntry::read);
        let stops = |kind, standing| {
            let (stop, kept): (StopEntry, _) = self.opened(&sealer, subject, kind, standing, StopEntry::read)?;
            Some((stop.aged(kept, asked), kept))
        };
        Known { asked, token, stop: stops(Kind::Stop, stop), merchant: stops(Kind::Merchant, merchant) }
    }

    fn opened<T>(
        &self,
        sealer: &Sealer,
        subject: &Subject,
        kind: Kind,
        standing: Standing,
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Option<(T, Duration)> {
        let (sealed, kept) = standing?;
        let opened = sealer.open(subject, kind, &sealed).and_then(|plain| read(&plain).ok_or(Unopened::Tampered));
        match opened {
            // One that ends now, or that somebody has kept for ever.
            Ok(_) if kept.is_zero() => {
                self.metrics.shared.entry(SharedEntry::Expired);
                None
            }
            Ok(opened) => Some((opened, kept)),
            Err(why) => {
                self.unopened(why);
                None
            }
        }
    }

    /// Tells of an entry that is none for us.
    fn unopened(&self, why: Unopened) {
        let (entry, text) = match why {
            Unopened::Foreign => {
                (SharedEntry::Foreign, "it is sealed under a key that is not configured here, or is of another version")
            }
            Unopened::Tampered => (SharedEntry::Tampered, "it was changed, or put in another one's place"),
        };
        self.metrics.shared.entry(entry);
        let now = self.clock.now().mono;
        let mut told = self.unopened_told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| now.saturating_duration_since(told) >= UNOPENED_TOLD_EVERY) {
            *told = Some(now);
            warn!(why = text, "an entry of the shared tier can't be opened, and is taken for none");
        }
    }

    async fn write(&self, lease: &Lease, publication: Publication) {
        let Some(connected) = self.connected(SharedOperation::Write).await else { return };
        let (sealer, subject) = (self.sealer(), &lease.subject);
        let stop = |kind, entry: Option<(StopEntry, Duration)>| {
            entry.and_then(|(entry, kept)| Some((sealer.seal(subject, kind, entry.write()?)?, kept)))
        };
        let token = publication.token.and_then(|entry| Some((sealer.seal(subject, Kind::Token, entry.write())?, entry.left)));
        let writing =
            Writing { token, stop: stop(Kind::Stop, publication.stop), merchant: stop(Kind::Merchant, publication.merchant) };
        let (places, name) = (places(subject), subject.name());
        let written = connected.link.write(&places, &lease.owner, name.text(), &writing);
        match self.timed(&connected, SharedOperation::Write, written).await {
            Ok(true) => {}
            Ok(false) => self.metrics.shared.entry(SharedEntry::Late),
            // What can't be written is not waited for by anybody either.
            Err(_) => self.release(lease).await,
        }
    }

    async fn release(&self, lease: &Lease) {
        let Some(connected) = self.connected(SharedOperation::Release).await else { return };
        let (lock, name) = (lease.subject.lock(), lease.subject.name());
        // Else it ends by itself.
        self.timed(&connected, SharedOperation::Release, connected.link.release(&lock, &lease.owner, name.text())).await.ok();
    }
}

/// The lock on a subject, until it is written under, dropped, or too old.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    subject: Subject,
    owner: String,
    /// By this machine's clock, from before it was asked for: the server's lasts longer.
    ends: Instant,
    is_over: bool,
}

impl Lease {
    /// Writes what came of it, for the others, and gives the lock back. Too late, it does neither: another replica may have it.
    pub async fn write(mut self: Box<Self>, publication: Publication) {
        self.is_over = true;
        if self.shared.clock.now().mono < self.ends {
            self.shared.write(&self, publication).await;
        } else {
            self.shared.metrics.shared.entry(SharedEntry::Late);
        }
    }

    fn forget(mut self) {
        self.is_over = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let (owner, shared) = (std::mem::take(&mut self.owner), Arc::clone(&self.shared));
        let lease = Self { shared, owner, subject: self.subject, ends: self.ends, is_over: true };
        let shared = Arc::clone(&self.shared);
        // Nobody waits for it: if it is lost, the lock ends by itself.
        self.shared.runtime.spawn(async move { shared.release(&lease).await });
    }
}
