//! Where a flight's token comes from: a sign-in at the vault.
//!
//! Must never sign in for a user who is stopped, nor hold a permit for the vault before its floor is over; nor note anything of
//! what came of it where others look: that is `settle`'s.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    circuit_breaker::Circuit,
    concurrency_limit::Permit,
    shared::{FlightContext, Probe, configured, stopped},
};
use crate::{
    clock::Moment,
    telemetry::traces::{Kind, Span},
    tokens::{
        cached_token::CachedToken,
        token::{Token, TokenId},
        version::Version,
    },
    users::{Credential, waiters::FlightOutcome},
    vault::{Failure, Grant, SignIn},
};

/// What a flight brings.
pub(super) struct Obtained {
    pub(super) source: Source,
    /// A token, of whose life something was left when it arrived, or why there is none.
    pub(super) result: Result<Arc<CachedToken>, Arc<Failure>>,
    /// The credential it was obtained for, and the upstream.
    pub(super) version: Version,
    /// From just before it was asked for.
    pub(super) began: Moment,
    /// How long that took.
    pub(super) took: Duration,
    /// What was cached before.
    pub(super) former: Option<Arc<CachedToken>>,
}

/// Where it is from, with what has to be kept until it is settled.
pub(super) enum Source {
    /// A sign-in.
    Vault {
        /// What the vault said: `granted`, or the kind of the failure.
        answer: &'static str,
        probe: Option<Probe>,
        span: Span,
        _permit: Permit,
    },
}

/// What a flight signs in with: one configuration, whichever is in force when it is settled.
struct Admitted {
    sign_in: Arc<dyn SignIn>,
    credential: Arc<Credential>,
    probe: Option<Probe>,
    permit: Permit,
}

/// Why a flight does not sign in now.
enum NotAdmitted {
    /// What it waited for does not count any more: it has to wait for something else.
    WaitAgain,
    Ended(FlightOutcome),
}

/// Obtains a token, or a failure, as soon as the user may sign in. `sent` becomes true as a password goes on its way.
///
/// # Errors
/// Says how the flight ends if the user may not.
pub(super) async fn obtain(flight: &FlightContext, sent: &mut bool) -> Result<Obtained, FlightOutcome> {
    let shared = &flight.shared;
    let (admitted, began) = loop {
        wait_for_floor(flight).await;
        let permit = shared.limit.acquire(&flight.urgent).await;
        // The queue may have been long: what was true at its end may not be now.
        let now = shared.parts.clock.now();
        match admit(flight, now.mono, permit) {
            Ok(admitted) => break (admitted, now),
            Err(NotAdmitted::WaitAgain) => {}
            Err(NotAdmitted::Ended(outcome)) => return Err(outcome),
        }
    };
    Ok(sign_in(flight, admitted, began, sent).await)
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

/// Looks once more whether the sign-in may begin, passes the circuit breaker, and takes what to sign in with: as it is configured
/// now, not as it was when the flight was joined first.
fn admit(flight: &FlightContext, now: Instant, permit: Option<Permit>) -> Result<Admitted, NotAdmitted> {
    let FlightContext { shared, user, .. } = flight;
    let ended = |stop| NotAdmitted::Ended(FlightOutcome::Stopped(stop));
    let mut record = user.record();
    let snapshot = shared.live.load_full();
    let configured = configured(user, &mut record, &snapshot, now);
    let credential = Arc::clone(&configured.ok_or(NotAdmitted::Ended(FlightOutcome::Gone))?.credential);
    if let Some(stop) = stopped(user, &record, &snapshot, now) {
        return Err(ended(stop));
    }
    if record.holds.within_floor(now, &snapshot.settings.rules).is_some() {
        return Err(NotAdmitted::WaitAgain);
    }
    drop(record);
    let mut upstream = shared.follow(&snapshot).ok_or(NotAdmitted::WaitAgain)?;
    // A probe waits for nobody, but there are no more at once than may be.
    let permit = permit.or_else(|| upstream.breaker.awaits_probe(now).then(|| shared.limit.probe()).flatten());
    let Some(permit) = permit else {
        return Err(upstream.breaker.stopped_without_permit(now).map_or(NotAdmitted::WaitAgain, ended));
    };
    let probe = match upstream.breaker.pass(now) {
        Circuit::Closed => None,
        Circuit::HalfOpen => Some(Probe::new(shared, now)),
        Circuit::Open(stop) => return Err(ended(stop)),
    };
    Ok(Admitted { sign_in: Arc::clone(&snapshot.settings.sign_in), credential, probe, permit })
}

async fn sign_in(flight: &FlightContext, admitted: Admitted, began: Moment, sent: &mut bool) -> Obtained {
    let FlightContext { shared, user, .. } = flight;
    let Admitted { sign_in, credential, probe, permit } = admitted;
    let former = shared.parts.cache.get(&user.key);
    let span = shared.parts.traces.within(Some(&flight.span), "sign_in", Kind::Client);
    *sent = true;
    let result = sign_in.sign_in(&user.key, &credential.password, span.context()).await;
    let now = shared.parts.clock.now();
    let (version, took) = (credential.version, now.mono.saturating_duration_since(began.mono));
    let answer = result.as_ref().err().map_or("granted", Failure::kind);
    let result = result.and_then(|grant| {
        let cached = cached_token(flight, grant, version, (began, now), former.as_deref());
        let ended = Failure::Invalid { cause: "its token had ended before the answer was here", issued: true };
        if cached.left_at(now).is_zero() { Err(ended) } else { Ok(Arc::new(cached)) }
    });
    let source = Source::Vault { answer, probe, span, _permit: permit };
    Obtained { source, result: result.map_err(Arc::new), version, began, took, former }
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
        scope: Arc::from(grant.scope),
        expires: began.plus(grant.lifetime),
        lifetime: grant.lifetime,
    };
    let lead = shared.lead(now.mono.saturating_duration_since(began.mono));
    let due_left = shared.quiet_due_left(began.mono, token.lifetime, lead);
    CachedToken::new(token, version, grant.lifetime_is_bounded, former, due_left, now)
}
