//! What is counted, for Prometheus: typed, made once, and passed to whoever counts.
//!
//! Must never carry a number, a token or a password in a label, nor a label whose values callers choose.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// How the exposition is announced (OpenMetrics 1.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Before every name of ours.
const PREFIX: &str = "token_broker";

/// Labels of [`Metrics::reloads`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reloads {
    /// What became of it.
    pub result: Reloaded,
}

/// What became of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the labels' values, as they are written")]
pub enum Reloaded {
    /// All of it is in force.
    taken,
    /// Some credentials files were at fault, and their last good versions stay.
    kept,
    /// All of it was at fault.
    refused,
}

/// Everything that is counted.
pub struct Metrics {
    /// Times that a user's floor between sign-ins doubled, since its tokens are rejected soon after their issue.
    pub floor_doublings: Counter,
    /// Lines of the audit trail that were dropped, since whatever takes them is too slow.
    pub audit_lines_lost: Counter,
    /// Times that the configuration was read again.
    pub reloads: Family<Reloads, Counter>,
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let floor_doublings = Counter::default();
        registry.register(
            "floor_doublings",
            "Times that a user's floor between sign-ins doubled, since its tokens are rejected soon after their issue: another \
             replica or system may be revoking them",
            floor_doublings.clone(),
        );
        let reloads = Family::default();
        registry.register("reloads", "Times that the configuration was read again, by what became of it", reloads.clone());
        let audit_lines_lost = Counter::default();
        let help = "Lines of the audit trail that were dropped, since whatever takes them is too slow";
        registry.register("audit_lines_lost", help, audit_lines_lost.clone());
        Self { floor_doublings, audit_lines_lost, reloads, registry }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// All of it, as Prometheus reads it.
    ///
    /// # Errors
    /// Never in practice: a string takes everything that is written to it.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
