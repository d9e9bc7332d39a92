//! One flight: from the queue to the landing.
//!
//! Must never end without freeing its user and its waiters, nor tell anybody before what it brought is stored.

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::{
    FlightHandle, FlightOutcome, Parts, Shared, circuit_breaker::Passage, concurrency_limit::Permit, configured, stopped,
    upstream::Outlook,
};
use crate::{
    clock::Moment,
    config::Renewal,
    telemetry::{
        audit::SignInResult,
        metrics::RenewalResult,
        traces::{Kind, Span, TraceId},
    },
    tokens::{
        freshness::CachedToken,
        token::{Token, TokenId},
    },
    users::{
        Credential, User,
        holds::{Stop, Upstream},
        waiters::Waiters,
    },
    vault::{Failure, Grant, Scope, SignIn},
};

/// One sign-in, from the queue to the landing. Dropped without landing (a panic), it frees the user and the waiters.
pub(super) struct Flight {
    shared: Arc<Shared>,
    user: Arc<User>,
    arrivals: Arc<Waiters>,
    /// Nobody waited when it began.
    renewal: bool,
    /// Since when it is the one sign-in that finds out whether the vault is back.
    probing: Option<Instant>,
    /// Its password is on its way, and what becomes of it is not known yet.
    sent: bool,
    span: Span,
}

/// What a flight signs in with, from its departure on: one configuration, whichever is in force when it lands.
struct Means {
    upstream: Upstream,
    sign_in: Arc<dyn SignIn>,
    credential: Arc<Credential>,
    _permit: Permit,
}

/// Why a flight does not depart.
enum Stay {
    /// What it waited for does not count any more: it has to wait for something else.
    Again,
    Land(FlightOutcome),
}

impl Flight {
    /// A flight for `user`, whose waiters hold `ticket`.
    pub(super) fn new(shared: Arc<Shared>, user: &Arc<User>, ticket: &FlightHandle, renewal: bool) -> Self {
        Self {
            shared,
            user: Arc::clone(user),
            arrivals: Arc::clone(&ticket.arrivals),
            renewal,
            probing: None,
            sent: false,
            span: ticket.span.clone(),
        }
    }

    pub(super) async fn fly(mut self, ticket: FlightHandle) {
        let (means, now) = loop {
            self.wait_for_floor().await;
            let permit = self.shared.gate.pass(&ticket.urgent).await;
            // The queue may have been long: what was true at its end may not be now.
            let now = self.shared.parts.clock.now();
            match self.depart(now.mono, permit) {
                Ok(means) => break (means, now),
                Err(Stay::Again) => {}
                Err(Stay::Land(landing)) => {
                    self.user.record().flight = None;
                    if let FlightOutcome::Stopped(stop) = &landing {
                        self.renew_later(stop, now);
                    }
                    return self.land(landing);
                }
            }
        };
        drop(ticket);
        let former = self.shared.parts.cache.get(&self.user.key);
        let result = self.sign_in(&means).await;
        let landing = match result.and_then(|grant| self.token(grant, now, former.as_deref(), &means)) {
            Ok(held) => {
                self.vault_answered(&means);
                self.vault_granted(&means);
                self.succeeded(now, held, former.as_deref(), &means)
            }
            Err(failure) => {
                let failure = Arc::new(failure);
                let landing = self.failed(&failure, now, &means);
                self.vault_failed(&failure, &means);
                landing
            }
        };
        drop(means);
        self.land(landing);
    }

    /// Waits until the floor lets the user sign in, by the rules in force.
    async fn wait_for_floor(&self) {
        let mut changed = self.shared.changed.subscribe();
        loop {
            let now = self.shared.parts.clock.now().mono;
            let next = {
                let mut record = self.user.record();
                let rules = self.shared.live.load().settings.rules;
                let next = record.holds.within_floor(now, &rules).map(|last| last.next());
                // For those who ask whether they can wait for it.
                if let Some(ticket) = &mut record.flight {
                    ticket.begins = next.unwrap_or_else(|| ticket.begins.min(now));
                }
                let Some(next) = next else { return };
                next
            };
            tokio::select! {
                () = sleep_until(next) => {}
                _ = changed.changed() => {}
            }
        }
    }

