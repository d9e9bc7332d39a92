//! The rules, in paused time, over a broker that says what it is told to.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize},
    },
};

use tokio::{sync::Notify, task::yield_now, time::sleep};
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::*;

mod complaints;
mod histories;
mod renewal;
mod runtimes;

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(30);

/// What the broker does with a call, once it is let.
enum Answer {
    /// A token of this name that lives so many seconds from when it is answered.
    Token(&'static str, i64),
    /// Refuses, with a wait or without.
    Refuses(Code, Option<Duration>),
    Panics,
}

#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Answer>>,
    /// The ids that each call named.
    named: Mutex<Vec<Vec<String>>>,
    calls: AtomicUsize,
    under_way: AtomicUsize,
    /// Where set, each call waits until it is let go.
    holds: AtomicBool,
    go: Notify,
}

/// A broker; with nothing left in its script it gives tokens of 100 s.
#[derive(Clone, Default)]
struct Broker(Arc<Script>);

impl Broker {
    fn source(&self) -> TokenSource {
        TokenSource::over(Box::new(self.clone()), TIMEOUT, Handle::current(), Jitter::new(7))
    }

    fn says(&self, answers: impl IntoIterator<Item = Answer>) -> &Self {
        self.0.answers.lock().expect("no panic").extend(answers);
        self
    }

    fn calls(&self) -> usize {
        self.0.calls.load(Ordering::Relaxed)
    }

    fn holds(&self, holds: bool) {
        self.0.holds.store(holds, Ordering::Relaxed);
        if !holds {
            self.0.go.notify_waiters();
        }
    }

    fn named(&self, call: usize) -> Vec<String> {
        self.0.named.lock().expect("no panic")[call].clone()
    }
}

struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn refusal(code: Code, wait: Option<Duration>) -> ClientError {
    ClientError::Status(Box::new(Status::with_error_details(code, "no", ErrorDetails::with_retry_info(wait))))
}

impl Ask for Broker {
    fn ask<'a>(&'a self, _user: &'a User, rejected: Vec<String>) -> Asking<'a> {
        Box::pin(async move {
            let script = &*self.0;
            assert_eq!(script.under_way.fetch_add(1, Ordering::Relaxed), 0, "one call in flight");
            let _under_way = UnderWay(&script.under_way);
            let call = script.calls.fetch_add(1, Ordering::Relaxed);
            script.named.lock().expect("no panic").push(rejected);
            let go = script.go.notified();
            if script.holds.load(Ordering::Relaxed) {
                go.await;
            }
            let next = script.answers.lock().expect("no panic").pop_front();
            let token = |id: String, seconds| v1::Token {
                access_token: format!("secret-{id}"),
                token_id: id,
                expires_in: Some(prost_types::Duration { seconds, nanos: 0 }),
                ..v1::Token::default()
            };
            match next {
                None => Ok(token(format!("token-{call}"), 100)),
                Some(Answer::Token(id, seconds)) => Ok(token(id.to_owned(), seconds)),
                Some(Answer::Refuses(code, wait)) => Err(refusal(code, wait)),
                Some(Answer::Panics) => panic!("as scripted"),
            }
        })
    }
}

fn user() -> User {
    User::new("m", "+447871239999")
}

/// Lets all tasks go on until each of them waits.
async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

/// Time passes in small steps, so that what falls due in between happens then.
async fn pass(time: Duration) {
    sleep(time).await;
    settle().await;
}

fn code(outcome: &Result<Token, ClientError>) -> Option<Code> {
    outcome.as_ref().err().and_then(ClientError::status).map(Status::code)
}
