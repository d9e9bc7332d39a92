//! Watch the configuration's files, read them again when they change or the operator says so, and hand over what they say.
//!
//! Must never do file work on an async worker, nor hand over anything that is not good as a whole, nor be silent about what
//! is not.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    clock::{Clock, Moment},
    config::{Fault, Faults, Files, Fingerprints, Kept, Reloaded},
    telemetry::{
        audit::Audit,
        metrics::{self, Metrics},
    },
};

/// How often the files are looked at: with the time to settle and to read, a change is seen within 5 s.
pub const POLL_EVERY: Duration = Duration::from_secs(2);
/// Files that look the same twice, this far apart, are taken to be written to the end: far above the tick of a file system's
/// clock and the pauses of a program that writes, far below what an operator waits for.
const SETTLED_AFTER: Duration = Duration::from_millis(250);
/// How often files are looked at until they settle. Then they are read nevertheless, since something may change for ever that
/// matters to one file only; a file that is caught changing isn't taken.
const SETTLE_LOOKS: u32 = 8;
/// While there is a fault, files are read again although they look the same, since not all that can fail shows from outside: at
/// the next poll, then after twice as many, and so on up to this many polls, a minute or so: what is faulty for good costs
/// next to nothing.
const RETRY_POLLS_MAX: u32 = 32;
/// Lines on faults that one reload may log and keep: those that come first are those that help, and the log's queue is bounded.
const LINES_MAX: usize = 50;

/// What is in force, and what is wrong with what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadState {
    /// 1 for what was read at the start; one more for each configuration that was handed over since then.
    pub generation: u64,
    /// When this generation was read.
    pub last_good: SystemTime,
    /// What is wrong with the files as they are now, one line each, at most some dozens; empty while all of them are in force.
    /// Holds no secret.
    pub faults: Vec<String>,
}

impl ReloadState {
    /// What was read at the start is in force, all of it.
    #[must_use]
    pub fn at_the_start(clock: &dyn Clock) -> Self {
        Self { generation: 1, last_good: clock.now().wall, faults: Vec::new() }
    }
}

/// Watches the files of one configuration.
#[derive(Debug)]
pub struct Reload {
    files: Files,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    audit: Audit,
    state: watch::Sender<ReloadState>,
    /// What the start has logged already.
    warned: BTreeSet<String>,
}

impl Reload {
    /// Takes over files that have been read just now, with these warnings, which have been logged.
    #[must_use]
    pub fn new(files: Files, warnings: &[Fault], clock: Arc<dyn Clock>, metrics: Arc<Metrics>, audit: Audit) -> Self {
        let state = ReloadState::at_the_start(&*clock);
        let warned = warnings.iter().map(ToString::to_string).collect();
        let files = files.timed_by(Arc::clone(&clock));
        Self { files, clock, state: watch::Sender::new(state), metrics, audit, warned }
    }

    /// What is in force, as it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ReloadState> {
        self.state.subscribe()
    }

    /// Looks at the files `every` so often, or when `hup` is notified, until `closing`. `publish` gets each new configuration, and
    /// gets it again if it says why it can't be put in force,
    /// on a thread where it may block, never twice at once; it is not called where there is nothing new.
    ///
    /// A notification stands for the operator's word that the files are ready: they are read at once, all of them. What may be half
    /// of a file nevertheless, since it was written to and lacks users, waits until it has stood still.
    pub async fn watch(
        self,
        every: Duration,
        hup: Arc<Notify>,
        closing: CancellationToken,
        publish: impl FnMut(Reloaded) -> Result<(), String> + Send + 'static,
    ) {
        let Self { files, clock, metrics, audit, state, warned } = self;
        let told = Told { warnings: warned, ..Told::default() };
        let seen = files.seen().clone();
        let worker = Arc::new(Mutex::new(Worker { files, clock, metrics, audit, state, told, rejected: None, publish }));
        let mut watching = Watching { worker, seen, retry: Retry::default(), failed: false, again_in: None };
        // A reload that has begun goes on by itself to its end.
        closing.run_until_cancelled(watching.run(every, &hup)).await;
    }
}

