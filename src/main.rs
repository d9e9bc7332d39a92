//! The token broker's command.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use zeroizing_alloc::ZeroAlloc;

/// Calls and reloads allocate many small things on several threads: measured by `benches/reload.py` and `benches/memory.py`. What is given back
/// is wiped first: libraries' buffers hold tokens and passwords too, and nobody else wipes those (`tests/it/residues.rs`).
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    token_broker::cli::run()
}
