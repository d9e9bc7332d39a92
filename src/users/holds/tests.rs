//! Floors, back-offs and holds, by table and property.

mod elsewhere;
mod lifted;

use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::{
    tokens::version::Upstream,
    vault::{Refusal, Scope},
};

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

fn credential(credential: u64) -> Version {
    Version { credential, upstream: Upstream(1) }
}

/// What a failure of the credential that counts comes to.
fn fails(holds: &mut Holds, failure: Failure, now: Circumstances) -> Stop {
    holds.failed(holds.version.unwrap_or_default(), failure, now, &RULES).expect("it counts")
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
    let (mut holds, now) = (Holds::default(), start());
    for widest in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(fails(&mut holds, down(), at(now, 1.0)).left_at(now), secs(widest));
    }
    assert!(fails(&mut holds, down(), at(now, 0.0)).left_at(now) >= secs(3), "a pause, whatever the jitter");
    holds.succeeded(credential(1), now, secs(60), &RULES);
    assert!(holds.stopped(now, &RULES).is_none());
    assert_eq!(fails(&mut holds, down(), at(now, 1.0)).left_at(now), secs(1));
}

#[test]
fn a_hold_that_becomes_shorter_uncovers_no_wait_that_it_outlasted() {
    let (start, lasting) = (start(), Rules { refusal_hold: secs(100), ..RULES });
    let briefly = Rules { refusal_hold: secs(20), ..RULES };
    let refused_then_undocumented = || {
        let mut holds = Holds::default();
        holds.failed(credential(1), refused(), at(start, 1.0), &briefly).expect("it counts");
        // It was tried again once that was over, and the hold became longer meanwhile.
        let stop = holds.failed(credential(1), undocumented(), at(start + secs(30), 1.0), &lasting).expect("it counts");
        assert_eq!(stop.until, start + secs(100));
        holds
    };
    let until = |holds: &Holds| holds.stopped(start + secs(40), &briefly).map(|stop| stop.until);
    let mut holds = refused_then_undocumented();
    assert_eq!(until(&holds), Some(start + secs(90)));
    let mut forgiven = refused_then_undocumented();
    forgiven.forgive(credential(1));
    assert_eq!(until(&forgiven), None, "the refusal's own hold alone is left");

    // As told by another replica, in either order.
    let now = Moment { mono: start + secs(40), wall: SystemTime::UNIX_EPOCH + secs(1_000_000) };
    holds.follow(credential(1), start, &lasting);
    let mut told = Holds::default();
    told.follow(credential(1), start, &lasting);
    told.told(holds.shown(now, &lasting).expect("lasts"), now, &lasting);
    assert_eq!(until(&told), Some(start + secs(90)));
}

#[test]
fn another_credential_begins_its_back_off_anew_and_another_upstream_its_floor() {
    let (mut holds, now) = (Holds::default(), start());
    holds.follow(credential(1), now, &RULES);
    fails(&mut holds, down(), at(now, 1.0));
    holds.follow(credential(2), now, &RULES);
    assert_eq!(fails(&mut holds, down(), at(now, 1.0)).left_at(now), secs(1));

    holds.succeeded(credential(2), now, secs(86_400), &RULES);
    holds.rejected(TokenId::of("a"), now, &RULES);
    assert_eq!(holds.succeeded(credential(2), now, secs(86_400), &RULES), Some(secs(10)));
    holds.rejected(TokenId::of("b"), now, &RULES);
    let elsewhere = Version { upstream: Upstream(2), ..credential(2) };
    holds.follow(elsewhere, now, &RULES);
    assert!(holds.within_floor(now, &RULES).is_none());
    assert_eq!(holds.succeeded(elsewhere, now, secs(86_400), &RULES), None, "nothing of it was rejected");
    holds.rejected(TokenId::of("c"), now, &RULES);
    assert_eq!(holds.succeeded(elsewhere, now, secs(86_400), &RULES), Some(secs(10)));
}

