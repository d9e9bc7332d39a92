//! The same files read again after something happened to them.

use std::{os::unix::fs::symlink, sync::Arc};

use super::*;
use crate::config::{
    Files, Kept, Reloaded,
    file_set::{FileSet, Known},
};

/// A main file beside `c/`, whose files are named by a pattern; every file is replaced in one step.
pub(super) struct Stage(TempDir);

impl Stage {
    pub(super) fn new(main: &str, files: &[(&str, &str)]) -> Self {
        let stage = Self(directory(&[("main.toml", main.as_bytes())]));
        fs::create_dir(stage.path("c")).expect("a directory");
        files.iter().for_each(|(name, text)| stage.write(name, text));
        stage
    }

    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(".new"), text).expect("a file");
        fs::set_permissions(self.path(".new"), Permissions::from_mode(0o600)).expect("permissions");
        fs::rename(self.path(".new"), self.path(name)).expect("renamed");
    }

    pub(super) fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("removed");
    }

    pub(super) fn open(&self) -> Files {
        let (files, _) = Files::open(&self.path("main.toml")).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(!files.changed(), "nothing happened yet");
        files
    }
}

pub(super) fn main_of(patterns: &str) -> String {
    format!("credentials_files = [{patterns}]\n{VAULT}")
}

/// `[[users]]` of merchant m: pairs of the number's last digit and the password.
pub(super) fn users(users: &[(u8, &str)]) -> String {
    users.iter().map(|(digit, password)| user(*digit, &format!("password = '{password}'"))).collect()
}

pub(super) fn user(digit: u8, password: &str) -> String {
    format!("[[users]]\nmerchant_id = 'm'\nnumber = '+44787123999{digit}'\n{password}\n")
}

/// Reads again; gives the users as last digit and password, and the kept files as their name, how many users they keep, and
/// line, key and a word of each fault.
pub(super) fn reload(files: &mut Files) -> (Vec<(u8, String)>, Vec<Kept>) {
    assert!(files.changed(), "something happened");
    let reloaded = files.reload().unwrap_or_else(|faults| panic!("{faults}"));
    assert!(!files.changed(), "it was read, well or in vain");
    (served(&reloaded), reloaded.kept)
}

pub(super) fn served(reloaded: &Reloaded) -> Vec<(u8, String)> {
    let digit = |user: &crate::config::UserConfig| user.key.number.expose().as_bytes()[12] - b'0';
    let mut served: Vec<_> = reloaded.config.users.iter().map(|user| (digit(user), user.password.expose().to_owned())).collect();
    served.sort();
    served
}

pub(super) fn expected(users: &[(u8, &str)]) -> Vec<(u8, String)> {
    users.iter().map(|(digit, password)| (*digit, (*password).to_owned())).collect()
}

/// Compares kept files: name, users kept, and what the first fault shows.
pub(super) fn expect_kept(kept: &[Kept], expected: &[(&str, Option<usize>, &str)]) {
    let found: Vec<_> = kept.iter().map(|kept| (kept.file.display().to_string(), kept.users)).collect();
    assert_eq!(kept.len(), expected.len(), "{kept:?}");
    for (((file, users), kept), (name, keep, word)) in found.iter().zip(kept).zip(expected) {
        assert!(file.ends_with(name) && users == keep, "{file} {users:?}\nis not {name} {keep:?}");
        assert!(kept.faults.to_string().contains(word), "{}\nlacks {word}", kept.faults);
        assert!(!kept.faults.to_string().contains("S3CRET"), "{}", kept.faults);
    }
}

