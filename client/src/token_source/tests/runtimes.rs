//! Callers that go away, runtimes that end, and calls that panic.

use tokio::runtime::Builder;

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

#[test]
fn outside_of_a_runtime_it_says_so_and_hits_are_hits() {
    let broker = Broker::default();
    let source = broker.source();
    let outside = |source: &TokenSource| {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(source.token(&user())).poll(&mut context) {
            std::task::Poll::Ready(outcome) => outcome.map(|token| token.id().to_owned()),
            std::task::Poll::Pending => panic!("it says so at once"),
        }
    };
    assert!(matches!(outside(&source), Err(ClientError::NoRuntime)));
    let first = Builder::new_current_thread().enable_all().build().expect("there is one");
    first.block_on(source.token(&user())).expect("there is one");
    drop(first);
    assert_eq!(outside(&source).expect("is a hit"), "token-0");
    assert!(source.rejected(&source.cached(&user()).expect("is a hit")), "its runtime has ended");
    let second = Builder::new_current_thread().enable_all().build().expect("there is one");
    assert_eq!(second.block_on(source.token(&user())).expect("there is one").id(), "token-1");
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