#[test]
fn the_upstreams_own_wait_counts() {
    let (mut holds, now) = (Holds::default(), start());
    let busy = Failure::Unavailable { cause: "busy", wait: Some(secs(120)), vault_error: String::new() };
    assert_eq!(fails(&mut holds, busy, at(now, 1.0)).left_at(now), secs(120));
    let throttled = Failure::Throttled { scope: Scope::User, wait: secs(60), vault_error: String::new() };
    let now = now + secs(120);
    assert_eq!(fails(&mut holds, throttled, at(now, 0.1)).left_at(now), secs(60));
    let refused = Failure::Refused { why: Refusal::Credentials, vault_error: String::new() };
    assert_eq!(fails(&mut holds, refused, at(now, 0.1)).left_at(now), RULES.refusal_hold);
    assert!(holds.stopped(now + RULES.refusal_hold - secs(1), &RULES).is_some());
    assert!(holds.stopped(now + RULES.refusal_hold, &RULES).is_none());
}

#[test]
fn the_floor_is_half_the_lifetime_where_that_is_shorter() {
    let (mut holds, now) = (Holds::default(), start());
    assert!(holds.within_floor(now, &RULES).is_none());
    holds.succeeded(credential(1), now, secs(60), &RULES);
    assert_eq!(holds.within_floor(now, &RULES).expect("just began").next(), now + secs(5));
    assert!(holds.within_floor(now + secs(5), &RULES).is_none());
    holds.succeeded(credential(1), now, secs(4), &RULES);
    assert_eq!(holds.within_floor(now, &RULES).expect("just began").next(), now + secs(2));
}

#[test]
fn where_there_is_no_floor_nothing_doubles() {
    let (mut holds, now, none) = (Holds::default(), start(), Rules { min_sign_in_interval: Duration::ZERO, ..RULES });
    for round in 0..5 {
        assert_eq!(holds.succeeded(credential(1), now, secs(86_400), &none), None);
        assert!(holds.within_floor(now, &none).is_none());
        holds.rejected(TokenId::of(&round.to_string()), now, &none);
    }
    // What was rejected counts once there is one.
    assert_eq!(holds.within_floor(now, &RULES).map(|last| last.floor), Some(secs(80)));
}

#[test]
fn the_floor_doubles_while_tokens_are_rejected_soon() {
    let (mut holds, mut now) = (Holds::default(), start());
    holds.succeeded(credential(1), now, secs(86_400), &RULES);
    for (round, floor) in [10, 20, 40, 80, 160, 320, 600, 600].into_iter().enumerate() {
        let token = TokenId::of(&round.to_string());
        holds.rejected(token, now + secs(1), &RULES);
        holds.rejected(token, now + secs(86_000), &RULES); // late reporters of the same token change nothing
        now = holds.within_floor(now, &RULES).expect("the floor holds").next();
        assert_eq!(holds.succeeded(credential(1), now, secs(86_400), &RULES), Some(secs(floor)));
    }
    holds.rejected(TokenId::of("late"), now + secs(3_600), &RULES);
    assert_eq!(holds.succeeded(credential(1), now + secs(3_600), secs(86_400), &RULES), None, "it lived long enough");
    assert_eq!(holds.within_floor(now + secs(3_600), &RULES).expect("just began").floor, secs(5));
}

#[test]
fn the_third_undocumented_answer_in_a_row_is_a_hold() {
    let (mut holds, now) = (Holds::default(), start());
    assert_eq!(fails(&mut holds, undocumented(), at(now, 0.0)).left_at(now), secs(60));
    // What says nothing of the credential neither counts nor ends the row.
    fails(&mut holds, down(), at(now, 1.0));
    assert_eq!(fails(&mut holds, undocumented(), at(now, 0.0)).left_at(now), secs(600));
    let held = fails(&mut holds, undocumented(), at(now, 0.0));
    assert_eq!((held.left_at(now), held.failure.kind()), (RULES.refusal_hold, "request_rejected"));

    holds.succeeded(credential(1), now, secs(60), &RULES);
    assert_eq!(fails(&mut holds, undocumented(), at(now, 0.0)).left_at(now), secs(60), "a token ends the row");
    let wait = Failure::Undocumented { status: 403, wait: Some(secs(3_600)), vault_error: String::new() };
    assert_eq!(fails(&mut holds, wait, at(now, 0.0)).left_at(now), secs(3_600), "the vault's own wait counts");
}

