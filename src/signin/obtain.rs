//! Where a flight's token comes from: another replica, or a sign-in at the vault.
//!
//! Must never sign in for a user who is stopped, nor hold a permit for the vault before its floor is over; nor note anything of
//! what came of it where others look: that is `settle`'s.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    circuit_breaker::Circuit,
    concurrency_limit::Permit,
    fleet::{Found, Others, Theirs, Turn},
    held::{Held, is_against_credential},
    shared::{FlightContext, Probe, configured, stopped},
    untold::UnusedLock,
};
use crate::{
    clock::Moment,
    live::Snapshot,
    telemetry::{
        metrics::SharedEntry,
        traces::{Span, SpanRole},
    },
    tokens::{
        cached_token::CachedToken,
        token::{Token, TokenId},
        version::Version,
    },
    users::{Credential, waiters::FlightOutcome},
    vault::{Failure, Grant, SIGN_IN_SPAN},
};

/// What a flight brings.
pub(super) struct Obtained {
    pub(super) source: Source,
    /// A token, of whose life something was left when it arrived, or why there is none.
    pub(super) result: Result<Arc<CachedToken>, Arc<Failure>>,
    /// The credential it was obtained for, and the upstream.
    pub(super) version: Version,
    /// What was cached before.
    pub(super) former: Option<Arc<CachedToken>>,
    /// The lock on other replicas' sign-ins, where there is one.
    pub(super) lease: Option<Held>,
    /// A sign-in that was sent, for as long as this is kept.
    pub(super) unfinished: Option<TaskTrackerToken>,
}

impl Obtained {
    /// What tells other replicas of it, if they wait for that; it gives the lock back that it could not write under.
    pub(super) fn telling(
        &mut self,
        flight: &FlightContext,
        at: Moment,
    ) -> Option<impl Future<Output = Result<(), UnusedLock>> + Send + use<>> {
        let Source::Vault(answer) = &self.source else { return None };
        Some(self.lease.take()?.telling(flight, self.version, &self.result, (answer.began, answer.bounded), at))
    }

    /// Whether it is a failure of which all replicas should hear.
    pub(super) fn is_against_credential(&self) -> bool {
        self.result.as_ref().is_err_and(|failure| is_against_credential(failure))
    }
}

/// Where it is from, with what is to be noted and told of that alone.
pub(super) enum Source {
    Vault(VaultAnswer),
    /// Another replica signed in.
    Shared(Theirs),
}

/// What the vault said to a sign-in.
pub(super) struct VaultAnswer {
    /// `granted`, or the kind of the failure.
    pub(super) kind: &'static str,
    /// Whether its token says itself how long it lives.
    bounded: bool,
    /// From just before it was asked.
    pub(super) began: Moment,
    /// How long that took.
    pub(super) took: Duration,
    pub(super) span: Span,
    /// Until it is noted what the answer says of the vault.
    pub(super) pass: Option<Pass>,
}

/// What lets a sign-in be at the vault.
pub(super) struct Pass {
    pub(super) probe: Option<Probe>,
    _permit: Permit,
}

/// A user who may sign in, and the one configuration to do so by, whichever is in force when it is settled.
struct Eligible {
    snapshot: Arc<Snapshot>,
    credential: Credential,
}

/// Why a flight obtains nothing now.
enum NotNow {
    /// What it waited for does not count any more: it has to wait for something else.
    WaitAgain,
    /// Another replica signs in.
    TheirTurn,
    Ended(FlightOutcome),
}

/// Obtains a token, or a failure, as soon as the user may sign in or another replica has. `sent` becomes true as a password goes on its way.
///
/// # Errors
/// Says how the flight ends if the user may not.
pub(super) async fn obtain(flight: &FlightContext, sent: &mut bool) -> Result<Obtained, FlightOutcome> {
    let mut others = Others::default();
    loop {
        match try_sources(flight, &mut others, sent).await {
            Ok(obtained) => return Ok(obtained),
            Err(NotNow::TheirTurn) => others.their_turn().await,
            Err(NotNow::WaitAgain) => {}
            Err(NotNow::Ended(outcome)) => return Err(outcome),
        }
    }
}

