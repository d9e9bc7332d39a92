//! The token broker's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    token_broker::cli::run()
}
