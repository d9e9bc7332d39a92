//! The log, as JSON or text, on standard output, and how it ends together with the audit trail.
//!
//! Must never let a slow reader of either stall a call: lines go through bounded queues, and what does not fit is dropped,
//! counted and said. Must never print a panic's text, which may hold anything, nor mix the two.

use std::{io, panic, sync::mpsc, thread, time::Duration};

use thiserror::Error;
use tokio::time::sleep;
use tracing::{error, warn};
use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use super::{
    audit::{Audit, AuditError},
    lines::Lines,
    metrics::Metrics,
    output::{self, Stdout},
    quoted::Quoted,
};
use crate::config::{self, LogConfig, LogFormat};

/// Most lines waiting for standard output: a few seconds of a bad day, about 4 MiB.
const LINES_MAX: usize = 16_384;

/// What waits in the queues at the end is written as long as somebody takes it: a disk takes both in less, and of a reader that takes
/// nothing for this many turns …
const STILL_TURNS: u32 = 20;
/// … of this length no more is expected …
const TURN: Duration = Duration::from_millis(100);
/// … nor of any after so many.
const TURNS_MAX: u32 = 50;

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
    Targets::new().with_default(others).with_target(OURS, level)
}

/// The running log.
#[derive(Debug)]
pub struct Logs {
    /// Its level.
    pub level: Level,
    /// The audit trail.
    pub audit: Audit,
    log: Lines,
}