async fn try_sources(flight: &FlightContext, others: &mut Others, sent: &mut bool) -> Result<Obtained, NotNow> {
    let FlightContext { shared, urgent, caller, .. } = flight;
    // What others have is asked for before all that is waited for: no permit is held yet.
    let version = eligible(flight, shared.parts.clock.now().mono)?.credential.version;
    if let Some(obtained) = taken(flight, others.look(flight, version).await, version)? {
        return Ok(obtained);
    }
    tokio::select! {
        biased;
        () = wait_for_floor(flight) => {}
        () = others.news() => return Err(NotNow::WaitAgain),
    }
    let permit = tokio::select! {
        biased;
        permit = shared.limit.acquire(urgent, caller.as_ref()) => permit,
        () = others.news() => return Err(NotNow::WaitAgain),
    };
    // The queue may have been long: what was true at its end may not be now.
    let Eligible { snapshot, credential } = eligible_past_floor(flight)?;
    let pass = enter(flight, &snapshot, permit, shared.parts.clock.now().mono)?;
    let lease = match others.turn(flight, credential.version, snapshot.settings.timeout).await {
        Turn::Ours(lease) => lease,
        Turn::Found(found) => return taken(flight, found, credential.version)?.ok_or(NotNow::WaitAgain),
    };
    // Nor what was true before the others were asked: this is the last look before a password goes on its way.
    let eligible = eligible_past_floor(flight)?;
    let (began, timeout) = (shared.parts.clock.now(), eligible.snapshot.settings.timeout);
    if eligible.credential.version != credential.version || lease.as_ref().is_some_and(|lease| !lease.lasts(timeout, began.mono))
    {
        return Err(NotNow::WaitAgain);
    }
    let mut obtained = sign_in(flight, eligible, pass, began, sent).await;
    obtained.lease = lease;
    Ok(obtained)
}

/// What was found at other replicas, as what the flight brings.
fn taken(flight: &FlightContext, found: Found, version: Version) -> Result<Option<Obtained>, NotNow> {
    match found {
        Found::Token(cached, theirs) => {
            flight.shared.parts.tier.count(SharedEntry::Taken);
            let former = flight.user.token();
            Ok(Some(Obtained {
                source: Source::Shared(theirs),
                result: Ok(cached),
                version,
                former,
                lease: None,
                unfinished: None,
            }))
        }
        Found::Stopped(stop) => Err(NotNow::Ended(FlightOutcome::Stopped(stop))),
        Found::TheirTurn => Err(NotNow::TheirTurn),
        Found::Nothing => Ok(None),
    }
}

/// Waits until the floor lets the user sign in, by the rules in force.
async fn wait_for_floor(FlightContext { shared, user, .. }: &FlightContext) {
    let mut changes = shared.live.changes();
    loop {
        let now = shared.parts.clock.now().mono;
        let next = {
            let mut record = user.record();
            let snapshot = shared.live.load();
            // A floor from another vault does not count.
            configured(user, &mut record, &snapshot, now);
            let next = record.holds.within_floor(now, &snapshot.settings.rules).map(|last| last.next());
            // For those who ask whether they can wait for it.
            if let Some(flight) = &mut record.flight {
                flight.begins = next.unwrap_or_else(|| flight.begins.min(now));
            }
            let Some(next) = next else { return };
            next
        };
        tokio::select! {
            () = sleep_until(next) => {}
            _ = changes.changed() => {}
        }
    }
}

/// Looks whether the user may sign in, and with what: as it is configured now, not as it was when the flight was joined first.
fn eligible(FlightContext { shared, user, .. }: &FlightContext, now: Instant) -> Result<Eligible, NotNow> {
    let mut record = user.record();
    let snapshot = shared.live.load_full();
    let configured = configured(user, &mut record, &snapshot, now).ok_or(NotNow::Ended(FlightOutcome::Gone))?;
    let credential = configured.credential.clone();
    if let Some(stop) = stopped(user, &record, &snapshot, now) {
        return Err(NotNow::Ended(FlightOutcome::Stopped(stop)));
    }
    Ok(Eligible { snapshot, credential })
}

