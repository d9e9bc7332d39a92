//! The operator's hands: acts on single users, over a Unix socket of the broker's own.
//!
//! Must never be offered on a port, hand out a token or a password, nor let anything be done that leaves no line in the audit trail.

mod acts;
pub mod channel;
mod messages;
mod service;
pub mod socket;

pub use self::{acts::Operating, generated as proto};

/// What is listened on where nothing else is configured, and what the commands ask: the chart mounts a directory there.
pub const DEFAULT_SOCKET: &str = "/run/token-broker/operator.sock";

/// Users in an answer, where the request doesn't say.
pub const PAGE_DEFAULT: u32 = 100;
/// And at most: about 300 KiB.
pub const PAGE_MAX: u32 = 1_000;

#[allow(missing_docs, unreachable_pub, reason = "generated")]
#[allow(clippy::all, clippy::allow_attributes_without_reason, clippy::missing_errors_doc, reason = "generated")]
pub mod generated {
    //! Messages, client and server of `tokenbroker.operator.v1`.
    include!(concat!(env!("OUT_DIR"), "/tokenbroker.operator.v1.rs"));
}
