//! Processes that come and go, by fixed points of both clocks.

use std::{fs, path::PathBuf, time::SystemTime};

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::{
    config::UserConfig,
    secret::Secret,
    user::{MerchantId, Number},
    users::{Configured, Users, holds::Circumstances},
    vault::{Failure, Refusal, Scope},
};

const RULES: Rules = Rules { min_sign_in_interval: Duration::ZERO, refusal_hold: Duration::from_secs(24 * 3_600) };

#[allow(clippy::disallowed_methods, reason = "a fixed point to count from")]
fn start() -> Moment {
    Moment { mono: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn key(n: usize) -> UserKey {
    let merchant = MerchantId::parse("m".to_owned()).expect("is valid");
    UserKey { merchant, number: Number::parse(format!("+4478{n:08}")).expect("is valid") }
}

fn user(n: usize, password: &str, attempt: u64) -> UserConfig {
    UserConfig { key: key(n), password: Secret::from(password), attempt }
}

fn refused(vault_error: &str) -> Failure {
    Failure::Refused { why: Refusal::Credentials, vault_error: vault_error.to_owned() }
}

fn undocumented() -> Failure {
    Failure::Undocumented { status: 403, wait: None, vault_error: "no".to_owned() }
}

/// What one process after the other has on disk.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn directory(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn file(&self) -> PathBuf {
        self.directory().join(NAME)
    }

    /// A process that starts now.
    fn start(&self, now: Moment, configured: Vec<UserConfig>) -> Process {
        let (path, metrics) = (self.directory(), Arc::<Metrics>::default());
        let hold_file = HoldFile::open(&path, now, &metrics);
        Process { users: Users::recalling(hold_file.clone(), None, configured, "a"), hold_file, metrics }
    }
}

struct Process {
    users: Users,
    hold_file: HoldFile,
    metrics: Arc<Metrics>,
}

impl Process {
    fn configured(&self, n: usize) -> &Configured {
        self.users.get(&key(n)).expect("is configured")
    }

    fn fails(&self, n: usize, failure: Failure, now: Moment) {
        let Configured { user, credential } = self.configured(n);
        let mut record = user.record();
        record.holds.follow(credential.version, now.mono, &RULES);
        record.holds.failed(credential.version, failure, Circumstances { now: now.mono, jitter: 1.0, grants: 0 }, &RULES);
        drop(record);
        self.hold_file.note(user);
    }

    /// What is left of its stop, and what it is for.
    fn stopped(&self, n: usize, now: Moment) -> Option<(Duration, Failure)> {
        let Configured { user, credential } = self.configured(n);
        let mut record = user.record();
        record.holds.follow(credential.version, now.mono, &RULES);
        record.holds.stopped(now.mono, &RULES).map(|stop| (stop.left_at(now.mono), Failure::clone(&stop.failure)))
    }

    /// Writes if something changed, and ends.
    fn end(self, now: Moment) -> Option<i64> {
        let kept = self.hold_file.0.clone()?;
        kept.write(now, &RULES, &self.metrics).then(|| self.metrics.holds_unkept.get())
    }
}

/// The clocks of a process that starts `after` an earlier moment: the monotonic one counts from elsewhere.
fn later(moment: Moment, after: Duration) -> Moment {
    Moment { mono: moment.mono + secs(7_777), wall: moment.wall + after }
}

#[test]
fn a_refusal_is_held_over_restarts_to_its_end_and_no_longer() {
    let (disk, now) = (Disk::new(), start());
    let all = || vec![user(1, "wrong", 0), user(2, "good", 0)];
    let first = disk.start(now, all());
    first.fails(1, refused("LOCKED"), now);
    assert_eq!(first.end(now.plus(secs(1))), Some(0));
    for hours in [1, 5, 23] {
        let now = later(now, secs(hours * 3_600));
        let next = disk.start(now, all());
        assert_eq!(next.stopped(1, now), Some((secs((24 - hours) * 3_600), refused("LOCKED"))), "{hours}");
        assert_eq!(next.stopped(2, now), None);
        // Whatever is written then says the same.
        next.hold_file.note(&next.configured(1).user);
        assert_eq!(next.end(now), Some(0));
    }
    let now = later(now, secs(24 * 3_600));
    assert_eq!(disk.start(now, all()).stopped(1, now), None);
}

