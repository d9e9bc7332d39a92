//! `completions` and `man`: what shells and `man` know of the command line, made from its definition.
//!
//! Must never say anything that the definition doesn't.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, failed};
use crate::telemetry::output;

/// The program's name.
const NAME: &str = "token-broker";

/// The script by which a shell completes.
pub(super) fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    let script = String::from_utf8_lossy(&script);
    if shell == Shell::Bash {
        // It looks for a command's options under another name than it gives them, where the program's has a hyphen (clap-rs/clap#6421).
        print(script.replace("token__subcmd__broker__", "token__broker__").as_bytes())
    } else {
        print(script.as_bytes())
    }
}

/// The manual page, with a section for each command.
pub(super) fn page() -> ExitCode {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    let written = Man::new(command.clone()).render(&mut page).and_then(|()| {
        command.get_subcommands().filter(|command| command.get_name() != "help").try_for_each(|command| {
            let man = Man::new(command.clone());
            page.extend_from_slice(format!(".SH {NAME} {}\n", command.get_name()).to_uppercase().as_bytes());
            man.render_description_section(&mut page)?;
            man.render_options_section(&mut page)
        })
    });
    match written {
        Ok(()) => print(&page),
        Err(error) => failed(&error),
    }
}

fn print(text: &[u8]) -> ExitCode {
    match output::print(String::from_utf8_lossy(text).trim_end()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}
