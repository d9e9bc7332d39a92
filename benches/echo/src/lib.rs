//! What the programs of the benchmark share: the contract's generated code, and the shape of a token;
//! and the client that drives both sides.
//!
//! Never part of the broker, and never a place for its logic: a benchmark that shared code with what it measures would hide it.

pub mod client;
pub mod options;

#[allow(missing_docs, reason = "generated: the comments of the .proto become the docs, and the modules have none")]
/// The generated messages and services of `tokenbroker.v1`.
pub mod proto {
    tonic::include_proto!("tokenbroker.v1");
}

/// The length of an access token in characters: with the other fields, it makes a reply of about 300 bytes.
pub const ACCESS_TOKEN_LENGTH: usize = 212;

/// Lifetime of every token, in seconds: the documented 24 hours, so that none ends during a run.
pub const LIFETIME_SECONDS: i64 = 86_400;

/// The scope that the documented vault answers with.
pub const SCOPE: &str = "read write";

/// The number of the user with this index, in E.164: `+44700` and eight digits.
///
/// `users.toml` of `harness.py` writes the same ones.
#[must_use]
pub fn number(index: usize) -> String {
    format!("+44700{index:08}")
}