/// Which files to read.
#[derive(Clone, Copy, Debug)]
enum Scope {
    Changed,
    All,
}

/// The async half: when to look and when to read.
struct Watching<P> {
    worker: Arc<Mutex<Worker<P>>>,
    /// How the files looked when they were last read.
    seen: Fingerprints,
    retry: Retry,
    /// Whether the last reload didn't come to its end: what it took may not have been handed over.
    failed: bool,
    /// When to read although the files look the same: one of them is believed only once it has stood still for long.
    again_in: Option<Duration>,
}

impl<P: FnMut(Reloaded) -> Result<(), String> + Send + 'static> Watching<P> {
    async fn run(&mut self, every: Duration, hup: &Notify) {
        loop {
            let pause = self.again_in.map_or(every, |again| again.max(SETTLED_AFTER).min(every));
            let scope = tokio::select! {
                () = hup.notified() => Some(Scope::All),
                () = sleep(pause) => {
                    self.again_in = self.again_in.map(|again| again.saturating_sub(pause));
                    self.poll().await
                }
            };
            if let Some(scope) = scope {
                self.reload(if self.failed { Scope::All } else { scope }).await;
            }
        }
    }

    /// Whether there is something to read.
    async fn poll(&mut self) -> Option<Scope> {
        let mut last = look(self.seen.clone()).await?;
        if last == self.seen || self.failed {
            let due = self.retry.is_due() || self.again_in == Some(Duration::ZERO);
            return due.then_some(Scope::Changed);
        }
        for _ in 0..SETTLE_LOOKS {
            sleep(SETTLED_AFTER).await;
            let next = look(last.clone()).await?;
            if next == last {
                break;
            }
            last = next;
        }
        Some(Scope::Changed)
    }

    async fn reload(&mut self, scope: Scope) {
        let worker = Arc::clone(&self.worker);
        match spawn_blocking(move || lock(&worker).reload(scope)).await {
            Ok((seen, faulty, again_in)) => {
                self.again_in = again_in;
                self.retry.note(faulty, seen != self.seen);
                self.seen = seen;
                self.failed = false;
            }
            Err(_) => {
                error!("the configuration could not be reloaded, which is this program's own fault: report it as its bug");
                self.retry.note(true, false);
                self.again_in = None;
                self.failed = true;
            }
        }
    }
}

/// Looks at the files; none if that failed, which the next poll makes good.
async fn look(seen: Fingerprints) -> Option<Fingerprints> {
    spawn_blocking(move || seen.again()).await.ok()
}

/// After a panic the files are as good as before: what is new is put in place at the end.
fn lock<T>(worker: &Mutex<T>) -> MutexGuard<'_, T> {
    worker.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When to read what is at fault again although it looks the same.
#[derive(Debug, Default)]
struct Retry {
    /// How many polls to wait in all; 0 while nothing is at fault.
    polls: u32,
    left: u32,
}

impl Retry {
    fn note(&mut self, faulty: bool, changed: bool) {
        self.polls = match (faulty, changed) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => self.polls.saturating_mul(2).clamp(1, RETRY_POLLS_MAX),
        };
        self.left = self.polls;
    }

    fn is_due(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.polls > 0 && self.left == 0
    }
}

/// The blocking half.
struct Worker<P> {
    files: Files,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    audit: Audit,
    state: watch::Sender<ReloadState>,
    told: Told,
    /// Why what was read last could not be put in force, although it is in order.
    rejected: Option<String>,
    publish: P,
}

