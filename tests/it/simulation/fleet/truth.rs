//! What is true of a fleet: whose sign-in is under way where, which tokens there are, and since when the tier has kept its word.

mod acts;
mod answers;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use token_broker::{clock::Moment, user::UserKey};
use tokio::time::Instant;

use self::acts::Drop;
use super::TIMEOUT;

/// All clocks begin here, but for what they are wrong by.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);
/// For so long after its last fault the tier may be unknown to be well: the longest pause before it is connected to, and a try.
const MARGIN: Duration = Duration::from_secs(10);
/// What replicas know of when something was, at a tier that is well: a few ways to it and back.
const SLACK: Duration = Duration::from_millis(30);
/// Others hear of a token within this.
const HEARD: Duration = Duration::from_secs(1);
/// One sign-in surely began before another if it did by so much: a second, and the longest that an answer of the tier takes.
const SURELY: Duration = Duration::from_millis(1_600);
/// The same where a former entry may have been put back, whose age is known to a few seconds only.
const SURELY_LIED_TO: Duration = Duration::from_secs(5);
/// How long a lock lasts; for two of them one replica waits for others' turns.
const LEASE: Duration = TIMEOUT.saturating_add(Duration::from_millis(1_500));
/// Sign-ins of a user that are remembered.
const REMEMBERED: usize = 12;

/// What rules there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) floor: Duration,
    pub(crate) hold: Duration,
}

/// The truth.
#[derive(Debug)]
pub(crate) struct Truth {
    began: Instant,
    pub(super) rules: Rules,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Faults of the tier that last.
    faults: usize,
    /// How many of those are clocks that went back.
    set_back: usize,
    /// When the last one ended.
    calm: Option<Instant>,
    /// Somebody wrote to the server what no replica did.
    has_lied: bool,
    /// What the server's clock is wrong by, in milliseconds.
    server_skew: i64,
    healthy: bool,
    killed: BTreeMap<u64, Instant>,
    /// Those whose process ended by itself.
    ended: BTreeSet<u64>,
    /// When clocks of replicas were last set.
    clocks_set: BTreeMap<u64, Instant>,
    users: BTreeMap<UserKey, Facts>,
    /// What one replica knows for itself.
    own: BTreeMap<(u64, UserKey), Own>,
    history: Vec<String>,
    violations: Vec<String>,
    pub(super) counts: Counts,
}

/// What came to pass.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) sign_ins: u64,
    pub(super) calls: u64,
    /// Tokens of other replicas' that were answered.
    pub(super) shared: u64,
    /// Times that an invariant of the whole fleet was looked at while the tier kept its word.
    pub(super) judged: u64,
}

/// One that was sent to the vault.
#[derive(Clone, Copy, Debug)]
struct SignIn {
    replica: u64,
    began: Instant,
    /// When the vault is done with it, whoever hears of that.
    done: Instant,
}

impl SignIn {
    /// Later than a sign-in may be: the lock on others' may have ended, and nobody is told of it.
    fn is_late(&self) -> bool {
        self.done > self.began + TIMEOUT
    }
}

/// What no replica may do before then, and who knows.
#[derive(Clone, Copy, Debug)]
struct Stop {
    why: &'static str,
    by: SignIn,
    /// Since when.
    at: Instant,
    until: Instant,
}

#[derive(Debug, Default)]
struct Facts {
    sign_ins: Vec<SignIn>,
    stops: Vec<Stop>,
    tokens: Vec<Issued>,
    drops: Vec<Drop>,
}

/// Whether a replica may still wait for others by then. Whoever has waited for two that came late, or were killed, goes ahead of the third
/// without the lock, and so tells nobody.
fn is_patient(sign_ins: &[SignIn], by: Instant, killed: &BTreeMap<u64, Instant>) -> bool {
    let is_waited_for = |other: &&SignIn| {
        let is_lost = other.is_late() || killed.get(&other.replica).is_some_and(|killed| *killed < other.done);
        is_lost && other.began < by && by <= other.done.max(other.began + LEASE) + LEASE * 2
    };
    sign_ins.iter().filter(is_waited_for).count() < 2
}

