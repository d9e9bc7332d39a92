//! What an entry says of a token's life and of a wait, whatever the clocks say, and that bytes are read as they were written.

use proptest::prelude::*;

use super::*;
use crate::{
    clock::{Clock as _, SystemClock},
    tokens::version::Version,
    users::holds::{Circumstances, Holds, Rules},
    vault::{Failure, Scope},
};

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn entry(expires: SystemTime) -> TokenEntry {
    TokenEntry {
        generation: 7,
        expires,
        left: secs(90),
        age: secs(10),
        lifetime: secs(100),
        gave: secs(95),
        doublings: 2,
        bounded: true,
        scope: "a b".to_owned(),
        access_token: Secret::from("to\"k\\en"),
    }
}

#[test]
fn the_least_that_any_clock_says_is_left() {
    let now = SystemClock.now();
    for (kept, by_wall, left, began_ago) in [
        (secs(90), 90, secs(90), secs(10)),
        (secs(50), 50, secs(50), secs(50)),
        // Its clock is behind that of who signed in, or ahead.
        (secs(50), 350, secs(50), secs(50)),
        (secs(50), 20, secs(20), secs(50)),
        // The server keeps it for longer than it was told.
        (secs(5_000), 350, secs(90), secs(10)),
        (secs(0), 350, secs(0), secs(100)),
    ] {
        let entry = entry(now.wall + secs(by_wall));
        assert_eq!((entry.left_at(kept, now), entry.began_ago(kept)), (left, began_ago), "{kept:?} {by_wall}");
    }
    assert_eq!(entry(now.wall - secs(1)).left_at(secs(50), now), Duration::ZERO, "past by the wall clock is past");
}

#[test]
fn a_wait_is_believed_no_further_than_it_was_sealed_for() {
    let hold = |kept| StopEntry::pause(kept).0.stands(secs(3_600), 0);
    assert_eq!(
        (hold(secs(5)), StopEntry::merchant(String::new(), secs(7), secs(0)).0.stands(secs(3_600), 0)),
        (secs(5), secs(7))
    );
    assert_eq!(StopEntry::pause(secs(5)).0.stands(secs(2), 0), secs(2), "as the server counts");
}

#[test]
fn what_no_vault_gives_is_no_token() {
    let good = entry(SystemTime::UNIX_EPOCH + secs(1_800_000_000));
    assert_eq!(TokenEntry::read(&good.write()), Some(good.clone()));
    let spoilt = [
        TokenEntry { access_token: Secret::from(""), ..good.clone() },
        TokenEntry { access_token: Secret::from("a b"), ..good.clone() },
        TokenEntry { access_token: Secret::from("a\nb"), ..good.clone() },
        TokenEntry { access_token: Secret::from("x".repeat(TOKEN_BYTES_MAX + 1)), ..good.clone() },
        TokenEntry { left: LIFETIME_MAX + secs(1), ..good.clone() },
        TokenEntry { lifetime: LIFETIME_MAX + secs(1), ..good.clone() },
    ];
    for spoilt in spoilt {
        assert_eq!(TokenEntry::read(&spoilt.write()), None);
    }
    let bytes = good.write();
    for length in 0..NUMBERS_BYTES + good.scope.len() + 1 {
        assert_eq!(TokenEntry::read(&bytes[..length]), None, "{length}");
    }
}

