//! What the broker tells of itself: the log, the audit trail, metrics and traces.
//!
//! Must never hold a secret or a number in clear, nor text of others that could end a line or pass for another field; nor make whoever
//! tells something wait.

pub mod audit;
mod lines;
pub mod log;
pub mod metrics;
pub mod output;
mod quoted;
pub mod traces;
mod trail;

/// The outcome of a call that was answered from the cache at once, as nearly all are.
pub const HIT: &str = "hit";
