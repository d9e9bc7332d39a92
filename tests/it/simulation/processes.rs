//! Two processes of callers, each with a [`TokenSource`] of its own over the broker, and what must never be seen of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use token_broker::{
    broker::{Answer, Broker, BrokerError, Outcome, Request},
    caller::CallerId,
    client::{Ask, Asking, ClientError, Token, TokenSource, User, jitter::Jitter},
    proto::v1,
    reason::DOMAIN,
    telemetry::traces::Span,
    user::UserKey,
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::world::World;

const PROCESSES: usize = 2;
/// Of one call, all included.
const CALL_TIME: Duration = Duration::from_secs(5);
/// After an answer with a good token, a process rests so long, unless the token was complained of.
const REST: Duration = Duration::from_secs(1);

/// What one process knows of one user.
#[derive(Default)]
struct Seen {
    calling: bool,
    /// When the last answer came with a token that lived, and which token was the last.
    answered: Option<Instant>,
    id: Option<String>,
    complained: bool,
}

/// What is true of all processes.
struct Truth {
    broker: Arc<Broker>,
    world: Arc<World>,
    keys: Vec<UserKey>,
    /// The vault gives a new token each time, and nothing goes wrong.
    is_well: bool,
    seen: Mutex<HashMap<(usize, User), Seen>>,
}

/// The way to the broker of one of them.
struct Line {
    truth: Arc<Truth>,
    process: usize,
}

/// A call, until it ends or is dropped.
struct Going<'a>(&'a Truth, (usize, User));

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.seen().entry(self.1.clone()).or_default().calling = false;
    }
}

impl Truth {
    fn seen(&self) -> MutexGuard<'_, HashMap<(usize, User), Seen>> {
        self.seen.lock().expect("nobody panics while holding it")
    }

    fn key(&self, user: &User) -> &UserKey {
        self.keys.iter().find(|key| key.number.expose() == user.number()).expect("is one of them")
    }

    /// A call begins: the only one, and not in a loop.
    fn begin(&self, who: &(usize, User), rejected: &[String]) {
        let mut seen = self.seen();
        let Seen { calling, answered, complained, .. } = seen.entry(who.clone()).or_default();
        let twice = std::mem::replace(calling, true);
        let complained = std::mem::take(complained) || !rejected.is_empty();
        let soon = answered.map(|at| at.elapsed()).filter(|rest| *rest < REST && !complained);
        drop(seen);
        self.world.note(format!("process {} asks for {:?}", who.0, who.1));
        self.world.check(!twice, || format!("two calls of process {} for {:?} at once", who.0, who.1));
        self.world.check(soon.is_none(), || format!("process {} asks for {:?} again after {soon:?}", who.0, who.1));
    }

    /// And brings a token. With all well, each call brings one that the process did not have, or was told to come again.
    fn brings(&self, who: &(usize, User), sent: Instant, answer: &Answer, rejected: &[String]) {
        let id = answer.cached.id().to_string();
        let mut seen = self.seen();
        let of = seen.entry(who.clone()).or_default();
        // It may have ended on its way, which is as good as no answer.
        of.answered = (sent + answer.cached.left_at(answer.at) > Instant::now()).then(Instant::now);
        let former = of.id.replace(id.clone());
        drop(seen);
        let too_early = answer.outcome == Outcome::Hit && rejected.is_empty() && former.is_some_and(|former| former == id);
        self.world.check(!too_early || !self.is_well, || {
            format!("process {} asked for {:?} before there was anything new", who.0, who.1)
        });
    }

    /// What a source hands out lives, by the clock that nobody sets.
    fn judge(&self, token: &Token) {
        let now = Instant::now();
        let end = self.world.with(self.key(token.user()), |facts| {
            // A vault that gives the same token again says another end after a clock has jumped.
            facts.tokens.iter().filter(|(text, _)| text == token.secret()).map(|(_, end)| end.mono).max()
        });
        // Of who was removed, nothing is known any more.
        let ended = end.is_some_and(|end| end <= now) || token.expires_in().is_zero();
        self.world.check(!ended, || format!("{token:?} was handed out, and has ended"));
        let whose = self.key(token.user()).number.expose().to_owned();
        self.world.check(token.secret().starts_with(&whose), || format!("{token:?} is somebody else's"));
    }
}