/// A token.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    text: String,
    by: SignIn,
    /// When it was given.
    at: Instant,
    /// By the clocks of who signed in.
    pub(super) end: Moment,
}

#[derive(Debug, Default)]
struct Own {
    signing_in: bool,
    stops: Vec<Stop>,
    /// When the sign-in began of the newest token that it answered.
    answered: Option<Instant>,
}

impl Truth {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { began: Instant::now(), rules, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    /// Both clocks of a machine that is wrong by so many milliseconds.
    pub(super) fn now(&self, skew: i64) -> Moment {
        let mono = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + EPOCH + mono.saturating_duration_since(self.began);
        let by = Duration::from_millis(skew.unsigned_abs());
        Moment { mono, wall: if skew < 0 { wall - by } else { wall + by } }
    }

    pub(super) fn server_clock(&self) -> SystemTime {
        let skew = self.state().server_skew;
        self.now(skew).wall
    }

    /// Sets the server's clock. Where it goes back, what is new looks like a replay to those who know what was there then, until it is where it
    /// was.
    pub(super) fn set_server_clock(&self, skew: i64) {
        if std::mem::replace(&mut self.state().server_skew, skew) > skew {
            self.fault_begins("its clock goes back");
            self.state().set_back += 1;
        }
    }

    pub(super) fn fault_begins(&self, what: &str) {
        self.note(format!("the tier: {what}"));
        self.state().faults += 1;
    }

    pub(super) fn lie(&self) {
        self.state().has_lied = true;
    }

    pub(super) fn fault_ends(&self) {
        let mut state = self.state();
        state.faults -= 1;
        state.calm = Some(Instant::now());
        drop(state);
        self.note("the tier: over".to_owned());
    }

    /// All is well from now on: the server's clock is long where it was.
    pub(super) fn heal(&self) {
        self.note("the vault is well".to_owned());
        let mut state = self.state();
        state.healthy = true;
        state.faults -= std::mem::take(&mut state.set_back);
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.state().healthy
    }

    pub(super) fn kill(&self, replica: u64) {
        self.note(format!("replica {replica} is killed"));
        self.state().killed.insert(replica, Instant::now());
    }

    pub(super) fn ended(&self, replica: u64) {
        self.state().ended.insert(replica);
    }

    /// Whether there is no process any more that could send a password.
    pub(super) fn is_gone(&self, replica: u64) -> bool {
        let state = self.state();
        state.killed.contains_key(&replica) || state.ended.contains(&replica)
    }

    pub(super) fn is_killed(&self, replica: u64) -> bool {
        self.state().killed.contains_key(&replica)
    }

    pub(super) fn clock_is_set(&self, replica: u64, skew: i64) {
        self.note(format!("the clock of replica {replica} is off by {skew} ms"));
        self.state().clocks_set.insert(replica, Instant::now());
    }

