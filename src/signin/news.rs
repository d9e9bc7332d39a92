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
    fleet::{Found, Wanted, judge},
    refresh::valid_token,
    settle::{lock, store},
    shared::{Shared, configured},
};
use crate::{
    telemetry::metrics::SharedEntry,
    users::{KnownUser, waiters::Origin},
};

/// News that may wait: of more, the rest is found when those users' tokens fall due.
const WAITING_MAX: usize = 8_192;
/// So many users are looked for at once: a few round trips' worth, so that flights are not kept waiting behind them.
const AT_ONCE: usize = 32;

impl Shared {
    /// Keeps the tier, takes what it tells, and tells it what it has not heard, until `closing`.
    pub(super) async fn hear(self: &Arc<Self>, closing: CancellationToken) {
        let (sender, mut news) = mpsc::channel::<Arc<KnownUser>>(WAITING_MAX);
        let keeping = Box::pin(self.parts.tier.clone().keep(
            move |user| {
                // One that finds no room is found later.
                sender.try_send(user).ok();
            },
            closing,
        ));
        let adopting = async {
            let mut looks = JoinSet::new();
            loop {
                tokio::select! {
                    biased;
                    user = news.recv(), if looks.len() < AT_ONCE => match user {
                        Some(user) => {
                            let shared = Arc::clone(self);
                            looks.spawn(async move { shared.adopt(&user).await });
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

    /// Looks what is new of a user, and takes it.
    pub(super) async fn adopt(&self, user: &Arc<KnownUser>) {
        let version = {
            let mut record = user.record();
            let (snapshot, now) = (self.live.load(), self.parts.clock.now());
            let configured = configured(user, &mut record, &snapshot, now.mono);
            // Who has no token here is asked for by nobody, has a flight, or waits for a pause to end.
            let waits = record.holds.stopped(now.mono, &snapshot.settings.rules).is_some();
            if let Some(flight) = &record.flight {
                flight.was_told.store(true, Ordering::Relaxed);
                return;
            }
            if !waits && valid_token(user, &snapshot, now).is_none() {
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
        theirs.note(&mut locked.record, version);
        store(self, user, locked, &cached, at, Origin::Shared);
        self.parts.tier.count(SharedEntry::Taken);
        debug!(merchant_id = %user.key.merchant, number = %user.key.number, token_id = %cached.id(), "another replica signed in");
    }
}
