//! What is there in a broker that was built without the feature `traces`: nothing.

use std::time::Duration;

use super::{Context, SpanRole, TracesError};
use crate::config;

/// Traces that nobody gets.
#[derive(Clone, Debug, Default)]
pub struct Traces(());

/// A span that nobody sees.
#[derive(Clone, Debug, Default)]
pub struct Span(());

impl Traces {
    /// None.
    ///
    /// # Errors
    /// Never.
    pub fn new(_: Option<&config::TracesConfig>) -> Result<Self, TracesError> {
        Ok(Self::default())
    }

    /// None.
    #[must_use]
    pub fn begin(&self, _: &'static str, _: SpanRole, _: Option<Context>) -> Span {
        Span::default()
    }

    /// None.
    #[must_use]
    pub fn within(&self, _: Option<&Span>, _: &'static str, _: SpanRole) -> Span {
        Span::default()
    }

    /// Nothing to end.
    pub fn end(&self, _: Duration) {}
}

impl Span {
    /// Nowhere.
    #[must_use]
    pub fn context(&self) -> Option<Context> {
        None
    }

    /// Whether anything that is set is recorded.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        false
    }

    /// Nothing.
    pub fn set(&self, _: &'static str, _: impl Into<std::borrow::Cow<'static, str>>) {}

    /// Nothing.
    pub fn set_number(&self, _: &'static str, _: i64) {}

    /// Nothing.
    pub fn link(&self, _: &Self) {}

    /// Nothing.
    pub fn end(&self, _: Option<&'static str>) {}
}
