//! What other replicas say of a user.

use std::time::SystemTime;

use super::*;

fn moment(mono: Instant) -> Moment {
    Moment { mono, wall: SystemTime::UNIX_EPOCH + secs(1_800_000_000) }
}

/// Two replicas' records of one credential.
fn replicas(now: Instant) -> [Holds; 2] {
    let mut pair = [Holds::default(), Holds::default()];
    pair.iter_mut().for_each(|holds| holds.follow(credential(1), now, &RULES));
    pair
}

#[test]
fn a_refusal_holds_where_it_is_told() {
    let now = start();
    let [mut one, mut other] = replicas(now);
    fails(&mut one, refused(), at(now, 0.0));
    let later = Moment { mono: now + secs(100), wall: moment(now).wall + secs(100) };
    other.told(one.shown(later, &RULES).expect("it lasts"), later, &RULES);
    assert_eq!(other.stopped(later.mono, &RULES).expect("is held").until, now + RULES.refusal_hold);
    let [_, mut third] = replicas(now);
    third.follow(credential(2), now, &RULES);
    third.told(one.shown(later, &RULES).expect("it lasts"), later, &RULES);
    assert!(third.stopped(later.mono, &RULES).is_none(), "another credential is another matter");
    other.follow(credential(2), later.mono, &RULES);
    other.follow(credential(1), later.mono, &RULES);
    assert!(other.stopped(later.mono, &RULES).is_some(), "it is remembered like one's own");
}

#[test]
fn tries_are_counted_in_all() {
    let now = start();
    let [mut one, mut other] = replicas(now);
    fails(&mut one, undocumented(), at(now, 0.0));
    other.told(one.shown(moment(now), &RULES).expect("it is counted"), moment(now), &RULES);
    fails(&mut other, undocumented(), at(now + secs(60), 0.0));
    let then = now + secs(60);
    one.told(other.shown(moment(then), &RULES).expect("it is counted"), moment(then), &RULES);
    let stop = fails(&mut one, undocumented(), at(now + secs(660), 0.0));
    assert_eq!(stop.left_at(now + secs(660)), RULES.refusal_hold, "the third of all is a hold");
    // What is told late says nothing new.
    let before = one.stopped(now + secs(700), &RULES).expect("is held").until;
    one.told(other.shown(moment(then), &RULES).expect("it is counted"), moment(now + secs(700)), &RULES);
    assert_eq!(one.stopped(now + secs(700), &RULES).expect("is held").until, before);
}

#[test]
fn a_token_of_another_replica_ends_what_was_before_it_and_nothing_since() {
    let now = start();
    let [mut one, _] = replicas(now);
    fails(&mut one, refused(), at(now, 0.0));
    one.succeeded_elsewhere(credential(1), (now - secs(1), now - secs(1)), secs(60), 0);
    assert!(one.stopped(now, &RULES).is_some(), "it was refused after that");
    // Said to be of a second later, by whoever put a former one back.
    one.succeeded_elsewhere(credential(1), (now + secs(1), now - secs(1)), secs(60), 0);
    assert!(one.stopped(now, &RULES).is_some(), "that is no later");
    one.succeeded_elsewhere(credential(1), (now + secs(1), now + secs(1)), secs(60), 0);
    assert!(one.stopped(now + secs(1), &RULES).is_none());
}

#[test]
fn the_floor_and_its_doubling_are_everybodys() {
    let now = start();
    let [mut one, mut other] = replicas(now);
    one.succeeded(credential(1), now, secs(86_400), &RULES);
    one.rejected(TokenId::of("a"), now, &RULES);
    one.succeeded(credential(1), now + secs(5), secs(86_400), &RULES);
    other.told_of_sign_in(now + secs(5), secs(86_400), one.doublings());
    assert_eq!(other.within_floor(now + secs(5), &RULES).expect("it lasts").next(), now + secs(15));
    other.told_of_sign_in(now, secs(86_400), 0);
    assert_eq!(other.within_floor(now + secs(5), &RULES).expect("it lasts").next(), now + secs(15), "that was before");
    other.rejected(TokenId::of("b"), now + secs(6), &RULES);
    assert_eq!(other.succeeded(credential(1), now + secs(15), secs(86_400), &RULES), Some(secs(20)), "it goes on from there");
}
