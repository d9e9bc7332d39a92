//! What is noted of what a flight obtained: in the user's record, the cache, the refresh queue, and of the vault.
//!
//! Must never tell anybody: whoever is told finds all of this noted already. Must never let what was obtained elsewhere than at the
//! vault say anything of the vault, nor judge by what was in force as the flight began.

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    fleet::Theirs,
    held::is_against_credential,
    obtain::{Obtained, Source, VaultAnswer},
    refresh::valid_token,
    shared::{FlightContext, Shared, configured},
};
use crate::{
    clock::Moment,
    config::Renewal,
    live::Look,
    single_flight::Leader,
    tokens::{cached_token::CachedToken, version::Version},
    users::{
        Configured, KnownUser, Record,
        holds::Stop,
        waiters::{FlightOutcome, Origin},
    },
    vault::{Failure, Scope},
};

/// What it came to.
pub(super) struct Settled {
    pub(super) outcome: FlightOutcome,
    pub(super) at: Moment,
    /// The user's floor, if it has doubled just now.
    pub(super) doubled_floor: Option<Duration>,
    pub(super) breaker: Option<BreakerChange>,
}

/// What was noted of a source: by default nothing.
#[derive(Default)]
struct Noted {
    /// How long no sign-in may be tried, unless what failed says nothing of the credential and the vault that count.
    stop: Option<Stop>,
    doubled_floor: Option<Duration>,
    breaker: Option<BreakerChange>,
}

/// The user's record, locked, and what is in force: whatever is put in force later finds what is noted now.
pub(super) struct Locked<'a> {
    pub(super) record: MutexGuard<'a, Record>,
    pub(super) snapshot: Look,
    pub(super) is_configured: bool,
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
pub(super) fn settle(flight: &FlightContext, obtained: &mut Obtained) -> Settled {
    let at = flight.shared.parts.clock.now();
    let Obtained { source, result, version, .. } = obtained;
    let (mut locked, Noted { stop, doubled_floor, breaker }) = match source {
        Source::Vault(answer) => note_sign_in(flight, answer, result, *version, at),
        Source::Shared(theirs) => (note_theirs(flight, theirs, *version, at), Noted::default()),
    };
    let origin = match source {
        Source::Vault(_) => Origin::Vault,
        Source::Shared(_) => Origin::Shared,
    };
    let outcome = match result {
        Ok(cached) => {
            locked.record.flight = None;
            store(&flight.shared, &flight.user, locked, cached, at, origin)
        }
        Err(_) => keep_former(flight, locked, stop, at),
    };
    keep_hold(flight, result.as_ref().err());
    Settled { outcome, at, doubled_floor, breaker }
}

/// Has what was learnt of the credential outlive the process, where that is to be remembered.
fn keep_hold(FlightContext { shared, user, .. }: &FlightContext, failure: Option<&Arc<Failure>>) {
    match failure {
        Some(failure) if is_against_credential(failure) => shared.parts.hold_file.note(user),
        Some(_) => {}
        None => shared.parts.hold_file.ease(user),
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

pub(super) fn lock<'a>(shared: &Shared, user: &'a Arc<KnownUser>, at: Moment) -> Locked<'a> {
    let mut record = user.record();
    let snapshot = shared.live.load();
    // If it was forgotten and has come back, it has another record, whose token is not for this flight to replace.
    let is_same = |configured: &Configured| Arc::ptr_eq(&configured.user, user);
    let is_configured = configured(user, &mut record, &snapshot, at.mono).is_some_and(is_same);
    Locked { record, snapshot, is_configured }
}

/// Stores a token. A user who was removed meanwhile is forgotten; one whose credential changed gets another token soon.
pub(super) fn store(
    shared: &Shared,
    user: &KnownUser,
    Locked { mut record, snapshot, is_configured }: Locked<'_>,
    cached: &Arc<CachedToken>,
    at: Moment,
    origin: Origin,
) -> FlightOutcome {
    if !snapshot.takes(cached) {
        return FlightOutcome::Void;
    }
    if is_configured {
        shared.keep_token(user, &mut record, &snapshot, cached, at);
    }
    FlightOutcome::Token(Arc::clone(cached), origin)
}

