//! Callers that want anything a caller may want, and look at what they get.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use token_broker::{
    broker::{Answer, Broker, BrokerError, Outcome, Request},
    caller::CallerId,
    clock::Moment,
    config::Renewal,
    live::{Configuration, Serving, Settings},
    policy::Policy,
    telemetry::traces::Span,
    user::UserKey,
    users::holds::Rules,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    processes::Processes,
    vault::SimulatedVault,
    world::{Force, World},
};

/// Beyond this after its deadline, a caller counts as hung.
const SLACK: Duration = Duration::from_millis(2);
/// Nobody whose token is good waits longer.
const MARGIN_WAIT: Duration = Duration::from_millis(1_002);

/// Calls until `run` is over.
pub(crate) async fn call_on(
    broker: Arc<Broker>,
    world: Arc<World>,
    users: Vec<UserKey>,
    mut random: fastrand::Rng,
    run: Duration,
) {
    let began = Instant::now();
    let mut seen = VecDeque::new();
    while began.elapsed() < run {
        let pause = if random.u8(..4) == 0 { random.u64(..20_000) } else { random.u64(..500) };
        sleep(Duration::from_millis(pause)).await;
        let key = users[random.usize(..users.len())].clone();
        let patience = Duration::from_millis([0, 20, 300, 2_000, 20_000][random.usize(..5)]);
        let request = Request {
            key: Arc::new(key),
            min_remaining: if random.u8(..10) == 0 { Duration::from_secs(random.u64(..100)) } else { Duration::ZERO },
            rejected_token_ids: if random.u8(..6) == 0 {
                seen.iter().take(random.usize(1..=3)).cloned().collect()
            } else {
                Vec::new()
            },
            deadline: Instant::now() + patience,
            span: Span::default(),
        };
        let cancelled_after = (random.u8(..4) == 0).then(|| Duration::from_millis(random.u64(..400)));
        if let Some(id) = call(&broker, &world, request, patience, cancelled_after).await {
            seen.push_front(id);
            seen.truncate(3);
        }
    }
}

async fn call(
    broker: &Broker,
    world: &World,
    request: Request,
    patience: Duration,
    cancelled_after: Option<Duration>,
) -> Option<String> {
    world.called();
    let before = world.now();
    let plain = request.min_remaining.is_zero() && request.rejected_token_ids.is_empty();
    let had = world.with(&request.key, |facts| facts.valid(before).cloned());
    let (configured, generation) = world.configured(&request.key);
    let under = world.under();
    let shown =
        world.with(&request.key, |facts| facts.shown.filter(|shown| shown.rules_out(request.min_remaining, under, before)));
    let in_force = broker.in_force();
    let calling = broker.get_token(in_force, &CallerId::Anonymous, &request, || ());
    let result = match cancelled_after {
        Some(after) => timeout(after, calling).await.ok()?,
        None => calling.await,
    }
    .map_err(|why| why.error);
    let now = world.now();
    let waited = now.mono - before.mono;
    world.note(format!("{} after {waited:?}: {:?}", request.key, result.as_ref().map(|answer| answer.outcome)));
    world.check(waited <= patience + SLACK, || format!("a caller hung: {waited:?} of {patience:?}"));
    let steady = world.configured(&request.key).1 == generation;
    let steadily_configured = configured && steady;
    if !configured && steady {
        world.check(matches!(result, Err(BrokerError::NotConfigured(_))), || {
            format!("{} is not configured, and got {result:?}", request.key)
        });
        return None;
    }
    // A token that was there, and is there still, is available whatever the vault does.
    if let (true, true, Some((_, end))) = (plain, steadily_configured, had) {
        // Unless a clock was set while it waited, and ended the token.
        if !end.left_at(now).is_zero() {
            world.check(result.is_ok(), || format!("{} has a valid token, and got {result:?}", request.key));
            world.check(waited <= MARGIN_WAIT, || format!("{} has a valid token, and waited {waited:?}", request.key));
        }
    }
    if let (true, Some(shown)) = (configured, shown) {
        let known = matches!(result, Err(BrokerError::MinRemainingUnattainable { longest }) if longest <= shown.gave);
        world.check(known && waited.is_zero(), || {
            let wanted = request.min_remaining;
            format!(
                "{} gets {:?} at most, as was shown: asked for {wanted:?}, after {waited:?} it got {result:?}",
                request.key, shown.gave
            )
        });
    }
    match result {
        Ok(answer) => Some(check(world, &request, &answer, (before, now))),
        Err(error) => {
            let never = matches!(error, BrokerError::InvalidRequest(_) | BrokerError::ShuttingDown);
            world.check(!never, || format!("{} got {error}", request.key));
            if let BrokerError::SignInTooSoon { wait } = error {
                let last = world.last_sign_in(&request.key);
                let outlasts = last.is_none_or(|(began, left)| now.mono + wait > began + left);
                world.check(!outlasts || !steady, || format!("{}'s floor outlasts its token", request.key));
            }
            let unknown = matches!(error, BrokerError::NotConfigured(_));
            world.check(!unknown || !steadily_configured, || format!("{} is configured and got {error}", request.key));
            let broken = world.with(&request.key, |facts| facts.broken);
            // A back-off lasts a minute at most.
            let recently = broken.is_some_and(|at| at.elapsed() <= Duration::from_secs(60));
            world.check(error != BrokerError::Internal || recently, || {
                format!("{} got {error} though nothing broke", request.key)
            });
            None
        }
    }
}

