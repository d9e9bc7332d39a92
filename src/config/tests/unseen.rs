//! What can't be looked at is neither something else nor gone: links to a volume that is away, directories that may not be
//! searched, patterns that name the same twice.

use std::{os::unix::fs::symlink, thread};

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::{
    reload::{Stage, expect_kept, expected, main_of, reload, users},
    *,
};
use crate::config::Files;

/// Runs it as somebody whom permissions hold up, root as any other.
fn without_privileges(run: impl FnOnce() + Send) {
    let unprivileged = move || {
        let mut sets = capabilities(None).expect("the thread's own");
        sets.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
        set_capabilities(None, sets).expect("may be given up");
        run();
    };
    thread::scope(|scope| scope.spawn(unprivileged).join()).expect("no panic");
}

/// `names` with one user each, 1, 2 and so on; the main file has these patterns.
fn stage(patterns: &str, names: &[&str]) -> (Stage, Files) {
    let stage = Stage::new(&main_of(patterns), &[]);
    for (digit, name) in (1..).zip(names) {
        fs::create_dir_all(stage.path(name).parent().expect("a parent")).expect("a directory");
        stage.write(name, &users(&[(digit, "p")]));
    }
    let files = stage.open();
    (stage, files)
}

fn rename(stage: &Stage, from: &str, to: &str) {
    fs::rename(stage.path(from), stage.path(to)).expect("renamed");
}

/// Reads again; expects all `count` users and `kept` files kept, whether read as what has changed or all of it.
fn expect_all(files: &mut Files, count: usize, kept: usize, why: &str) {
    for reload in [Files::reload, Files::reload_all] {
        let reloaded = reload(files).unwrap_or_else(|faults| panic!("{why}: {faults}"));
        assert_eq!((reloaded.config.users.len(), reloaded.kept.len()), (count, kept), "{why}: {:?}", reloaded.kept);
        assert!(!files.changed(), "{why}: it was read");
    }
}

#[test]
fn links_that_fail_with_the_same_error_are_not_the_same_file() {
    let stage = Stage::new(&main_of("'c/*.toml'"), &[]);
    fs::create_dir(stage.path("volume")).expect("a directory");
    for (digit, name) in (1..).zip(["1.toml", "2.toml", "3.toml"]) {
        stage.write(&format!("volume/{name}"), &users(&[(digit, "p")]));
        symlink(format!("../volume/{name}"), stage.path(&format!("c/{name}"))).expect("a link");
    }
    let mut files = stage.open();
    let replace_with: [(&str, &dyn Fn()); 4] = [
        ("nothing", &|| ()),
        ("a file", &|| fs::write(stage.path("volume"), "").expect("a file")),
        ("a link to itself", &|| symlink("volume", stage.path("volume")).expect("a link")),
        ("an empty directory", &|| fs::create_dir(stage.path("volume")).expect("a directory")),
    ];
    for (index, (why, replace)) in replace_with.into_iter().enumerate() {
        rename(&stage, "volume", "away");
        replace();
        expect_all(&mut files, 3, 3, why);
        if index > 0 {
            rename(&stage, "volume", &format!("done{index}"));
        }
        rename(&stage, "away", "volume");
        expect_all(&mut files, 3, 0, why);
    }
    // One of them has changed meanwhile, and is taken.
    stage.remove("volume/1.toml");
    stage.remove("volume/2.toml");
    stage.write("volume/3.toml", &users(&[(4, "new")]));
    let (served, kept) = reload(&mut files);
    assert_eq!(served, expected(&[(1, "p"), (2, "p"), (4, "new")]));
    expect_kept(&kept, &[("c/1.toml", Some(1), "does not exist"), ("c/2.toml", Some(1), "does not exist")]);
}

#[test]
fn at_the_start_each_link_that_leads_nowhere_is_a_fault() {
    let stage = Stage::new(&main_of("'c/*.toml', 'c/*/users.toml'"), &[]);
    for name in ["c/1.toml", "c/2.toml", "c/volume"] {
        symlink("nowhere", stage.path(name)).expect("a link");
    }
    let faults = load(&stage.path("main.toml")).expect_err("is at fault").to_string();
    for name in ["c/1.toml", "c/2.toml", "c/volume/users.toml"] {
        assert!(faults.contains(&format!("{name}: the file does not exist")), "{faults}");
    }
}

#[test]
fn patterns_that_name_the_same_files_keep_them_too() {
    for patterns in ["'c/*.toml', 'c/*.toml'", "'c/*.toml', 'c/a.toml'", "'./c/*.toml', 'c/?.toml', 'c/**/*.toml'"] {
        let (stage, mut files) = stage(patterns, &["c/a.toml", "c/b.toml"]);
        for _ in 0..2 {
            rename(&stage, "c", "away");
            expect_all(&mut files, 2, 2, patterns);
            rename(&stage, "away", "c");
            expect_all(&mut files, 2, 0, patterns);
        }
    }
    // The pattern by which they were named first is taken out, or written otherwise, while they are away.
    for (before, after) in [("'c/*.toml', 'c/?.toml'", "'c/?.toml'"), ("'c/*.toml'", "'c/*'")] {
        let (stage, mut files) = stage(before, &["c/a.toml", "c/b.toml"]);
        rename(&stage, "c", "away");
        stage.write("main.toml", &main_of(after));
        expect_all(&mut files, 2, 2, after);
        stage.write("main.toml", &main_of(""));
        expect_all(&mut files, 0, 0, "the operator's word");
    }
}

