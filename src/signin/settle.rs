//! What is noted of what a flight obtained: in the user's record, the cache, the refresh queue, and of the vault.
//!
//! Must never tell anybody: whoever is told finds all of this noted already. Must never let what was obtained elsewhere than at the
//! vault say anything of the vault, nor judge by what was in force as the flight began.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    obtain::{Obtained, Source},
    shared::{FlightContext, configured},
};
use crate::{
    clock::Moment,
    config::Renewal,
    single_flight::Leader,
    tokens::{cached_token::CachedToken, version::Version},
    users::{holds::Stop, waiters::FlightOutcome},
    vault::{Failure, Scope},
};

/// What it came to.
pub(super) struct Settled {
    pub(super) outcome: FlightOutcome,
    pub(super) at: Moment,
    /// The user's floor, if it has doubled just now.
    pub(super) doubled_floor: Option<Duration>,
    /// How long no sign-in may be tried.
    pub(super) wait: Duration,
    pub(super) breaker: Option<BreakerChange>,
}

/// What became of the circuit breaker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BreakerChange {
    /// The vault counts as down from now on.
    Opened,
    /// It answers again.
    Closed,
}

/// Settles what was obtained.
pub(super) fn settle(flight: &FlightContext, obtained: &Obtained) -> Settled {
    match &obtained.result {
        Ok(cached) => {
            let breaker = match &obtained.source {
                Source::Vault { .. } => vault_granted(flight, obtained.version),
            };
            Settled { breaker, ..token(flight, obtained, cached) }
        }
        Err(failure) => {
            let settled = failed(flight, obtained.version, failure);
            let breaker = match &obtained.source {
                Source::Vault { probe, .. } => {
                    vault_failed(flight, obtained.version, failure, probe.as_ref().map(|probe| probe.began))
                }
            };
            Settled { breaker, ..settled }
        }
    }
}

/// Settles a flight that obtained nothing, since the user may not sign in.
pub(super) fn settle_without(flight: &FlightContext, outcome: &FlightOutcome) {
    flight.user.record().flight = None;
    if let FlightOutcome::Stopped(stop) = outcome {
        renew_later(flight, stop);
    }
}

/// Settles a flight that broke off before it was settled. If it was, another may be there by now.
pub(super) fn settle_broken(flight: &FlightContext, leader: &Leader<FlightOutcome>) {
    let FlightContext { shared, user, .. } = flight;
    let circumstances = shared.circumstances(shared.parts.clock.now().mono);
    let mut record = user.record();
    // Paused like after any failure, lest a fault of ours hammers the vault.
    let stop = record.holds.broke(circumstances, &shared.live.load().settings.rules);
    if record.flight.as_ref().is_some_and(|flight| leader.leads(&flight.outcome)) {
        record.flight = None;
    }
    drop(record);
    renew_later(flight, &stop);
}

fn token(flight: &FlightContext, obtained: &Obtained, cached: &Arc<CachedToken>) -> Settled {
    let FlightContext { shared, user, .. } = flight;
    let (version, at) = (obtained.version, shared.parts.clock.now());
    let mut record = user.record();
    // Under the lock: what is put in force later finds what is stored now.
    let snapshot = shared.live.load();
    let settings = &snapshot.settings;
    let configured = configured(user, &mut record, &snapshot, at.mono);
    let doubled_floor = record.holds.succeeded(version, obtained.began.mono, cached.left_at(at), &settings.rules);
    let void = !snapshot.takes(cached);
    // A user who was removed meanwhile is forgotten; one whose credential changed gets another token soon.
    if configured.is_some() && !void {
        shared.parts.cache.put(&user.key, cached);
        record.lost_token = false;
        let due = if record.holds.counts(version) { cached.due_in(at, settings.renewal) } else { Some(Duration::ZERO) };
        shared.plan(&mut record, &user.key, due.map(|due| at.mono + due));
    }
    record.flight = None;
    let outcome = if void { FlightOutcome::Void } else { FlightOutcome::Token(Arc::clone(cached)) };
    Settled { outcome, at, doubled_floor, wait: Duration::ZERO, breaker: None }
}

