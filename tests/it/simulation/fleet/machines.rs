//! The machines of a fleet: they start, are asked, end and die.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use token_broker::{
    broker::{Answer, Broker, BrokerError, Outcome, Request},
    caller::CallerId,
    config::{Renewal, UserConfig},
    live::{Live, Settings, Snapshot},
    secret::Secret,
    signin::Parts,
    telemetry::traces::Span,
    tier::Tier,
    user::UserKey,
    users::{hold_file::HoldFile, holds::Rules},
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    REPLICAS, RUN, TIMEOUT, USERS,
    server::{Server, Way},
    truth::Truth,
    vault::{FleetVault, MachineClock},
};
use crate::{
    simulation::world::user,
    support::broker_in_memory::{configuration, parts, settings, shared_config},
};

/// Beyond this after its deadline, a caller counts as hung.
const SLACK: Duration = Duration::from_millis(2);

/// A broker, for as long as it runs.
pub(super) struct Replica {
    pub(super) broker: Arc<Broker>,
    pub(super) number: u64,
    pub(super) clock: Arc<MachineClock>,
    closing: CancellationToken,
    pub(super) dead: CancellationToken,
}

pub(super) struct Fleet {
    pub(super) truth: Arc<Truth>,
    pub(super) server: Arc<Server>,
    vault_random: Arc<Mutex<fastrand::Rng>>,
    renewal: Renewal,
    /// What the wall clocks of the machines are wrong by.
    skews: Vec<i64>,
    started: AtomicU64,
    slots: Mutex<Vec<Arc<Replica>>>,
}

impl Fleet {
    pub(super) fn new(truth: Arc<Truth>, random: &mut fastrand::Rng) -> Self {
        // Milliseconds, seconds, or minutes apart.
        let apart = [1, 3_000, 300_000][random.usize(..3)];
        let fleet = Self {
            server: Arc::new(Server::new(Arc::clone(&truth), random.fork())),
            truth,
            vault_random: Arc::new(Mutex::new(random.fork())),
            renewal: if random.bool() { Renewal::Ahead } else { Renewal::AtExpiry },
            skews: (0..REPLICAS).map(|_| random.i64(-apart..=apart)).collect(),
            started: AtomicU64::new(0),
            slots: Mutex::default(),
        };
        for slot in 0..REPLICAS {
            let replica = fleet.start(slot, random.u64(..));
            fleet.slots.lock().expect("no panic").push(replica);
        }
        fleet
    }

    pub(super) fn replica(&self, slot: usize) -> Arc<Replica> {
        Arc::clone(&self.slots.lock().expect("no panic")[slot])
    }