#[test]
fn what_is_written_anew_added_and_removed_is_seen() {
    let stage = Stage::new(&main_of("'c/*.toml'"), &[("c/a.toml", &users(&[(1, "a")])), ("c/b.toml", &users(&[(2, "b")]))]);
    let mut files = stage.open();
    stage.write("c/a.toml", &users(&[(1, "new"), (3, "a")]));
    assert_eq!(reload(&mut files), (expected(&[(1, "new"), (2, "b"), (3, "a")]), vec![]));
    stage.write("c/c.toml", &users(&[(4, "c")]));
    assert_eq!(reload(&mut files).0, expected(&[(1, "new"), (2, "b"), (3, "a"), (4, "c")]));
    stage.remove("c/a.toml");
    assert_eq!(reload(&mut files), (expected(&[(2, "b"), (4, "c")]), vec![]), "no pattern matches it any more");
    stage.write("main.toml", &format!("{}idle_after = '2m'\n{}", main_of("'c/c.toml'"), users(&[(5, "main")])));
    assert_eq!(reload(&mut files), (expected(&[(4, "c"), (5, "main")]), vec![]));
    stage.write("main.toml", &main_of("'c/*'"));
    assert_eq!(reload(&mut files), (expected(&[(2, "b"), (4, "c")]), vec![]));
}

#[test]
fn a_write_in_place_and_permissions_are_seen() {
    let stage = Stage::new(&main_of("'c/*.toml'"), &[("c/a.toml", &users(&[(1, "a")])), ("c/b.toml", &users(&[(2, "b")]))]);
    let mut files = stage.open();
    fs::write(stage.path("c/a.toml"), users(&[(1, "longer")])).expect("a file");
    assert!(files.changed());
    let reloaded = files.reload().expect("is good");
    assert_eq!((served(&reloaded), reloaded.changed), (expected(&[(1, "longer"), (2, "b")]), true));

    let again = files.reload().expect("is good");
    assert_eq!((served(&again), again.changed), (served(&reloaded), false), "nothing was taken anew");
    let all = files.reload_all().expect("is good");
    assert_eq!((served(&all), all.changed), (served(&reloaded), true), "everything was read");
    let permissions = |mode| fs::set_permissions(stage.path("c/a.toml"), Permissions::from_mode(mode)).expect("permissions");
    permissions(0o604);
    assert!(files.changed(), "permissions are looked at too");
    assert_eq!(files.reload().expect("is good").warnings.len(), 1);
    permissions(0o600);
    assert_eq!(files.reload().expect("is good").warnings, []);
}

#[test]
fn what_stays_is_not_read_again() {
    let stage = Stage::new(&main_of("'c/*.toml'"), &[("c/a.toml", &users(&[(1, "a")])), ("c/b.toml", &users(&[(2, "b")]))]);
    let main = stage.path("main.toml");
    let (first, _) = FileSet::take(&main, Known::default());
    stage.write("c/a.toml", &users(&[(1, "new")]));
    let (second, _) = FileSet::take(&main, Known { main: Some(Arc::clone(&first.main)), files: first.files.clone() });
    let same: Vec<_> = first.files.iter().zip(&second.files).map(|(one, other)| Arc::ptr_eq(one, other)).collect();
    assert_eq!((Arc::ptr_eq(&first.main, &second.main), same), (true, vec![false, true]));
}

/// What the kubelet does: a new directory beside the old one, `..data` swapped to it by a rename, the old one removed.
#[test]
fn a_swap_of_data_is_seen_in_users_and_in_passwords() {
    let stage = Stage::new(&main_of("'c/*.toml'"), &[]);
    let mount = |name: &str, users: &str, password: &str| {
        let directory = stage.path(&format!("c/..{name}"));
        fs::create_dir(&directory).expect("a directory");
        for (file, text) in [("a.toml", users), ("password", password)] {
            fs::write(directory.join(file), text).expect("a file");
        }
        symlink(format!("..{name}"), stage.path("c/..data_tmp")).expect("a link");
        fs::rename(stage.path("c/..data_tmp"), stage.path("c/..data")).expect("renamed");
    };
    let by_file = user(1, "password_file = 'password'");
    mount("1", &by_file, "old");
    for file in ["a.toml", "password"] {
        symlink(format!("..data/{file}"), stage.path(&format!("c/{file}"))).expect("a link");
    }
    let mut files = stage.open();
    mount("2", &by_file, "new");
    fs::remove_dir_all(stage.path("c/..1")).expect("removed");
    assert_eq!(reload(&mut files), (expected(&[(1, "new")]), vec![]));
    mount("3", &format!("{by_file}{}", users(&[(2, "b")])), "new");
    fs::remove_dir_all(stage.path("c/..2")).expect("removed");
    assert_eq!(reload(&mut files), (expected(&[(1, "new"), (2, "b")]), vec![]));
}