/// The same, where the floor is over: it may have begun anew while something else was waited for.
fn eligible_past_floor(flight: &FlightContext) -> Result<Eligible, NotNow> {
    let now = flight.shared.parts.clock.now().mono;
    let eligible = eligible(flight, now)?;
    let within = flight.user.record().holds.within_floor(now, &eligible.snapshot.settings.rules);
    within.map_or(Ok(eligible), |_| Err(NotNow::WaitAgain))
}

/// Passes the circuit breaker, alone as a probe or with a permit.
fn enter(
    FlightContext { shared, .. }: &FlightContext,
    snapshot: &Snapshot,
    permit: Option<Permit>,
    now: Instant,
) -> Result<Pass, NotNow> {
    let ended = |stop| NotNow::Ended(FlightOutcome::Stopped(stop));
    let mut upstream = shared.follow(snapshot).ok_or(NotNow::WaitAgain)?;
    // A probe waits for nobody, but there are no more at once than may be.
    let permit = permit.or_else(|| upstream.breaker.awaits_probe(now).then(|| shared.limit.probe()).flatten());
    let Some(permit) = permit else {
        return Err(upstream.breaker.stopped_without_permit(now).map_or(NotNow::WaitAgain, ended));
    };
    let probe = match upstream.breaker.pass(now) {
        Circuit::Closed => None,
        Circuit::HalfOpen => Some(Probe::new(shared, now)),
        Circuit::Open(stop) => return Err(ended(stop)),
    };
    Ok(Pass { probe, _permit: permit })
}

async fn sign_in(flight: &FlightContext, eligible: Eligible, pass: Pass, began: Moment, sent: &mut bool) -> Obtained {
    let FlightContext { shared, user, .. } = flight;
    let Eligible { snapshot, credential } = eligible;
    let sign_in = Arc::clone(&snapshot.settings.sign_in);
    // A sign-in may take long, and is not to keep a former configuration for that.
    drop(snapshot);
    let former = user.token();
    let span = shared.parts.traces.within(Some(&flight.span), SIGN_IN_SPAN, SpanRole::Client);
    *sent = true;
    let unfinished = Some(shared.sent.token());
    let result = sign_in.sign_in(&user.key, &credential.password, &span).await;
    let now = shared.parts.clock.now();
    let (version, took) = (credential.version, now.mono.saturating_duration_since(began.mono));
    let kind = result.as_ref().err().map_or("granted", Failure::kind);
    let bounded = result.as_ref().is_ok_and(|grant| grant.lifetime_is_bounded);
    let result = result.and_then(|grant| {
        let cached = cached_token(flight, grant, version, (began, now), former.as_deref());
        let ended = Failure::Invalid { cause: "its token had ended before the answer was here", issued: true };
        if cached.left_at(now).is_zero() { Err(ended) } else { Ok(Arc::new(cached)) }
    });
    let source = Source::Vault(VaultAnswer { kind, bounded, began, took, span, pass: Some(pass) });
    Obtained { source, result: result.map_err(Arc::new), version, former, lease: None, unfinished }
}

/// The token that a grant gives, and when it is to be renewed.
fn cached_token(
    FlightContext { shared, .. }: &FlightContext,
    grant: Grant,
    version: Version,
    (began, now): (Moment, Moment),
    former: Option<&CachedToken>,
) -> CachedToken {
    let token = Token {
        id: TokenId::of(grant.access_token.expose()),
        access_token: grant.access_token,
        scope: shared.scope(grant.scope),
        expires: began.plus(grant.lifetime),
        lifetime: grant.lifetime,
    };
    let took = now.mono.saturating_duration_since(began.mono);
    let due_left = shared.quiet_due_left(began.mono, token.lifetime, shared.lead(took));
    CachedToken::new(token, version, grant.lifetime_is_bounded, former, due_left, now)
}