/// The answer is this user's, alive by both clocks, and as long-lived as asked.
fn check(world: &World, request: &Request, answer: &Answer, (before, now): (Moment, Moment)) -> String {
    let text = answer.cached.token.access_token.expose();
    let end = world.with(&request.key, |facts| facts.tokens.iter().rev().find(|(token, _)| token == text).map(|(_, end)| *end));
    world.check(text.starts_with(request.key.number.expose()), || format!("{} got a token of somebody else", request.key));
    let was_dropped = world.with(&request.key, |facts| facts.is_dropped(text, before.mono));
    world.check(!was_dropped, || format!("{} got a token that was dropped before it asked", request.key));
    // Who was removed while waiting gets the token all the same, and it is forgotten.
    if end.is_none() && world.was_removed(&request.key) {
        return answer.cached.id().to_string();
    }
    world.check(end.is_some(), || format!("{} got a token that was never issued", request.key));
    let left = end.map_or(Duration::ZERO, |end| end.left_at(now));
    world.check(!left.is_zero(), || format!("{} got an expired token", request.key));
    world.check(left >= request.min_remaining, || format!("{} got {left:?} instead of {:?}", request.key, request.min_remaining));
    let lasts = answer.cached.left_at(answer.at);
    let in_a_loop = answer.renew_in < lasts.min(Duration::from_secs(1)) && matches!(answer.outcome, Outcome::Due | Outcome::Kept);
    world.check(answer.renew_in <= lasts && !in_a_loop, || {
        format!("{} is told to ask again in {:?}, with {lasts:?} left: {:?}", request.key, answer.renew_in, answer.outcome)
    });
    let id = answer.cached.id().to_string();
    let complained = request.rejected_token_ids.contains(&id);
    // The token complained of comes back only as the vault's last word, never from the cache.
    let cached = matches!(answer.outcome, Outcome::Hit | Outcome::Due | Outcome::Kept);
    world.check(!(complained && cached), || format!("{} complained of a token and got it from the cache", request.key));
    id
}

/// Sets the wall clock, forward and back.
pub(crate) async fn set_the_clock(world: Arc<World>, mut random: fastrand::Rng, run: Duration) {
    let began = Instant::now();
    while began.elapsed() < run {
        sleep(Duration::from_millis(random.u64(..60_000))).await;
        world.set_clock(random.i64(-100_000..100_000));
    }
}

/// What an operator may reload.
pub(crate) struct Operator {
    pub(crate) broker: Arc<Broker>,
    pub(crate) world: Arc<World>,
    pub(crate) users: Vec<UserKey>,
    pub(crate) settings: Settings,
    /// The vaults that were ever configured.
    pub(crate) vaults: Vec<Arc<SimulatedVault>>,
    pub(crate) random: fastrand::Rng,
}

