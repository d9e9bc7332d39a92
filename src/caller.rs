//! Who asks.
//!
//! Must never hold a name that was not proven.

use std::{fmt, sync::Arc};

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CallerId {
    /// The listener asks for no identity.
    Anonymous,
    /// A SPIFFE id, a DNS name, or `system:serviceaccount:<namespace>:<name>`: which one, its beginning says. It was proven.
    Named(Arc<str>),
}

impl fmt::Display for CallerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Named(id) => f.write_str(id),
        }
    }
}
