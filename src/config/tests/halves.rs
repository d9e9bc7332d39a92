//! Files that are written in place with pauses: what is missing from the first half is not gone.

use std::{
    os::unix::fs::symlink,
    sync::{Arc, Mutex},
};

use super::{
    reload::{Stage, expected, main_of, served, user, users},
    *,
};
use crate::{
    clock::{Clock, Moment, SystemClock},
    config::{Files, partial_writes::STILL_FOR},
};

/// A clock that is put on by hand.
#[derive(Debug)]
struct Hand(Mutex<Moment>);

impl Clock for Hand {
    fn now(&self) -> Moment {
        *self.0.lock().expect("no panic")
    }
}

struct Watched {
    stage: Stage,
    files: Files,
    clock: Arc<Hand>,
}

type Ask = fn(&mut Files) -> Result<super::super::Reloaded, Faults>;
/// As the files are followed, and as SIGHUP has it.
const BOTH: [Ask; 2] = [Files::reload, Files::reload_all];

impl Watched {
    fn new(main: &str, files: &[(&str, &str)]) -> Self {
        let stage = Stage::new(main, files);
        let clock = Arc::new(Hand(Mutex::new(SystemClock.now())));
        let files = stage.open().timed_by(Arc::<Hand>::clone(&clock));
        Self { stage, files, clock }
    }

    /// In the same file, as `>` does.
    fn overwrite(&self, name: &str, text: &str) {
        fs::write(self.stage.path(name), text).expect("a file");
    }

    fn pass(&self, time: Duration) {
        let mut now = self.clock.0.lock().expect("no panic");
        *now = now.plus(time);
    }

    /// Who is served, and whether somebody is waited for, of which a warning tells.
    fn ask(&mut self, ask: Ask) -> (Vec<(u8, String)>, bool) {
        let reloaded = ask(&mut self.files).unwrap_or_else(|faults| panic!("{faults}"));
        let told = reloaded.warnings.iter().filter(|warning| warning.message.contains("written in place")).count();
        assert_eq!((reloaded.kept.len(), told > 0), (0, reloaded.again_in.is_some()), "{reloaded:?}");
        assert!(!self.files.changed(), "it was read");
        (served(&reloaded), told > 0)
    }
}

const LEAST: Duration = Duration::from_millis(1);

#[test]
fn half_a_file_is_never_taken_for_all_of_it() {
    let all = users(&[(1, "a"), (2, "b"), (3, "c")]);
    let more = users(&[(1, "new"), (2, "b"), (3, "c"), (4, "d")]);
    for ask in BOTH {
        // Between two users each.
        for (cut, _) in more.match_indices("[[").take(3) {
            let mut watched = Watched::new(&main_of("'c/*.toml'"), &[("c/a.toml", &all)]);
            watched.overwrite("c/a.toml", &more[..cut]);
            let before = expected(&[(1, "a"), (2, "b"), (3, "c")]);
            for _ in 0..3 {
                assert_eq!(watched.ask(ask), (before.clone(), true), "{cut}");
                watched.pass(STILL_FOR / 4);
            }
            watched.overwrite("c/a.toml", &more);
            assert_eq!(watched.ask(ask), (expected(&[(1, "new"), (2, "b"), (3, "c"), (4, "d")]), false), "{cut}");
        }
    }
}

#[test]
fn what_was_lost_is_believed_once_the_file_has_stood_still() {
    for ask in BOTH {
        let mut watched = Watched::new(&main_of("'c/*.toml'"), &[("c/a.toml", &users(&[(1, "a"), (2, "b")])), ("c/b.toml", "")]);
        let (before, after) = (expected(&[(1, "a"), (2, "b")]), expected(&[(1, "new")]));
        watched.overwrite("c/a.toml", &users(&[(1, "x")]));
        assert_eq!(watched.ask(ask), (before.clone(), true));
        watched.pass(STILL_FOR - LEAST);
        // It goes on: the time begins anew.
        watched.overwrite("c/a.toml", &users(&[(1, "new")]));
        assert_eq!(watched.ask(ask), (before.clone(), true));
        watched.pass(STILL_FOR - LEAST);
        // Others are taken meanwhile, and neither they nor the asking makes a difference.
        watched.stage.write("c/b.toml", &users(&[(3, "c")]));
        let meanwhile = expected(&[(1, "a"), (2, "b"), (3, "c")]);
        assert_eq!(watched.ask(ask), (meanwhile.clone(), true));
        watched.stage.write("c/b.toml", "");
        assert_eq!(watched.ask(ask), (before, true));
        watched.pass(LEAST);
        assert_eq!(watched.ask(ask), (after.clone(), false));
        assert_eq!(watched.ask(ask), (after, false));
    }
}