    /// A replica sends a password, with which the vault is done at `done`.
    pub(super) fn begin(&self, replica: u64, user: &UserKey, done: Instant) -> Began {
        let (now, mut found) = (Instant::now(), Vec::new());
        let mut state = self.state();
        state.counts.sign_ins += 1;
        let own = state.own.entry((replica, user.clone())).or_default();
        if std::mem::replace(&mut own.signing_in, true) {
            found.push(format!("two sign-ins of {user} at once by replica {replica}"));
        }
        // What another was granted at about the same time may count as later.
        let tokens = state.users.get(user).map(|facts| facts.tokens.clone()).unwrap_or_default();
        let is_contested = |stop: &Stop| {
            let others = |issued: &&Issued| issued.by.replica != stop.by.replica && issued.by.began <= stop.by.done;
            tokens.iter().filter(others).any(|issued| issued.at + SURELY >= stop.by.began)
        };
        // By a former entry and a clock that is behind, it can be fooled: nothing tells how old an act or a token is any more.
        let is_fooled = state.has_lied && state.set_back > 0;
        let own = state.own.entry((replica, user.clone())).or_default();
        if let Some(stop) = own.stops.iter().find(|stop| now < stop.until && !is_contested(stop) && !is_fooled) {
            found.push(format!("replica {replica} signs {user} in inside its own {}", stop.why));
        }
        let (mut judged, by) = (0, SignIn { replica, began: now, done });
        let facts = state.users.entry(user.clone()).or_default();
        let (others, stops) = (facts.sign_ins.clone(), facts.stops.clone());
        facts.sign_ins.push(by);
        let surplus = facts.sign_ins.len().saturating_sub(REMEMBERED);
        facts.sign_ins.drain(..surplus);
        let is_patient_now = is_patient(&others, now, &state.killed);
        for other in others.iter().filter(|other| is_patient_now && state.keeps_its_word(other.began)) {
            judged += 1;
            if now < other.done.min(other.began + TIMEOUT) {
                found.push(format!("replicas {} and {replica} sign {user} in at once", other.replica));
            }
        }
        // Who was killed may not have told, and who was late, or went ahead, has not.
        let is_told = |stop: &&Stop| {
            !stop.by.is_late()
                && !state.killed.contains_key(&stop.by.replica)
                && is_patient(&others, stop.by.began, &state.killed)
        };
        let told = stops.iter().filter(|_| is_patient_now).filter(is_told).filter(|stop| state.keeps_its_word(stop.by.began));
        for stop in told {
            judged += 1;
            // Of a merchant's wait others hear, who have another user's lock.
            let is_heard = stop.why != "merchant's wait" || stop.at + SLACK <= now;
            if is_heard && now + SLACK < stop.until {
                let (of, why) = (stop.by.replica, stop.why);
                found.push(format!("replica {replica} signs {user} in inside the {why} that replica {of} was told"));
            }
        }
        state.counts.judged += judged;
        drop(state);
        self.note(format!("replica {replica} signs {user} in"));
        found.into_iter().for_each(|what| self.check(false, || what));
        Began(by)
    }

    pub(super) fn end(&self, user: &UserKey, Began(by): Began, outcome: &str) {
        self.state().own.entry((by.replica, user.clone())).or_default().signing_in = false;
        self.note(format!("replica {} signed {user} in: {outcome}", by.replica));
    }

    /// Nobody signs these users in before then.
    pub(super) fn stop(&self, users: &[UserKey], Began(by): Began, why: &'static str, until: Instant) {
        let stop = Stop { why, by, at: Instant::now(), until };
        let mut state = self.state();
        for user in users {
            state.own.entry((by.replica, user.clone())).or_default().stops.push(stop);
            state.users.entry(user.clone()).or_default().stops.push(stop);
        }
    }

    /// A token was given, which is at the replica now.
    pub(super) fn issue(&self, user: &UserKey, Began(by): Began, text: String, end: Moment, left: Duration) {
        // One that ended on the way is no token.
        if left.is_zero() {
            return;
        }
        let at = Instant::now();
        let mut state = self.state();
        // What stood against the credential does no longer, for whoever hears of it, and its floor is another.
        let stays = |stop: &Stop| stop.why == "merchant's wait";
        let facts = state.users.entry(user.clone()).or_default();
        facts.stops.retain(stays);
        facts.tokens.push(Issued { text, by, at, end });
        for (_, own) in state.own.iter_mut().filter(|((_, of), _)| of == user) {
            own.stops.retain(stays);
        }
        drop(state);
        self.stop(std::slice::from_ref(user), Began(by), "floor", by.began + self.rules.floor.min(left / 2));
    }

    pub(super) fn called(&self) {
        self.state().counts.calls += 1;
    }

    pub(super) fn note(&self, what: String) {
        let at = self.began.elapsed();
        self.state().history.push(format!("{at:?} {what}"));
    }

    pub(super) fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let violation = format!("{:?} {}", self.began.elapsed(), what());
            self.state().violations.push(violation);
        }
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    pub(super) fn history(&self) -> Vec<String> {
        self.state().history.clone()
    }

    pub(super) fn counts(&self) -> Counts {
        self.state().counts
    }
}

/// A sign-in that began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began(SignIn);

impl State {
    /// Whether the tier has kept its word, and replicas have known that it does, from then on.
    fn keeps_its_word(&self, since: Instant) -> bool {
        self.faults == 0 && self.calm.is_none_or(|calm| calm + MARGIN <= since)
    }
}
