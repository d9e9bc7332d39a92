//! Asks for users' tokens at a steady rate, and tells how long the answers took and what they were.
//!
//! `load URL MERCHANT users=N rate=N seconds=S [first=0] [connections=8] [complain=true] [ca=FILE …]` makes `rate` calls a second, user
//! after user from the `first` on, and prints one JSON object at the end. With `complain` each call names the user's last token as
//! rejected. It must never slow down when the server does: a call begins when it is due, whatever became of the last, and its time
//! counts from then.

#![allow(clippy::disallowed_methods, reason = "what is measured here is time itself")]

use std::{
    cell::RefCell,
    collections::BTreeMap,
    env, fs,
    rc::Rc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use prost::Message;
use token_broker_echo::{
    client::{Answer, Connection, Failure, Target, request},
    options::Options,
    proto,
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, LocalSet},
    time::timeout,
};
use tonic::Code;

/// The upper ends of the classes of times, in milliseconds.
const CLASSES: [u64; 7] = [1, 2, 5, 20, 100, 1_000, 30_000];
/// What callers in a hurry would set, in seconds.
const DEADLINE_SECONDS: u64 = 30;
/// Calls are due at multiples of this: a thread can sleep so briefly, give or take a few microseconds, and so often.
const TICK: Duration = Duration::from_micros(100);
/// The shares of calls whose longest time is told, in thousandths.
const QUANTILES: [usize; 3] = [500, 990, 999];

#[derive(Default)]
struct Seen {
    /// Each call's time.
    times: Vec<Duration>,
    /// How many ended so: `OK`, or the code of the error.
    ends: BTreeMap<String, u64>,
    /// Tokens that were past their end as they were answered, which none must be.
    expired: u64,
    /// The last token's id of each user, by its index; empty before the first.
    ids: Vec<String>,
}

impl Seen {
    fn note(&mut self, user: usize, took: Duration, answer: Option<Answer>, asked: SystemTime) {
        self.times.push(took);
        let end = match answer {
            Some(Answer { status: 0, message }) => {
                let token = proto::GetTokenResponse::decode(message).ok().and_then(|reply| reply.token).unwrap_or_default();
                let expires = token.expires_at.map(SystemTime::try_from);
                self.expired += u64::from(!matches!(expires, Some(Ok(expires)) if expires > asked));
                if let Some(id) = self.ids.get_mut(user) {
                    *id = token.token_id;
                }
                "OK".to_owned()
            }
            Some(answer) => format!("{:?}", Code::from_i32(answer.status)),
            None => "no answer".to_owned(),
        };
        *self.ends.entry(end).or_default() += 1;
    }

    fn print(mut self) {
        self.times.sort_unstable();
        let mut classes = BTreeMap::<u64, u64>::new();
        for took in &self.times {
            let class = CLASSES.into_iter().find(|class| *took <= Duration::from_millis(*class)).unwrap_or(u64::MAX);
            *classes.entry(class).or_default() += 1;
        }
        let list = |pairs: Vec<String>| format!("{{{}}}", pairs.join(","));
        let times = list(classes.iter().map(|(class, count)| format!("\"{class}\":{count}")).collect());
        let ends = list(self.ends.iter().map(|(end, count)| format!("{end:?}:{count}")).collect());
        let micros = |took: Option<&Duration>| took.map_or(0.0, |took| took.as_secs_f64() * 1e6);
        let quantile = |share: &usize| {
            let index = (self.times.len() * share).div_ceil(1_000).saturating_sub(1);
            format!("\"{}\":{:.1}", *share as f64 / 10.0, micros(self.times.get(index)))
        };
        let quantiles = list(QUANTILES.iter().map(quantile).collect());
        let worst = micros(self.times.last()) / 1e3;
        let expired = self.expired;
        println!(r#"{{"times":{times},"quantiles_us":{quantiles},"ends":{ends},"worst_ms":{worst:.3},"expired":{expired}}}"#);
    }
}

/// Tells how many calls are due by now, each time that it is more. A thread, since tokio's timer is a millisecond off.
fn tick(rate: u64, calls: u64) -> (Instant, mpsc::UnboundedReceiver<u64>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    // All are due after this.
    let began = Instant::now() + Duration::from_millis(10);
    thread::spawn(move || {
        let mut told = 0;
        while told < calls {
            thread::sleep((began + due(told, rate)).saturating_duration_since(Instant::now()));
            while told < calls && began + due(told, rate) <= Instant::now() {
                told += 1;
            }
            if sender.send(told).is_err() {
                return;
            }
        }
    });
    (began, receiver)
}

/// When the call with this index is due: the first tick at or after its time.
fn due(index: u64, rate: u64) -> Duration {
    let nanos = u128::from(index) * 1_000_000_000 / u128::from(rate);
    let ticks = nanos.div_ceil(TICK.as_nanos());
    TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

async fn call(mut connection: Connection, merchant: Rc<str>, user: (usize, bool), due: Instant, seen: Rc<RefCell<Seen>>) {
    let (user, complain) = user;
    let asked = SystemTime::now();
    let rejected =
        if complain { seen.borrow().ids.get(user).filter(|id| !id.is_empty()).cloned().into_iter().collect() } else { vec![] };
    let answer = timeout(Duration::from_secs(DEADLINE_SECONDS), connection.call(request(&merchant, user, rejected))).await;
    seen.borrow_mut().note(user, due.elapsed(), answer.ok().and_then(Result::ok), asked);
}

async fn run() -> Result<(), Failure> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [url, merchant, options @ ..] = &arguments[..] else {
        return Err("usage: load URL MERCHANT key=value…".into());
    };
    let mut options = Options::new(options)?;
    let mut target = Target::new(url, &mut options)?;
    target.set_deadline(DEADLINE_SECONDS);
    let (first, users): (usize, usize) = (options.get("first", 0)?, options.get("users", 1)?);
    let (rate, seconds): (u64, f64) = (options.get("rate", 1_000)?, options.get("seconds", 10.0)?);
    let (connections, complain) = (options.get("connections", 8)?, options.get("complain", false)?);
    options.end()?;
    let mut opened = Vec::new();
    for _ in 0..connections {
        opened.push(target.connect().await?);
    }
    let merchant: Rc<str> = Rc::from(merchant.as_str());
    let seen = Rc::new(RefCell::new(Seen { ids: vec![String::new(); first + users], ..Seen::default() }));
    let mut calls = JoinSet::new();
    let (began, mut ticks) = tick(rate, (rate as f64 * seconds) as u64);
    let (mut made, mut next) = (0, opened.iter().cycle());
    while let Some(told) = ticks.recv().await {
        for index in made..told {
            let Some(connection) = next.next() else { return Err("no connections".into()) };
            let user = first + usize::try_from(index)? % users;
            let due = began + due(index, rate);
            calls.spawn_local(call(connection.clone(), Rc::clone(&merchant), (user, complain), due, Rc::clone(&seen)));
        }
        made = told;
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
    seen.take().print();
    Ok(())
}

fn main() -> Result<(), Failure> {
    // The kernel may let a sleep last 50 µs longer, or as little as this says; threads inherit it from the one that starts them.
    if let Err(error) = fs::write("/proc/self/timerslack_ns", "1") {
        eprintln!("sleeps will be less exact: {error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run())
}
