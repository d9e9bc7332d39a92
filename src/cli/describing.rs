//! What describes the configuration: `config` and `schema`.
//!
//! Must never print a secret, nor anything but what the reader itself goes by.

use std::{io, path::Path, process::ExitCode};

use clap::Args;

use super::{EXIT_CONFIG, failed, forbid_core_dumps};
use crate::{
    config::{self, SchemaOf},
    plain,
    telemetry::output::{self, complain},
};

#[derive(Debug, Args)]
pub(super) struct Schema {
    /// That of a credentials file, which holds [[users]] and nothing else, instead of the main file's.
    #[arg(long)]
    credentials: bool,
}

/// `config`.
pub(super) fn config(path: &Path) -> ExitCode {
    forbid_core_dumps();
    match config::in_force(path) {
        Ok(text) => printed(plain::in_lines(&text)),
        Err(faults) => {
            complain(faults, None);
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

/// `schema`.
pub(super) fn schema(Schema { credentials }: Schema) -> ExitCode {
    printed(config::schema(if credentials { SchemaOf::Credentials } else { SchemaOf::Main }))
}

/// Prints all of it, and says how that ended.
fn printed(text: impl std::fmt::Display) -> ExitCode {
    match output::print(text) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}
