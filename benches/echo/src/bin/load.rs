//! Asks a broker for many users' tokens at a steady rate, and tells how long the answers took and what they were.
//!
//! `load ENDPOINT MERCHANT USERS RATE SECONDS` makes RATE calls a second, user after user, and prints one JSON object at the end.
//! It must never slow down when the broker does: a call begins when it is due, whatever became of the last, and its time counts
//! from then.

#![allow(clippy::disallowed_methods, reason = "what is measured here is time itself")]

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use token_broker_echo::{number, proto};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

/// As a few dozen pods would, each with a channel of its own.
const CONNECTIONS: usize = 8;
/// The upper ends of the classes of times, in milliseconds.
const CLASSES: [u64; 7] = [1, 2, 5, 20, 100, 1_000, 30_000];
/// What callers in a hurry would set.
const DEADLINE: Duration = Duration::from_secs(30);

type Client = proto::token_broker_service_client::TokenBrokerServiceClient<Channel>;

#[derive(Default)]
struct Seen {
    /// How many calls took at most so many milliseconds, and longer than the class before.
    times: BTreeMap<u64, u64>,
    /// How many ended so: `OK`, or the code of the error and its text.
    ends: BTreeMap<String, u64>,
    worst: Duration,
    /// Tokens that were past their end as they were answered, which none must be.
    expired: u64,
}

impl Seen {
    fn note(&mut self, took: Duration, end: String, expired: bool) {
        let class = CLASSES.into_iter().find(|class| took <= Duration::from_millis(*class)).unwrap_or(u64::MAX);
        *self.times.entry(class).or_default() += 1;
        *self.ends.entry(end).or_default() += 1;
        self.worst = self.worst.max(took);
        self.expired += u64::from(expired);
    }

    fn print(&self) {
        let list = |pairs: Vec<String>| format!("{{{}}}", pairs.join(","));
        let times = list(self.times.iter().map(|(class, count)| format!("\"{class}\":{count}")).collect());
        let ends = list(self.ends.iter().map(|(end, count)| format!("{end:?}:{count}")).collect());
        let worst = self.worst.as_secs_f64() * 1e3;
        println!(r#"{{"times":{times},"ends":{ends},"worst_ms":{worst:.3},"expired":{}}}"#, self.expired);
    }
}

async fn call(mut client: Client, merchant: Arc<str>, user: usize, due: Instant, seen: Arc<Mutex<Seen>>) {
    let asked = SystemTime::now();
    let message =
        proto::GetTokenRequest { merchant_id: merchant.to_string(), number: number(user), ..proto::GetTokenRequest::default() };
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    let (end, expired) = match client.get_token(request).await {
        Ok(reply) => {
            let expires = reply.into_inner().token.and_then(|token| token.expires_at).map(SystemTime::try_from);
            ("OK".to_owned(), !matches!(expires, Some(Ok(expires)) if expires > asked))
        }
        Err(status) => (format!("{:?}", status.code()), false),
    };
    seen.lock().unwrap_or_else(PoisonError::into_inner).note(due.elapsed(), end, expired);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [endpoint, merchant, users, rate, seconds] = &env::args().skip(1).collect::<Vec<_>>()[..] else {
        return Err("usage: load ENDPOINT MERCHANT USERS RATE SECONDS".into());
    };
    let (users, rate, seconds): (usize, u32, u32) = (users.parse()?, rate.parse()?, seconds.parse()?);
    let merchant: Arc<str> = Arc::from(merchant.as_str());
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::new(Endpoint::from_shared(endpoint.clone())?.connect().await?));
    }
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut calls = JoinSet::new();
    let began = Instant::now();
    for (turn, client) in (0..rate * seconds).zip(clients.iter().cycle()) {
        let due = began + Duration::from_secs(1) * turn / rate;
        sleep_until(due).await;
        // The timer's own slack, up to a millisecond, is not the broker's.
        let due = due.max(Instant::now());
        calls.spawn(call(client.clone(), Arc::clone(&merchant), turn as usize % users, due, Arc::clone(&seen)));
        while calls.try_join_next().is_some() {}
    }
    calls.join_all().await;
    seen.lock().unwrap_or_else(PoisonError::into_inner).print();
    Ok(())
}
