//! Real files in paused time: when a change is seen, and what is handed over, kept and told.

use std::{
    cell::RefCell,
    fs, io,
    os::unix::fs::symlink,
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering},
    },
};

use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::*;

const MAIN: &str = "credentials_files = ['c/*.toml']\n[vault]\nbase_url = 'https://vault.example.org'\n";
/// What the contract promises.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// The test clock's wall time when it starts.
const WALL: Duration = Duration::from_secs(1_900_000_000);

/// Paused time, and a wall clock that goes with it.
#[derive(Debug)]
struct TestClock(Instant);

#[allow(clippy::disallowed_methods, reason = "a clock too")]
impl TestClock {
    fn start() -> Self {
        Self(Instant::now())
    }
}

#[allow(clippy::disallowed_methods, reason = "a clock too")]
impl Clock for TestClock {
    fn now(&self) -> Moment {
        let mono = Instant::now();
        Moment { mono, wall: SystemTime::UNIX_EPOCH + WALL + mono.duration_since(self.0) }
    }
}

/// A broker's configuration, watched.
struct Stage {
    directory: TempDir,
    clock: Arc<TestClock>,
    hup: Arc<Notify>,
    state: watch::Receiver<ReloadState>,
    published: mpsc::Receiver<String>,
    closing: CancellationToken,
    watching: JoinSet<()>,
}

thread_local! {
    /// What was logged on this thread.
    static LOG: RefCell<Vec<u8>> = RefCell::default();
}

struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects what is logged, thread by thread. Before anything is: what a thread without a collector logs first is disabled for
/// all threads.
fn collect_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| Log).init());
}

/// Users a and b in two files.
fn directory() -> TempDir {
    collect_logs();
    let directory = tempfile::tempdir().expect("a directory");
    fs::create_dir(directory.path().join("c")).expect("a directory");
    for (name, text) in [("main.toml", MAIN), ("c/a.toml", &user(1, "a")), ("c/b.toml", &user(2, "b"))] {
        write(&directory, name, text);
    }
    directory
}

fn user(digit: u8, password: &str) -> String {
    format!("[[users]]\nmerchant_id = 'm'\nnumber = '+44787123999{digit}'\npassword = '{password}'\n")
}

/// Replaces a file in one step.
fn write(directory: &TempDir, name: &str, text: &str) {
    let new = directory.path().join(".new");
    fs::write(&new, text).expect("a file");
    fs::rename(&new, directory.path().join(name)).expect("renamed");
}

fn open(directory: &TempDir, clock: &Arc<TestClock>) -> Reload {
    let (files, loaded) = Files::open(&directory.path().join("main.toml")).unwrap_or_else(|faults| panic!("{faults}"));
    Reload::new(files, &loaded.warnings, Arc::clone(clock) as Arc<dyn Clock>, Arc::default(), Audit::default())
}

/// The passwords, in the order of the files.
fn passwords(reloaded: &Reloaded) -> String {
    let passwords: Vec<_> = reloaded.config.users.iter().map(|user| user.password.expose()).collect();
    passwords.join(" ")
}

impl Stage {
    fn new() -> Self {
        let (sender, published) = mpsc::channel(16);
        Self::publishing(published, move |reloaded| {
            sender.try_send(passwords(&reloaded)).expect("there is room");
            Ok(())
        })
    }

    fn publishing(
        published: mpsc::Receiver<String>,
        publish: impl FnMut(Reloaded) -> Result<(), String> + Send + 'static,
    ) -> Self {
        let (directory, clock) = (directory(), Arc::new(TestClock::start()));
        let reload = open(&directory, &clock);
        let (state, hup, closing) = (reload.state(), Arc::new(Notify::new()), CancellationToken::new());
        let mut watching = JoinSet::new();
        watching.spawn(reload.watch(POLL_EVERY, Arc::clone(&hup), closing.clone(), publish));
        Self { directory, clock, hup, state, published, closing, watching }
    }

    fn write(&self, name: &str, text: &str) {
        write(&self.directory, name, text);
    }

    /// The next configuration that is handed over, and after how long.
    async fn next(&mut self) -> (String, Duration) {
        let start = self.clock.now();
        let next = timeout(SEEN_WITHIN, self.published.recv()).await.expect("in time").expect("is watched");
        (next, self.clock.now().mono - start.mono)
    }

