//! Spans of calls, flights and sign-ins, sent over OTLP to whom `[traces]` names.
//!
//! Off, or built without the feature `traces`, nothing here does anything. Must never put a number, a token or a password into a
//! span, nor let a collector that is slow or gone hold up a call: spans wait in a bounded queue, and are dropped beyond it.

mod context;
#[cfg_attr(feature = "traces", path = "traces/otlp.rs")]
#[cfg_attr(not(feature = "traces"), path = "traces/off.rs")]
mod sent;

#[cfg(any(test, fuzzing))]
pub(crate) use self::context::fuzz;
pub use self::{
    context::{Context, HEADER, TraceId},
    sent::{Span, Traces},
};

/// Whether this broker was built to send traces.
pub const BUILT_IN: bool = cfg!(feature = "traces");

/// Why traces can't be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("[traces] can't be used: {0}")]
pub struct TracesError(pub String);

/// Whose work a span is, as OpenTelemetry tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanRole {
    /// A caller waits for it.
    Server,
    /// Nobody outside does.
    Internal,
    /// It waits for somebody else.
    Client,
}
