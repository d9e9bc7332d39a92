//! When calls are made, and what is handed out meanwhile.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_hit_is_from_memory_and_one_call_serves_all_who_wait() {
    let broker = Broker::default();
    let source = broker.source();
    assert!(source.cached(&user()).is_none() && matches!(source.look(&user()), Err(Missing::NotAsked)));
    broker.holds(true);
    let mut asking = JoinSet::new();
    for _ in 0..100 {
        let source = source.clone();
        asking.spawn(async move { source.token(&user()).await.map(|token| token.id().to_owned()) });
    }
    settle().await;
    assert!(matches!(source.look(&user()), Err(Missing::Asking)));
    broker.holds(false);
    assert!(asking.join_all().await.iter().all(|id| id.as_deref().is_ok_and(|id| id == "token-0")));
    assert_eq!(broker.calls(), 1);
    assert_eq!(source.cached(&user()).expect("is there").secret(), "secret-token-0");
}

#[tokio::test(start_paused = true)]
async fn a_busy_user_costs_one_call_a_renewal_and_never_waits() {
    let broker = Broker::default();
    let source = broker.source();
    source.token(&user()).await.expect("there is one");
    let mut ids = Vec::new();
    for _ in 0..2_000 {
        pass(SECOND / 2).await;
        let token = source.cached(&user()).expect("is always there");
        assert!(!token.expires_in().is_zero());
        ids.push(token.id().to_owned());
    }
    ids.dedup();
    // 1,000 s of tokens that live for 100 s and are renewed after 75 to 85.
    assert!((11..=13).contains(&ids.len()) && broker.calls() <= 14, "{} tokens, {} calls", ids.len(), broker.calls());
}

