//! Floors, back-offs and holds, by table and property.

use proptest::prelude::*;

use super::*;
use crate::vault::{Refusal, Scope};

const RULES: Rules = Rules { min_sign_in_interval: Duration::from_secs(5), refusal_hold: Duration::from_secs(24 * 3_600) };

#[allow(clippy::disallowed_methods, reason = "a fixed point to count from")]
fn start() -> Instant {
    Instant::now()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn at(now: Instant, jitter: f64) -> Circumstances {
    Circumstances { now, jitter, grants: 0 }
}

fn undocumented() -> Failure {
    Failure::Undocumented { status: 403, wait: None, vault_error: "access_denied".to_owned() }
}

fn refused() -> Failure {
    Failure::Refused { why: Refusal::Credentials, vault_error: String::new() }
}

fn down() -> Failure {
    Failure::Unavailable { cause: "down", wait: None, vault_error: String::new() }
}

#[test]
fn back_off_doubles_to_a_minute_and_ends_with_success() {
    let (mut pacing, now) = (Pacing::default(), start());
    for widest in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(pacing.failed(down(), at(now, 1.0), &RULES).left_at(now), secs(widest));
    }
    assert!(pacing.failed(down(), at(now, 0.0), &RULES).left_at(now) >= secs(3), "a pause, whatever the jitter");
    pacing.succeeded(now, secs(60), secs(60), &RULES);
    assert!(pacing.stopped(now).is_none());
    assert_eq!(pacing.failed(down(), at(now, 1.0), &RULES).left_at(now), secs(1));
}

#[test]
fn the_upstreams_own_wait_counts() {
    let (mut pacing, now) = (Pacing::default(), start());
    let busy = Failure::Unavailable { cause: "busy", wait: Some(secs(120)), vault_error: String::new() };
    assert_eq!(pacing.failed(busy, at(now, 1.0), &RULES).left_at(now), secs(120));
    let throttled = Failure::Throttled { scope: Scope::User, wait: secs(60), vault_error: String::new() };
    let now = now + secs(120);
    assert_eq!(pacing.failed(throttled, at(now, 0.1), &RULES).left_at(now), secs(60));
    let refused = Failure::Refused { why: Refusal::Credentials, vault_error: String::new() };
    assert_eq!(pacing.failed(refused, at(now, 0.1), &RULES).left_at(now), RULES.refusal_hold);
    assert!(pacing.stopped(now + RULES.refusal_hold - secs(1)).is_some());
    assert!(pacing.stopped(now + RULES.refusal_hold).is_none());
}

#[test]
fn the_floor_is_half_the_lifetime_where_that_is_shorter() {
    let (mut pacing, now) = (Pacing::default(), start());
    assert!(pacing.within_floor(now).is_none());
    pacing.succeeded(now, secs(60), secs(60), &RULES);
    assert_eq!(pacing.within_floor(now).expect("just began").next(), now + secs(5));
    assert!(pacing.within_floor(now + secs(5)).is_none());
    pacing.succeeded(now, secs(4), secs(4), &RULES);
    assert_eq!(pacing.within_floor(now).expect("just began").next(), now + secs(2));
}

#[test]
fn the_floor_doubles_while_tokens_are_rejected_soon() {
    let (mut pacing, mut now) = (Pacing::default(), start());
    pacing.succeeded(now, secs(86_400), secs(86_400), &RULES);
    for (round, floor) in [10, 20, 40, 80, 160, 320, 600, 600].into_iter().enumerate() {
        let token = TokenId::of(&round.to_string());
        pacing.rejected(token, now + secs(1), &RULES);
        pacing.rejected(token, now + secs(86_000), &RULES); // late reporters of the same token change nothing
        now = pacing.within_floor(now).expect("the floor holds").next();
        assert_eq!(pacing.succeeded(now, secs(86_400), secs(86_400), &RULES), Some(secs(floor)));
    }
    pacing.rejected(TokenId::of("late"), now + secs(3_600), &RULES);
    assert_eq!(pacing.succeeded(now + secs(3_600), secs(86_400), secs(86_400), &RULES), None, "it lived long enough");
    assert_eq!(pacing.within_floor(now + secs(3_600)).expect("just began").floor, secs(5));
}

#[test]
fn the_third_undocumented_answer_in_a_row_is_a_hold() {
    let (mut pacing, now) = (Pacing::default(), start());
    assert_eq!(pacing.failed(undocumented(), at(now, 0.0), &RULES).left_at(now), secs(60));
    // What says nothing of the credential neither counts nor ends the row.
    pacing.failed(down(), at(now, 1.0), &RULES);
    assert_eq!(pacing.failed(undocumented(), at(now, 0.0), &RULES).left_at(now), secs(600));
    let held = pacing.failed(undocumented(), at(now, 0.0), &RULES);
    assert_eq!((held.left_at(now), held.failure.kind()), (RULES.refusal_hold, "request_rejected"));

    pacing.succeeded(now, secs(60), secs(60), &RULES);
    assert_eq!(pacing.failed(undocumented(), at(now, 0.0), &RULES).left_at(now), secs(60), "a token ends the row");
    let wait = Failure::Undocumented { status: 403, wait: Some(secs(3_600)), vault_error: String::new() };
    assert_eq!(pacing.failed(wait, at(now, 0.0), &RULES).left_at(now), secs(3_600), "the vault's own wait counts");
}

