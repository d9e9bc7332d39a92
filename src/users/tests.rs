use std::time::Duration;

use super::*;
use crate::{
    telemetry::traces::Span,
    user::Number,
    users::{holds::Circumstances, waiters::FlightHandle},
    vault::{Failure, Refusal},
};

fn configured(n: u8, password: &str, attempt: u64) -> config::UserConfig {
    let merchant = MerchantId::parse("m".to_owned()).expect("is valid");
    let number = Number::parse(format!("+4478712399{n:02}")).expect("is valid");
    config::UserConfig { key: UserKey { merchant, number }, password: Secret::from(password), attempt }
}

#[allow(clippy::disallowed_methods, reason = "any instant will do")]
fn now() -> Instant {
    Instant::now()
}

const RULES: Rules = Rules { min_sign_in_interval: Duration::ZERO, refusal_hold: Duration::from_secs(60) };

fn refuse(user: &Configured) {
    let failure = Failure::Refused { why: Refusal::Credentials, vault_error: String::new() };
    let (mut record, version) = (user.user.record(), user.credential.version);
    record.holds.follow(version, now(), &RULES);
    record.holds.failed(version, failure, Circumstances { now: now(), jitter: 1.0, grants: 0 }, &RULES);
}

#[test]
fn a_user_takes_little_room_and_a_merchants_name_is_in_memory_once() {
    // With the two counts of an `Arc`, what mimalloc has no smaller place for.
    assert!(size_of::<KnownUser>() + 2 * size_of::<usize>() <= 160, "{} bytes", size_of::<KnownUser>());
    let users = Users::new(vec![configured(1, "a", 0), configured(2, "b", 0)], "a");
    let (next, _) = users.reloaded((1..=3).map(|n| configured(n, "a", 0)).collect(), "a", now(), &RULES);
    let places: Vec<_> = next.iter().map(|configured| configured.user.key.merchant.as_str().as_ptr()).collect();
    assert!(places.len() == 3 && places.iter().all(|place| *place == places[0]));
}

#[test]
fn records_outlive_a_reload_and_changes_are_told_apart() {
    let users = Users::new(vec![configured(1, "a", 0), configured(2, "b", 0), configured(3, "c", 0)], "a");
    let again = vec![configured(1, "a", 0), configured(2, "other", 0), configured(3, "c", 1), configured(4, "d", 0)];
    let (next, changes) = users.reloaded(again, "a", now(), &RULES);
    let changed: Vec<_> = changes.changed.iter().map(|user| user.key.number.expose().to_owned()).collect();
    assert_eq!((changed, changes.added), (vec!["+447871239902".to_owned(), "+447871239903".to_owned()], 1));
    assert!(changes.removed.is_empty());
    for n in 1..=3 {
        let key = configured(n, "", 0).key;
        let user = |users: &Users| Arc::clone(&users.get(&key).expect("is there").user);
        assert!(Arc::ptr_eq(&user(&users), &user(&next)), "one record, ever");
    }
    let same = || vec![configured(1, "a", 0), configured(2, "other", 0), configured(3, "c", 1), configured(4, "d", 0)];
    assert!(next.reloaded(same(), "a", now(), &RULES).1.changed.is_empty());
    assert_eq!(next.reloaded(same(), "b", now(), &RULES).1.changed.len(), 4, "another upstream is another version of each");
    let (gone, changes) = next.reloaded(Vec::new(), "a", now(), &RULES);
    assert_eq!((gone.len(), changes.removed.len()), (0, 4));
}

#[test]
fn who_comes_back_meets_its_sign_in_under_way_and_its_hold_unless_the_credential_is_another() {
    let users = Users::new((1..=4).map(|n| configured(n, "a", 0)).collect(), "a");
    let each: Vec<_> = (1..=4).map(|n| users.get(&configured(n, "", 0).key).expect("is there").clone()).collect();
    let (_leader, flight) = FlightHandle::new(now(), Span::default());
    each[0].user.record().flight = Some(Box::new(flight));
    refuse(&each[1]);
    refuse(&each[2]);
    let (gone, changes) = users.reloaded(Vec::new(), "a", now(), &RULES);
    assert_eq!(changes.removed.len(), 4);
    // Once more, since who left just now is kept anyhow.
    let (gone, _) = gone.reloaded(Vec::new(), "a", now(), &RULES);
    assert_eq!(gone.remembered.len(), 3, "of the fourth there is nothing to remember");

    let again = vec![configured(1, "a", 0), configured(2, "a", 0), configured(3, "b", 0), configured(4, "a", 0)];
    let (back, changes) = gone.reloaded(again, "a", now(), &RULES);
    assert_eq!((changes.changed.len(), changes.added), (3, 1));
    for user in changes.changed {
        let credential = &back.get(&user.key).expect("is there").credential;
        user.record().holds.follow(credential.version, now(), &RULES);
    }
    let stopped = |n: usize| each[n].user.record().holds.stopped(now(), &RULES).is_some();
    assert!(back.get(&each[0].user.key).expect("is there").user.record().flight.is_some());
    assert!(stopped(1) && !stopped(2), "the hold is the credential's");

    each[0].user.record().flight = None;
    let (gone, _) = back.reloaded(Vec::new(), "a", now() + Duration::from_secs(120), &RULES);
    assert!(
        gone.reloaded(Vec::new(), "a", now() + Duration::from_secs(120), &RULES).0.remembered.is_empty(),
        "and forgotten in the end"
    );
}

/// However many leave at once: a hold that is forgotten locks an account.
#[test]
fn who_is_held_is_not_forgotten_for_those_of_whom_there_is_nothing_to_remember() {
    let user = |n: usize| {
        let merchant = MerchantId::parse("m".to_owned()).expect("is valid");
        let number = Number::parse(format!("+4478{n:08}")).expect("is valid");
        config::UserConfig { key: UserKey { merchant, number }, password: Secret::from("a"), attempt: 0 }
    };
    let users = Users::new(vec![user(0)], "a");
    let held = users.get(&user(0).key).expect("is there").clone();
    refuse(&held);
    let (others, _) = users.reloaded((1..=REMEMBERED_MAX).map(user).collect(), "a", now(), &RULES);
    let (gone, changes) = others.reloaded(Vec::new(), "a", now(), &RULES);
    assert_eq!((changes.removed.len(), gone.remembered.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
    let (back, _) = gone.reloaded(vec![user(0)], "a", now(), &RULES);
    assert!(Arc::ptr_eq(&back.get(&held.user.key).expect("is there").user, &held.user));
}