impl Operator {
    /// Changes the configuration: raises attempts, removes users and adds them again, and sets all else.
    pub(crate) async fn operate(mut self, run: Duration) -> Self {
        let began = Instant::now();
        while began.elapsed() < run {
            sleep(Duration::from_millis(self.random.u64(..40_000))).await;
            let user = self.users[self.random.usize(..self.users.len())].clone();
            let mut force = self.world.force();
            if self.random.u8(..3) == 0 {
                force = Force::draw(&mut self.random, force.upstream);
                self.settings.renewal = if self.random.bool() { Renewal::Ahead } else { Renewal::AtExpiry };
                self.settings.idle_after = Duration::from_secs(self.random.u64(1..120));
            }
            if self.random.u8(..6) == 0 {
                force.upstream = self.random.u64(..3);
            }
            let mut random = self.random.fork();
            self.put_in_force(force, |configured| {
                let attempt = match (configured.remove(&user), random.bool()) {
                    (Some(_), true) => None,
                    // A credential that is put back is the one that it was.
                    (Some(attempt), false) => Some(if random.bool() { attempt + 1 } else { attempt / 2 }),
                    (None, _) => Some(random.u64(..2)),
                };
                configured.extend(attempt.map(|attempt| (user.clone(), attempt)));
            });
        }
        self
    }

    fn put_in_force(&mut self, force: Force, change: impl FnOnce(&mut std::collections::BTreeMap<UserKey, u64>)) {
        let number = usize::try_from(force.upstream).expect("is small");
        while self.vaults.len() <= number {
            let next = u64::try_from(self.vaults.len()).expect("is small");
            let vault = SimulatedVault::new(Arc::clone(&self.world), next, self.random.fork());
            self.vaults.push(Arc::new(vault));
        }
        let users = self.world.configure(force, change);
        self.world.note(format!("a configuration of {} users: {force:?}, {:?}", users.len(), self.settings.renewal));
        self.settings.upstream = Arc::from(format!("vault {number}"));
        self.settings.sign_in = self.vaults[number].clone();
        self.settings.rules = Rules { min_sign_in_interval: force.floor, refusal_hold: force.hold };
        self.settings.max_concurrent_sign_ins = force.limit;
        self.broker.reconfigure(Configuration {
            users,
            policy: Policy::Everyone,
            settings: self.settings.clone(),
            serving: Serving::default(),
        });
    }

    /// After whatever happened, with vaults that are well: nobody is stuck, no permit is lost, and whoever is asked for has a
    /// token all the time.
    pub(crate) async fn all_is_well(mut self) {
        self.world.heal();
        let configured: Vec<_> = self.users.iter().filter(|user| self.world.configured(user).0).cloned().collect();
        for key in &configured {
            self.is_served(key, Duration::from_secs(5)).await;
        }
        // At a vault of which nothing is known all are cold.
        self.settings.renewal = Renewal::Ahead;
        let force = Force { upstream: (self.world.force().upstream + 1) % 4, ..self.world.force() };
        self.put_in_force(force, |_same| ());
        self.world.peak();
        let mut asking = JoinSet::new();
        for key in &configured {
            let (broker, request) = (Arc::clone(&self.broker), plain(key, Duration::from_secs(30)));
            asking.spawn(async move { broker.get_token(broker.in_force(), &CallerId::Anonymous, &request, || ()).await.is_ok() });
        }
        let served = asking.join_all().await;
        self.world.check(served.iter().all(|served| *served), || format!("all is well, and {served:?} are served"));
        let (peak, most) = (self.world.peak(), force.limit.min(configured.len()));
        self.world.check(peak == most, || format!("{peak} sign-ins at once though {most} may be"));
        let began = Instant::now();
        let current = usize::try_from(force.upstream).expect("is small");
        let is_well = self.vaults.get(current).is_some_and(|vault| !vault.returns_the_same());
        let processes = Processes::new(&self.broker, &self.world, &self.users, is_well, &mut self.random);
        while began.elapsed() < Duration::from_secs(200) {
            for key in &configured {
                self.is_served(key, Duration::from_secs(1)).await;
            }
            processes.are_served(&configured).await;
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn is_served(&self, key: &UserKey, within: Duration) {
        let answer = self.broker.get_token(self.broker.in_force(), &CallerId::Anonymous, &plain(key, within), || ()).await;
        self.world.check(answer.is_ok(), || format!("{key} has none within {within:?} though all is well: {answer:?}"));
    }
}

/// A call for any token.
fn plain(key: &UserKey, patience: Duration) -> Request {
    Request {
        key: Arc::new(key.clone()),
        min_remaining: Duration::ZERO,
        rejected_token_ids: Vec::new(),
        deadline: Instant::now() + patience,
        span: Span::default(),
    }
}
