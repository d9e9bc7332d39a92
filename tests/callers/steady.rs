//! Steady calls as a Rust service makes them: `steady RATE USERS MERCHANT`, until standard input ends; then one line of JSON. With
//! TOKEN_BROKER_SOURCE in the environment they are asks of a `TokenSource`, most of which its memory answers.
//!
//! It must never slow down when the broker does: a call begins when it is due, and its time counts from then.

#![allow(clippy::disallowed_methods, reason = "what is measured here is time itself")]

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    io::Read as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use token_broker_client::{Client, ClientError, Security, TokenSource, User};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep_until},
};

const CALL_TIME: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Seen {
    calls: u64,
    slowest: Duration,
    /// What went wrong, and how often.
    failed: BTreeMap<String, u64>,
}

#[derive(Clone)]
enum Asked {
    Broker(Client),
    Source(TokenSource),
}

impl Asked {
    /// Whether the token that there is was good when it was asked for.
    async fn good(&self, merchant: &str, number: &str) -> Result<bool, ClientError> {
        let asked = SystemTime::now();
        match self {
            Self::Broker(broker) => {
                let end = broker.token(merchant, number).await?.expires_at.map(SystemTime::try_from);
                Ok(end.is_some_and(|end| end.is_ok_and(|end| end > asked)))
            }
            Self::Source(source) => Ok(!source.token(&User::new(merchant, number)).await?.expires_in().is_zero()),
        }
    }
}

async fn call(broker: Asked, merchant: Arc<str>, number: String, due: Instant, seen: Arc<Mutex<Seen>>) {
    let failure = match broker.good(&merchant, &number).await {
        Ok(true) => None,
        Ok(false) => Some("an expired token".to_owned()),
        Err(error) => {
            let code = error.status().map(|status| status.code());
            Some(format!("{code:?} {:?}: {error}", error.reason()).replace(['"', '\\', '\n'], " "))
        }
    };
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.calls += 1;
    seen.slowest = seen.slowest.max(due.elapsed());
    if let Some(failure) = failure {
        *seen.failed.entry(failure).or_default() += 1;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [rate, users, merchant] = &env::args().skip(1).collect::<Vec<_>>()[..] else {
        return Err("usage: steady RATE USERS MERCHANT".into());
    };
    let (rate, users, merchant): (u32, u32, Arc<str>) = (rate.parse()?, users.parse()?, Arc::from(merchant.as_str()));
    let url = env::var("TOKEN_BROKER_URL")?;
    let broker = match env::var_os("TOKEN_BROKER_SOURCE") {
        None => Asked::Broker(Client::balanced(&url, Security::default())?.timeout(CALL_TIME)),
        Some(_) => Asked::Source(TokenSource::builder().endpoint(url).timeout(CALL_TIME).build()?),
    };
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut calls = JoinSet::new();
    let mut input_ends = spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let mut due = Instant::now();
    for turn in 0_u32.. {
        tokio::select! {
            _ended = &mut input_ends => break,
            () = sleep_until(due) => {}
        }
        let number = format!("+44700{:08}", turn % users);
        calls.spawn(call(broker.clone(), Arc::clone(&merchant), number, Instant::now(), Arc::clone(&seen)));
        while calls.try_join_next().is_some() {}
        due += Duration::from_secs(1) / rate;
    }
    calls.join_all().await;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let failed: Vec<_> = seen.failed.iter().map(|(why, count)| format!("\"{why}\":{count}")).collect();
    let slowest = seen.slowest.as_secs_f64() * 1e3;
    println!(r#"{{"calls":{},"slowest_ms":{slowest:.1},"failed":{{{}}}}}"#, seen.calls, failed.join(","));
    Ok(())
}
