//! The log, as JSON or text, on standard output, and the audit trail, always as JSON, beside it or in a file.
//!
//! Must never let a slow reader of either stall a call: lines go through bounded queues, and what does not fit is dropped,
//! counted and said. Must never print a panic's text, which may hold anything, nor mix the two.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt as _,
    panic,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use thiserror::Error;
use tokio::time::sleep;
use tracing::{error, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer as _, Registry,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use crate::{
    audit,
    config::{Audit, Log, LogFormat},
    metrics::Metrics,
};

/// Most lines waiting for standard output: a few seconds of a bad day, about 4 MiB.
const LINES_MAX: usize = 16_384;

/// Most lines of the audit trail waiting to be written: a second and more of calls as fast as they come, about 32 MiB.
const AUDIT_LINES_MAX: usize = 65_536;
/// Lines that have gathered are written at once, up to so many bytes: a write each would cost a busy broker more than the lines.
const GATHERED_MAX: usize = 64 * 1024;
/// Who may read the audit trail's file: its owner, whom the operator chooses.
const AUDIT_FILE_MODE: u32 = 0o600;

/// What waits in the queues at the end has this long to be written: a disk takes both in less.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The target of this crate's lines.
const OURS: &str = "token_broker";

/// How often lines that were dropped are told, if any were.
const DROPPED_EVERY: Duration = Duration::from_secs(10);

/// The level of the running log.
#[derive(Clone, Debug)]
pub struct Level(reload::Handle<Targets, Registry>);

impl Level {
    /// Changes it.
    pub fn set(&self, level: tracing::Level) {
        if let Err(error) = self.0.reload(filter(level)) {
            warn!(%error, "the log's level stays as it was");
        }
    }
}

/// The level is ours alone: what the libraries trace are frames and headers, and with them what callers sent.
fn filter(level: tracing::Level) -> Targets {
    let others = LevelFilter::WARN.min(level.into());
    Targets::new().with_default(others).with_target(OURS, level).with_target(audit::TARGET, LevelFilter::OFF)
}

/// The running log.
#[derive(Debug)]
pub struct Logs {
    /// Its level.
    pub level: Level,
    /// Write what is left when dropped.
    guards: [WorkerGuard; 2],
    dropped: ErrorCounter,
    /// Lines of the audit trail that found the queue full.
    unaudited: ErrorCounter,
    /// Those that could not be written.
    unwritten: Arc<AtomicUsize>,
}

/// Logging can't start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A logger is installed already.
    #[error(transparent)]
    Installed(#[from] tracing_subscriber::util::TryInitError),
    /// The audit trail's file can't be written to.
    #[error("audit.file: {} can't be added to: {source}: mend its permissions, or name another file", path.display())]
    AuditFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Logs {
    /// Tells of lines that were dropped, for as long as it is polled, and counts them.
    pub async fn tell_of_dropped(&self, metrics: &Metrics) {
        let (mut told, mut told_audit) = (0, 0);
        loop {
            sleep(DROPPED_EVERY).await;
            let dropped = self.dropped.dropped_lines();
            if dropped > told {
                warn!(lines = dropped - told, "log lines were dropped: whatever reads them is too slow");
                metrics.log_lines_lost.inc_by(u64::try_from(dropped - told).unwrap_or(u64::MAX));
                told = dropped;
            }
            let unaudited = lost_lines(&self.unaudited, &self.unwritten);
            if unaudited > told_audit {
                let lines = unaudited - told_audit;
                error!(lines, "lines of the audit trail were lost: whatever takes them is too slow, or full");
                metrics.audit_lines_lost.inc_by(u64::try_from(lines).unwrap_or(u64::MAX));
                told_audit = unaudited;
            }
        }
    }
}

impl Logs {
    /// Writes what is left, for a moment at most, and says on standard error what of the audit trail was lost in all.
    pub fn end(self) {
        let Self { guards, unaudited, unwritten, .. } = self;
        let (ended, end) = mpsc::sync_channel(1);
        // Apart, since whatever reads standard output may be stuck, and the end of the process must not be.
        let dropping = thread::Builder::new().name("last lines".to_owned()).spawn(move || {
            drop(guards);
            // Nobody may wait any more.
            ended.send(()).ok();
        });
        let written = dropping.is_ok() && end.recv_timeout(LAST_LINES).is_ok();
        let lost = lost_lines(&unaudited, &unwritten);
        if lost > 0 || !written {
            let rest = if written { "" } else { ", and what waited at the end was not written" };
            eprintln!("warning: {lost} lines of the audit trail were lost{rest}");
        }
    }
}

/// Those that found the queue full, and those that could not be written.
fn lost_lines(dropped: &ErrorCounter, unwritten: &AtomicUsize) -> usize {
    dropped.dropped_lines().saturating_add(unwritten.load(Ordering::Relaxed))
}

/// Starts logging.
///
/// # Errors
/// Where a logger is installed already, or the audit trail's file can't be opened.
pub fn start(log: &Log, trail: &Audit) -> Result<Logs, StartError> {
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).lossy(true).finish(io::stdout());
    let unwritten = Arc::default();
    let (audit_writer, audit_guard) = audit_writer(trail, &unwritten)?;
    let (dropped, unaudited) = (writer.error_counter(), audit_writer.error_counter());
    let (filter, level) = reload::Layer::new(filter(log.level));
    let ours = match log.format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_current_span(false).with_writer(writer).boxed(),
        LogFormat::Text => fmt::layer().with_ansi(false).with_writer(writer).boxed(),
    };
    let trail = fmt::layer().json().flatten_event(true).with_current_span(false).with_level(false).with_writer(audit_writer);
    let only = Targets::new().with_target(audit::TARGET, LevelFilter::TRACE);
    tracing_subscriber::registry().with(ours.with_filter(filter)).with(trail.with_filter(only)).try_init()?;
    panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        error!(location, thread = thread::current().name(), "a task panicked");
    }));
    Ok(Logs { level: Level(level), guards: [guard, audit_guard], dropped, unaudited, unwritten })
}