/// Logging can't start.
#[derive(Debug, Error)]
pub enum LogError {
    /// A logger is installed already.
    #[error(transparent)]
    Installed(#[from] tracing_subscriber::util::TryInitError),
    /// There is no thread to write.
    #[error("no thread can be started to write the log: {0}")]
    Thread(#[source] io::Error),
    /// Nor can the audit trail.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl Logs {
    /// Tells of lines that were dropped, for as long as it is polled, and counts them.
    pub async fn tell_of_dropped(&self, metrics: &Metrics) {
        let (mut told, mut told_audit) = (0, 0);
        loop {
            sleep(DROPPED_EVERY).await;
            let dropped = self.log.lost();
            if dropped > told {
                // Counted first: whoever reads of it may look.
                metrics.log_lines_lost.inc_by(u64::try_from(dropped - told).unwrap_or(u64::MAX));
                warn!(lines = dropped - told, "log lines were dropped: whatever reads them is too slow, or gone");
                told = dropped;
            }
            let unaudited = self.audit.lost();
            if unaudited > told_audit {
                let lines = unaudited - told_audit;
                metrics.audit_lines_lost.inc_by(u64::try_from(lines).unwrap_or(u64::MAX));
                error!(lines, "lines of the audit trail were lost: whatever takes them is too slow, or full");
                told_audit = unaudited;
            }
        }
    }

    /// Looks whether the audit trail's file is still the one that its path names, and opens that if it is not.
    pub fn look(&self) {
        self.audit.look();
    }

    /// Writes what is left, for a moment at most, and says on standard error what was lost in all.
    pub fn end(self) {
        let Self { log, audit, .. } = self;
        let (ended, end) = mpsc::sync_channel(1);
        let queues = (audit.clone(), log.clone());
        // Apart, since whatever reads standard output may be stuck, and the end of the process must not be.
        let ending = thread::Builder::new().name("last lines".to_owned()).spawn(move || {
            queues.0.end();
            queues.1.end();
            // Nobody may wait any more.
            ended.send(()).ok();
        });
        let waiting = || audit.waiting().saturating_add(log.waiting());
        let (mut still, mut before) = (0, waiting());
        for _ in 0..TURNS_MAX {
            if ending.is_err() || !matches!(end.recv_timeout(TURN), Err(mpsc::RecvTimeoutError::Timeout)) {
                break;
            }
            let now = waiting();
            still = if now < before { 0 } else { still + 1 };
            before = now;
            if still >= STILL_TURNS {
                break;
            }
        }
        let (log, audit) = (log.lost().saturating_add(log.waiting()), audit.lost().saturating_add(audit.waiting()));
        for (what, lost) in [("log", log), ("audit trail", audit)] {
            if lost > 0 {
                output::complain(format_args!("warning: {lost} lines of the {what} were lost"), Some(output::PATIENCE));
            }
        }
    }
}

/// The log's lines in one of its formats.
fn written(format: LogFormat, lines: Lines) -> Box<dyn Layer<Registry> + Send + Sync> {
    // What goes wrong in the library is not said either: it would be with `eprintln!`.
    let ours = fmt::layer().log_internal_errors(false).with_writer(lines);
    match format {
        LogFormat::Json => ours.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => ours.with_ansi(false).fmt_fields(Quoted).boxed(),
    }
}

/// Starts logging.
///
/// # Errors
/// Where a logger is installed already, or the audit trail's file can't be opened.
pub fn start(log: &LogConfig, audit: &config::AuditConfig) -> Result<Logs, LogError> {
    let stdout = Stdout::default();
    let audit = Audit::start(audit, stdout.clone())?;
    let lines = Lines::start("log", LINES_MAX, stdout).map_err(LogError::Thread)?;
    let (filter, level) = reload::Layer::new(filter(log.level));
    tracing_subscriber::registry().with(written(log.format, lines.clone()).with_filter(filter)).try_init()?;
    panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        error!(location, thread = thread::current().name(), "a task panicked");
    }));
    Ok(Logs { level: Level(level), audit, log: lines })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, sync_channel};

    use super::*;
    use crate::{plain::is_plain, telemetry::lines::Sink};

    /// What was written.
    struct Kept(SyncSender<Vec<u8>>);

    impl Sink for Kept {
        fn put(&mut self, lines: &[u8], _count: usize) -> usize {
            self.0.send(lines.to_vec()).map_or(1, |()| 0)
        }
    }

    /// The lines that `say` makes.
    fn said(format: LogFormat, say: impl FnOnce()) -> Vec<String> {
        let (sender, kept) = sync_channel(LINES_MAX);
        let lines = Lines::start("lines", LINES_MAX, Kept(sender)).expect("there are threads");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(written(format, lines.clone())), say);
        lines.end();
        let text = String::from_utf8(kept.try_iter().flatten().collect()).expect("is text");
        text.split_terminator('\n').map(str::to_owned).collect()
    }

    /// However somebody else's text gets into a line.
    #[test]
    fn a_line_is_one_line_and_its_fields_are_its_own() {
        for hostile in [
            "a\nlevel=ERROR forged",
            "a\r\n{\"level\":\"ERROR\"}",
            "a\" reason=\"forged",
            "a reason=forged",
            "\u{1b}[2J\u{1b}]0;title\u{7}",
            "\u{9b}31m\u{7f}\0",
            "\u{202e}desrever\u{2066}",
            "\u{2028}\u{2029}\u{85}\u{feff}\u{200b}",
            "\\",
            "",
        ] {
            for format in [LogFormat::Json, LogFormat::Text] {
                let lines = said(format, || {
                    warn!(caller = %hostile, merchant_id = hostile, optional = Some(hostile), seen = ?hostile, reason = "OURS", "no token");
                    warn!("a file is at fault: {hostile}");
                    error!(error = &io::Error::other(hostile) as &(dyn std::error::Error + 'static), "it failed");
                });
                assert_eq!(lines.len(), 3, "{hostile:?} {lines:?}");
                assert!(lines.iter().all(|line| line.chars().all(is_plain)), "{hostile:?} {lines:?}");
                match format {
                    LogFormat::Json => {
                        let read: Vec<serde_json::Value> =
                            lines.iter().map(|line| serde_json::from_str(line).expect("is JSON")).collect();
                        assert!(read[0]["caller"] == hostile && read[0]["merchant_id"] == hostile && read[0]["reason"] == "OURS");
                    }
                    LogFormat::Text => {
                        // Outside quotes there is one reason, and it is ours.
                        let bare: String = unquoted(&lines[0]);
                        assert_eq!(bare.matches("reason=").count(), 1, "{}", lines[0]);
                        assert!(lines[0].ends_with("reason=\"OURS\""), "{}", lines[0]);
                    }
                }
            }
        }
    }

    /// A line without what is in quotes.
    fn unquoted(line: &str) -> String {
        let (mut bare, mut quoted, mut escaped) = (String::new(), false, false);
        for char in line.chars() {
            match char {
                '"' if !escaped => quoted = !quoted,
                char if !quoted => bare.push(char),
                _ => {}
            }
            escaped = char == '\\' && !escaped;
        }
        bare
    }
}
