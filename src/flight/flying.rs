//! One flight: from the queue to the landing.
//!
//! Must never end without freeing its user and its waiters, nor tell anybody before what it brought is stored.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::{Landing, Parts, Settings, Shared, Ticket, gate::Permit, stopped};
use crate::{
    audit,
    clock::Moment,
    config::Renewal,
    expiry::HeldToken,
    metrics::Renewed,
    model::{Token, TokenId},
    pacing::{Stop, Version},
    reach::Passage,
    ticket::Arrivals,
    traces::{Kind, Span},
    users::{Credential, User},
    vault::{Failure, Grant, Scope},
};

/// One sign-in, from the queue to the landing. Dropped without landing (a panic), it frees the user and the waiters.
pub(super) struct Flight {
    shared: Arc<Shared>,
    user: Arc<User>,
    arrivals: Arc<Arrivals>,
    /// Nobody waited when it began.
    renewal: bool,
    /// It is the one sign-in that finds out whether the vault is back.
    probing: bool,
    /// Its password is on its way, and what becomes of it is not known yet.
    sent: bool,
    span: Span,
}

impl Flight {
    /// A flight for `user`, whose waiters hold `ticket`.
    pub(super) fn new(shared: Arc<Shared>, user: &Arc<User>, ticket: &Ticket, renewal: bool) -> Self {
        Self {
            shared,
            user: Arc::clone(user),
            arrivals: Arc::clone(&ticket.arrivals),
            renewal,
            probing: false,
            sent: false,
            span: ticket.span.clone(),
        }
    }

    pub(super) async fn fly(mut self, ticket: Ticket) {
        sleep_until(ticket.begins).await;
        let permit = self.shared.gate.pass(&ticket.urgent).await;
        drop(ticket);
        // The queue may have been long: what was true at its end may not be now.
        let now = self.shared.parts.clock.now();
        let (settings, credential) = match self.depart(now.mono) {
            Ok(means) => means,
            Err(landing) => {
                self.user.record().flight = None;
                if let Landing::Stopped(stop) = &landing {
                    self.shared.renew_later(&self.user, stop.left_at(now.mono));
                }
                return self.land(landing);
            }
        };
        let former = self.shared.parts.cache.get(&self.user.key);
        let result = self.sign_in(&settings, &credential).await;
        let landing = match result.and_then(|grant| self.token(grant, now, former.as_deref(), &settings)) {
            Ok(held) => {
                self.vault_answered(permit);
                self.vault_granted();
                Landing::Token(self.succeeded(now, held, former.as_deref(), credential.version, &settings))
            }
            Err(failure) => {
                let failure = Arc::new(failure);
                let stop = self.failed(&failure, now, credential.version, &settings);
                self.vault_failed(&failure, permit);
                Landing::Stopped(stop)
            }
        };
        self.land(landing);
    }

    /// Looks once more whether the sign-in may begin, takes the probe if the vault is down and one is due, and takes what to
    /// sign in with: as it is configured now, not as it was when the flight was boarded.
    fn depart(&mut self, now: Instant) -> Result<(Arc<Settings>, Arc<Credential>), Landing> {
        let shared = Arc::clone(&self.shared);
        let _snapshot = shared.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        let credential = {
            let record = self.user.record();
            let Some(credential) = record.credential() else { return Err(Landing::Gone) };
            if let Some(stop) = stopped(&self.user, &record, now) {
                return Err(Landing::Stopped(stop));
            }
            Arc::clone(credential)
        };
        match shared.reach().pass(now) {
            Passage::Open => {}
            Passage::Probe => self.probing = true,
            Passage::Closed(stop) => return Err(Landing::Stopped(stop)),
        }
        Ok((shared.settings.load_full(), credential))
    }