#[test]
fn what_is_no_http_is_asked_ever_more_rarely_and_holds_nobody() {
    let (mut holds, mut now) = (Holds::default(), start());
    let unread = || Failure::Undocumented { status: crate::vault::UNREADABLE, wait: None, vault_error: String::new() };
    for least in [60, 600, 1_200, 2_400, 4_800] {
        let stop = fails(&mut holds, unread(), at(now, 0.0));
        assert_eq!((stop.left_at(now), stop.failure.kind()), (secs(least), "undocumented"));
        now += secs(least);
    }
}

#[test]
fn waits_in_a_row_grow_while_nobody_gets_a_token() {
    let (mut holds, now) = (Holds::default(), start());
    let throttled = || Failure::Throttled { scope: Scope::User, wait: secs(1), vault_error: String::new() };
    let mut now = now;
    for least in [1, 1, 60, 120, 240] {
        assert_eq!(fails(&mut holds, throttled(), at(now, 0.0)).left_at(now), secs(least));
        now += secs(least);
    }
    let others = Circumstances { grants: 1, ..at(now, 0.0) };
    assert_eq!(fails(&mut holds, throttled(), others).left_at(now), secs(1), "somebody got one: as the vault says");
    // Whatever the answers are, the third that may have judged the credential ends it.
    fails(&mut holds, throttled(), others);
    assert_eq!(fails(&mut holds, undocumented(), others).failure.kind(), "request_rejected");
}

#[test]
fn undocumented_answers_are_forgiven_once_until_there_is_a_token() {
    let (mut holds, now) = (Holds::default(), start());
    let held = |holds: &mut Holds| {
        (0..3).for_each(|_| drop(fails(holds, undocumented(), at(now, 0.0))));
        holds.stopped(now, &RULES).is_some()
    };
    assert!(held(&mut holds));
    holds.forgive(credential(1));
    assert!(holds.stopped(now, &RULES).is_none());
    assert!(held(&mut holds));
    holds.forgive(credential(1));
    assert!(holds.stopped(now, &RULES).is_some(), "once");
    holds.succeeded(credential(1), now, secs(60), &RULES);
    assert!(held(&mut holds));
    holds.forgive(credential(1));
    assert!(holds.stopped(now, &RULES).is_none());

    holds.succeeded(credential(1), now, secs(60), &RULES);
    fails(&mut holds, undocumented(), at(now, 0.0));
    fails(&mut holds, refused(), at(now, 0.0));
    holds.forgive(credential(1));
    assert!(holds.stopped(now, &RULES).is_some(), "a definite no is never forgiven");
}

#[test]
fn what_stood_against_a_version_stands_when_it_comes_back() {
    let now = start();
    for [a, b, c] in [[1, 2, 3].map(credential), [1, 2, 3].map(|n| Version { upstream: Upstream(n), ..credential(1) })] {
        let mut holds = Holds::default();
        holds.follow(a, now, &RULES);
        holds.failed(a, refused(), at(now, 0.0), &RULES);
        holds.follow(b, now, &RULES);
        assert!(holds.stopped(now, &RULES).is_none());
        holds.failed(b, undocumented(), at(now, 0.0), &RULES);
        holds.follow(a, now, &RULES);
        assert!(holds.stopped(now, &RULES).is_some() && holds.remembers(now, &RULES));
        holds.follow(b, now + secs(3_600), &RULES);
        let later = Circumstances { now: now + secs(3_600), ..at(now, 0.0) };
        let second = holds.failed(b, undocumented(), later, &RULES).expect("it counts");
        assert_eq!(second.left_at(later.now), secs(600), "its second");

        // Refused while it was replaced.
        assert!(holds.failed(c, refused(), at(now, 0.0), &RULES).is_none(), "the next may be tried at once");
        holds.follow(c, now, &RULES);
        assert!(holds.stopped(now, &RULES).is_some());
        holds.follow(a, now + RULES.refusal_hold, &RULES);
        assert!(holds.stopped(now + RULES.refusal_hold, &RULES).is_none(), "until the hold ends");
        for version in 10..100 {
            holds.failed(credential(version), refused(), at(now, 0.0), &RULES);
        }
        assert!(holds.rare.as_ref().map_or(0, |rare| rare.former.len()) <= FORMER_MAX);
        // What ends soonest makes room, the newcomer too.
        holds.failed(credential(7), undocumented(), at(now, 0.0), &RULES);
        assert!(holds.rare.iter().flat_map(|rare| &rare.former).all(|(version, _)| *version != credential(7)));
    }
}

