//! Callers that go away, runtimes that end, and calls that panic.

use std::{
    task::{Context, Poll, Wake},
    thread::{self, Thread},
};

use tokio::runtime::{Builder, Runtime};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_takes_no_call_along() {
    let broker = Broker::default();
    let source = broker.source();
    broker.holds(true);
    for _ in 0..3 {
        let gone = tokio::time::timeout(SECOND, source.token(&user())).await;
        assert!(gone.is_err(), "it stopped waiting");
    }
    assert_eq!(broker.calls(), 1);
    broker.holds(false);
    settle().await;
    assert_eq!(source.cached(&user()).expect("it came all the same").id(), "token-0");
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_so() {
    let broker = Broker::default();
    let source = broker.source();
    broker.holds(true);
    let began = now();
    let outcome = source.token(&user()).await;
    assert_eq!((code(&outcome), now() - began), (Some(Code::DeadlineExceeded), TIMEOUT));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_panics_poisons_nothing() {
    let broker = Broker::default();
    broker.says([Answer::Panics]);
    let source = broker.source();
    assert_eq!(source.token(&user()).await.expect("the next call does it").id(), "token-1");
    // A renewal that panics leaves the token, and the next hit begins another.
    broker.says([Answer::Panics]);
    for _ in 0..200 {
        pass(SECOND).await;
        assert!(source.cached(&user()).is_some(), "is always there");
    }
    assert!((5..=6).contains(&broker.calls()), "{}", broker.calls());
    // Where all of them do, it is said.
    broker.says((0..100).map(|_| Answer::Panics));
    let dead = source.token(&user()).await.expect("there is one");
    source.rejected(&dead);
    let outcome = source.token(&user()).await;
    assert!(code(&outcome) == Some(Code::Unavailable), "{outcome:?}");
}

/// Far more than anything here takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(30);

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits without any runtime.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => thread::park_timeout(PATIENCE),
        }
    }
}

/// A source on a thread of its own, as callers have it.
fn apart(broker: &Broker, timeout: Duration) -> TokenSource {
    TokenSource::apart(Box::new(broker.clone()), timeout).expect("there is a thread")
}

fn bare() -> Runtime {
    Builder::new_current_thread().build().expect("there is one")
}

/// Has a caller of this runtime begin a call and go.
fn begins(runtime: &Runtime, source: &TokenSource, broker: &Broker) {
    broker.holds(true);
    let gone = runtime.block_on(async { tokio::time::timeout(SECOND / 10, source.token(&user())).await });
    assert!(gone.is_err() && broker.calls() == 1, "it stopped waiting");
}

#[test]
fn callers_need_no_runtime() {
    let broker = Broker::default();
    let source = apart(&broker, TIMEOUT);
    assert_eq!(wait(source.token(&user())).expect("there is one").id(), "token-0");
    let held = source.cached(&user()).expect("is a hit");
    assert!(source.rejected(&held));
    assert_eq!(wait(source.token(&user())).expect("there is the next").id(), "token-1");
    let other = User::new("m", "+44");
    assert_eq!(wait(source.warm(&[user(), other.clone()])).map_err(|failed| failed.len()), Ok(()));
    assert_eq!(source.cached(&other).expect("is a hit").id(), "token-2");
}

#[test]
fn a_runtime_without_a_timer_will_do_and_time_is_kept() {
    let broker = Broker::default();
    let source = apart(&broker, SECOND / 10);
    broker.holds(true);
    assert_eq!(code(&bare().block_on(source.token(&user()))), Some(Code::DeadlineExceeded));
    let failed = bare().block_on(source.warm(&[user()])).expect_err("there is none");
    assert_eq!(failed.len(), 1);
    broker.holds(false);
    bare().block_on(source.warm(&[user()])).expect("there is one");
}

#[test]
fn a_runtime_that_stands_still_holds_up_no_call() {
    let broker = Broker::default();
    let source = apart(&broker, TIMEOUT);
    let still = Builder::new_current_thread().enable_all().build().expect("there is one");
    begins(&still, &source, &broker);
    broker.holds(false);
    // It is there, and nobody drives it.
    assert_eq!(wait(source.token(&user())).expect("there is one").id(), "token-0");
    assert_eq!(still.block_on(source.token(&user())).expect("there is one").id(), "token-0");
    assert_eq!(broker.calls(), 1);
}

#[test]
fn a_runtime_that_ends_takes_no_call_along() {
    let broker = Broker::default();
    let source = apart(&broker, TIMEOUT);
    let ends = Builder::new_current_thread().enable_all().build().expect("there is one");
    begins(&ends, &source, &broker);
    drop(ends);
    let others = thread::scope(|scope| {
        let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| bare().block_on(source.token(&user())))).collect();
        thread::sleep(SECOND / 20);
        broker.holds(false);
        waiting.into_iter().map(|one| one.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert!(others.iter().all(|outcome| outcome.as_ref().is_ok_and(|token| token.id() == "token-0")), "{others:?}");
    assert_eq!(broker.calls(), 1);
}

#[test]
fn the_last_clone_takes_the_thread_along_with_calls_under_way() {
    let broker = Broker::default();
    let source = apart(&broker, TIMEOUT);
    begins(&Builder::new_current_thread().enable_all().build().expect("there is one"), &source, &broker);
    let clone = source.clone();
    drop(source);
    assert!(Arc::strong_count(&broker.0) > 1 && broker.0.under_way.load(Ordering::Relaxed) == 1, "a clone is left");
    drop(clone);
    let is_gone = (0..3_000).any(|_| {
        thread::sleep(SECOND / 100);
        Arc::strong_count(&broker.0) == 1
    });
    assert!(is_gone, "the source is still there");
    assert_eq!(broker.0.under_way.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_dropped_leaves_no_task() {
    let broker = Broker::default();
    let source = broker.source();
    source.token(&user()).await.expect("there is one");
    drop(source);
    pass(1_000 * SECOND).await;
    assert_eq!(broker.calls(), 1);
    assert_eq!(Arc::strong_count(&broker.0), 1);
}

#[tokio::test(start_paused = true)]
async fn warm_tells_who_has_no_token() {
    let broker = Broker::default();
    let source = broker.source();
    assert_eq!(source.warm(&[user(), user()]).await.map_err(|failed| failed.len()), Ok(()));
    broker.says([Answer::Refuses(Code::NotFound, None)]);
    let nobody = User::new("m", "+44");
    let failed = source.warm(&[user(), nobody.clone()]).await.expect_err("one has none");
    assert!(matches!(&failed[..], [(user, error)] if *user == nobody && error.is_permanent()), "{failed:?}");
    assert_eq!(source.counts(), Counts { users: 2, calls: 2, failures: 1, complaints: 0 });
}
