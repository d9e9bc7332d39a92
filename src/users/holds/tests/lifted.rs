//! What an operator lifts, and what not.

use super::*;

fn throttled(wait: Duration) -> Failure {
    Failure::Throttled { scope: Scope::User, wait, vault_error: String::new() }
}

fn moment(mono: Instant) -> Moment {
    Moment { mono, wall: SystemTime::UNIX_EPOCH + secs(1_800_000_000) }
}

#[test]
fn a_lifted_wait_uncovers_what_stood_beneath_it_and_forgets_no_count() {
    let (now, brief) = (start(), Rules { refusal_hold: secs(100), ..RULES });
    let mut holds = Holds::default();
    holds.follow(credential(1), now, &brief);
    let mut fails = |failure, after| holds.failed(credential(1), failure, at(now + secs(after), 0.0), &brief).expect("it counts");
    fails(undocumented(), 0);
    fails(undocumented(), 60);
    fails(throttled(secs(700)), 700);
    assert!(holds.lift_wait(now + secs(699), now + secs(701), &brief).is_none(), "it came later");
    assert!(holds.lift_wait(now + secs(701), now + secs(701), &brief).is_some());
    assert!(holds.stopped(now + secs(701), &brief).is_none());
    // Two before, and the wait between: the next is the third, here and wherever it is told.
    let mut told = Holds::default();
    told.follow(credential(1), now, &brief);
    told.told(holds.shown(moment(now + secs(702)), &brief).expect("is remembered"), moment(now + secs(702)), &brief);
    for mut holds in [holds, told] {
        let stop = holds.failed(credential(1), undocumented(), at(now + secs(702), 0.0), &brief).expect("it counts");
        assert!(matches!(&*stop.failure, Failure::Refused { .. }), "{stop:?}");
    }
}

#[test]
fn a_refusal_that_a_longer_wait_covers_is_not_lifted_with_that() {
    let (now, brief) = (start(), Rules { refusal_hold: secs(100), ..RULES });
    let of = |failure, after| {
        let mut holds = Holds::default();
        holds.follow(credential(1), now, &brief);
        holds.failed(credential(1), failure, at(now + secs(after), 0.0), &brief).expect("it counts");
        holds
    };
    let later = moment(now + secs(30));
    let until = |holds: &Holds| holds.stopped(later.mono, &brief).map(|stop| stop.until);
    // Whichever is heard of first, and through a restart or another replica.
    let (mut refused, mut waits) = (of(refused(), 0), of(throttled(secs(500)), 20));
    let (theirs, ours) = (waits.shown(later, &brief).expect("lasts"), refused.shown(later, &brief).expect("lasts"));
    refused.told(theirs, later, &brief);
    waits.told(ours, later, &brief);
    let mut told = Holds::default();
    told.follow(credential(1), now, &brief);
    told.told(refused.shown(later, &brief).expect("lasts"), later, &brief);
    for mut holds in [refused, waits, told] {
        assert_eq!(until(&holds), Some(now + secs(520)));
        let lifted = holds.shown(later, &brief).expect("lasts").lifted();
        assert!(holds.lift_wait(later.mono, later.mono, &brief).is_some());
        assert_eq!(until(&holds), Some(now + secs(100)), "the refusal's hold goes on");
        assert!(holds.lift_wait(later.mono, later.mono, &brief).is_none(), "the wait is lifted already");
        let mut told = Holds::default();
        told.follow(credential(1), now, &brief);
        told.told(lifted, later, &brief);
        assert_eq!(until(&told), Some(now + secs(100)));
        holds.lift(later.mono, &brief);
        assert_eq!(until(&holds), None);
    }
}
