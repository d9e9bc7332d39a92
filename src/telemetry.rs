//! Logs, as JSON or text, on standard output.
//!
//! Must never let a slow reader of the log stall a call: lines go through a bounded queue, and what does not fit is dropped
//! and counted. Must never print a panic's text, which may hold anything.

use std::{io, panic, thread};

use tracing::error;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat};

/// Most lines waiting for standard output: a few seconds of a bad day, about 4 MiB.
const LINES_MAX: usize = 16_384;

/// The target of this crate's lines.
const OURS: &str = "token_broker";

/// Starts logging. The guard writes what is left when dropped.
///
/// # Errors
/// Where a logger is installed already.
pub fn start(log: &Log) -> Result<WorkerGuard, tracing_subscriber::util::TryInitError> {
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).lossy(true).finish(io::stdout());
    // The level is ours alone: what the libraries trace are frames and headers, and with them what callers sent.
    let filter = Targets::new().with_default(LevelFilter::WARN.min(log.level.into())).with_target(OURS, log.level);
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
    Ok(guard)
}