    /// Looks once more whether the sign-in may begin, takes the probe if the vault is down and one is due, and takes what to
    /// sign in with: as it is configured now, not as it was when the flight was boarded.
    fn depart(&mut self, now: Instant, permit: Option<Permit>) -> Result<Means, Stay> {
        let mut record = self.user.record();
        let snapshot = self.shared.live.load_full();
        let configured = configured(&self.user, &mut record, &snapshot, now);
        let Some(credential) = configured.map(|configured| Arc::clone(&configured.credential)) else {
            return Err(Stay::Land(FlightOutcome::Gone));
        };
        if let Some(stop) = stopped(&self.user, &record, &snapshot, now) {
            return Err(Stay::Land(FlightOutcome::Stopped(stop)));
        }
        if record.holds.within_floor(now, &snapshot.settings.rules).is_some() {
            return Err(Stay::Again);
        }
        drop(record);
        let Some(mut outlook) = self.shared.follow(&snapshot) else { return Err(Stay::Again) };
        // A probe waits for nobody, but there are no more at once than may be.
        let probes = outlook.is_down() && outlook.closed(snapshot.upstream(), now).is_none();
        let permit = if probes { permit.or_else(|| self.shared.gate.probe()) } else { permit };
        let Some(permit) = permit else {
            let full = outlook.closed_for_now(now);
            return Err(full.map_or(Stay::Again, |stop| Stay::Land(FlightOutcome::Stopped(stop))));
        };
        let permit = match outlook.pass(now) {
            Passage::Open => permit,
            Passage::Closed(stop) => return Err(Stay::Land(FlightOutcome::Stopped(stop))),
            Passage::Probe => {
                self.probing = Some(now);
                permit
            }
        };
        drop(outlook);
        let sign_in = Arc::clone(&snapshot.settings.sign_in);
        Ok(Means { upstream: snapshot.upstream(), sign_in, credential, _permit: permit })
    }

    async fn sign_in(&mut self, means: &Means) -> Result<Grant, Failure> {
        let (shared, user) = (Arc::clone(&self.shared), Arc::clone(&self.user));
        let Parts { clock, metrics, traces, .. } = &shared.parts;
        let merchant = user.key.merchant.as_str();
        let span = traces.within(Some(&self.span), "sign_in", Kind::Client);
        let sent = clock.now().mono;
        self.sent = true;
        let result = means.sign_in.sign_in(&user.key, &means.credential.password, span.context()).await;
        self.sent = false;
        let kind = result.as_ref().err().map(Failure::kind);
        metrics.sign_in(merchant, kind.unwrap_or("granted"), clock.now().mono.saturating_duration_since(sent));
        if span.is_recorded() {
            span.set("token_broker.merchant_id", merchant.to_owned());
            if let Err(failure) = &result {
                span.set("token_broker.failure", failure.to_string());
            }
        }
        span.end(kind);
        result
    }