fn audit_writer(trail: &Audit, unwritten: &Arc<AtomicUsize>) -> Result<(NonBlocking, WorkerGuard), StartError> {
    let builder = NonBlockingBuilder::default().buffered_lines_limit(AUDIT_LINES_MAX).lossy(true).thread_name("audit");
    let counted = |to| Counted { to, gathered: Vec::with_capacity(GATHERED_MAX), lines: 0, failures: Arc::clone(unwritten) };
    let Some(path) = &trail.file else { return Ok(builder.finish(counted(Box::new(io::stdout()) as _))) };
    let file = fs::OpenOptions::new().append(true).create(true).mode(AUDIT_FILE_MODE).open(path);
    let file = file.map_err(|source| StartError::AuditFile { path: path.clone(), source })?;
    Ok(builder.finish(counted(Box::new(file))))
}

/// Writes what has gathered at once, and counts what can't be written, say to a full disk: the queue's own thread passes over that
/// in silence.
struct Counted {
    to: Box<dyn io::Write + Send>,
    gathered: Vec<u8>,
    lines: usize,
    failures: Arc<AtomicUsize>,
}

impl io::Write for Counted {
    /// A whole line each time.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(line);
        self.lines += 1;
        if self.gathered.len() >= GATHERED_MAX {
            self.flush()?;
        }
        Ok(line.len())
    }

    /// Called whenever the queue is empty.
    fn flush(&mut self) -> io::Result<()> {
        if self.to.write_all(&self.gathered).and_then(|()| self.to.flush()).is_err() {
            self.failures.fetch_add(self.lines, Ordering::Relaxed);
        }
        self.gathered.clear();
        self.lines = 0;
        Ok(())
    }
}
