//! The token broker's command.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Calls and reloads allocate many small things on several threads: measured by `benches/reload.py` and `benches/memory.py`.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    token_broker::cli::run()
}
