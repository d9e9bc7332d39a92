//! Why the server can't be used.
//!
//! Must never repeat a server's text: it may be anybody's.

use redis::{ErrorKind, RedisError};

/// Why the server can't be used, in words for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No TCP connection.
    #[error("no connection to it could be made")]
    Unreachable,
    /// The handshake.
    #[error("its TLS certificate is not valid for it or not trusted, or it speaks no TLS")]
    Tls,
    /// The password, or the user.
    #[error("it refuses the user or the password")]
    Refused,
    /// The ACL.
    #[error("it lets the user do less than is needed")]
    Forbidden,
    /// A replica, or a master that was replaced.
    #[error("it is read-only")]
    ReadOnly,
    /// Its memory.
    #[error("it is out of memory")]
    Full,
    /// Nothing came.
    #[error("it did not answer in time")]
    Timeout,
    /// The connection broke.
    #[error("the connection to it broke")]
    Broken,
    /// It is loading, failing over, part of a cluster, or no such server.
    #[error("it answers with an error")]
    Failing,
    /// Its answers come, but late.
    #[error("it answers too slowly to be of use")]
    Slow,
    /// It is known to be away.
    #[error("it could not be used a moment ago")]
    Off,
}

impl LinkError {
    /// By the code that the server gave; a script repeats that of what it calls, some servers within their own text.
    pub(super) fn of(error: &RedisError) -> Self {
        let has = |code: &str| {
            let within = |detail: &str| detail.split_ascii_whitespace().any(|word| word.trim_start_matches('-') == code);
            error.code() == Some(code) || error.detail().is_some_and(within)
        };
        if error.kind() == ErrorKind::Io {
            Self::Broken
        } else if error.kind() == ErrorKind::AuthenticationFailed || has("WRONGPASS") || has("NOAUTH") {
            Self::Refused
        } else if has("READONLY") {
            Self::ReadOnly
        } else if has("NOPERM") {
            Self::Forbidden
        } else if has("OOM") {
            Self::Full
        } else {
            Self::Failing
        }
    }

    /// Whether the connection is of no use any more. One to a full server still reads.
    pub(in crate::tier) fn ends(self) -> bool {
        !matches!(self, Self::Full | Self::Off)
    }
}
