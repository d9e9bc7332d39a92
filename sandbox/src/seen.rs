//! What the sandbox saw: the last sign-ins as they came, and the counters.
//!
//! Must never print a password: `Debug` shows what is needed to find a fault in a test, and no body.

use std::{fmt, time::Instant};

use bytes::Bytes;
use hyper::Method;
use serde::Serialize;

/// Sign-ins that are kept; older ones are dropped.
pub const MAX_SEEN: usize = 1_000;

/// A sign-in as it came over the wire.
#[derive(Clone)]
pub struct Seen {
    /// When it had been read to its end.
    pub at: Instant,
    /// `POST`, where the caller is right.
    pub method: Method,
    /// `/oauth/token`.
    pub path: String,
    /// What came after `?`, if anything did.
    pub query: Option<String>,
    /// In the order of the wire, names in lower case; bytes that aren't UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// The body, unchanged. Holds the password.
    pub body: Bytes,
    /// The body's fields, decoded. Holds the password.
    pub form: Vec<(String, String)>,
}

impl Seen {
    /// The first header of this name (any case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(is, _)| is.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The first field of this name in the form.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.form.iter().find(|(is, _)| is == name).map(|(_, value)| value.as_str())
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown =
            |name: &str| !matches!(name, "password" | "refresh_token" | "authorization" | "cookie" | "proxy-authorization");
        let redact = |(name, value): &(String, String)| {
            (name.clone(), if shown(&name.to_ascii_lowercase()) { value.clone() } else { format!("<{} bytes>", value.len()) })
        };
        f.debug_struct("Seen")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("query_bytes", &self.query.as_ref().map(String::len))
            .field("headers", &self.headers.iter().map(redact).collect::<Vec<_>>())
            .field("body_bytes", &self.body.len())
            .field("form", &self.form.iter().map(redact).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// What the sandbox counted since it began. `sign_ins` = `answered` + `abandoned` + `at_once`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests to `/oauth/token`, of any method, each counted once it was read to its end and before any delay.
    pub sign_ins: u64,
    /// Sign-ins that got all that was meant for them: a whole reply, or a connection cut on purpose.
    pub answered: u64,
    /// Sign-ins whose caller went away before that (and those of connections that the sandbox closed).
    pub abandoned: u64,
    /// Tokens given out by the vault's rules (also where the caller never saw the reply).
    pub granted: u64,
    /// Sign-ins refused by the vault's rules.
    pub refused: u64,
    /// Faults that were dealt, scripted and standing ones.
    pub faults: u64,
    /// Sign-ins under way now.
    pub at_once: u64,
    /// The most sign-ins that were under way at one time.
    pub most_at_once: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub connections_now: u64,
    /// The most connections that were open at one time.
    pub most_connections: u64,
    /// Tokens that their holder signed out.
    pub signouts: u64,
    /// Calls of the resource endpoint.
    pub resource_calls: u64,
    /// Calls of the resource endpoint that were answered 401.
    pub resource_401: u64,
    /// Requests for a path that the sandbox doesn't have.
    pub unknown_paths: u64,
}