#[test]
fn waits_in_a_row_grow_while_nobody_gets_a_token() {
    let (mut pacing, now) = (Pacing::default(), start());
    let throttled = || Failure::Throttled { scope: Scope::User, wait: secs(1), vault_error: String::new() };
    let mut now = now;
    for least in [1, 1, 60, 120, 240] {
        assert_eq!(pacing.failed(throttled(), at(now, 0.0), &RULES).left_at(now), secs(least));
        now += secs(least);
    }
    let others = Circumstances { grants: 1, ..at(now, 0.0) };
    assert_eq!(pacing.failed(throttled(), others, &RULES).left_at(now), secs(1), "somebody got one: as the vault says");
    // Whatever the answers are, the third that may have judged the credential ends it.
    pacing.failed(throttled(), others, &RULES);
    assert_eq!(pacing.failed(undocumented(), others, &RULES).failure.kind(), "request_rejected");
}

#[test]
fn undocumented_answers_are_forgiven_once_until_there_is_a_token() {
    let (mut pacing, now) = (Pacing::default(), start());
    let held = |pacing: &mut Pacing| {
        (0..3).for_each(|_| drop(pacing.failed(undocumented(), at(now, 0.0), &RULES)));
        pacing.stopped(now).is_some()
    };
    assert!(held(&mut pacing));
    pacing.forgive();
    assert!(pacing.stopped(now).is_none());
    assert!(held(&mut pacing));
    pacing.forgive();
    assert!(pacing.stopped(now).is_some(), "once");
    pacing.succeeded(now, secs(60), secs(60), &RULES);
    assert!(held(&mut pacing));
    pacing.forgive();
    assert!(pacing.stopped(now).is_none());

    pacing.succeeded(now, secs(60), secs(60), &RULES);
    pacing.failed(undocumented(), at(now, 0.0), &RULES);
    pacing.failed(refused(), at(now, 0.0), &RULES);
    pacing.forgive();
    assert!(pacing.stopped(now).is_some(), "a definite no is never forgiven");
}

#[test]
fn what_stood_against_a_credential_stands_when_it_comes_back() {
    let (mut pacing, now) = (Pacing::default(), start());
    let [a, b, c] = [Version(1), Version(2), Version(3)];
    pacing.failed(refused(), at(now, 0.0), &RULES);
    pacing.change(a, b, now);
    assert!(pacing.stopped(now).is_none());
    pacing.failed(undocumented(), at(now, 0.0), &RULES);
    pacing.change(b, a, now);
    assert!(pacing.stopped(now).is_some() && pacing.remembers(now));
    pacing.change(a, b, now + secs(3_600));
    let later = Circumstances { now: now + secs(3_600), ..at(now, 0.0) };
    assert_eq!(pacing.failed(undocumented(), later, &RULES).left_at(later.now), secs(600), "its second");

    // Refused while it was replaced.
    let stop = pacing.former_failed(c, refused(), at(now, 0.0), &RULES);
    assert_eq!(stop.until, now, "the next may be tried at once");
    pacing.change(b, c, now);
    assert!(pacing.stopped(now).is_some());
    pacing.change(c, a, now + RULES.refusal_hold);
    assert!(pacing.stopped(now + RULES.refusal_hold).is_none(), "until the hold ends");
    for version in 10..100 {
        pacing.former_failed(Version(version), refused(), at(now, 0.0), &RULES);
    }
    assert!(pacing.former.len() <= FORMER_MAX);
}

/// A flight of one credential ends after another, which is held, has come back.
#[test]
fn what_another_credential_ran_into_shortens_no_hold() {
    let (mut pacing, now) = (Pacing::default(), start());
    let (a, b) = (Version(1), Version(2));
    let throttled = Failure::Throttled { scope: Scope::User, wait: secs(1), vault_error: String::new() };
    pacing.failed(refused(), at(now, 0.0), &RULES);
    pacing.change(a, b, now + secs(1));
    pacing.change(b, a, now + secs(2));
    for failure in [throttled, down(), Failure::Broken] {
        let stop = pacing.failed(failure, at(now + secs(3), 0.0), &RULES);
        assert_eq!((stop.failure.kind(), stop.until), (refused().kind(), now + RULES.refusal_hold));
        assert_eq!(pacing.stopped(now + secs(3)).map(|stop| stop.until), Some(now + RULES.refusal_hold));
    }
}

proptest! {
    /// No history of failures makes a back-off longer than a minute, or none at all.
    #[test]
    fn back_off_stays_within_its_bounds(failures in 0..200u32, jitter in -1.0..2.0f64) {
        let (mut pacing, now) = (Pacing::default(), start());
        for _ in 0..failures {
            pacing.failed(down(), at(now, 1.0), &RULES);
        }
        let left = pacing.failed(down(), at(now, jitter), &RULES).left_at(now);
        prop_assert!(left >= Duration::from_millis(50) && left <= secs(60), "{left:?}");
    }
}