#[test]
fn a_wait_that_was_lifted_is_told_as_of_then_and_with_what_was_counted() {
    let (mut holds, now, rules) =
        (Holds::default(), SystemClock.now(), Rules { min_sign_in_interval: secs(5), refusal_hold: secs(3_600) });
    let failure = Failure::Throttled { scope: Scope::User, wait: secs(100), vault_error: String::new() };
    holds.follow(Version::default(), now.mono, &rules);
    holds.failed(Version::default(), failure, Circumstances { now: now.mono, jitter: 0.0, grants: 0 }, &rules);
    // It was lifted 3 s before this could be told, and is read 10 s later.
    let (told, read) = (now.plus(secs(30)), now.plus(secs(40)));
    let hold = holds.shown(told, &rules).expect("lasts");
    let (entry, kept) = StopEntry::wait_lifted(hold.clone(), secs(50), secs(3), (told, 100));
    assert_eq!((kept, entry.age(kept)), (secs(50), secs(3)));
    let entry = StopEntry::read(&entry.write().expect("is written")).expect("is read").aged(secs(40), read);
    assert_eq!(entry.age(secs(40)), secs(13));
    assert_eq!(entry.hold_of().expect("is there"), &hold.lifted().begun(read.wall - secs(40)));
}

#[test]
fn an_act_that_is_put_back_is_as_old_as_it_is() {
    // Lifted 3 s before the server's clock was 100, and told for 10 s from then on; put back, it is said to be kept for longer.
    let (lifted, kept) = StopEntry::lifted(secs(10), secs(3), 100);
    assert_eq!((kept, lifted.age(lifted.stands(kept, 100))), (secs(10), secs(3)));
    for (kept, clock, age) in
        [(10, 101, 3), (9, 101, 4), (10, 105, 7), (3_600, 105, 7), (2, 105, 11), (3_600, 200, 13), (7, 50, 6)]
    {
        assert_eq!(lifted.age(lifted.stands(secs(kept), clock)), secs(age), "{kept} {clock}");
    }
    assert!(lifted.stands(secs(3_600), 200).is_zero());
    let asked = SystemClock.now();
    let known =
        Known { asked, clock: 100, is_locked: true, token: None, dropped: None, stop: None, merchant: None, lifted: None };
    let (dropped, kept) = DroppedEntry::new(7, secs(10), &known);
    assert_eq!(
        (dropped.stands(kept, 100), dropped.stands(secs(3_600), 107), dropped.stands(secs(3_600), 200)),
        (kept, secs(4), secs(0))
    );
}

#[test]
fn a_dropped_tokens_floor_goes_on_and_its_place_is_no_token() {
    let asked = SystemClock.now();
    let known =
        |token, dropped| Known { asked, clock: 0, is_locked: true, token, dropped, stop: None, merchant: None, lifted: None };
    let token = entry(asked.wall + secs(80));
    // It began 20 s ago, and stands for another 80.
    let (dropped, kept) = DroppedEntry::new(7, secs(10), &known(Some((token, secs(80))), None));
    let sign_in = |dropped: &DroppedEntry, kept| {
        let sign_in = dropped.sign_in().expect("is known");
        (sign_in.began_ago(dropped.age(kept)), sign_in.gave(), sign_in.doublings())
    };
    assert_eq!((kept, dropped.generation(), sign_in(&dropped, secs(80))), (secs(80), 7, (secs(20), secs(95), 2)));
    // Dropped again half a minute later, by who has heard of less.
    let (again, kept) = DroppedEntry::new(0, secs(10), &known(None, Some((dropped.clone(), secs(50)))));
    assert_eq!((kept, again.generation(), sign_in(&again, secs(45))), (secs(50), 7, (secs(55), secs(95), 2)));
    let (first, kept) = DroppedEntry::new(3, secs(10), &known(None, None));
    assert_eq!((kept, first.generation(), first.sign_in()), (secs(10), 3, None));
    assert_eq!((first.stands(secs(3_600), 0), first.stands(secs(2), 0)), (secs(10), secs(2)), "no longer than it was to");

    let (bytes, of_token) = (again.write().expect("is written"), entry(asked.wall).write());
    assert_eq!((DroppedEntry::read(&bytes), TokenEntry::read(&bytes)), (Some(again), None));
    assert_eq!(DroppedEntry::read(&of_token), None);
}

proptest! {
    #[test]
    fn what_is_read_is_what_was_written(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(entry) = TokenEntry::read(&bytes) {
            prop_assert_eq!(entry.write().to_vec(), bytes);
        }
    }
}
