//! Random histories of two processes' sources over one broker, each from a seed: in paused time, on one thread.

use std::collections::{HashMap, HashSet};

use super::*;

const SEEDS: u64 = 400;
const STEPS: usize = 150;
const USERS: u64 = 3;

/// Small numbers by chance (xorshift64), the same for a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

struct Minted {
    id: String,
    lives: Duration,
    ends: Instant,
}

struct World {
    dice: Mutex<Dice>,
    /// Nothing ever goes wrong.
    well: bool,
    /// Each user's newest token.
    newest: Mutex<HashMap<User, Minted>>,
    ends: Mutex<HashMap<String, Instant>>,
    /// Who has a call under way, by process.
    under_way: Mutex<HashSet<(usize, User)>>,
    calls: Mutex<HashMap<(usize, User), u64>>,
    complaints: Mutex<HashMap<(usize, User), u64>>,
}

struct Process {
    number: usize,
    world: Arc<World>,
}

/// A call, until it ends or is dropped.
struct Going<'a>(&'a World, (usize, User));

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.under_way.lock().expect("no panic").remove(&self.1);
    }
}

impl World {
    fn roll(&self, limit: u64) -> u64 {
        self.dice.lock().expect("no panic").below(limit)
    }

    fn one_in(&self, times: u64) -> bool {
        self.dice.lock().expect("no panic").one_in(times)
    }

    /// As a broker does it: the token that there is, unless it is due or named.
    fn answer(&self, user: &User, rejected: &[String]) -> v1::Token {
        let mut newest = self.newest.lock().expect("no panic");
        let mut ends = self.ends.lock().expect("no panic");
        let is_good = |token: &&Minted| token.ends > now() + token.lives / 4 && !rejected.contains(&token.id);
        if newest.get(user).filter(is_good).is_none() {
            let seconds = if self.well { 60 + self.roll(600) } else { self.roll(200) };
            let lives = Duration::from_secs(seconds);
            let token = Minted { id: format!("{}-{}", user.number(), ends.len()), lives, ends: now() + lives };
            ends.insert(token.id.clone(), token.ends);
            newest.insert(user.clone(), token);
        }
        let token = &newest[user];
        let left = token.ends - now();
        // When the broker has the next one already.
        let share = 0.15 + 0.007 * f64::from(u32::try_from(self.roll(10)).expect("is small"));
        let renew = left.saturating_sub(token.lives.mul_f64(share));
        v1::Token {
            access_token: token.id.clone(),
            token_id: token.id.clone(),
            expires_in: Some(left.try_into().expect("is short")),
            renew_in: Some(renew.try_into().expect("is short")),
            ..v1::Token::default()
        }
    }
}

impl Ask for Process {
    fn ask<'a>(&'a self, user: &'a User, rejected: Vec<String>) -> Asking<'a> {
        Box::pin(async move {
            let (world, who) = (&*self.world, (self.number, user.clone()));
            assert!(world.under_way.lock().expect("no panic").insert(who.clone()), "one call in flight for a user of a process");
            *world.calls.lock().expect("no panic").entry(who.clone()).or_default() += 1;
            let _going = Going(world, who);
            assert!(rejected.len() <= 16);
            let slow = if world.well { 300 } else { 20_000 };
            sleep(Duration::from_millis(world.roll(slow))).await;
            if world.well {
                return Ok(world.answer(user, &rejected));
            }
            match world.roll(12) {
                0 => Err(refusal(Code::Unavailable, None)),
                1 => Err(refusal(Code::Unavailable, Some(SECOND * u32::try_from(world.roll(100)).expect("is small")))),
                2 => Err(refusal(Code::FailedPrecondition, None)),
                3 if world.one_in(4) => panic!("as the dice fell"),
                _ => Ok(world.answer(user, &rejected)),
            }
        })
    }
}

fn judge(world: &World, token: &Token) {
    let ends = world.ends.lock().expect("no panic")[token.id()];
    assert!(ends > now() && !token.expires_in().is_zero(), "{token:?} has ended");
}

/// Plays one; how long it took.
async fn play(seed: u64, well: bool) -> (Arc<World>, Duration) {
    let world = Arc::new(World {
        dice: Mutex::new(Dice(seed * 7919 + 1)),
        well,
        newest: Mutex::default(),
        ends: Mutex::default(),
        under_way: Mutex::default(),
        calls: Mutex::default(),
        complaints: Mutex::default(),
    });
    let process = |number| {
        let asked = Box::new(Process { number, world: Arc::clone(&world) });
        TokenSource::over(asked, TIMEOUT, Handle::current(), Jitter::new(world.roll(u64::MAX)))
    };
    let sources = [process(0), process(1)];
    let (began, mut asking) = (now(), JoinSet::new());
    for _ in 0..STEPS {
        pass(Duration::from_millis(world.roll(if well { 20_000 } else { 8_000 }))).await;
        let number = usize::try_from(world.roll(2)).expect("is small");
        let source = sources[number].clone();
        let user = User::new("m", &format!("+{}", world.roll(USERS)));
        let at_hand = source.cached(&user).inspect(|token| judge(&world, token));
        if let Some(token) = at_hand.filter(|_| world.one_in(20)) {
            let was_held = source.rejected(&token);
            *world.complaints.lock().expect("no panic").entry((number, user.clone())).or_default() += u64::from(was_held);
            assert!(!was_held || source.cached(&user).is_none(), "not handed out before the broker was asked");
            assert!(!source.rejected(&token), "once");
        }
        let (world, gives_up) = (Arc::clone(&world), world.one_in(5));
        asking.spawn(async move {
            let patience = if gives_up { SECOND / 10 } else { TIMEOUT * 2 };
            if let Ok(Ok(token)) = tokio::time::timeout(patience, source.token(&user)).await {
                judge(&world, &token);
            }
        });
        while let Some(ended) = asking.try_join_next() {
            ended.expect("no panic");
        }
    }
    asking.join_all().await;
    // What is under way has brought nothing yet.
    for who in &*world.under_way.lock().expect("no panic") {
        world.calls.lock().expect("no panic").entry(who.clone()).and_modify(|calls| *calls -= 1);
    }
    let took = now() - began;
    (world, took)
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_no_token_has_ended_and_no_user_has_two_calls() {
    for seed in 0..SEEDS {
        let (world, took) = play(seed, false).await;
        for ((process, user), calls) in &*world.calls.lock().expect("no panic") {
            assert!(*calls < took.as_secs() / 2, "seed {seed}: {calls} calls of {process} for {user:?} in {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_is_well_a_user_costs_a_call_a_renewal() {
    for seed in 0..SEEDS {
        let (world, took) = play(seed, true).await;
        let ends = world.ends.lock().expect("no panic");
        let complaints = world.complaints.lock().expect("no panic");
        for (who, calls) in &*world.calls.lock().expect("no panic") {
            let tokens = ends.keys().filter(|id| id.starts_with(&format!("{}-", who.1.number()))).count();
            // Each brings a token that the process did not have; a complaint may come while a call is under way that does not name it.
            let most = u64::try_from(tokens).expect("is small") + complaints.get(who).copied().unwrap_or_default();
            assert!(*calls <= most, "seed {seed}: {calls} calls of {who:?}, {tokens} tokens, in {took:?}");
        }
    }
}