#[test]
fn files_beside_are_seen_and_a_faulty_one_keeps_the_file_that_names_it() {
    let main = format!("{}ca_file = 'ca.crt'\n", main_of("'c/*.toml'"));
    let by_file = user(1, "password_file = '../password'");
    let stage = Stage::new(&main, &[("c/a.toml", &by_file), ("password", "old"), ("ca.crt", &ca()), ("c/b.toml", "")]);
    let mut files = stage.open();
    stage.write("password", "new\n");
    assert_eq!(reload(&mut files), (expected(&[(1, "new")]), vec![]));
    stage.write("c/b.toml", &users(&[(2, "b")]));
    for (break_it, word) in [
        (&(|| stage.write("password", "")) as &dyn Fn(), "is empty"),
        (&|| stage.remove("password"), "does not exist"),
        (&|| stage.write("password", "new\u{0}S3CRET".repeat(4096).as_str()), "4 KiB"),
    ] {
        break_it();
        let (served, kept) = reload(&mut files);
        assert_eq!(served, expected(&[(1, "new"), (2, "b")]), "{word}");
        expect_kept(&kept, &[("c/a.toml", Some(1), word)]);
    }
    stage.write("password", "newest");
    assert_eq!(reload(&mut files), (expected(&[(1, "newest"), (2, "b")]), vec![]));

    stage.write("ca.crt", "no certificate");
    assert!(files.changed());
    assert!(files.reload().expect_err("the main file's").to_string().contains("vault.ca_file"));
    stage.write("ca.crt", &format!("# the same\n{}", ca()));
    assert_eq!(reload(&mut files).0, expected(&[(1, "newest"), (2, "b")]));
}

#[test]
fn a_fault_keeps_its_own_file_until_it_is_mended() {
    let main = main_of("'c/*.toml', 'literal.toml'");
    let good = users(&[(1, "a"), (2, "a")]);
    let files = [("c/a.toml", good.as_str()), ("c/b.toml", &users(&[(3, "b")])), ("literal.toml", &users(&[(4, "l")]))];
    let stage = Stage::new(&main, &files);
    let mut files = stage.open();
    let old = expected(&[(1, "a"), (2, "a"), (3, "b"), (4, "l")]);
    for (text, word) in [
        ("[[users]]\npassword = S3CRET", "c/a.toml:2: is not valid TOML"),
        ("[[users]]\npassword = 'S3CRET'", "merchant_id: is missing"),
        ("[[users]]\nmerchant_id = 1\n", "must be a string"),
        ("\n[grpc]\n", "is not a known key"),
        (&format!("{good}{good}"), "c/a.toml:9: users: +44…9991 of merchant m is configured already"),
        ("\u{0}", "is not valid TOML"),
    ] {
        stage.write("c/a.toml", text);
        let (served, kept) = reload(&mut files);
        assert_eq!(served, old, "{word}");
        expect_kept(&kept, &[("c/a.toml", Some(2), word)]);
        let again = files.reload().expect("is good");
        assert_eq!((again.changed, again.kept), (false, kept), "a fault doesn't go away by reading again");
    }
    // Meanwhile the others go on.
    stage.write("c/b.toml", &users(&[(3, "new")]));
    stage.remove("literal.toml");
    stage.write("c/new.toml", "[[users]]\n");
    let (served, kept) = reload(&mut files);
    assert_eq!(served, expected(&[(1, "a"), (2, "a"), (3, "new"), (4, "l")]));
    let gone = ("literal.toml", Some(1), "main.toml:1: credentials_files: names a file that does not exist");
    expect_kept(&kept, &[("c/a.toml", Some(2), "not valid TOML"), ("c/new.toml", None, "merchant_id"), gone]);
    stage.write("literal.toml", &users(&[(4, "back")]));
    stage.write("c/a.toml", &users(&[(1, "mended")]));
    stage.write("c/new.toml", &users(&[(2, "moved")]));
    assert_eq!(reload(&mut files), (expected(&[(1, "mended"), (2, "moved"), (3, "new"), (4, "back")]), vec![]));
    stage.write("c/a.toml", "[");
    stage.remove("c/b.toml");
    assert_eq!(reload(&mut files).0, expected(&[(1, "mended"), (2, "moved"), (4, "back")]));
    stage.remove("c/a.toml");
    assert_eq!(reload(&mut files), (expected(&[(2, "moved"), (4, "back")]), vec![]), "what is gone is at fault no more");
}