#[test]
fn another_password_or_attempt_lifts_it_and_the_former_one_is_held_still() {
    let (disk, now) = (Disk::new(), start());
    let first = disk.start(now, vec![user(1, "wrong", 0)]);
    first.fails(1, refused(""), now);
    first.end(now);
    for (password, attempt, held) in [("right", 0, false), ("wrong", 1, false), ("wrong", 0, true)] {
        let process = disk.start(now, vec![user(1, password, attempt)]);
        assert_eq!(process.stopped(1, now).is_some(), held, "{password} {attempt}");
        process.hold_file.note(&process.configured(1).user);
        process.end(now);
    }
    // The same without a restart in between.
    let process = disk.start(now, vec![user(1, "right", 0)]);
    assert_eq!(process.stopped(1, now), None);
    let (users, _) = process.users.reloaded(vec![user(1, "wrong", 0)], "a", now.mono, &RULES);
    assert!(Process { users, ..process }.stopped(1, now).is_some());
}

#[test]
fn another_vault_is_another_version_and_who_is_not_configured_is_remembered() {
    let (disk, now) = (Disk::new(), start());
    let first = disk.start(now, vec![user(1, "wrong", 0)]);
    first.fails(1, refused(""), now);
    first.end(now);
    let second = disk.start(now, vec![user(2, "wrong too", 0)]);
    second.fails(2, refused(""), now);
    let (elsewhere, _) = second.users.reloaded(vec![user(2, "wrong too", 0)], "b", now.mono, &RULES);
    let second = Process { users: elsewhere, ..second };
    assert_eq!(second.stopped(2, now), None);
    second.end(now);
    let third = disk.start(now, vec![user(2, "wrong too", 0)]);
    assert!(third.stopped(2, now).is_some());
    let (users, _) = third.users.reloaded(vec![user(1, "wrong", 0)], "a", now.mono, &RULES);
    assert!(Process { users, ..third }.stopped(1, now).is_some(), "it came back later");
}

#[test]
fn undocumented_answers_are_counted_on_to_three_whatever_restarts() {
    let (disk, mut now) = (Disk::new(), start());
    let mut tries = 0;
    for _ in 0..40 {
        let process = disk.start(now, vec![user(1, "a", 0)]);
        if process.stopped(1, now).is_none() {
            tries += 1;
            process.fails(1, undocumented(), now);
            // A failure that says nothing of the credential doesn't end the row.
            process.fails(1, Failure::Unavailable { cause: "away", wait: None, vault_error: String::new() }, now);
        }
        process.end(now);
        now = later(now, secs(601));
    }
    assert_eq!(tries, 3);
}

#[test]
fn a_wait_is_kept_and_a_back_off_is_not() {
    let (disk, now) = (Disk::new(), start());
    let all = || (1..=3).map(|n| user(n, "a", 0)).collect();
    let first = disk.start(now, all());
    let throttled = Failure::Throttled { scope: Scope::User, wait: secs(600), vault_error: "slow".to_owned() };
    first.fails(1, throttled.clone(), now);
    first.fails(2, Failure::Unavailable { cause: "away", wait: Some(secs(600)), vault_error: String::new() }, now);
    first.end(now);
    let now = later(now, secs(100));
    let next = disk.start(now, all());
    assert_eq!([next.stopped(1, now), next.stopped(2, now)], [Some((secs(500), throttled)), None]);
}

#[test]
fn who_is_let_in_again_is_not_held_after_a_restart() {
    let (disk, now) = (Disk::new(), start());
    let first = disk.start(now, vec![user(1, "a", 0)]);
    first.fails(1, undocumented(), now);
    first.end(now);
    let second = disk.start(now, vec![user(1, "a", 0)]);
    let Configured { user: known, credential } = second.configured(1);
    known.record().holds.succeeded(credential.version, now.mono, secs(600), &RULES);
    second.hold_file.ease(known);
    assert!(second.hold_file.0.as_ref().expect("is kept").state().is_changed);
    second.end(now);
    assert_eq!(disk.start(now, vec![user(1, "a", 0)]).stopped(1, now), None);
    assert!(!fs::read_to_string(disk.file()).expect("is there").contains("name"), "nothing is kept of it");
}