#[test]
fn directories_that_may_not_be_searched_or_listed_remove_nobody() {
    without_privileges(|| {
        for (pattern, names, closed) in [
            ("'c/*.toml'", ["c/a.toml", "c/b.toml"], "c"),
            ("'c/*/users.toml'", ["c/d/users.toml", "c/e/users.toml"], "c"),
            ("'c/*/users.toml'", ["c/d/users.toml", "c/e/users.toml"], "c/d"),
            ("'c/*/*'", ["c/d/a", "c/d/b"], "c/d"),
            ("'c/**/a.toml'", ["c/d/a.toml", "c/d/e/a.toml"], "c/d"),
            ("'c/d/*', 'c/d/a', 'c/d/*'", ["c/d/a", "c/d/b"], "c"),
            ("'c/a', 'c/b'", ["c/a", "c/b"], "c"),
        ] {
            let (stage, mut files) = stage(pattern, &names);
            for mode in [0o600, 0o400, 0o300, 0o000, 0o200] {
                let close = |mode| fs::set_permissions(stage.path(closed), Permissions::from_mode(mode)).expect("permissions");
                close(mode);
                for reload in [Files::reload, Files::reload_all] {
                    let reloaded = reload(&mut files).unwrap_or_else(|faults| panic!("{pattern}: {faults}"));
                    assert_eq!(reloaded.config.users.len(), 2, "{pattern} {mode:o}");
                    // A pattern without wildcards needs no list of names.
                    assert!(mode == 0o300 || !reloaded.kept.is_empty(), "{pattern} {mode:o}");
                }
                close(0o700);
                expect_all(&mut files, 2, 0, pattern);
            }
        }
    });
}

#[test]
fn directories_named_by_a_wildcard_that_go_away_remove_nobody() {
    for pattern in ["'c/*/users.toml'", "'c/*/*.toml'", "'c/**/users.toml'", "'c/[de]*/*'"] {
        let (stage, mut files) = stage(pattern, &["volume/users.toml", "c/d/users.toml"]);
        symlink("../volume", stage.path("c/e")).expect("a link");
        expect_all(&mut files, 2, 0, pattern);
        // A link whose volume is away, a directory that is gone, a mount point without its volume.
        rename(&stage, "volume", "away");
        let kept = files.reload().expect("is good");
        assert_eq!(kept.config.users.len(), 2, "{pattern}");
        assert!(!kept.kept.is_empty(), "{pattern}");
        stage.write("c/d/users.toml", &users(&[(2, "new")]));
        let (served, _) = reload(&mut files);
        assert_eq!(served, expected(&[(1, "p"), (2, "new")]), "{pattern}: the others go on");
        rename(&stage, "away", "volume");
        expect_all(&mut files, 2, 0, pattern);
        rename(&stage, "c/d", "away");
        expect_all(&mut files, 2, 1, pattern);
        fs::create_dir(stage.path("c/d")).expect("a directory");
        expect_all(&mut files, 2, 1, pattern);
        // A file that says so.
        stage.write("c/d/users.toml", "");
        expect_all(&mut files, 1, 0, pattern);
        fs::remove_dir_all(stage.path("c/d")).expect("removed");
        expect_all(&mut files, 1, 0, pattern);
    }
}

#[test]
fn a_directory_in_the_place_of_another_says_who_is_gone_if_it_holds_a_file() {
    let (stage, mut files) = stage("'c/*.toml'", &["c/a.toml", "c/b.toml"]);
    rename(&stage, "c", "away");
    fs::create_dir(stage.path("c")).expect("a directory");
    let (served, kept) = reload(&mut files);
    assert_eq!(served, expected(&[(1, "p"), (2, "p")]), "a mount point without its volume");
    let why = "main.toml:1: credentials_files: leads into another directory than before";
    expect_kept(&kept, &[("c/a.toml", Some(1), why), ("c/b.toml", Some(1), why)]);
    stage.write("c/a.toml", &users(&[(1, "new")]));
    assert_eq!(reload(&mut files), (expected(&[(1, "new")]), vec![]), "replaced whole");
    stage.remove("c/a.toml");
    assert_eq!(reload(&mut files), (vec![], vec![]), "deleted is deleted");
}

#[test]
fn what_stands_in_a_files_place_is_not_its_absence() {
    let (stage, mut files) = stage("'c/*.toml'", &["c/a.toml", "c/b.toml"]);
    stage.remove("c/a.toml");
    fs::create_dir(stage.path("c/a.toml")).expect("a directory");
    let (served, kept) = reload(&mut files);
    assert_eq!(served, expected(&[(1, "p"), (2, "p")]));
    expect_kept(&kept, &[("c/a.toml", Some(1), "no regular file any more")]);
    fs::remove_dir(stage.path("c/a.toml")).expect("removed");
    // The same file by another name, or by two, is one file; and its users go by what it says.
    symlink("b.toml", stage.path("c/a.toml")).expect("a link");
    assert_eq!(reload(&mut files), (expected(&[(2, "p")]), vec![]));
    stage.remove("c/a.toml");
    fs::hard_link(stage.path("c/b.toml"), stage.path("c/0.toml")).expect("a link");
    assert_eq!(reload(&mut files), (expected(&[(2, "p")]), vec![]));
}

#[test]
fn directories_that_lead_back_into_themselves_are_walked_once() {
    let (stage, mut files) = stage("'c/**/*.toml'", &["c/d/a.toml", "c/e/b.toml"]);
    for (target, link) in [("..", "c/d/up"), ("../e", "c/d/e"), ("../d", "c/e/d"), ("none", "c/nowhere")] {
        symlink(target, stage.path(link)).expect("a link");
    }
    expect_all(&mut files, 2, 0, "each file is read once");
}