    fn start(&self, slot: usize, seed: u64) -> Arc<Replica> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let clock = Arc::new(MachineClock { truth: Arc::clone(&self.truth), skew: AtomicI64::new(self.skews[slot]) });
        let vault = FleetVault {
            truth: Arc::clone(&self.truth),
            clock: Arc::clone(&clock),
            replica: number,
            random: Arc::clone(&self.vault_random),
        };
        let settings = Settings {
            timeout: TIMEOUT,
            rules: Rules { min_sign_in_interval: self.truth.rules.floor, refusal_hold: self.truth.rules.hold },
            renewal: self.renewal,
            idle_after: Duration::from_secs(30),
            ..settings("vault", Arc::new(vault))
        };
        let users = (0..USERS).map(|n| UserConfig { key: user(n), password: Secret::from("password"), attempt: 0 });
        let parts = parts(Arc::clone(&clock) as _, USERS, seed);
        let way = Arc::new(Way { server: Arc::clone(&self.server), replica: number });
        let tier =
            Tier::reached_by(way, &shared_config(), Arc::clone(&clock) as _, Arc::clone(&parts.metrics), Handle::current());
        let parts = Parts { tier: tier.clone(), ..parts };
        let configuration = configuration(users.collect(), settings);
        let live = Live::new(Snapshot::recalling(HoldFile::default(), tier.versions(), configuration));
        let closing = CancellationToken::new();
        let broker = Arc::new(Broker::new(parts, live, closing.clone()));
        let (renewing, hearing) = (Arc::clone(&broker), Arc::clone(&broker));
        tokio::spawn(async move { renewing.renew_ahead().await });
        tokio::spawn(async move { hearing.hear_of_others().await });
        self.truth.note(format!("replica {number} starts, its clock off by {} ms", self.skews[slot]));
        Arc::new(Replica { broker, number, clock, closing, dead: CancellationToken::new() })
    }

    /// Ends a machine's process at once, as it stands.
    pub(super) fn kill(&self, replica: &Replica) {
        self.truth.kill(replica.number);
        self.server.cut_off(replica.number, true);
        self.server.hang_up(Some(replica.number));
        replica.dead.cancel();
        replica.closing.cancel();
    }

    /// Ends it as `SIGTERM` does.
    async fn close(&self, replica: &Replica) {
        self.truth.note(format!("replica {} closes", replica.number));
        replica.broker.sign_ins_end().await;
        self.truth.ended(replica.number);
        self.server.cut_off(replica.number, true);
        self.server.hang_up(Some(replica.number));
        replica.closing.cancel();
    }

    /// Has another process take a machine over.
    pub(super) fn replace(&self, slot: usize, seed: u64) {
        let next = self.start(slot, seed);
        self.slots.lock().expect("no panic")[slot] = next;
    }

    pub(super) async fn restart_on(self: Arc<Self>, mut random: fastrand::Rng) {
        let began = Instant::now();
        while began.elapsed() < RUN {
            sleep(Duration::from_millis(random.u64(..20_000))).await;
            let slot = random.usize(..REPLICAS);
            let replica = self.replica(slot);
            if random.bool() {
                self.kill(&replica);
                sleep(Duration::from_millis(random.u64(..3_000))).await;
                self.replace(slot, random.u64(..));
            } else {
                self.replace(slot, random.u64(..));
                self.close(&replica).await;
            }
        }
    }

    pub(super) async fn set_clocks_on(self: Arc<Self>, mut random: fastrand::Rng) {
        let began = Instant::now();
        while began.elapsed() < RUN {
            sleep(Duration::from_millis(random.u64(..30_000))).await;
            let (replica, skew) = (self.replica(random.usize(..REPLICAS)), random.i64(-100_000..100_000));
            self.truth.clock_is_set(replica.number, skew);
            replica.clock.skew.store(skew, Ordering::Relaxed);
        }
    }

    /// Calls for anything at any replica.
    pub(super) async fn call_on(self: Arc<Self>, mut random: fastrand::Rng) {
        let (began, mut seen) = (Instant::now(), Vec::new());
        while began.elapsed() < RUN {
            let pause = if random.u8(..4) == 0 { random.u64(..5_000) } else { random.u64(..500) };
            sleep(Duration::from_millis(pause)).await;
            let (replica, key) = (self.replica(random.usize(..REPLICAS)), user(random.usize(..USERS)));
            let patience = Duration::from_millis([0, 20, 300, 2_000, 20_000][random.usize(..5)]);
            let rejected: Vec<_> =
                if random.u8(..8) == 0 { seen.iter().rev().take(random.usize(1..=3)).cloned().collect() } else { Vec::new() };
            let least = if random.u8(..10) == 0 { Duration::from_secs(random.u64(..60)) } else { Duration::ZERO };
            let calling = self.call(&replica, &key, patience, least, rejected);
            let cancelled_after = if random.u8(..4) == 0 { Duration::from_millis(random.u64(..400)) } else { Duration::MAX };
            if let Ok(Some(Ok(answer))) = timeout(cancelled_after, calling).await {
                seen.push(answer.cached.id().to_string());
            }
        }
    }

    /// One call, looked at; none if the replica dies meanwhile.
    pub(super) async fn call(
        &self,
        replica: &Replica,
        key: &UserKey,
        patience: Duration,
        min_remaining: Duration,
        rejected_token_ids: Vec<String>,
    ) -> Option<Result<Answer, BrokerError>> {
        let called = Instant::now();
        self.truth.called();
        let request = Request {
            key: Arc::new(key.clone()),
            min_remaining,
            rejected_token_ids,
            deadline: called + patience,
            span: Span::default(),
        };
        let broker = &replica.broker;
        let calling = broker.get_token(broker.in_force(), &CallerId::Anonymous, &request, || ());
        let result = replica.dead.run_until_cancelled(calling).await?.map_err(|why| why.error);
        let (waited, number) = (called.elapsed(), replica.number);
        let outcome = result.as_ref().map(|answer| answer.outcome);
        self.truth.note(format!("{key} at replica {number} after {waited:?}: {outcome:?}"));
        self.truth.check(waited <= patience + SLACK, || format!("a caller hung: {waited:?} of {patience:?}"));
        if let Ok(answer) = &result {
            let at_once = !matches!(answer.outcome, Outcome::Hit | Outcome::Due) || waited.is_zero();
            self.truth.check(at_once, || format!("a hit at replica {number} took {waited:?}"));
            let id = answer.cached.id().to_string();
            let is_rejected = request.rejected_token_ids.contains(&id);
            self.truth.check(!is_rejected, || format!("{key} got the token that was complained of: {outcome:?}"));
            let now = token_broker::clock::Clock::now(&*replica.clock);
            let text = answer.cached.token.access_token.expose();
            self.truth.answered(number, key, text, called, now, answer.outcome == Outcome::Shared);
            let left = answer.cached.left_at(now);
            self.truth.check(left >= min_remaining, || format!("{key} got {left:?} instead of {min_remaining:?}"));
        }
        Some(result)
    }
}
