//! What is true in a simulation: the clocks, the tokens that exist, and every violation seen.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use token_broker::{
    clock::{Clock, Moment},
    config::UserConfig,
    secret::Secret,
    user::{MerchantId, Number, UserKey},
};
use tokio::time::Instant;

use super::judgements::Judged;

/// The least pause after an undocumented answer: the contract's.
const UNDOCUMENTED_FIRST: Duration = Duration::from_secs(60);
/// The wall clock begins here.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// The truth, and who broke its rules.
#[derive(Debug)]
pub(crate) struct World {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// How far the wall clock was set forward or back, in milliseconds.
    skew: i64,
    /// What is in force.
    pub(super) force: Force,
    at_once: usize,
    /// The most there were since that was last asked.
    most_at_once: usize,
    /// Every vault grants at once whatever it is asked for.
    healthy: bool,
    pub(super) users: HashMap<UserKey, Facts>,
    /// Who is configured, with which attempt; the password says the same.
    configured: BTreeMap<UserKey, u64>,
    /// The attempt that counts of each user, or counted last.
    pub(super) attempts: BTreeMap<UserKey, u64>,
    /// Counts the configurations.
    generation: u64,
    history: Vec<String>,
    violations: Vec<String>,
    sign_ins: u64,
    calls: u64,
}

/// What the operator set, beside the users.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Force {
    pub(crate) upstream: u64,
    pub(crate) floor: Duration,
    pub(crate) hold: Duration,
    pub(crate) limit: usize,
}

impl Force {
    pub(crate) fn draw(random: &mut fastrand::Rng, upstream: u64) -> Self {
        Self {
            upstream,
            floor: [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(5)][random.usize(..3)],
            hold: [Duration::from_secs(20), Duration::from_secs(100)][random.usize(..2)],
            limit: random.usize(1..=super::USERS),
        }
    }
}

/// What is true of one user.
#[derive(Debug, Default, Clone)]
pub(crate) struct Facts {
    pub(crate) signing_in: bool,
    /// When it was last taken out of the configuration.
    pub(crate) removed: Option<Instant>,
    /// When a sign-in last panicked.
    pub(crate) broken: Option<Instant>,
    /// No sign-in may begin before this, and why.
    pub(crate) not_before: Option<(Instant, &'static str)>,
    /// The same for all users of its merchant.
    pub(crate) merchant_not_before: Option<(Instant, &'static str)>,
    /// Tokens that an operator dropped, and when.
    pub(super) dropped: Vec<(String, Instant)>,
    /// When the last sign-in that succeeded began, and how long its token lived on.
    pub(crate) last: Option<(Instant, Duration)>,
    /// The same at vaults that counted before: who was not configured meanwhile has the floor as it was left.
    former: BTreeMap<u64, (Instant, Duration)>,
    /// What the last sign-in that succeeded showed of how long tokens live.
    pub(crate) shown: Option<Shown>,
    /// What each vault said of each credential.
    pub(super) judged: BTreeMap<(u64, String), Judged>,
    /// All tokens that the vault gave, and the end of each.
    pub(crate) tokens: Vec<(String, Moment)>,
}

/// What a sign-in showed of how long tokens live.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    /// The configuration and the wall clock that it was begun under: it says nothing of others.
    under: (u64, i64),
    /// What the token had left when it arrived, how long it lived in all, and its end.
    pub(crate) gave: Duration,
    lifetime: Duration,
    end: Moment,
}

impl Facts {
    /// The newest token, if it lives beyond `now` by both clocks.
    pub(crate) fn valid(&self, now: Moment) -> Option<&(String, Moment)> {
        self.newest(now).filter(|(token, _)| !self.is_dropped(token, now.mono))
    }

    /// The same, whether or not the broker still has it.
    pub(crate) fn newest(&self, now: Moment) -> Option<&(String, Moment)> {
        self.tokens.last().filter(|(_, end)| !end.left_at(now).is_zero())
    }

    /// The broker has this token from now on.
    pub(crate) fn has(&mut self, token: String, end: Moment) {
        // Should the vault insist on one that was dropped, that is the token.
        self.dropped.retain(|(dropped, _)| *dropped != token);
        self.tokens.push((token, end));
    }

