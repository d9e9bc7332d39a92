//! Makes calls as fast as they are answered, over plaintext or TLS, for one user or many.
//!
//! `press URL MERCHANT calls=N|seconds=S [connections=4] [streams=8] [users=1] [order=each|random] [seed=1] [ca=FILE]
//! [certificate=FILE key=FILE] [token_file=FILE]` prints one JSON object at the end. With `order=each` users are asked for in turn.
//! It takes one core at most. It must never count a call that got no token: the first that doesn't ends it.

#![allow(clippy::disallowed_methods, reason = "what is measured here is time itself")]

use std::{
    cell::Cell,
    env,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use token_broker_echo::{
    client::{Connection, Failure, Target, request},
    options::Options,
};
use tokio::task::LocalSet;

/// No answer with a token is shorter.
const SMALLEST_MESSAGE_BYTES: usize = 280;
/// How often the clock is looked at, in calls, where the end is a time.
const CLOCK_EVERY: u64 = 64;

/// What is asked for, and how far that is.
struct Plan {
    merchant: String,
    users: usize,
    /// `None`: in turn.
    random: Option<Cell<u64>>,
    /// The one body there is, where there is one user.
    only: Option<Bytes>,
    made: Cell<u64>,
    calls: u64,
    until: Option<Instant>,
}

impl Plan {
    fn read(merchant: &str, options: &mut Options) -> Result<Self, Failure> {
        let users = options.get("users", 1)?;
        let seed = options.get("seed", 1)?;
        let random = match options.get("order", "each".to_owned())?.as_str() {
            "each" => None,
            "random" => Some(Cell::new(seed)),
            other => return Err(format!("order={other}: neither each nor random").into()),
        };
        let only = (users == 1).then(|| request(merchant, 0, Vec::new()));
        let until = options.find("seconds")?.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
        let calls = options.get("calls", if until.is_some() { u64::MAX } else { 0 })?;
        Ok(Self { merchant: merchant.to_owned(), users, random, only, made: Cell::new(0), calls, until })
    }

    /// The next body, or `None` at the end.
    fn next(&self) -> Option<Bytes> {
        let made = self.made.get();
        let late = made.is_multiple_of(CLOCK_EVERY) && self.until.is_some_and(|until| Instant::now() >= until);
        if late {
            self.made.set(self.made.get().max(self.calls));
        }
        if late || made >= self.calls {
            return None;
        }
        self.made.set(made + 1);
        if self.only.is_some() {
            return self.only.clone();
        }
        let drawn = self.random.as_ref().map_or(made, draw);
        // Both are smaller than the number of users, which fits.
        Some(request(&self.merchant, usize::try_from(drawn % self.users as u64).unwrap_or_default(), Vec::new()))
    }
}

/// SplitMix64: every user as likely, and the same sequence for each seed.
fn draw(state: &Cell<u64>) -> u64 {
    state.set(state.get().wrapping_add(0x9E37_79B9_7F4A_7C15));
    let mut mixed = state.get();
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

async fn stream(mut connection: Connection, plan: Rc<Plan>, answered: Rc<Cell<u64>>) -> Result<(), Failure> {
    while let Some(body) = plan.next() {
        let answer = connection.call(body).await?;
        if answer.status != 0 || answer.message.len() < SMALLEST_MESSAGE_BYTES {
            return Err(format!("no token in the answer: status {}, {} bytes", answer.status, answer.message.len()).into());
        }
        answered.set(answered.get() + 1);
    }
    Ok(())
}

async fn run() -> Result<(), Failure> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [url, merchant, options @ ..] = &arguments[..] else {
        return Err("usage: press URL MERCHANT key=value…".into());
    };
    let mut options = Options::new(options)?;
    let target = Target::new(url, &mut options)?;
    let (connections, streams) = (options.get("connections", 4)?, options.get("streams", 8)?);
    let mut opened = Vec::new();
    for _ in 0..connections {
        opened.push(target.connect().await?);
    }
    let plan = Rc::new(Plan::read(merchant, &mut options)?);
    options.end()?;
    let answered = Rc::new(Cell::new(0));
    let began = Instant::now();
    // Each connection has its first stream before any has its second.
    let calling: Vec<_> = (0..streams)
        .flat_map(|_| &opened)
        .map(|connection| tokio::task::spawn_local(stream(connection.clone(), Rc::clone(&plan), Rc::clone(&answered))))
        .collect();
    for ended in calling {
        ended.await??;
    }
    println!(r#"{{"calls":{},"seconds":{:.6}}}"#, answered.get(), began.elapsed().as_secs_f64());
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    LocalSet::new().run_until(run()).await
}
