//! The tier that replicas share: a server like Redis, on which they find each other's tokens and waits, one signs in for all, and all
//! hear of it.
//!
//! Must never be waited for by a call that has its token here already, nor for longer than a constant by any; nor tell a caller that it
//! failed: without it each replica is by itself. Must never put anything on the server that is not sealed, nor believe what it finds there
//! further than the seal goes.

mod act;
mod bounded;
mod dial;
mod entry;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod keeper;
mod lease;
mod link;
mod seal;
mod slowness;
mod watchers;

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use self::{
    act::{Act, Told},
    entry::{DroppedEntry, StopEntry, TokenEntry},
    keeper::Condition,
    lease::{Lease, Publication, lease_of},
    link::{Dial, Dialled, LinkError, Stream},
    seal::{Name, Subject},
    watchers::{News, Waiter},
};
use self::{
    dial::Tcp,
    keeper::Kept,
    link::{Link, Places, Standing, Stands},
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

/// So often something is asked where the connection was lost meanwhile: mostly it is there again at once.
const TRIES: usize = 2;
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
    dial: Arc<dyn Dial>,
    state: Kept,
    /// It can be used again, or for the first time.
    back: Notify,
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
    /// The server's clock then, in seconds since 1970: all replicas have it in common.
    pub clock: u32,
    /// Whether a replica has the lock, which is this one if it was won.
    pub is_locked: bool,
    /// A token, and how long it is kept yet.
    pub token: Option<(TokenEntry, Duration)>,
    /// In its place, that it was dropped.
    pub dropped: Option<(DroppedEntry, Duration)>,
    /// Why the user is not to sign in, and how long that is kept yet.
    pub stop: Option<(StopEntry, Duration)>,
    /// Why nobody of the merchant is.
    pub merchant: Option<(StopEntry, Duration)>,
    /// That an operator lifted such waits of the merchant's.
    pub lifted: Option<(StopEntry, Duration)>,
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

impl Known {
    /// The instant so long before it was asked for. Where this machine's clock doesn't reach back so far, it is late rather than early.
    #[must_use]
    pub fn ago(&self, ago: Duration) -> Instant {
        self.asked.mono.checked_sub(ago).unwrap_or(self.asked.mono)
    }

    /// The newest of the user's tokens that there was, which may be dropped by now.
    #[must_use]
    pub fn generation(&self) -> u32 {
        let dropped = self.dropped.as_ref().map(|(dropped, _)| dropped.generation());
        self.token.as_ref().map(|(token, _)| token.generation).max(dropped).unwrap_or_default()
    }
}

impl Tier {
    /// The tier that is configured; connects to nothing yet.
    #[must_use]
    pub fn new(config: &SharedConfig, clock: Arc<dyn Clock>, metrics: Arc<Metrics>, runtime: Handle) -> Self {
        Self::reached_by(Arc::new(Tcp), config, clock, metrics, runtime)
    }

    /// The same with another way to the server, for a simulation.
    #[must_use]
    pub fn reached_by(
        dial: Arc<dyn Dial>,
        config: &SharedConfig,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        runtime: Handle,
    ) -> Self {
        Self(Some(Arc::new(Shared {
            namer: Namer::new(&config.name_key),
            sealer: Mutex::new(Arc::new(Sealer::new(&config.keys))),
            server: watch::Sender::new(Arc::new(config.server.clone())),
            dial,
            state: Kept::new(),
            back: Notify::new(),
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
        Link::open(&Tcp, server).await.map(drop)
    }

    /// Connects, again and again, and hands on whose news there is, until `closing`. To be spawned once.
    pub async fn keep(self, news: impl Fn(News) + Send + Sync, closing: CancellationToken) {
        if let Some(shared) = &self.0 {
            closing.run_until_cancelled(shared.keep(&news)).await;
        }
    }

    /// Waits until it can be used, having been away since this was last waited for. For one that waits.
    pub async fn back(&self) {
        match &self.0 {
            Some(shared) => shared.back.notified().await,
            None => pending().await,
        }
    }

    /// Has news of this subject be handed on from now on, for this user.
    pub fn follow(&self, subject: &Subject, user: &Arc<KnownUser>) {
        if let Some(shared) = &self.0 {
            shared.watchers.follow(subject.name(), subject.merchant_name(), user);
        }
    }

    /// Is woken by news of this subject, from now on until it is dropped.
    #[must_use]
    pub fn waiter(&self, subject: &Subject) -> Option<Waiter> {
        self.0.as_ref().map(|shared| Waiter::new(&shared.watchers, subject.name()))
    }

    /// What stands of a subject; none where nobody can be asked.
    pub async fn look(&self, subject: &Subject) -> Option<Known> {
        let (shared, places) = (self.0.as_ref()?, places(subject));
        for _ in 0..TRIES {
            let connected = shared.connected(SharedOperation::Look).await?;
            match shared.timed(&connected, SharedOperation::Look, connected.link.look(&places)).await {
                Ok((stands, asked)) => return Some(shared.open(subject, stands, asked)),
                Err(why) if connected.may_be_asked_anew(why) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Asks for the lock, for a sign-in that takes `timeout` at most.
    pub async fn lease(&self, subject: &Subject, timeout: Duration) -> Leasing {
        let Some(shared) = &self.0 else { return Leasing::Alone };
        let Some(owner) = random_key().map(|key| hex::text(&hex::of(first(&*key))).to_owned()) else { return Leasing::Alone };
        let (lasts, places) = (lease_of(timeout), places(subject));
        // Whatever becomes of the question, the lock may be ours: should it be so all the same, it is given back as this is dropped.
        let mut lease = Lease::new(shared, subject, owner, shared.clock.now().mono + lasts);
        for turn in 0..TRIES {
            let Some(connected) = shared.connected(SharedOperation::Lease).await else { return Leasing::Alone };
            let leasing = connected.link.lease(&places, lease.owner(), lasts);
            match shared.timed(&connected, SharedOperation::Lease, leasing).await {
                Ok(((true, stands), asked)) => {
                    // Asked for twice, it may be ours since the first time.
                    if turn == 0 {
                        lease.lasts_until(asked.mono + lasts);
                    }
                    return Leasing::Won(Box::new(lease), shared.open(subject, stands, asked));
                }
                Ok(((false, stands), asked)) => {
                    lease.forget();
                    return Leasing::Busy(shared.open(subject, stands, asked));
                }
                Err(why) if connected.may_be_asked_anew(why) => {}
                Err(_) => return Leasing::Alone,
            }
        }
        Leasing::Alone
    }

    /// Counts what became of an entry that was opened.
    pub fn count(&self, entry: SharedEntry) {
        if let Some(shared) = &self.0 {
            shared.metrics.shared.entry(entry);
        }
    }
}

fn places(subject: &Subject) -> Places {
    Places {
        token: subject.key(Kind::Token),
        stop: subject.key(Kind::Stop),
        merchant: subject.key(Kind::Merchant),
        lifted: subject.key(Kind::Lifted),
        lock: subject.lock(),
    }
}

impl Shared {
    fn sealer(&self) -> Arc<Sealer> {
        Arc::clone(&self.sealer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn open(
        &self,
        subject: &Subject,
        Stands { token, stop, merchant, lifted, is_locked, clock }: Stands,
        asked: Moment,
    ) -> Known {
        let sealer = self.sealer();
        if token.is_none() {
            self.metrics.shared.entry(SharedEntry::None);
        }
        let either = |bytes: &[u8]| match DroppedEntry::read(bytes) {
            Some(dropped) => Some(Err(dropped)),
            None => TokenEntry::read(bytes).map(Ok),
        };
        let (token, dropped) = match self.opened(&sealer, subject, Kind::Token, token, either) {
            Some((Ok(token), kept)) => (Some((token, kept)), None),
            Some((Err(dropped), kept)) => {
                let kept = self.unless_over(dropped.stands(kept, clock));
                (None, kept.map(|kept| (dropped, kept)))
            }
            None => (None, None),
        };
        let stops = |kind, standing| {
            let (stop, kept): (StopEntry, _) = self.opened(&sealer, subject, kind, standing, StopEntry::read)?;
            let kept = self.unless_over(stop.stands(kept, clock))?;
            Some((stop.aged(kept, asked), kept))
        };
        let (stop, merchant, lifted) = (stops(Kind::Stop, stop), stops(Kind::Merchant, merchant), stops(Kind::Lifted, lifted));
        Known { asked, clock, is_locked, token, dropped, stop, merchant, lifted }
    }

    /// How long an entry is kept yet, if at all.
    fn unless_over(&self, kept: Duration) -> Option<Duration> {
        if kept.is_zero() {
            self.metrics.shared.entry(SharedEntry::Expired);
        }
        Some(kept).filter(|kept| !kept.is_zero())
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
            // None of one that ends now, or that somebody has kept for ever.
            Ok(opened) => Some((opened, self.unless_over(kept)?)),
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
}