/// Keeps the cached token, which is still good: tries again to renew it once the wait is over, unless nothing will change till then.
fn keep_former(flight: &FlightContext, locked: Locked<'_>, stop: Option<Stop>, at: Moment) -> FlightOutcome {
    let FlightContext { shared, user, .. } = flight;
    let Locked { mut record, snapshot, is_configured } = locked;
    let definite = stop.as_ref().is_some_and(|stop| matches!(*stop.failure, Failure::Refused { .. }));
    let until = stop.as_ref().map_or(at.mono, |stop| stop.until);
    let renews = snapshot.settings.renewal == Renewal::Ahead && !definite;
    let left = valid_token(user, &snapshot, at).map(|cached| cached.left_at(at));
    // Who has none, since the vault is another one, is to have one before somebody asks.
    let outlasts = left.map_or(flight.renewal || record.lost_token, |left| left > until.saturating_duration_since(at.mono));
    let worth = renews && is_configured && outlasts;
    shared.plan(&mut record, &user.key, worth.then_some(until));
    record.flight = None;
    stop.map_or(FlightOutcome::Void, FlightOutcome::Stopped)
}

/// Notes what another replica's sign-in says of the user. Of the vault, whoever signed in has noted what it says.
fn note_theirs<'a>(flight: &'a FlightContext, theirs: &Theirs, version: Version, at: Moment) -> Locked<'a> {
    let mut locked = lock(&flight.shared, &flight.user, at);
    theirs.note(&mut locked.record, version);
    locked
}

/// Notes what a sign-in says of the user and of the vault. Its permit is free afterwards.
fn note_sign_in<'a>(
    flight: &'a FlightContext,
    answer: &mut VaultAnswer,
    result: &Result<Arc<CachedToken>, Arc<Failure>>,
    version: Version,
    at: Moment,
) -> (Locked<'a>, Noted) {
    let FlightContext { shared, user, .. } = flight;
    let pass = answer.pass.take();
    match result {
        Ok(cached) => {
            shared.took(answer.took);
            // First, since it locks other users' records.
            let breaker = vault_granted(flight, version, at);
            let mut locked = lock(shared, user, at);
            let (rules, gave) = (&locked.snapshot.settings.rules, cached.left_at(at));
            let doubled_floor = locked.record.holds.succeeded(version, answer.began.mono, gave, rules);
            (locked, Noted { doubled_floor, breaker, ..Noted::default() })
        }
        Err(failure) => {
            let circumstances = shared.circumstances(at.mono);
            let mut locked = lock(shared, user, at);
            let rules = &locked.snapshot.settings.rules;
            let stop = locked.record.holds.failed(version, Failure::clone(failure), circumstances, rules);
            if let Failure::Throttled { scope: Scope::Merchant, wait, .. } = **failure {
                // Of this answer alone: what else the user waits for is its own. And of the vault that gave it, whichever counts now.
                let own = stop.as_ref().filter(|stop| stop.failure == *failure).map_or(at.mono + wait, |stop| stop.until);
                user.merchant().stop(version.upstream, Stop { failure: Arc::clone(failure), until: own }, at.mono, at.mono);
            }
            let probe = pass.as_ref().and_then(|pass| pass.probe.as_ref()).map(|probe| probe.began);
            let breaker = vault_failed(flight, version, failure, probe, at);
            (locked, Noted { stop, breaker, ..Noted::default() })
        }
    }
}

/// The vault gave a token: whoever got undocumented answers while it was out of order starts anew.
fn vault_granted(flight: &FlightContext, version: Version, at: Moment) -> Option<BreakerChange> {
    let shared = &flight.shared;
    shared.last_answers().granted = Some(at.wall);
    let change = vault_answered(flight, version);
    // Apart from the loop, which locks records.
    let forgiven = Some(shared.upstream())
        .filter(|upstream| upstream.is_of(version.upstream))
        .map(|mut upstream| upstream.undocumented.granted());
    for (user, version) in forgiven.iter().flatten() {
        user.record().holds.forgive(*version);
        shared.parts.hold_file.ease(user);
    }
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
    at: Moment,
) -> Option<BreakerChange> {
    let FlightContext { shared, user, .. } = flight;
    shared.last_answers().failed = Some((at.wall, Arc::clone(failure)));
    match **failure {
        Failure::Refused { .. } | Failure::Throttled { .. } | Failure::Invalid { issued: true, .. } => {
            vault_answered(flight, version)
        }
        Failure::Broken => None,
        Failure::Undocumented { .. } | Failure::Unavailable { .. } | Failure::Invalid { issued: false, .. } => {
            let jitter = shared.random();
            let mut upstream = Some(shared.upstream()).filter(|upstream| upstream.is_of(version.upstream))?;
            let opened = upstream.failed((user, version), failure, probe, at.mono, jitter);
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
    let has_token = || valid_token(user, &shared.live.load(), now).is_some();
    if *renewal || lost_token || has_token() {
        shared.renew_later(user, stop.left_at(now.mono));
    }
}
