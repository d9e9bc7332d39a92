//! Black box over the wire: real tonic clients, the real broker, the sandbox vault, all on real sockets.

#![allow(clippy::disallowed_methods, reason = "tests spawn callers and measure how long they waited")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::large_futures,
    reason = "a test that meets what it does not expect ends there"
)]

mod support;

mod audit;
mod broken_outputs;
mod call_ends;
mod certificate_rotation;
mod command_line;
mod contract;
mod crowded_listeners;
mod describing;
mod doc_examples;
mod expiry;
mod get_command;
mod grpcio_interoperability;
mod handshakes;
mod histories;
mod hostile_text;
mod identity;
mod load_on_the_vault;
mod metrics_and_status;
mod min_remaining;
mod operator;
mod pasted_and_converted_files;
mod policy_on_trial;
mod refusals;
mod rejected_tokens;
mod reload;
mod residues;
mod restarts;
mod service_accounts;
mod shared_out;
mod shared_tier;
mod shutdown;
mod sign_in_panics;
mod sign_out;
mod simulation;
mod single_flight;
mod strangers;
mod test_broker;
mod token_source;
#[cfg(feature = "traces")]
mod traces;
mod trial_is_told;
mod unproven_certificates;
mod vault_hangs;