#[test]
fn whatever_happened_at_another_upstream_says_nothing_of_this_one() {
    let (mut holds, now) = (Holds::default(), start());
    let (here, there) = (credential(1), Version { upstream: Upstream(2), ..credential(1) });
    holds.follow(there, now, &RULES);
    holds.succeeded(there, now, secs(60), &RULES);
    holds.follow(here, now, &RULES);
    assert!(holds.within_floor(now, &RULES).is_none(), "a floor is for the vault that was asked");
    let throttled = Failure::Throttled { scope: Scope::User, wait: secs(60), vault_error: String::new() };
    for failure in [refused(), undocumented(), throttled, down()] {
        assert!(holds.failed(there, failure, at(now, 1.0), &RULES).is_none());
        assert!(holds.stopped(now, &RULES).is_none());
    }
    holds.succeeded(there, now, secs(60), &RULES);
    assert!(holds.within_floor(now, &RULES).is_none());
    // A throttle at the same one does, whatever the password was.
    holds.failed(credential(7), down(), at(now, 1.0), &RULES).expect("it counts");
    assert!(holds.stopped(now, &RULES).is_some());
}

#[test]
fn what_was_counted_against_another_version_is_forgiven_to_that_one_alone() {
    let (mut holds, now) = (Holds::default(), start());
    let (a, b) = (credential(1), credential(2));
    holds.follow(b, now, &RULES);
    (0..3).for_each(|_| drop(fails(&mut holds, undocumented(), at(now, 0.0))));
    holds.follow(a, now, &RULES);
    fails(&mut holds, undocumented(), at(now, 0.0));
    holds.follow(b, now, &RULES);
    holds.forgive(a);
    assert!(holds.stopped(now, &RULES).is_some(), "its hold is its own");
    holds.follow(a, now, &RULES);
    assert!(holds.stopped(now, &RULES).is_none());
}

#[test]
fn what_is_in_force_judges_what_was_before() {
    let (mut holds, now) = (Holds::default(), start());
    holds.succeeded(credential(1), now, secs(86_400), &RULES);
    let (longer, shorter) = (Rules { min_sign_in_interval: secs(3_600), ..RULES }, Rules { refusal_hold: secs(60), ..RULES });
    assert_eq!(holds.within_floor(now, &longer).expect("it lasts").next(), now + secs(3_600));
    assert_eq!(holds.within_floor(now, &RULES).expect("it lasts").next(), now + secs(5));
    fails(&mut holds, refused(), at(now, 0.0));
    assert_eq!(holds.stopped(now, &shorter).expect("it lasts").until, now + secs(60));
    assert!(holds.stopped(now + secs(60), &shorter).is_none() && holds.stopped(now + secs(60), &RULES).is_some());
}

/// A flight of one credential ends after another, which is held, has come back.
#[test]
fn what_another_credential_ran_into_shortens_no_hold() {
    let (mut holds, now) = (Holds::default(), start());
    let (a, b) = (credential(1), credential(2));
    let throttled = Failure::Throttled { scope: Scope::User, wait: secs(1), vault_error: String::new() };
    holds.follow(a, now, &RULES);
    holds.failed(a, refused(), at(now, 0.0), &RULES);
    holds.follow(b, now + secs(1), &RULES);
    holds.follow(a, now + secs(2), &RULES);
    for failure in [throttled, down(), Failure::Broken] {
        let stop = holds.failed(b, failure, at(now + secs(3), 0.0), &RULES).expect("the vault is the same");
        assert_eq!((stop.failure.kind(), stop.until), (refused().kind(), now + RULES.refusal_hold));
        assert_eq!(holds.stopped(now + secs(3), &RULES).map(|stop| stop.until), Some(now + RULES.refusal_hold));
    }
}

proptest! {
    /// No history of failures makes a back-off longer than a minute, or none at all.
    #[test]
    fn back_off_stays_within_its_bounds(failures in 0..200u32, jitter in -1.0..2.0f64) {
        let (mut holds, now) = (Holds::default(), start());
        for _ in 0..failures {
            fails(&mut holds, down(), at(now, 1.0));
        }
        let left = fails(&mut holds, down(), at(now, jitter)).left_at(now);
        prop_assert!(left >= Duration::from_millis(50) && left <= secs(60), "{left:?}");
    }
}
