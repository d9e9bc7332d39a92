//! What a hit costs: `cargo run --release --package token-broker-client --example cached`. Nanoseconds of `cached()`, the token dropped
//! again, on one thread and on two at once; of the processor's time, since the machine has other things to do (Linux).

use std::{error::Error, fs, hint::black_box, thread, time::Duration};

use token_broker_client::{Ask, Asking, TokenSource, User, jitter::Jitter, proto::v1::Token};
use tokio::runtime::Handle;

const CALLS: u32 = 5_000_000;
const USERS: usize = 1_000;
/// The best of so many counts.
const ROUNDS: usize = 5;

struct Broker;

impl Ask for Broker {
    fn ask<'a>(&'a self, _user: &'a User, _rejected: Vec<String>) -> Asking<'a> {
        let expires_in = Some(prost_types::Duration { seconds: 3_600, nanos: 0 });
        Box::pin(async move { Ok(Token { access_token: "t".repeat(1_000), expires_in, ..Token::default() }) })
    }
}

/// What this thread has had of the processor so far, in seconds.
fn spent() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse().ok()).map_or(f64::NAN, |nanos: f64| nanos / 1e9)
}

/// Nanoseconds a call, of the slowest thread; each begins at another user.
fn measure(source: &TokenSource, users: &[User], threads: usize) -> f64 {
    let round = || {
        thread::scope(|scope| {
            let run = |thread: usize| {
                move || {
                    let began = spent();
                    let mine = users.iter().cycle().skip(thread * users.len() / threads).take(CALLS as usize);
                    let hits = mine.filter(|user| black_box(source.cached(user)).is_some()).count();
                    assert_eq!(hits, CALLS as usize, "each is a hit");
                    spent() - began
                }
            };
            let running: Vec<_> = (0..threads).map(|thread| scope.spawn(run(thread))).collect();
            running.into_iter().filter_map(|thread| thread.join().ok()).fold(0.0, f64::max)
        })
    };
    (0..ROUNDS).map(|_| round()).fold(f64::MAX, f64::min) * 1e9 / f64::from(CALLS)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<(), Box<dyn Error>> {
    let source = TokenSource::over(Box::new(Broker), Duration::from_secs(1), Handle::current(), Jitter::new(7));
    let user = |number| User::new("bece038f-2e46-49f4-b25e-89cd38d6dc16", &format!("+44{number:010}"));
    let users: Vec<_> = (0..USERS).map(user).collect();
    source.warm(&users).await.map_err(|failed| format!("{failed:?}"))?;
    for (what, users) in [("one user", users.get(..1).unwrap_or_default()), ("1,000 users", &users)] {
        let (one, two) = (measure(&source, users, 1), measure(&source, users, 2));
        println!("{what:12} {one:5.1} ns on one thread, {two:5.1} ns on two");
    }
    Ok(())
}