#[test]
fn a_faulty_main_file_changes_nothing() {
    let main = main_of("'c/*.toml'");
    let stage = Stage::new(&main, &[("c/a.toml", &users(&[(1, "a")]))]);
    let mut files = stage.open();
    stage.write("c/a.toml", &users(&[(1, "new")]));
    for (text, word) in [
        ("[", "main.toml:1: is not valid TOML"),
        ("x = 1", "main.toml:1: x: is not a known key"),
        (&format!("{main}timeout = '1ms'"), "vault.timeout"),
        (&main_of("'c/*.toml', 'none.toml'"), "none"),
        (&main_of("'c/[.toml'"), "is not a pattern"),
        (&format!("{main}{}", users(&[(2, "b"), (2, "b")])), "configured already"),
        (&format!("{main}{}", user(1, "password = 'main'")), "c/a.toml:1: users: +44…9991 of merchant m is configured already"),
    ] {
        stage.write("main.toml", text);
        assert!(files.changed(), "{word}");
        let faults = files.reload().expect_err(word).to_string();
        assert!(faults.contains(word) || word == "none" && faults.contains("does not exist"), "{faults}\nlacks {word}");
        assert!(!files.changed(), "it was read in vain");
    }
    stage.remove("main.toml");
    assert!(files.changed() && files.reload().is_err() && !files.changed());
    stage.write("main.toml", &main);
    assert_eq!(reload(&mut files), (expected(&[(1, "new")]), vec![]), "what came meanwhile is taken now");
}

#[test]
fn a_user_in_two_files_is_the_fault_of_the_one_that_took_it_on() {
    let one = |digit, password| users(&[(digit, password)]);
    let stage = Stage::new(&main_of("'c/*'"), &[("c/1", &one(1, "1")), ("c/2", &one(2, "2")), ("c/3", &one(3, "3"))]);
    let mut files = stage.open();
    let mut step = |writes: &[(&str, &str)], serves: &[(u8, &str)], keeps: &[(&str, Option<usize>, &str)]| {
        writes.iter().for_each(|(name, text)| stage.write(name, text));
        let (served, kept) = reload(&mut files);
        assert_eq!(served, expected(serves));
        expect_kept(&kept, keeps);
    };
    // The earlier file takes on the later one's user, and nothing else of it is taken.
    let taken = users(&[(1, "new"), (2, "taken")]);
    step(&[("c/1", &taken)], &[(1, "1"), (2, "2"), (3, "3")], &[("c/1", Some(1), "c/1:5: users: +44…9992 of merchant m")]);
    // The later one gives it up: a move in two steps.
    step(&[("c/2", "")], &[(1, "new"), (2, "taken"), (3, "3")], &[]);
    // Both take on a user at once: the later one's fault.
    let (both, also) = (users(&[(1, "1"), (4, "4")]), users(&[(2, "2"), (4, "x")]));
    step(&[("c/1", &both), ("c/2", &also)], &[(1, "1"), (3, "3"), (4, "4")], &[("c/2", Some(0), "c/2:5")]);
    // Two files swap users, which is no fault.
    step(&[("c/2", &one(3, "new")), ("c/3", &one(2, "new"))], &[(1, "1"), (2, "new"), (3, "new"), (4, "4")], &[]);
    // One of them is faulty as they swap back: the other keeps its version too.
    let kept = [("c/2", Some(1), "not valid TOML"), ("c/3", Some(1), "c/3:1: users: +44…9993 of merchant m")];
    step(&[("c/2", "["), ("c/3", &one(3, "back"))], &[(1, "1"), (2, "new"), (3, "new"), (4, "4")], &kept);
    step(&[("c/2", &one(2, "back"))], &[(1, "1"), (2, "back"), (3, "back"), (4, "4")], &[]);
    // A new file that takes a user has none.
    step(&[("c/0", &one(1, "0"))], &[(1, "1"), (2, "back"), (3, "back"), (4, "4")], &[("c/0", None, "c/0:1")]);
    stage.remove("c/0");
    // A faulty file's users are still its own: the main file may not take them on.
    stage.write("c/2", "[");
    stage.write("main.toml", &format!("{}{}", main_of("'c/*'"), one(2, "main")));
    let faults = files.reload().expect_err("is at fault").to_string();
    assert!(faults.contains("c/2:1: is not valid TOML") && faults.contains("main.toml:4: users: +44…9992"), "{faults}");
}