impl Ask for Line {
    fn ask<'a>(&'a self, user: &'a User, rejected: Vec<String>) -> Asking<'a> {
        Box::pin(async move {
            let (truth, who) = (&*self.truth, (self.process, user.clone()));
            truth.begin(&who, &rejected);
            let going = Going(truth, who.clone());
            let sent = Instant::now();
            let request = Request {
                key: Arc::new(truth.key(user).clone()),
                min_remaining: Duration::ZERO,
                rejected_token_ids: rejected.clone(),
                deadline: sent + CALL_TIME,
                span: Span::default(),
            };
            let answer = truth.broker.get_token(truth.broker.in_force(), &CallerId::Anonymous, &request, || {}).await;
            drop(going);
            let answer = answer.map_err(|none| {
                // From here on it is the failure's pause that counts.
                truth.seen().entry(who.clone()).or_default().answered = None;
                refusal(&none.error)
            })?;
            truth.brings(&who, sent, &answer, &rejected);
            let lasts = answer.cached.left_at(answer.at);
            Ok(v1::Token {
                access_token: answer.cached.token.access_token.expose().to_owned(),
                token_id: answer.cached.id().to_string(),
                expires_in: lasts.try_into().ok(),
                renew_in: answer.renew_in.try_into().ok(),
                ..v1::Token::default()
            })
        })
    }
}

/// As the wire has it.
fn refusal(error: &BrokerError) -> ClientError {
    let wait = match error {
        BrokerError::Throttled { wait, .. }
        | BrokerError::VaultUnavailable { wait, .. }
        | BrokerError::VaultResponseInvalid { wait, .. }
        | BrokerError::SignInTooSoon { wait }
        | BrokerError::Overloaded { wait, .. } => Some(*wait),
        _ => None,
    };
    let mut details = ErrorDetails::with_retry_info(wait);
    details.set_error_info(error.reason().as_str(), DOMAIN, HashMap::new());
    ClientError::Status(Box::new(Status::with_error_details(error.reason().code(), error.to_string(), details)))
}

/// The processes.
pub(crate) struct Processes {
    truth: Arc<Truth>,
    sources: Vec<TokenSource>,
    users: Vec<User>,
}

impl Processes {
    pub(crate) fn new(
        broker: &Arc<Broker>,
        world: &Arc<World>,
        keys: &[UserKey],
        is_well: bool,
        random: &mut fastrand::Rng,
    ) -> Self {
        let (broker, world) = (Arc::clone(broker), Arc::clone(world));
        let truth = Arc::new(Truth { broker, world, keys: keys.to_vec(), is_well, seen: Mutex::default() });
        let source = |process| {
            let line = Line { truth: Arc::clone(&truth), process };
            TokenSource::over(Box::new(line), CALL_TIME, Handle::current(), Jitter::new(random.u64(..)))
        };
        let sources = (0..PROCESSES).map(source).collect();
        let users = keys.iter().map(|key| User::new(key.merchant.as_str(), key.number.expose())).collect();
        Self { truth, sources, users }
    }

    /// Their callers ask, wait or go, and complain, until `run` is over.
    pub(crate) async fn live(self, mut random: fastrand::Rng, run: Duration) {
        let began = Instant::now();
        while began.elapsed() < run {
            sleep(Duration::from_millis(random.u64(..2_000))).await;
            let process = random.usize(..PROCESSES);
            let (source, user) = (&self.sources[process], &self.users[random.usize(..self.users.len())]);
            let patience = Duration::from_millis([0, 20, 2_000, 20_000][random.usize(..4)]);
            let Ok(outcome) = timeout(patience, source.token(user)).await else { continue };
            self.truth.world.note(format!("process {process}: {:?}", outcome.as_ref().map(Token::id)));
            let Ok(token) = outcome else { continue };
            self.truth.judge(&token);
            if random.u8(..20) == 0 && source.rejected(&token) {
                self.truth.seen().entry((process, user.clone())).or_default().complained = true;
                let held = source.cached(user);
                self.truth.world.check(held.is_none_or(|held| held.id() != token.id()), || format!("{token:?} is still held"));
            }
        }
    }

    /// With all well, each of these users has a token in each process, always.
    pub(crate) async fn are_served(&self, configured: &[UserKey]) {
        let is_configured = |user: &&User| configured.contains(self.truth.key(user));
        for user in self.users.iter().filter(is_configured) {
            for source in &self.sources {
                let outcome = source.token(user).await;
                self.truth.world.check(outcome.is_ok(), || format!("{user:?} has no token though all is well: {outcome:?}"));
                outcome.iter().for_each(|token| self.truth.judge(token));
            }
        }
    }
}
