//! The sandbox over real sockets, by a client that shows every byte and how the connection ended.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "clippy knows only functions marked as tests for tests, not their helpers"
)]
#![allow(clippy::disallowed_methods, reason = "what is measured here is how long a reply took in the real world")]

mod control;
mod faults;
mod handle;
mod program;
mod raw;
mod tls;
mod tokens;
mod vault;