#[tokio::test(start_paused = true)]
async fn who_is_not_asked_for_is_not_renewed_until_somebody_asks() {
    let broker = Broker::default();
    let long = i64::try_from(IDLE_AFTER.as_secs()).expect("is short") * 4;
    broker.says([Answer::Token("first", long)]);
    let source = broker.source();
    source.token(&user()).await.expect("there is one");
    pass(IDLE_AFTER * 36 / 10).await;
    assert_eq!(broker.calls(), 1, "nobody asked");
    assert_eq!(source.cached(&user()).expect("is good").id(), "first");
    settle().await;
    assert_eq!((broker.calls(), source.cached(&user()).expect("is good").id()), (2, "token-1"), "the hit had it renewed");
    pass(IDLE_AFTER * 10).await;
    // A renewal each 75 to 85 s.
    assert!((2 + 7..=2 + 8).contains(&broker.calls()), "renewed while that was lately: {}", broker.calls());
    assert!(source.cached(&user()).is_none() && matches!(source.look(&user()), Err(Missing::Ended)));
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_leaves_the_token_and_backs_off() {
    let broker = Broker::default();
    broker.says((0..1_000).map(|_| Answer::Refuses(Code::Unavailable, None)));
    broker.0.answers.lock().expect("no panic").push_front(Answer::Token("good", 1_000));
    let source = broker.source();
    source.token(&user()).await.expect("there is one");
    for second in 1..1_000 {
        pass(SECOND).await;
        assert_eq!(source.cached(&user()).expect("is good to its end").id(), "good", "after {second} s");
    }
    let calls = broker.calls();
    // 150 s at least, and 250 at most, of pauses of 30 s at most.
    assert!((6..60).contains(&calls), "{calls} calls");
    pass(SECOND).await;
    assert!(source.cached(&user()).is_none(), "never past its end");
    assert_eq!(code(&source.token(&user()).await), Some(Code::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn the_pushback_is_heeded_and_said_to_whoever_asks_meanwhile() {
    let broker = Broker::default();
    broker.says([Answer::Refuses(Code::Unavailable, Some(60 * SECOND)), Answer::Token("then", 100)]);
    let source = broker.source();
    for _ in 0..59 {
        let error = source.token(&user()).await.expect_err("there is none");
        assert!(error.retry_after() == Some(60 * SECOND) && !error.is_permanent(), "{error}");
        pass(SECOND).await;
    }
    assert!(matches!(source.look(&user()), Err(Missing::Refused(_))));
    assert_eq!(broker.calls(), 1);
    pass(7 * SECOND).await;
    assert_eq!(source.token(&user()).await.expect("there is one").id(), "then");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_repeated_for_each_caller() {
    let broker = Broker::default();
    broker.says((0..100).map(|_| Answer::Refuses(Code::FailedPrecondition, None)));
    let source = broker.source();
    for _ in 0..100 {
        assert!(source.token(&user()).await.expect_err("there is none").is_permanent());
        pass(SECOND).await;
    }
    assert!((9..=11).contains(&broker.calls()), "{} calls", broker.calls());
}

#[tokio::test(start_paused = true)]
async fn tokens_that_are_short_or_have_ended_cause_no_loop() {
    for lives in [-5, 0, 1] {
        let broker = Broker::default();
        broker.says((0..100_000).map(|_| Answer::Token("short", lives)));
        let source = broker.source();
        let began = now();
        while now() < began + 60 * SECOND {
            if let Ok(token) = source.token(&user()).await {
                assert!(!token.expires_in().is_zero(), "never one that has ended");
            }
            sleep(SECOND / 100).await;
        }
        assert!(broker.calls() <= 62 + 300 * usize::from(lives <= 0), "{} calls", broker.calls());
        if lives <= 0 {
            assert!((20..=310).contains(&broker.calls()), "{} calls", broker.calls());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_took_longer_than_its_token_lives_is_repeated_once() {
    let broker = Broker::default();
    broker.says([Answer::Token("late", 5), Answer::Token("in time", 5)]);
    let source = broker.source();
    broker.holds(true);
    let asking = {
        let source = source.clone();
        async move { source.token(&user()).await }
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(asking);
    pass(6 * SECOND).await;
    broker.holds(false);
    let token = tasks.join_next().await.expect("is one").expect("no panic").expect("there is one");
    assert_eq!((token.id(), broker.calls()), ("in time", 2));
}

#[tokio::test(start_paused = true)]
async fn a_pause_made_up_beside_a_good_token_ends_with_it() {
    let broker = Broker::default();
    let refusals = std::iter::repeat_with(|| Answer::Refuses(Code::Unavailable, None)).take(20);
    broker.says([Answer::Token("first", 100)]).says(refusals);
    let source = broker.source();
    source.token(&user()).await.expect("there is one");
    for _ in 0..100 {
        pass(SECOND).await;
        drop(source.cached(&user()));
    }
    // The longest pause while there is none.
    pass(2 * SECOND).await;
    assert!(broker.calls() > 3 && source.cached(&user()).is_none());
    broker.0.answers.lock().expect("no panic").clear();
    source.token(&user()).await.expect("the broker is back, and is asked");
}

#[tokio::test(start_paused = true)]
async fn a_complaint_does_not_wait_for_a_pause_made_up_beside_a_good_token() {
    let broker = Broker::default();
    broker.says([Answer::Token("first", 100), Answer::Refuses(Code::Unavailable, None)]);
    let source = broker.source();
    let token = source.token(&user()).await.expect("there is one");
    while broker.calls() < 2 {
        pass(SECOND / 10).await;
        drop(source.cached(&user()));
    }
    source.rejected(&token);
    source.token(&user()).await.expect("the broker is asked");
}

/// Its slot is held by nobody but the call.
#[tokio::test(start_paused = true)]
async fn a_user_who_is_being_renewed_is_not_forgotten() {
    let broker = Broker::default();
    let source = broker.source();
    source.token(&user()).await.expect("there is one");
    pass(60 * SECOND).await;
    broker.holds(true);
    pass(30 * SECOND).await;
    assert_eq!(broker.calls(), 2, "its renewal is under way");
    let now = source.0.shared.millis(now());
    for n in 0..u64::try_from(user_map::USERS_MAX).expect("is small") + 1 {
        let other = User::new("m", &format!("+44{n:09}"));
        drop(source.0.users.get_or_add(&other, || Slot::new(other.clone(), now + n)));
    }
    assert_eq!(source.0.users.with(&user(), |slot| slot.is_calling()), Some(true));
}
