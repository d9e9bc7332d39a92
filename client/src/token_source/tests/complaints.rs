//! Tokens that the vault's API answered with 401.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_complaint_goes_out_once_and_late_ones_do_nothing() {
    let broker = Broker::default();
    let source = broker.source();
    let dead = source.token(&user()).await.expect("there is one");
    broker.holds(true);
    assert!(source.rejected(&dead), "is news");
    assert!(source.cached(&user()).is_none() && matches!(source.look(&user()), Err(Missing::Rejected)));
    for _ in 0..10 {
        assert!(!source.rejected(&dead), "is none");
    }
    settle().await;
    assert_eq!((broker.calls(), broker.named(1)), (2, vec!["token-0".to_owned()]));
    broker.holds(false);
    assert_eq!(source.token(&user()).await.expect("there is the next").id(), "token-1");
    assert!(!source.rejected(&dead), "it was replaced");
    settle().await;
    assert_eq!((broker.calls(), source.counts().complaints), (2, 1));
    assert_eq!(source.cached(&user()).expect("the next stands").id(), "token-1");
}

#[tokio::test(start_paused = true)]
async fn each_call_names_all_that_are_dead_while_they_would_have_lived() {
    let broker = Broker::default();
    let source = broker.source();
    for dead in 0..3 {
        let token = source.token(&user()).await.expect("there is one");
        assert_eq!(token.id(), format!("token-{dead}"));
        source.rejected(&token);
    }
    assert_eq!(source.token(&user()).await.expect("there is one").id(), "token-3", "a call more than there are replicas");
    assert_eq!(broker.named(3), ["token-2", "token-1", "token-0"]);
    for _ in 0..200 {
        pass(SECOND).await;
        source.token(&user()).await.expect("there is one");
    }
    assert!(broker.named(broker.calls() - 1).is_empty(), "they would have ended");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_vault_insists_on_is_believed() {
    let broker = Broker::default();
    broker.says((0..10).map(|_| Answer::Token("insisted", 100)));
    let source = broker.source();
    for _ in 0..50 {
        let token = source.token(&user()).await.expect("there is one");
        source.rejected(&token);
    }
    assert_eq!((broker.calls(), broker.named(1)), (2, vec!["insisted".to_owned()]));
    for _ in 0..90 {
        pass(SECOND).await;
        source.token(&user()).await.expect("there is one");
    }
    assert!(broker.calls() > 2 && broker.named(2).is_empty(), "it is named no more");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_under_way_does_not_bring_the_dead_token_back() {
    let broker = Broker::default();
    broker.says([Answer::Token("dead", 100), Answer::Token("dead", 100), Answer::Token("next", 100)]);
    let source = broker.source();
    let dead = source.token(&user()).await.expect("there is one");
    broker.holds(true);
    // Its renewal is under way, and does not name it.
    for _ in 0..90 {
        pass(SECOND).await;
        drop(source.cached(&user()));
    }
    assert_eq!(broker.calls(), 2);
    assert!(source.rejected(&dead));
    broker.holds(false);
    assert_eq!(source.token(&user()).await.expect("there is one").id(), "next");
    assert_eq!((broker.calls(), broker.named(1), broker.named(2)), (3, vec![], vec!["dead".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_complaint_waits_for_a_pushback_too() {
    let broker = Broker::default();
    broker.says([Answer::Token("dead", 1_000), Answer::Refuses(Code::Unavailable, Some(60 * SECOND))]);
    let source = broker.source();
    let dead = source.token(&user()).await.expect("there is one");
    while broker.calls() < 2 {
        pass(SECOND).await;
        drop(source.cached(&user()));
    }
    assert!(source.rejected(&dead));
    settle().await;
    assert_eq!(code(&source.token(&user()).await), Some(Code::Unavailable));
    assert_eq!(broker.calls(), 2);
    pass(67 * SECOND).await;
    source.token(&user()).await.expect("there is the next");
    assert_eq!(broker.named(2), ["dead"]);
}

/// Nobody can say when: it may come while the answer is being noted.
#[tokio::test(start_paused = true)]
async fn a_complaint_that_an_answer_crosses_is_seen_as_it_is_noted() {
    let broker = Broker::default();
    let source = broker.source();
    let dead = source.token(&user()).await.expect("there is one");
    let slot = source.0.users.with(&user(), Arc::clone).expect("is known");
    let (sent, answer) = (now(), |id: &str| {
        let expires_in = Some(prost_types::Duration { seconds: 100, nanos: 0 });
        Ok(v1::Token { token_id: id.to_owned(), expires_in, ..v1::Token::default() })
    });
    broker.holds(true);
    assert!(source.rejected(&dead));
    assert!(slot.settle(&source.0.shared, sent, &[], answer(dead.id()), true).is_none(), "it does not count");
    assert!(source.cached(&user()).is_none(), "and is not handed out");
    let settled = slot.settle(&source.0.shared, sent, &[dead.id().to_owned()], answer(dead.id()), true);
    assert!(settled.is_some() && source.cached(&user()).is_some(), "named, the vault insists on it");
}

#[tokio::test(start_paused = true)]
async fn an_id_that_no_call_may_name_spoils_none() {
    const LONG: &str = "an id of a broker that is none of ours, which is longer than what the contract has";
    let broker = Broker::default();
    broker.says([Answer::Token(LONG, 100), Answer::Token("", 100), Answer::Token("good", 100)]);
    let source = broker.source();
    for _ in 0..2 {
        let dead = source.token(&user()).await.expect("there is one");
        assert!(source.rejected(&dead));
    }
    assert_eq!(source.token(&user()).await.expect("there is another").id(), "good");
    assert_eq!((broker.calls(), broker.named(1), broker.named(2)), (3, vec![], vec![]));
}