    async fn sign_in(&mut self, settings: &Settings, credential: &Credential) -> Result<Grant, Failure> {
        let (shared, user) = (Arc::clone(&self.shared), Arc::clone(&self.user));
        let Parts { clock, metrics, traces, .. } = &shared.parts;
        let merchant = user.key.merchant.as_str();
        let span = traces.within(Some(&self.span), "sign_in", Kind::Client);
        let sent = clock.now().mono;
        self.sent = true;
        let result = settings.sign_in.sign_in(&user.key, &credential.password, span.context()).await;
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

    /// An answer to anybody means that the vault is there.
    fn vault_answered(&mut self, permit: Permit) {
        self.probing = false;
        if self.shared.reach().answered() {
            info!("the vault answers again");
        }
        self.shared.gate.answered(permit);
    }

    /// Whoever got undocumented answers while the vault was out of order starts anew.
    fn vault_granted(&self) {
        // Apart from the loop, which locks records.
        let forgiven = self.shared.amnesty().granted();
        forgiven.iter().for_each(|user| user.record().pacing.forgive());
    }

    fn vault_failed(&mut self, failure: &Arc<Failure>, permit: Permit) {
        if matches!(**failure, Failure::Undocumented { .. }) {
            self.shared.amnesty().counted(&self.user);
        }
        match &**failure {
            Failure::Refused { .. } | Failure::Throttled { .. } | Failure::Invalid { issued: true, .. } => {
                self.vault_answered(permit)
            }
            // The end of `fly` gives the probe back.
            Failure::Broken => {}
            Failure::Undocumented { .. } | Failure::Unavailable { .. } | Failure::Invalid { issued: false, .. } => {
                self.probing = false;
                let now = self.shared.parts.clock.now().mono;
                let mut reach = self.shared.reach();
                let went_down = reach.failed(&self.user.key, failure, now, self.shared.random());
                let is_down = reach.is_down();
                drop(reach);
                if went_down {
                    self.shared.amnesty().outage();
                    warn!(%failure, "the vault is down: one sign-in at a time finds out when it is back");
                }
                if is_down {
                    self.shared.gate.down(permit);
                }
            }
        }
    }

    /// The token that a grant gives, if any of its life is left.
    fn token(
        &self,
        grant: Grant,
        sent: Moment,
        former: Option<&HeldToken>,
        settings: &Settings,
    ) -> Result<Arc<HeldToken>, Failure> {
        let now = self.shared.parts.clock.now();
        let token = Token {
            id: TokenId::of(grant.access_token.expose()),
            access_token: grant.access_token,
            scope: Arc::from(grant.scope),
            expires: sent.plus(grant.lifetime),
            lifetime: grant.lifetime,
        };
        let bounded = grant.lifetime_is_bounded;
        let jitter = self.shared.quiet_jitter(sent.mono, token.lifetime);
        let held = HeldToken::new(token, bounded, former, settings.renewal, now, jitter);
        if held.left_at(now).is_zero() {
            return Err(Failure::Invalid { cause: "its token had ended before the answer was here", issued: true });
        }
        Ok(Arc::new(held))
    }

    fn succeeded(
        &self,
        sent: Moment,
        held: Arc<HeldToken>,
        former: Option<&HeldToken>,
        version: Version,
        settings: &Settings,
    ) -> Arc<HeldToken> {
        let now = self.shared.parts.clock.now();
        let left = held.left_at(now);
        self.shared.heard().granted = Some(now.wall);
        if self.renewal {
            let in_time = former.is_some_and(|former| !former.left_at(now).is_zero());
            self.shared.parts.metrics.renewal(if in_time { Renewed::Ahead } else { Renewed::Late });
        }
        let mut record = self.user.record();
        let (lifetime, rules) = (held.token.lifetime, &settings.rules);
        let doubled = if record.has_replaced(version) {
            record.pacing.former_succeeded(version, sent.mono, lifetime, left, rules)
        } else {
            record.pacing.succeeded(sent.mono, lifetime, left, rules)
        };
        // A user who was removed meanwhile is forgotten; one whose credential changed gets another token soon.
        if record.credential().is_some() {
            let stored = if record.has_replaced(version) { Arc::new(held.made_due()) } else { Arc::clone(&held) };
            self.shared.parts.cache.put(&self.user.key, &stored);
            self.shared.plan(&mut record, &self.user.key, stored.due_in(now).map(|due| now.mono + due));
        }
        record.flight = None;
        drop(record);

        let (key, token_id, took) = (&self.user.key, held.id(), now.mono.saturating_duration_since(sent.mono));
        let trace = self.span.context().map(|context| context.trace);
        let trace_id = trace.map(tracing::field::display);
        info!(merchant_id = %key.merchant, number = %key.number, %token_id, lifetime_s = left.as_secs(), took_ms = millis(took), trace_id, "signed in");
        audit::sign_in(key, Ok(token_id), took, trace);
        if let Some(floor) = doubled {
            self.shared.parts.metrics.floor_doublings.inc();
            warn!(
                merchant_id = %key.merchant, number = %key.number, floor_s = floor.as_secs(),
                "tokens are rejected soon after their issue, so sign-ins are slowed down: another replica or system that signs \
                 this user in may be revoking them; set vault.renewal = \"at_expiry\", and see that nothing else does"
            );
        }
        held
    }

    fn failed(&self, failure: &Arc<Failure>, sent: Moment, version: Version, settings: &Settings) -> Stop {
        let now = self.shared.parts.clock.now();
        let merchants = matches!(**failure, Failure::Throttled { scope: Scope::Merchant, .. });
        let circumstances = self.shared.circumstances(now.mono);
        let mut record = self.user.record();
        let judged = matches!(**failure, Failure::Refused { .. } | Failure::Undocumented { .. });
        let outdated = judged && record.has_replaced(version);
        let stop = if outdated {
            record.pacing.former_failed(version, Failure::clone(failure), circumstances, &settings.rules)
        } else {
            record.pacing.failed(Failure::clone(failure), circumstances, &settings.rules)
        };
        let definite = matches!(*stop.failure, Failure::Refused { .. });
        // The token held is still good: try again to renew it once the wait is over, unless nothing will change till then.
        let renews = settings.renewal == Renewal::Ahead && (!definite || outdated);
        let held = || self.shared.parts.cache.get(&self.user.key);
        let worth =
            renews && record.credential().is_some() && held().is_some_and(|held| held.left_at(now) > stop.left_at(now.mono));
        self.shared.plan(&mut record, &self.user.key, worth.then_some(stop.until));
        record.flight = None;
        drop(record);
        if merchants {
            self.user.merchant().stop(stop.clone());
        }

        self.shared.heard().failed = Some((now.wall, Arc::clone(failure)));
        if self.renewal {
            self.shared.parts.metrics.renewal(Renewed::Failed);
        }
        let (key, took) = (&self.user.key, now.mono.saturating_duration_since(sent.mono));
        let trace = self.span.context().map(|context| context.trace);
        let trace_id = trace.map(tracing::field::display);
        warn!(
            merchant_id = %key.merchant, number = %key.number, %failure, took_ms = millis(took),
            next_s = stop.left_at(now.mono).as_secs(), whole_merchant = merchants, trace_id, "sign-in failed"
        );
        audit::sign_in(key, Err(failure), took, trace);
        stop
    }

    /// Tells the waiters. The flight has left the record before, together with whatever it learnt.
    fn land(&self, landing: Landing) {
        let failure = match &landing {
            Landing::Token(_) => None,
            Landing::Stopped(stop) => Some(stop.failure.kind()),
            Landing::Gone => Some("gone"),
        };
        self.span.end(failure);
        self.arrivals.land(Some(landing));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.leave(self.renewal);
        if self.probing {
            self.shared.reach().broke_off();
        }
        if !self.arrivals.is_over() {
            let now = self.shared.parts.clock.now().mono;
            let circumstances = self.shared.circumstances(now);
            let mut record = self.user.record();
            // Paused like after any failure, lest a fault of ours hammers the vault.
            let stop = record.pacing.failed(Failure::Broken, circumstances, &self.shared.settings.load().rules);
            record.flight = None;
            drop(record);
            self.shared.renew_later(&self.user, stop.left_at(now));
            if self.sent {
                let merchant = self.user.key.merchant.as_str();
                self.shared.parts.metrics.sign_in(merchant, Failure::Broken.kind(), Duration::ZERO);
                audit::sign_in(&self.user.key, Err(&Failure::Broken), Duration::ZERO, None);
            }
            self.span.end(Some(Failure::Broken.kind()));
            self.arrivals.land(None);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