#[test]
fn a_pattern_that_fails_keeps_its_files() {
    let stage = Stage::new(&main_of("'c/*/x*', 'c/**/y', 'c/*.toml'"), &[("c/b.toml", &users(&[(2, "b")]))]);
    fs::create_dir_all(stage.path("c/d")).expect("a directory");
    stage.write("c/d/x", &users(&[(1, "a")]));
    let mut files = stage.open();

    (0..=crate::config::limits::CREDENTIALS_FILES).for_each(|index| stage.write(&format!("c/d/x{index}"), ""));
    stage.write("c/b.toml", &users(&[(2, "new")]));
    let (served, kept) = reload(&mut files);
    assert_eq!(served, expected(&[(1, "a"), (2, "new")]));
    expect_kept(&kept, &[("c/d/x", Some(1), "main.toml:1: credentials_files: matches more than 10000 files")]);
    fs::remove_dir_all(stage.path("c/d")).expect("removed");
    fs::create_dir(stage.path("c/d")).expect("a directory");
    stage.write("c/d/x", &users(&[(1, "back")]));
    assert_eq!(reload(&mut files), (expected(&[(1, "back"), (2, "new")]), vec![]));

    fs::set_permissions(stage.path("c"), Permissions::from_mode(0o000)).expect("permissions");
    if fs::read_dir(stage.path("c")).is_ok() {
        return; // Root may read everything.
    }
    let (served, kept) = reload(&mut files);
    assert_eq!(served, expected(&[(1, "back"), (2, "new")]));
    let why = "can't be read";
    expect_kept(&kept, &[("c/d/x", Some(1), why), ("c/**/y", None, why), ("c/b.toml", Some(1), why)]);
    fs::set_permissions(stage.path("c"), Permissions::from_mode(0o700)).expect("permissions");
    assert_eq!(reload(&mut files), (expected(&[(1, "back"), (2, "new")]), vec![]));
}

#[test]
fn a_directory_that_goes_away_or_a_link_that_leads_nowhere_removes_nobody() {
    let stage = Stage::new(&main_of("'c/*.toml'"), &[("c/a.toml", &users(&[(1, "a")])), ("c/b.toml", &users(&[(2, "b")]))]);
    let mut files = stage.open();
    let all = expected(&[(1, "a"), (2, "b")]);
    fs::rename(stage.path("c"), stage.path("away")).expect("renamed");
    let (served, kept) = reload(&mut files);
    assert_eq!((served, kept.len()), (all.clone(), 2), "{kept:?}");
    fs::rename(stage.path("away"), stage.path("c")).expect("renamed");
    assert_eq!(reload(&mut files), (all.clone(), Vec::new()));

    stage.remove("c/b.toml");
    symlink("nowhere.toml", stage.path("c/b.toml")).expect("a link");
    let (served, kept) = reload(&mut files);
    assert_eq!((served, kept.len()), (all, 1), "{kept:?}");
    // Deleted is deleted.
    stage.remove("c/b.toml");
    assert_eq!(reload(&mut files), (expected(&[(1, "a")]), Vec::new()));
}
