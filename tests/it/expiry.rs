//! The rules of time, with short lifetimes on real clocks.

use std::time::{Duration, SystemTime};

use token_broker_sandbox::{Fault, Mode};
use tonic::Code;

use crate::support::{PATIENCE, Said, Setting, left};

#[tokio::test]
async fn a_busy_users_token_is_renewed_before_it_ends_without_anybody_waiting() {
    let stage = Setting::vault("min_sign_in_interval = \"0s\"").lifetime(Duration::from_secs(4)).start().await;
    let first = stage.good_token().await;
    // The next one lasts: no other renewal comes.
    stage.sandbox.set_lifetime(Duration::from_secs(3_600));
    // Nobody calls meanwhile: the refresh queue does it.
    stage.sandbox.wait_for_answers(2, PATIENCE).await;
    let renewed = stage.sandbox.requests()[1].at;
    let (now, end) = (SystemTime::now(), SystemTime::try_from(first.expires_at.expect("is set")).expect("is a time"));
    assert!(now - renewed.elapsed() < end, "renewed ahead");
    assert_ne!(stage.good_token().await.token_id, first.token_id);
    assert_eq!(stage.sandbox.sign_ins(), 2, "nobody waits for a sign-in");
}

#[tokio::test]
async fn at_expiry_means_no_sooner() {
    let mut setting = Setting::vault("renewal = \"at_expiry\"\nmin_sign_in_interval = \"0s\"").lifetime(Duration::from_secs(3));
    setting.options.mode = Mode::RevokeOld;
    let stage = setting.start().await;
    let first = stage.good_token().await;
    let end = SystemTime::try_from(first.expires_at.expect("is set")).expect("is a time");
    loop {
        let token = stage.good_token().await;
        if token.token_id != first.token_id {
            break;
        }
        assert!(stage.sandbox.is_live(&token.access_token) || SystemTime::now() >= end, "it ended on its way at the soonest");
        tokio::task::yield_now().await;
    }
    assert!(SystemTime::now() >= end, "the first token was answered to its end");
    assert_eq!(stage.sandbox.sign_ins(), 2);
}

#[tokio::test]
async fn while_the_vault_is_down_the_token_is_answered_to_its_end_and_not_after() {
    let stage = Setting::default().lifetime(Duration::from_secs(4)).start().await;
    let token = stage.good_token().await;
    stage.sandbox.set_always(Some(Fault::html(503)));
    let end = SystemTime::try_from(token.expires_at.expect("is set")).expect("is a time");
    loop {
        let asked = SystemTime::now();
        match stage.token().await {
            Ok(answer) => {
                assert!(asked < end, "answered past its end");
                assert_eq!(answer.token_id, token.token_id);
            }
            Err(_) => {
                assert!(SystemTime::now() >= end, "no answer though the token was valid");
                break;
            }
        }
        tokio::task::yield_now().await;
    }
    let said = stage.refused().await;
    said.check(Code::Unavailable, "VAULT_UNAVAILABLE");
}

#[tokio::test]
async fn a_vault_that_returns_the_same_token_draws_no_storm() {
    let mut setting = Setting::vault("min_sign_in_interval = \"0s\"").lifetime(Duration::from_secs(4));
    setting.options.mode = Mode::SameToken;
    let stage = setting.start().await;
    let first = stage.good_token().await;
    let next = loop {
        match stage.token().await {
            Ok(token) if token.token_id != first.token_id => break token,
            Ok(token) => assert!(left(&token) > Duration::ZERO),
            // In the token's last second such a vault says `expires_in: 0`, which is no token: a short wait is all it costs.
            Err(error) => {
                let said = Said::of(error);
                said.check(Code::Unavailable, "VAULT_RESPONSE_INVALID");
                tokio::time::sleep(said.retry.expect("is told")).await;
            }
        }
        tokio::task::yield_now().await;
    };
    assert!(stage.sandbox.is_live(&next.access_token));
    let sign_ins = stage.sandbox.sign_ins();
    // The first, two renewals that bring the same, one that brings an ended one, and the next token's.
    assert!(sign_ins <= 5, "{sign_ins} sign-ins for two tokens");
}