    /// What is known of the vault that was asked, if that is the one that counts.
    fn outlook<'a>(&'a self, means: &Means) -> Option<MutexGuard<'a, Outlook>> {
        Some(self.shared.outlook()).filter(|outlook| outlook.is_of(means.upstream))
    }

    /// An answer to anybody means that the vault is there.
    fn vault_answered(&mut self, means: &Means) {
        self.probing = None;
        let Some(mut outlook) = self.outlook(means) else { return };
        let was_down = outlook.answered();
        self.shared.gate.answered();
        drop(outlook);
        if was_down {
            info!("the vault answers again");
        }
    }

    /// Whoever got undocumented answers while the vault was out of order starts anew.
    fn vault_granted(&self, means: &Means) {
        // Apart from the loop, which locks records.
        let forgiven = self.outlook(means).map(|mut outlook| outlook.granted()).unwrap_or_default();
        forgiven.iter().for_each(|(user, version)| user.record().holds.forgive(*version));
    }

    fn vault_failed(&mut self, failure: &Arc<Failure>, means: &Means) {
        match &**failure {
            Failure::Refused { .. } | Failure::Throttled { .. } | Failure::Invalid { issued: true, .. } => {
                self.vault_answered(means)
            }
            // The end of `fly` gives the probe back.
            Failure::Broken => {}
            Failure::Undocumented { .. } | Failure::Unavailable { .. } | Failure::Invalid { issued: false, .. } => {
                let probe = self.probing.take();
                let (now, jitter) = (self.shared.parts.clock.now().mono, self.shared.random());
                let Some(mut outlook) = self.outlook(means) else { return };
                if matches!(**failure, Failure::Undocumented { .. }) {
                    outlook.undocumented(&self.user, means.credential.version);
                }
                let went_down = outlook.failed(&self.user.key, failure, probe, now, jitter);
                if went_down {
                    self.shared.gate.down();
                }
                drop(outlook);
                if went_down {
                    warn!(%failure, "the vault is down: one sign-in at a time finds out when it is back");
                }
            }
        }
    }

    /// The token that a grant gives, if any of its life is left.
    fn token(
        &self,
        grant: Grant,
        sent: Moment,
        former: Option<&CachedToken>,
        means: &Means,
    ) -> Result<Arc<CachedToken>, Failure> {
        let now = self.shared.parts.clock.now();
        let token = Token {
            id: TokenId::of(grant.access_token.expose()),
            access_token: grant.access_token,
            scope: Arc::from(grant.scope),
            expires: sent.plus(grant.lifetime),
            lifetime: grant.lifetime,
        };
        let bounded = grant.lifetime_is_bounded;
        let lead = self.shared.lead(now.mono.saturating_duration_since(sent.mono));
        let due_left = self.shared.quiet_due_left(sent.mono, token.lifetime, lead);
        let held = CachedToken::new(token, means.credential.version, bounded, former, due_left, now);
        if held.left_at(now).is_zero() {
            return Err(Failure::Invalid { cause: "its token had ended before the answer was here", issued: true });
        }
        Ok(Arc::new(held))
    }

    fn succeeded(&self, sent: Moment, held: Arc<CachedToken>, former: Option<&CachedToken>, means: &Means) -> FlightOutcome {
        let now = self.shared.parts.clock.now();
        let left = held.left_at(now);
        self.shared.heard().granted = Some(now.wall);
        if self.renewal {
            let in_time = former.is_some_and(|former| !former.left_at(now).is_zero());
            self.shared.parts.metrics.renewal(if in_time { RenewalResult::Ahead } else { RenewalResult::Late });
        }
        let mut record = self.user.record();
        // Under the lock: what is put in force later finds what is stored now.
        let snapshot = self.shared.live.load();
        let settings = &snapshot.settings;
        let version = means.credential.version;
        let configured = configured(&self.user, &mut record, &snapshot, now.mono);
        let doubled = record.holds.succeeded(version, sent.mono, left, &settings.rules);
        let void = !snapshot.takes(&held);
        // A user who was removed meanwhile is forgotten; one whose credential changed gets another token soon.
        if configured.is_some() && !void {
            self.shared.parts.cache.put(&self.user.key, &held);
            record.lost_token = false;
            let due = if record.holds.counts(version) { held.due_in(now, settings.renewal) } else { Some(Duration::ZERO) };
            self.shared.plan(&mut record, &self.user.key, due.map(|due| now.mono + due));
        }
        record.flight = None;
        drop((record, snapshot));

        let (key, token_id, took) = (&self.user.key, held.id(), now.mono.saturating_duration_since(sent.mono));
        let trace = self.span.context().map(|context| context.trace);
        let trace_id = trace.map(tracing::field::display);
        info!(merchant_id = %key.merchant, number = %key.number, %token_id, lifetime_s = left.as_secs(), took_ms = millis(took), trace_id, "signed in");
        self.record(now, Ok(token_id), took, trace);
        if let Some(floor) = doubled {
            self.shared.parts.metrics.floor_doublings.inc();
            warn!(
                merchant_id = %key.merchant, number = %key.number, floor_s = floor.as_secs(),
                "tokens are rejected soon after their issue, so sign-ins are slowed down: another replica or system that signs \
                 this user in may be revoking them; set vault.renewal = \"at_expiry\", and see that nothing else does"
            );
        }
        if void { FlightOutcome::Void } else { FlightOutcome::Token(held) }
    }

    fn failed(&self, failure: &Arc<Failure>, sent: Moment, means: &Means) -> FlightOutcome {
        let now = self.shared.parts.clock.now();
        let merchants = matches!(**failure, Failure::Throttled { scope: Scope::Merchant, .. });
        let circumstances = self.shared.circumstances(now.mono);
        let mut record = self.user.record();
        let snapshot = self.shared.live.load();
        let settings = &snapshot.settings;
        let configured = configured(&self.user, &mut record, &snapshot, now.mono);
        let stop = record.holds.failed(means.credential.version, Failure::clone(failure), circumstances, &settings.rules);
        let (definite, until) = match &stop {
            Some(stop) => (matches!(*stop.failure, Failure::Refused { .. }), stop.until),
            None => (false, now.mono),
        };
        // The token held is still good: try again to renew it once the wait is over, unless nothing will change till then.
        let renews = settings.renewal == Renewal::Ahead && !definite;
        let held = self.shared.held(&self.user.key, &snapshot, now);
        let wait = until.saturating_duration_since(now.mono);
        // Who has none, since the vault is another one, is to have one before somebody asks.
        let outlasts = held.map_or(self.renewal || record.lost_token, |held| held.left_at(now) > wait);
        let worth = renews && configured.is_some() && outlasts;
        self.shared.plan(&mut record, &self.user.key, worth.then_some(until));
        record.flight = None;
        drop(record);
        if let Failure::Throttled { scope: Scope::Merchant, wait, .. } = **failure {
            // Of this answer alone: what else the user waits for is its own. And of the vault that gave it, whichever counts now.
            let own = stop.as_ref().filter(|stop| stop.failure == *failure).map_or(now.mono + wait, |stop| stop.until);
            self.user.merchant().stop(means.upstream, Stop { failure: Arc::clone(failure), until: own }, now.mono);
        }
        drop(snapshot);

        self.shared.heard().failed = Some((now.wall, Arc::clone(failure)));
        if self.renewal {
            self.shared.parts.metrics.renewal(RenewalResult::Failed);
        }
        let (key, took) = (&self.user.key, now.mono.saturating_duration_since(sent.mono));
        let trace = self.span.context().map(|context| context.trace);
        let trace_id = trace.map(tracing::field::display);
        warn!(
            merchant_id = %key.merchant, number = %key.number, %failure, took_ms = millis(took),
            next_s = wait.as_secs(), whole_merchant = merchants, trace_id, "sign-in failed"
        );
        self.record(now, Err(failure), took, trace);
        stop.map_or(FlightOutcome::Void, FlightOutcome::Stopped)
    }

    /// Has the renewal come later. A caller's sign-in that failed is none: who never had a token is asked for again, or isn't.
    fn renew_later(&self, stop: &Stop, now: Moment) {
        let lost_token = self.user.record().lost_token;
        let has_token = || self.shared.held(&self.user.key, &self.shared.live.load(), now).is_some();
        if self.renewal || lost_token || has_token() {
            self.shared.renew_later(&self.user, stop.left_at(now.mono));
        }
    }

    /// Leaves its sign-in in the audit trail.
    fn record(&self, now: Moment, result: Result<TokenId, &Failure>, took: Duration, trace_id: Option<TraceId>) {
        let (user, result) = (Arc::clone(&self.user.key), result.map_err(ToString::to_string));
        self.shared.parts.audit.sign_in(SignInResult { at: now.wall, user, result, took, trace_id });
    }

    /// Tells the waiters. The flight has left the record before, together with whatever it learnt.
    fn land(&self, landing: FlightOutcome) {
        let failure = match &landing {
            FlightOutcome::Token(_) => None,
            FlightOutcome::Stopped(stop) => Some(stop.failure.kind()),
            FlightOutcome::Gone => Some("gone"),
            FlightOutcome::Void => Some("void"),
        };
        self.span.end(failure);
        self.arrivals.land(Some(landing));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.leave(self.renewal);
        if let Some(probe) = self.probing {
            self.shared.outlook().broke_off(probe);
        }
        if !self.arrivals.is_over() {
            let now = self.shared.parts.clock.now().mono;
            let circumstances = self.shared.circumstances(now);
            let mut record = self.user.record();
            // Paused like after any failure, lest a fault of ours hammers the vault.
            let stop = record.holds.broke(circumstances, &self.shared.live.load().settings.rules);
            // If it left the record before it broke, another may be there.
            if record.flight.as_ref().is_some_and(|ticket| Arc::ptr_eq(&ticket.arrivals, &self.arrivals)) {
                record.flight = None;
            }
            drop(record);
            self.renew_later(&stop, self.shared.parts.clock.now());
            if self.sent {
                let merchant = self.user.key.merchant.as_str();
                self.shared.parts.metrics.sign_in(merchant, Failure::Broken.kind(), Duration::ZERO);
                self.record(self.shared.parts.clock.now(), Err(&Failure::Broken), Duration::ZERO, None);
            }
            self.span.end(Some(Failure::Broken.kind()));
            self.arrivals.land(None);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
