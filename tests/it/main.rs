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

mod authority;
mod process;
mod support;

mod audit;
mod call_ends;
mod cold_user;
mod command_line;
mod complaints;
mod contract;
mod expiry;
mod faults_of_ours;
mod files;
mod histories;
mod identity;
mod lifecycle;
mod limits;
mod outage;
mod outputs;
mod python;
mod refusals;
mod reload;
mod scale_and_outage;
mod seen;
mod service_accounts;
mod simulation;
#[cfg(feature = "traces")]
mod traces;
