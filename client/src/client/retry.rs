//! Pure: whether a call that failed is worth another try, and where.
//!
//! Must never repeat what the broker's answer says no repeat helps against, nor take a time that is over for a connection that is
//! lost.

use std::{error::Error as _, iter::successors, time::Duration};

use tonic::{Code, Status, TimeoutExpired};

/// The broker's word on when to try again, in milliseconds; negative for "don't".
pub(super) const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Whether an error is tonic's own clock, which runs for the same time as ours: it says CANCELLED, as if somebody had.
pub(super) fn is_late(status: &Status) -> bool {
    let causes = successors(status.source(), |cause| (*cause).source());
    causes.into_iter().any(|cause| cause.is::<TimeoutExpired>())
}

/// Whether to ask again, for a request that does no harm twice.
pub(super) enum Retry {
    /// At another replica: the connection to this one failed.
    Lost,
    /// At another replica: this one ends.
    Elsewhere,
    /// After this long, since the broker says so.
    Later(Duration),
    No,
}

impl Retry {
    pub(super) fn after(status: &Status) -> Self {
        // An error with a source was not sent by anyone: it is the connection's. The deadline's is none to repeat.
        if status.source().is_some() {
            return if status.code() == Code::DeadlineExceeded || is_late(status) { Self::No } else { Self::Lost };
        }
        if !matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) {
            return Self::No;
        }
        match status.metadata().get(PUSHBACK).map(|millis| millis.to_str().ok().and_then(|millis| millis.parse().ok())) {
            Some(Some(millis)) => Self::Later(Duration::from_millis(millis)),
            Some(None) => Self::No,
            None => Self::Elsewhere,
        }
    }
}