fn failed(flight: &FlightContext, version: Version, failure: &Arc<Failure>) -> Settled {
    let FlightContext { shared, user, .. } = flight;
    let at = shared.parts.clock.now();
    let circumstances = shared.circumstances(at.mono);
    let mut record = user.record();
    let snapshot = shared.live.load();
    let settings = &snapshot.settings;
    let configured = configured(user, &mut record, &snapshot, at.mono);
    let stop = record.holds.failed(version, Failure::clone(failure), circumstances, &settings.rules);
    let definite = stop.as_ref().is_some_and(|stop| matches!(*stop.failure, Failure::Refused { .. }));
    let until = stop.as_ref().map_or(at.mono, |stop| stop.until);
    let wait = until.saturating_duration_since(at.mono);
    // The cached token is still good: try again to renew it once the wait is over, unless nothing will change till then.
    let renews = settings.renewal == Renewal::Ahead && !definite;
    let cached = shared.cached(&user.key, &snapshot, at);
    // Who has none, since the vault is another one, is to have one before somebody asks.
    let outlasts = cached.map_or(flight.renewal || record.lost_token, |cached| cached.left_at(at) > wait);
    let worth = renews && configured.is_some() && outlasts;
    shared.plan(&mut record, &user.key, worth.then_some(until));
    record.flight = None;
    drop(record);
    if let Failure::Throttled { scope: Scope::Merchant, wait, .. } = **failure {
        // Of this answer alone: what else the user waits for is its own. And of the vault that gave it, whichever counts now.
        let own = stop.as_ref().filter(|stop| stop.failure == *failure).map_or(at.mono + wait, |stop| stop.until);
        user.merchant().stop(version.upstream, Stop { failure: Arc::clone(failure), until: own }, at.mono);
    }
    let outcome = stop.map_or(FlightOutcome::Void, FlightOutcome::Stopped);
    Settled { outcome, at, doubled_floor: None, wait, breaker: None }
}

/// The vault gave a token: whoever got undocumented answers while it was out of order starts anew.
fn vault_granted(flight: &FlightContext, version: Version) -> Option<BreakerChange> {
    let shared = &flight.shared;
    shared.last_answers().granted = Some(shared.parts.clock.now().wall);
    let change = vault_answered(flight, version);
    // Apart from the loop, which locks records.
    let forgiven = Some(shared.upstream())
        .filter(|upstream| upstream.is_of(version.upstream))
        .map(|mut upstream| upstream.undocumented.granted());
    forgiven.iter().flatten().for_each(|(user, version)| user.record().holds.forgive(*version));
    change
}

/// An answer to anybody means that the vault is there, if it is the one that counts.
fn vault_answered(FlightContext { shared, .. }: &FlightContext, version: Version) -> Option<BreakerChange> {
    let mut upstream = Some(shared.upstream()).filter(|upstream| upstream.is_of(version.upstream))?;
    let was_down = upstream.breaker.answered();
    shared.limit.answered();
    was_down.then_some(BreakerChange::Closed)
}

fn vault_failed(
    flight: &FlightContext,
    version: Version,
    failure: &Arc<Failure>,
    probe: Option<Instant>,
) -> Option<BreakerChange> {
    let FlightContext { shared, user, .. } = flight;
    let now = shared.parts.clock.now();
    shared.last_answers().failed = Some((now.wall, Arc::clone(failure)));
    match **failure {
        Failure::Refused { .. } | Failure::Throttled { .. } | Failure::Invalid { issued: true, .. } => {
            vault_answered(flight, version)
        }
        Failure::Broken => None,
        Failure::Undocumented { .. } | Failure::Unavailable { .. } | Failure::Invalid { issued: false, .. } => {
            let jitter = shared.random();
            let mut upstream = Some(shared.upstream()).filter(|upstream| upstream.is_of(version.upstream))?;
            let opened = upstream.failed((user, version), failure, probe, now.mono, jitter);
            if opened {
                shared.limit.down();
            }
            opened.then_some(BreakerChange::Opened)
        }
    }
}

/// Has the renewal come later. A caller's sign-in that failed is none: who never had a token is asked for again, or isn't.
fn renew_later(FlightContext { shared, user, renewal, .. }: &FlightContext, stop: &Stop) {
    let now = shared.parts.clock.now();
    let lost_token = user.record().lost_token;
    let has_token = || shared.cached(&user.key, &shared.live.load(), now).is_some();
    if *renewal || lost_token || has_token() {
        shared.renew_later(user, stop.left_at(now.mono));
    }
}
