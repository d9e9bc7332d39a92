//! News of other replicas' sign-ins, for users whose token is held here: they answer the new one from then on.
//!
//! Must never take anything out of a flight's hands: a user that has one is left to it, which looks again at its end. Must never sign in.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    fleet::{Found, Wanted, judge, lifted_at},
    refresh::valid_token,
    settle::{lock, store},
    shared::{Shared, configured},
};
use crate::{
    live::Snapshot,
    telemetry::metrics::SharedEntry,
    tier::News,
    users::{Configured, KnownUser, waiters::Origin},
};

/// News that may wait: of more, the rest is found when those users' tokens fall due.
const WAITING_MAX: usize = 8_192;
/// So many users are looked for at once: a few round trips' worth, so that flights are not kept waiting behind them.
const AT_ONCE: usize = 32;

impl Shared {
    /// Listens to news of users whom something stops that was remembered from before: an operator may lift it elsewhere, and no flight of
    /// theirs listens until then.
    pub(super) fn listen_for_stopped(&self, snapshot: &Snapshot) {
        let (tier, now) = (&self.parts.tier, self.parts.clock.now().mono);
        if tier.condition().is_none() {
            return;
        }
        for Configured { user, credential, .. } in snapshot.users.iter() {
            let is_stopped = {
                let mut record = user.record();
                configured(user, &mut record, snapshot, now);
                record.holds.stopped(now, &snapshot.settings.rules).is_some()
            };
            if let Some(subject) = tier.subject(&user.key, credential.version).filter(|_| is_stopped) {
                tier.follow(&subject, user);
            }
        }
    }

    /// Keeps the tier, takes what it tells, and tells it what it has not heard, until `closing`.
    pub(super) async fn hear(self: &Arc<Self>, closing: CancellationToken) {
        self.listen_for_stopped(&self.live.load_full());
        let (sender, mut news) = mpsc::channel::<News>(WAITING_MAX);
        let keeping = Box::pin(self.parts.tier.clone().keep(
            move |told| {
                // What finds no room is found later.
                sender.try_send(told).ok();
            },
            closing,
        ));
        let adopting = async {
            let mut looks = JoinSet::new();
            loop {
                tokio::select! {
                    biased;
                    told = news.recv(), if looks.len() < AT_ONCE => match told {
                        Some(told) => {
                            let shared = Arc::clone(self);
                            looks.spawn(async move {
                                match told {
                                    News::User(user) => shared.adopt(&user).await,
                                    News::Merchant(user) => shared.adopt_merchants(&user).await,
                                }
                            });
                        }
                        // The other end is gone: the broker closes.
                        None => return,
                    },
                    Some(_) = looks.join_next() => {}
                }
            }
        };
        tokio::select! {
            biased;
            ((), ()) = async { tokio::join!(keeping, adopting) } => {}
            () = Box::pin(self.tell_afterwards()) => {}
        }
    }

    /// Looks what is new of a user's merchant: an operator lifted its waits elsewhere, maybe.
    async fn adopt_merchants(&self, user: &Arc<KnownUser>) {
        let Some(version) = self.live.load().user(&user.key).map(|configured| configured.credential.version) else { return };
        let Some(subject) = self.parts.tier.subject(&user.key, version) else { return };
        let Some(known) = self.parts.tier.look(&subject).await else { return };
        if let Some(at) = lifted_at(&known) {
            let snapshot = self.live.load_full();
            let lifted = self.lift_waits(&snapshot, &user.key.merchant, at);
            // Of whose waits the operator's replica may not have known.
            self.tell_of_lifted(&lifted.users, at, &snapshot).await;
        }
    }

    /// Looks what is new of a user, and takes it.
    pub(super) async fn adopt(&self, user: &Arc<KnownUser>) {
        let version = {
            let mut record = user.record();
            let (snapshot, now) = (self.live.load(), self.parts.clock.now());
            let configured = configured(user, &mut record, &snapshot, now.mono);
            // Who has no token here is asked for by nobody, has a flight, or waits for a pause to end.
            let waits = record.holds.stopped(now.mono, &snapshot.settings.rules).is_some();
            let has_token = valid_token(user, &snapshot, now).is_some();
            if let Some(flight) = &record.flight {
                flight.was_told.store(true, Ordering::Relaxed);
                // It may last, and an operator may have dropped what is answered meanwhile.
                if !has_token {
                    return;
                }
            }
            if !waits && !has_token {
                return;
            }
            let Some(configured) = configured else { return };
            configured.credential.version
        };
        let Some(subject) = self.parts.tier.subject(&user.key, version) else { return };
        let Some(known) = self.parts.tier.look(&subject).await else { return };
        let wanted = Wanted { user, version, min_remaining: Duration::ZERO, rejected: &[] };
        let Found::Token(cached, theirs) = judge(self, &wanted, &known) else { return };
        let at = self.parts.clock.now();
        let mut locked = lock(self, user, at);
        if let Some(flight) = &locked.record.flight {
            flight.was_told.store(true, Ordering::Relaxed);
            return;
        }
        // Meanwhile a newer one may have come, or an operator's drop of this one.
        if theirs.is_former(&locked.record) {
            return;
        }
        theirs.note(&mut locked.record, version);
        store(self, user, locked, &cached, at, Origin::Shared);
        self.parts.tier.count(SharedEntry::Taken);
        debug!(merchant_id = %user.key.merchant, number = %user.key.number, token_id = %cached.id(), "another replica signed in");
    }
}