    /// Whether an operator had dropped the token by then.
    pub(crate) fn is_dropped(&self, token: &str, by: Instant) -> bool {
        self.dropped.iter().any(|(dropped, at)| dropped == token && *at <= by)
    }
}

impl Shown {
    pub(crate) fn new(under: (u64, i64), lifetime: Duration, end: Moment, now: Moment) -> Self {
        Self { under, gave: end.left_at(now), lifetime, end }
    }

    /// Whether no sign-in need be begun for so much life: the last one gave less, and its token can't be due before the middle of its life.
    pub(crate) fn rules_out(&self, wanted: Duration, under: (u64, i64), now: Moment) -> bool {
        self.under == under && self.gave < wanted && self.end.left_at(now) > self.lifetime / 2
    }
}

impl World {
    pub(crate) fn new(force: Force) -> Self {
        Self { began: Instant::now(), state: Mutex::new(State { force, ..State::default() }) }
    }

    pub(crate) fn force(&self) -> Force {
        self.state().force
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    pub(crate) fn now(&self) -> Moment {
        let mono = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + EPOCH + mono.saturating_duration_since(self.began);
        let skew = self.state().skew;
        let by = Duration::from_millis(skew.unsigned_abs());
        Moment { mono, wall: if skew < 0 { wall - by } else { wall + by } }
    }

    pub(crate) fn set_clock(&self, skew: i64) {
        self.note(format!("the wall clock is off by {skew} ms"));
        self.state().skew = skew;
    }

    /// The last sign-in that succeeded at the vault that counts, whether or not another one counted since.
    pub(crate) fn last_sign_in(&self, user: &UserKey) -> Option<(Instant, Duration)> {
        let upstream = self.state().force.upstream;
        self.with(user, |facts| facts.last.or_else(|| facts.former.get(&upstream).copied()))
    }

    /// Which configuration counts, and how far off the wall clock is.
    pub(crate) fn under(&self) -> (u64, i64) {
        let state = self.state();
        (state.generation, state.skew)
    }

    /// From now on every vault is well.
    pub(crate) fn heal(&self) {
        self.note("all is well".to_owned());
        self.state().healthy = true;
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.state().healthy
    }

    /// The most sign-ins at once since the last time that this was asked.
    pub(crate) fn peak(&self) -> usize {
        std::mem::take(&mut self.state().most_at_once)
    }

    pub(crate) fn with<T>(&self, user: &UserKey, change: impl FnOnce(&mut Facts) -> T) -> T {
        change(self.state().users.entry(user.clone()).or_default())
    }

    /// A sign-in begins.
    pub(crate) fn begin(&self, upstream: u64, user: &UserKey, password: &Secret) {
        let now = Instant::now();
        let current = self.configured(user).0 && self.counts(user, password);
        self.check(current, || format!("a sign-in of {user} with a credential that counts no more"));
        let mut state = self.state();
        state.sign_ins += 1;
        state.at_once += 1;
        state.most_at_once = state.most_at_once.max(state.at_once);
        let force = state.force;
        let too_many = state.at_once > force.limit;
        let facts = state.users.entry(user.clone()).or_default();
        let twice = std::mem::replace(&mut facts.signing_in, true);
        let waits = [facts.not_before, facts.merchant_not_before];
        let early = waits.into_iter().flatten().find(|(not_before, _)| now < *not_before).map(|(_, why)| why);
        let floor = facts.last.is_some_and(|(began, left)| now < began + force.floor.min(left / 2));
        let judged = facts.judged.entry((upstream, password.expose().to_owned())).or_default();
        let held = judged.refused.is_some_and(|since| now < since + force.hold);
        let pause = UNDOCUMENTED_FIRST.min(force.hold);
        let known_wrong = held || judged.undocumented.is_some_and(|since| now < since + pause);
        // What is over counts no more, however long holds become.
        (judged.refused, judged.undocumented) = (None, None);
        drop(state);
        self.check(upstream == force.upstream, || format!("a sign-in of {user} at a vault that counts no more"));
        self.check(!too_many, || format!("more sign-ins at once than {}", force.limit));
        self.check(!twice, || format!("two sign-ins of {user} at once"));
        self.check(!known_wrong, || format!("a credential of {user} is sent again, and the vault's no to it holds"));
        self.check(early.is_none(), || format!("a sign-in of {user} inside its {}", early.unwrap_or_default()));
        self.check(!floor, || format!("a sign-in of {user} inside its floor"));
        self.note(format!("sign-in of {user} at vault {upstream}"));
    }

    /// And ends.
    pub(crate) fn end(&self, user: &UserKey, outcome: &str) {
        let mut state = self.state();
        state.at_once -= 1;
        state.users.entry(user.clone()).or_default().signing_in = false;
        drop(state);
        self.note(format!("sign-in of {user}: {outcome}"));
    }

    /// Another configuration is about to be put in force.
    pub(crate) fn configure(&self, next: Force, change: impl FnOnce(&mut BTreeMap<UserKey, u64>)) -> Vec<UserConfig> {
        let mut state = self.state();
        let State { configured, attempts, users, generation, force, .. } = &mut *state;
        let former_force = std::mem::replace(force, next);
        // What was over once may be forgotten, however long holds become.
        let (now, hold) = (Instant::now(), former_force.hold.min(next.hold));
        for judged in users.values_mut().flat_map(|facts| facts.judged.values_mut()) {
            judged.refused = judged.refused.filter(|since| now < *since + hold);
        }
        if former_force.upstream != next.upstream {
            // Nothing that happened at another vault says anything of this one.
            for facts in users.values_mut() {
                facts.tokens.clear();
                (facts.not_before, facts.merchant_not_before) = (None, None);
                facts.former.extend(facts.last.take().map(|last| (former_force.upstream, last)));
            }
        }
        let former = configured.clone();
        change(configured);
        *generation += 1;
        for user in former.keys().filter(|user| !configured.contains_key(*user)) {
            let facts = users.entry(user.clone()).or_default();
            facts.removed = Some(Instant::now());
            facts.tokens.clear();
        }
        for (user, attempt) in configured.iter() {
            let before = attempts.insert(user.clone(), *attempt);
            // Another credential lifts whatever stood against the former, but not the floor; who comes back with the same one is
            // held as before.
            if before.is_some_and(|before| before != *attempt) {
                users.entry(user.clone()).or_default().not_before = None;
            }
        }
        let all = configured.iter();
        all.map(|(key, attempt)| UserConfig { key: key.clone(), password: Secret::from(attempt.to_string()), attempt: *attempt })
            .collect()
    }

    /// Whether the user is configured, and in which generation of the configuration that was found.
    pub(crate) fn configured(&self, user: &UserKey) -> (bool, u64) {
        let state = self.state();
        (state.configured.contains_key(user), state.generation)
    }

    /// Whether the user was taken out of the configuration lately, so that callers who waited then may still get a token.
    pub(crate) fn was_removed(&self, user: &UserKey) -> bool {
        self.with(user, |facts| facts.removed.is_some_and(|at| at.elapsed() <= Duration::from_secs(30)))
    }

    /// Whether this is the credential that counts, or counted last.
    pub(crate) fn counts(&self, user: &UserKey, password: &Secret) -> bool {
        self.state().attempts.get(user).is_some_and(|attempt| attempt.to_string() == password.expose())
    }

    pub(crate) fn called(&self) {
        self.state().calls += 1;
    }

    pub(crate) fn note(&self, what: String) {
        let at = self.began.elapsed();
        self.state().history.push(format!("{at:?} {what}"));
    }

    pub(crate) fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let violation = format!("{:?} {}", self.began.elapsed(), what());
            self.state().violations.push(violation);
        }
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    pub(crate) fn history(&self) -> Vec<String> {
        self.state().history.clone()
    }

    pub(crate) fn sign_ins(&self) -> u64 {
        self.state().sign_ins
    }

    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }
}

/// The clocks of a world.
#[derive(Debug)]
pub(crate) struct SimulatedClock {
    world: std::sync::Arc<World>,
}

impl SimulatedClock {
    pub(crate) fn new(world: std::sync::Arc<World>) -> Self {
        Self { world }
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Moment {
        self.world.now()
    }
}

/// The user with this number; even ones share a merchant.
pub(crate) fn user(n: usize) -> UserKey {
    UserKey {
        merchant: MerchantId::parse(format!("merchant-{}", n % 2)).expect("is valid"),
        number: Number::parse(format!("+44787123{n:04}")).expect("is valid"),
    }
}