#[test]
fn what_was_replaced_as_a_whole_is_believed_at_once() {
    let one = users(&[(1, "a")]);
    for ask in BOTH {
        let mut watched = Watched::new(&main_of("'c/*.toml'"), &[("c/a.toml", &users(&[(1, "a"), (2, "b")]))]);
        watched.overwrite("c/a.toml", &one);
        assert_eq!(watched.ask(ask), (expected(&[(1, "a"), (2, "b")]), true));
        watched.stage.write("c/a.toml", &one);
        assert_eq!(watched.ask(ask), (expected(&[(1, "a")]), false), "renamed");

        let stage = Stage::new(&main_of("'c/*.toml'"), &[("1", &users(&[(1, "a"), (2, "b")])), ("2", &one)]);
        symlink("../1", stage.path("c/a.toml")).expect("a link");
        let mut files = stage.open();
        symlink("../2", stage.path("c/new")).expect("a link");
        fs::rename(stage.path("c/new"), stage.path("c/a.toml")).expect("renamed");
        assert_eq!(served(&ask(&mut files).expect("is good")), expected(&[(1, "a")]), "a link swapped");
    }
}

/// The number of its users may be the same, or its `attempt` cut off.
#[test]
fn nobody_is_lost_who_is_somewhere_else() {
    let mut watched = Watched::new(&main_of("'c/*.toml'"), &[("c/a.toml", &users(&[(1, "a"), (2, "b")])), ("c/b.toml", "")]);
    watched.overwrite("c/a.toml", &users(&[(1, "a"), (3, "c")]));
    assert_eq!(watched.ask(Files::reload), (expected(&[(1, "a"), (2, "b")]), true));
    watched.overwrite("c/b.toml", &users(&[(2, "moved")]));
    assert_eq!(watched.ask(Files::reload), (expected(&[(1, "a"), (2, "moved"), (3, "c")]), false));

    let attempt = |attempt: &str| user(1, &format!("password = 'a'\n{attempt}"));
    let mut watched = Watched::new(&main_of("'c/*.toml'"), &[("c/a.toml", &attempt("attempt = 12\n"))]);
    for half in ["", "attempt = 1"] {
        watched.overwrite("c/a.toml", &attempt(half));
        assert!(watched.ask(Files::reload).1, "{half}");
    }
    watched.overwrite("c/a.toml", &attempt("attempt = 13"));
    assert!(!watched.ask(Files::reload).1);
}

#[test]
fn half_a_main_file_is_not_taken_either() {
    let head = format!("{VAULT}timeout = '9s'\n");
    let with_pattern =
        format!("vault.base_url = 'https://vault.example.org'\ncredentials_files = ['c/*.toml']\n{}", users(&[(2, "b")]));
    for (whole, half, also) in [
        (format!("{VAULT}{}", users(&[(1, "a"), (2, "b")])), format!("{head}{}", users(&[(1, "new")])), None),
        (with_pattern, "vault.base_url = 'https://vault.example.org'\n".to_owned(), Some(users(&[(1, "a")]))),
    ] {
        for ask in BOTH {
            let files: Vec<_> = also.iter().map(|text| ("c/a.toml", text.as_str())).collect();
            let mut watched = Watched::new(&whole, &files);
            watched.overwrite("main.toml", &half);
            for _ in 0..3 {
                assert_eq!(watched.ask(ask), (expected(&[(1, "a"), (2, "b")]), true));
                watched.pass(STILL_FOR / 4);
            }
            if also.is_some() {
                // What the former main file names is followed.
                watched.stage.write("c/a.toml", &users(&[(1, "new")]));
                assert_eq!(watched.ask(ask), (expected(&[(1, "new"), (2, "b")]), true));
            }
            watched.pass(STILL_FOR / 4);
            let left = if also.is_some() { vec![] } else { expected(&[(1, "new")]) };
            assert_eq!(watched.ask(ask), (left, false));
        }
    }
}

#[test]
fn callers_at_a_main_files_end_are_not_lost_either() {
    let caller = |id: &str| format!("[[callers]]\nid = '{id}'\nmerchants = ['*']\n");
    let head = format!("{VAULT}[auth.service_accounts]\nissuer = 'https://example.org'\njwks_url = 'https://example.org/keys'\n");
    let (one, two) = (caller("system:serviceaccount:a:a"), caller("system:serviceaccount:b:b"));
    let mut watched = Watched::new(&format!("{head}{one}{two}"), &[]);
    let callers = |watched: &mut Watched| watched.files.reload().expect("is good").config.callers.len();
    watched.overwrite("main.toml", &format!("{head}{one}"));
    assert_eq!(callers(&mut watched), 2);
    watched.pass(STILL_FOR);
    assert_eq!(callers(&mut watched), 1);
    watched.stage.write("main.toml", &format!("{head}{two}"));
    assert_eq!(callers(&mut watched), 1, "renamed");
}