    /// The state once it has changed.
    async fn told(&mut self) -> ReloadState {
        timeout(SEEN_WITHIN, self.state.changed()).await.expect("in time").expect("is watched");
        self.state.borrow_and_update().clone()
    }

    /// Nothing is handed over for so long.
    async fn quiet(&mut self, time: Duration) {
        let published = timeout(time, self.published.recv()).await;
        assert!(published.is_err(), "{published:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn changes_are_seen_within_five_seconds_and_once() {
    let mut stage = Stage::new();
    stage.quiet(Duration::from_secs(60)).await;
    for round in 0..10 {
        // At another point between two polls each time.
        sleep(Duration::from_millis(317)).await;
        stage.write("c/a.toml", &user(1, &format!("a{round}")));
        let (next, after) = stage.next().await;
        assert_eq!(next, format!("a{round} b"));
        assert!(after >= SETTLED_AFTER, "{after:?}: it may still be written to");
        stage.quiet(Duration::from_secs(10)).await;
    }
    stage.write("c/c.toml", &user(3, "c"));
    assert_eq!(stage.next().await.0, "a9 b c");
    fs::remove_file(stage.directory.path().join("c/a.toml")).expect("removed");
    assert_eq!(stage.next().await.0, "b c");
    stage.write("main.toml", &MAIN.replace("*", "c"));
    assert_eq!(stage.next().await.0, "c");
}

#[tokio::test(start_paused = true)]
async fn a_swap_of_data_is_seen_within_five_seconds() {
    let mut stage = Stage::new();
    let mount = stage.directory.path().join("c");
    fs::remove_file(mount.join("a.toml")).expect("removed");
    symlink("..data/a.toml", mount.join("a.toml")).expect("a link");
    for (round, before) in [(1, 0), (2, 1), (3, 2)] {
        fs::create_dir(mount.join(format!("..{round}"))).expect("a directory");
        fs::write(mount.join(format!("..{round}/a.toml")), user(1, &format!("a{round}"))).expect("a file");
        symlink(format!("..{round}"), mount.join("..data_tmp")).expect("a link");
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("renamed");
        let removed = fs::remove_dir_all(mount.join(format!("..{before}")));
        assert_eq!(removed.is_ok(), before > 0);
        assert_eq!(stage.next().await.0, format!("a{round} b"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_signal_reads_all_at_once_changed_or_not() {
    let mut stage = Stage::new();
    for (write, expected) in [(None, "a b"), (Some("new"), "new b"), (None, "new b")] {
        if let Some(password) = write {
            stage.write("c/a.toml", &user(1, password));
        }
        stage.hup.notify_one();
        assert_eq!(stage.next().await, (expected.to_owned(), Duration::ZERO));
        // Not until a poll begins: that may see the change first.
        stage.quiet(Duration::from_millis(9_300)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn files_that_are_being_written_are_waited_for_but_not_for_ever() {
    let mut stage = Stage::new();
    let (path, half) = (stage.directory.path().join("c/a.toml"), user(1, "half"));
    for (steps, expected) in [(10, "whole b"), (usize::MAX, "half b")] {
        let mut writer = JoinSet::new();
        let (path, half) = (path.clone(), half.clone());
        writer.spawn(async move {
            // Looks and reads are at multiples of 50 ms, on another thread, and time stands still while they last: no write meets one.
            sleep(Duration::from_millis(30)).await;
            for step in 0..steps {
                // Good at each step, but not yet what it is to be.
                fs::write(&path, format!("{half}#{}", "x".repeat(step))).expect("a file");
                sleep(Duration::from_millis(100)).await;
            }
            fs::write(&path, user(1, "whole")).expect("a file");
        });
        assert_eq!(stage.next().await.0, expected, "{steps} steps");
    }
}

/// Each write is in place, and half for longer than files are waited for to settle, with the operator's signals in between.
#[tokio::test(start_paused = true)]
async fn half_a_file_removes_nobody_and_a_whole_one_does_once_it_stands_still() {
    let mut stage = Stage::new();
    let path = stage.directory.path().join("c/a.toml");
    stage.write("c/a.toml", &format!("{}{}", user(1, "a"), user(3, "c")));
    assert_eq!(stage.next().await.0, "a c b");
    for round in 0..3 {
        fs::write(&path, user(1, "half")).expect("a file");
        for _ in 0..6 {
            if round == 1 {
                stage.hup.notify_one();
            }
            // What the signal reads anew is handed over, as it was.
            while let Ok(published) = timeout(Duration::from_secs(1), stage.published.recv()).await {
                let last = if round == 0 { "a c b".to_owned() } else { format!("a{} c b", round - 1) };
                assert_eq!(published, Some(last), "{round}");
            }
        }
        fs::write(&path, format!("{}{}", user(1, &format!("a{round}")), user(3, "c"))).expect("a file");
        assert_eq!(stage.next().await.0, format!("a{round} c b"));
    }
    fs::write(&path, user(1, "whole")).expect("a file");
    let start = stage.clock.now();
    let published = timeout(Duration::from_secs(10), stage.published.recv()).await.expect("in time");
    assert_eq!(published.as_deref(), Some("whole b"));
    assert!(stage.clock.now().mono - start.mono > Duration::from_secs(6), "for longer than anybody pauses");
    assert!(stage.state.borrow_and_update().faults.is_empty(), "a warning is no fault");
    stage.quiet(Duration::from_secs(60)).await;
    // By a rename it takes no longer than anything else.
    stage.write("c/a.toml", "");
    assert_eq!(stage.next().await.0, "b");
}

#[tokio::test(start_paused = true)]
async fn the_state_tells_what_is_in_force_and_what_is_wrong() {
    let mut stage = Stage::new();
    let at = |time: Duration| SystemTime::UNIX_EPOCH + WALL + time;
    let first = ReloadState { generation: 1, last_good: at(Duration::ZERO), faults: vec![] };
    assert_eq!(*stage.state.borrow_and_update(), first);

    // A file of two is at fault: nothing new is in force.
    stage.write("c/a.toml", "[[users]]\npassword = 1234Qwerty");
    let state = stage.told().await;
    assert_eq!((state.generation, state.last_good, state.faults.len()), (1, first.last_good, 1));
    let fault = state.faults.concat();
    assert!(fault.contains("c/a.toml:2: is not valid TOML") && fault.contains("with 1 users, stays in force"), "{fault}");
    assert!(!fault.contains("1234Qwerty"), "{fault}");
    stage.quiet(Duration::from_secs(600)).await;
    assert!(!stage.state.has_changed().expect("is watched"), "the same fault is no news");

    // The other goes on.
    stage.write("c/b.toml", &user(2, "new"));
    assert_eq!(stage.next().await.0, "a new");
    let state = stage.told().await;
    assert_eq!((state.generation, state.faults.concat()), (2, fault));
    assert!(state.last_good > at(Duration::from_secs(600)), "{state:?}");

    // The main file is at fault, and so is nothing in force that comes meanwhile.
    stage.write("main.toml", "[");
    let state = stage.told().await;
    assert!(state.generation == 2 && state.faults.concat().contains("main.toml:1: is not valid TOML"), "{state:?}");
    stage.write("c/a.toml", &user(1, "mended"));
    stage.quiet(Duration::from_secs(60)).await;
    stage.write("main.toml", MAIN);
    assert_eq!(stage.next().await.0, "mended new");
    timeout(SEEN_WITHIN, stage.state.wait_for(|state| state.generation == 3 && state.faults.is_empty()))
        .await
        .expect("in time")
        .expect("is watched");
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_it_is_handed_over_is_made_good() {
    let (sender, published) = mpsc::channel(16);
    let calls = AtomicUsize::new(0);
    let mut stage = Stage::publishing(published, move |reloaded| {
        assert!(calls.fetch_add(1, Ordering::Relaxed) > 0, "the first time fails");
        sender.try_send(passwords(&reloaded)).expect("there is room");
        Ok(())
    });
    stage.write("c/a.toml", &user(1, "new"));
    let next = timeout(2 * SEEN_WITHIN, stage.published.recv()).await.expect("in time");
    assert_eq!(next.as_deref(), Some("new b"));
    stage.quiet(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_put_in_force_is_a_fault_and_handed_over_again() {
    let (sender, published) = mpsc::channel(16);
    let calls = AtomicUsize::new(0);
    let mut stage = Stage::publishing(published, move |reloaded| {
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err("not now".to_owned());
        }
        sender.try_send(passwords(&reloaded)).expect("there is room");
        Ok(())
    });
    stage.write("c/a.toml", &user(1, "new"));
    stage.state.wait_for(|state| state.faults == ["not now"] && state.generation == 1).await.expect("is watched");
    let next = timeout(2 * SEEN_WITHIN, stage.published.recv()).await.expect("in time");
    assert_eq!(next.as_deref(), Some("new b"));
    stage.state.wait_for(|state| state.faults.is_empty() && state.generation == 2).await.expect("is watched");
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_the_process_does() {
    let mut stage = Stage::new();
    sleep(POLL_EVERY / 2).await;
    stage.closing.cancel();
    timeout(Duration::from_millis(1), stage.watching.join_next()).await.expect("at once").expect("ran").expect("no panic");
}

#[test]
fn faults_are_read_again_ever_more_rarely() {
    let mut retry = Retry::default();
    let polls = |retry: &mut Retry| (1..=100).find(|_| retry.is_due());
    assert_eq!(polls(&mut retry), None, "nothing is at fault");
    retry.note(true, true);
    let mut waits = Vec::new();
    for _ in 0..8 {
        waits.push(polls(&mut retry));
        retry.note(true, false);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 32, 32].map(Some));
    retry.note(true, true);
    assert_eq!(polls(&mut retry), Some(1), "another version begins anew");
    retry.note(false, true);
    assert_eq!(polls(&mut retry), None);
}

#[test]
fn each_line_is_logged_once_until_it_is_no_longer_true() {
    let (directory, clock) = (directory(), Arc::new(TestClock::start()));
    let Reload { files, clock, metrics, audit, state, warned } = open(&directory, &clock);
    let told = Told { warnings: warned, ..Told::default() };
    let mut worker = Worker { files, clock, metrics, audit, state, told, rejected: None, publish: |_| Ok(()) };
    let mut logged = |scope| {
        worker.reload(scope);
        String::from_utf8(LOG.take()).expect("is text")
    };
    let faulty = "[[users]]\npassword = 1234Qwerty";
    for (name, text, words) in [
        ("c/a.toml", user(1, "new"), &["INFO", "configuration reloaded users=2 generation=2 duration_ms="][..]),
        ("c/a.toml", faulty.to_owned(), &["ERROR", "c/a.toml:2: is not valid TOML", "with 1 users, stays in force"]),
        ("c/a.toml", faulty.to_owned(), &[]),
        ("c/b.toml", "x = 1".to_owned(), &["ERROR", "c/b.toml:1: x: is not a known key"]),
        ("c/b.toml", user(2, "b"), &["INFO", "configuration reloaded users=2 generation=3"]),
        ("c/a.toml", "[".to_owned(), &["ERROR", "c/a.toml:1: is not valid TOML"]),
        ("c/a.toml", user(1, "c"), &["configuration reloaded", "all of the configuration is in force again"]),
        ("main.toml", "[".to_owned(), &["ERROR", "all of the last good one stays in force: ", "main.toml:1: is not"]),
        ("main.toml", "[".to_owned(), &[]),
        ("c/a.toml", faulty.to_owned(), &[]),
        ("main.toml", MAIN.to_owned(), &["ERROR", "c/a.toml:2: is not valid TOML", "configuration reloaded"]),
    ] {
        write(&directory, name, &text);
        let lines = logged(Scope::Changed);
        assert_eq!(lines.is_empty(), words.is_empty(), "{name} {text}: {lines}");
        words.iter().for_each(|word| assert!(lines.contains(word), "{lines}\nlacks {word}"));
        assert!(!lines.contains("1234Qwerty"), "{lines}");
    }
    let all = logged(Scope::All);
    assert!(all.contains("configuration reloaded") && all.lines().count() == 1, "{all}");
    write(&directory, "c/a.toml", &user(1, "x").repeat(200));
    assert_eq!(logged(Scope::Changed).lines().count(), LINES_MAX + 1, "the rest is counted");
}