impl<P: FnMut(Reloaded) -> Result<(), String>> Worker<P> {
    /// Reads, publishes, and tells; says how the files looked, whether one is at fault, and when to read again in any case.
    fn reload(&mut self, scope: Scope) -> (Fingerprints, bool, Option<Duration>) {
        let start = self.clock.now();
        let was_rejected = self.rejected.is_some();
        let outcome = match scope {
            Scope::Changed => self.files.reload(),
            Scope::All => self.files.reload_all(),
        };
        let again_in = outcome.as_ref().ok().and_then(|reloaded| reloaded.again_in);
        let (was_faulty, result) = match outcome {
            Err(faults) => (self.told.refused(&faults), metrics::ReloadResult::Refused),
            Ok(reloaded) => {
                self.told.warnings(&reloaded.warnings);
                let was_faulty = self.told.kept(&reloaded.kept);
                let all = reloaded.kept.is_empty();
                if reloaded.changed || was_rejected {
                    self.hand_over(reloaded, start);
                }
                let result = match (&self.rejected, all) {
                    (Some(_), _) => metrics::ReloadResult::Refused,
                    (None, true) => metrics::ReloadResult::Taken,
                    (None, false) => metrics::ReloadResult::Kept,
                };
                (was_faulty, result)
            }
        };
        let lines: Vec<String> = self.told.faults.iter().chain(&self.rejected).cloned().collect();
        self.metrics.reload(result);
        if (was_faulty || was_rejected) && lines.is_empty() {
            info!("all of the configuration is in force again");
        }
        let news = self.state.send_if_modified(|state| {
            let news = state.faults != lines;
            if news {
                state.faults.clone_from(&lines);
            }
            news
        });
        // Once, not with each look at what is still at fault.
        if news && !lines.is_empty() {
            self.audit.configuration_refused(self.clock.now().wall, lines.len());
        }
        (self.files.seen().clone(), !lines.is_empty(), again_in)
    }

    fn hand_over(&mut self, reloaded: Reloaded, start: Moment) {
        let users = reloaded.config.users.len();
        let rejected = (self.publish)(reloaded).err();
        if let Some(why) = rejected.as_ref().filter(|_| rejected != self.rejected) {
            error!("the configuration can't be put in force, and all of the last good one stays: {why}");
        }
        self.rejected = rejected;
        if self.rejected.is_some() {
            return;
        }
        self.state.send_modify(|state| {
            state.generation = state.generation.saturating_add(1);
            state.last_good = start.wall;
        });
        let generation = self.state.borrow().generation;
        let duration_ms = self.clock.now().mono.saturating_duration_since(start.mono).as_secs_f64() * 1e3;
        info!(users, generation, duration_ms, "configuration reloaded");
    }
}

/// What the log has been told, so that it is told once: until a line is no longer true, and then anew.
#[derive(Default)]
struct Told {
    faults: Vec<String>,
    warnings: BTreeSet<String>,
}

impl Told {
    /// Tells why nothing was taken; says whether there was a fault before.
    fn refused(&mut self, faults: &Faults) -> bool {
        let lines = faults.iter().map(ToString::to_string);
        self.tell(lines, |line| error!("the configuration is at fault, and all of the last good one stays in force: {line}"))
    }

    /// Tells which files weren't taken; says whether there was a fault before.
    fn kept(&mut self, kept: &[Kept]) -> bool {
        let lines = kept.iter().flat_map(|Kept { file, users, faults }| {
            let instead = match users {
                Some(users) => format!("the last good version of {}, with {users} users, stays in force", file.display()),
                None => format!("{} has no users until it is mended", file.display()),
            };
            faults.iter().map(move |fault| format!("{fault}; {instead}"))
        });
        self.tell(lines, |line| error!("a credentials file is at fault: {line}"))
    }

    fn tell(&mut self, mut lines: impl Iterator<Item = String>, log: impl Fn(&str)) -> bool {
        let mut now: Vec<String> = lines.by_ref().take(LINES_MAX).collect();
        let more = lines.count();
        if more > 0 {
            now.push(format!("and {more} faults more"));
        }
        now.iter().filter(|line| !self.faults.contains(line)).for_each(|line| log(line));
        !std::mem::replace(&mut self.faults, now).is_empty()
    }

    fn warnings(&mut self, warnings: &[Fault]) {
        let now: BTreeSet<String> = warnings.iter().map(ToString::to_string).collect();
        now.difference(&self.warnings).take(LINES_MAX).for_each(|line| warn!("{line}"));
        self.warnings = now;
    }
}

#[cfg(test)]
mod tests;