#[test]
fn a_damaged_foreign_or_newer_file_is_begun_anew() {
    let (disk, now) = (Disk::new(), start());
    let damages: [&dyn Fn(); 6] = [
        &|| fs::write(disk.file(), "nonsense").expect("is written"),
        &|| fs::write(disk.file(), "").expect("is written"),
        &|| fs::write(disk.file(), "token-broker holds 2 \n").expect("is written"),
        &|| {
            let text = fs::read(disk.file()).expect("is there");
            fs::write(disk.file(), &text[..text.len() - 3]).expect("is written");
        },
        &|| fs::remove_file(disk.directory().join("key")).expect("is there"),
        &|| fs::write(disk.directory().join("key"), "short").expect("is written"),
    ];
    for (n, damage) in damages.iter().enumerate() {
        let before = disk.start(now, vec![user(1, "a", 0)]);
        before.fails(1, refused(""), now);
        assert_eq!(before.end(now), Some(0), "{n}");
        damage();
        let after = disk.start(now, vec![user(1, "a", 0)]);
        assert_eq!(after.stopped(1, now), None, "{n}");
        after.fails(1, refused(""), now);
        assert_eq!(after.end(now), Some(0), "it is kept again: {n}");
        assert!(disk.start(now, vec![user(1, "a", 0)]).stopped(1, now).is_some(), "{n}");
    }
}

#[test]
fn a_directory_that_cannot_be_used_keeps_nothing_and_says_so() {
    let (disk, now) = (Disk::new(), start());
    fs::write(disk.directory(), "a file").expect("is written");
    let process = disk.start(now, vec![user(1, "a", 0)]);
    process.fails(1, refused(""), now);
    assert!(process.stopped(1, now).is_some(), "it is held all the same");
    assert_eq!(process.metrics.holds_unkept.get(), 1);
    assert_eq!(process.end(now), None);
}

#[test]
fn nothing_in_it_tells_whose_or_which_password() {
    let (disk, now) = (Disk::new(), start());
    let process = disk.start(now, vec![user(1, "correct horse", 0)]);
    process.fails(1, refused("LOCKED"), now);
    process.end(now);
    let text = fs::read_to_string(disk.file()).expect("is there");
    let number = key(1).number.expose().to_owned();
    for secret in ["correct", "horse", &number[1..], "7800"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert!(text.contains("LOCKED"));
}

#[test]
fn only_so_many_users_are_kept() {
    let (disk, now) = (Disk::new(), start());
    let process = disk.start(now, (0..USERS_MAX + 10).map(|n| user(n, "a", 0)).collect());
    for n in 0..USERS_MAX + 10 {
        process.fails(n, refused("WRONG_LOGIN_OR_PASSWORD_EXCEPTION"), now);
    }
    assert_eq!(process.end(now), Some(0));
    let size = fs::metadata(disk.file()).expect("is there").len();
    assert!(size < u64::try_from(FILE_BYTES_MAX).expect("is small"), "{size}");
    let next = disk.start(now, (0..USERS_MAX + 10).map(|n| user(n, "a", 0)).collect());
    assert_eq!((0..USERS_MAX + 10).filter(|n| next.stopped(*n, now).is_some()).count(), USERS_MAX);
}

proptest! {
    /// However the wall clock jumps between two processes, no hold lasts longer than `refusal_hold` from the start on, and none that began
    /// less than that before, by the wall clock, is forgotten.
    #[test]
    fn a_jump_of_the_wall_clock_prolongs_nothing(jump in -700_000..700_000i64) {
        let (disk, now) = (Disk::new(), start());
        let first = disk.start(now, vec![user(1, "a", 0)]);
        first.fails(1, refused(""), now);
        first.end(now);
        let by = secs(jump.unsigned_abs());
        let wall = if jump < 0 { now.wall - by } else { now.wall + by };
        let now = Moment { wall, ..later(now, Duration::ZERO) };
        let next = disk.start(now, vec![user(1, "a", 0)]);
        let left = next.stopped(1, now).map(|(left, _)| left);
        let expected = if jump < 0 { RULES.refusal_hold } else { RULES.refusal_hold.saturating_sub(by) };
        prop_assert_eq!(left, (!expected.is_zero()).then_some(expected));
    }
}
