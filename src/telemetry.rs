//! Logs, as JSON or text, on standard output.
//!
//! Must never let a slow reader of the log stall a call: lines go through a bounded queue, and what does not fit is dropped,
//! counted and said. Must never print a panic's text, which may hold anything.

use std::{io, panic, thread, time::Duration};

use tokio::time::sleep;
use tracing::{error, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Registry,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat};

/// Most lines waiting for standard output: a few seconds of a bad day, about 4 MiB.
const LINES_MAX: usize = 16_384;

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
    Targets::new().with_default(LevelFilter::WARN.min(level.into())).with_target(OURS, level)
}

/// The running log.
#[derive(Debug)]
pub struct Logs {
    /// Its level.
    pub level: Level,
    /// Writes what is left when dropped.
    _guard: WorkerGuard,
    dropped: ErrorCounter,
}

impl Logs {
    /// Tells of lines that were dropped, for as long as it is polled.
    pub async fn tell_of_dropped(&self) {
        let mut told = 0;
        loop {
            sleep(DROPPED_EVERY).await;
            let dropped = self.dropped.dropped_lines();
            if dropped > told {
                warn!(lines = dropped - told, "log lines were dropped: whatever reads them is too slow");
                told = dropped;
            }
        }
    }
}

/// Starts logging.
///
/// # Errors
/// Where a logger is installed already.
pub fn start(log: &Log) -> Result<Logs, tracing_subscriber::util::TryInitError> {
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).lossy(true).finish(io::stdout());
    let dropped = writer.error_counter();
    let (filter, level) = reload::Layer::new(filter(log.level));
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_current_span(false).with_writer(writer)).try_init()
        }
        LogFormat::Text => registry.with(fmt::layer().with_ansi(false).with_writer(writer)).try_init(),
    }?;
    panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        error!(location, thread = thread::current().name(), "a task panicked");
    }));
    Ok(Logs { level: Level(level), _guard: guard, dropped })
}
