//! Why there is no token, for programs and in words.
//!
//! Must never hold a token, nor tell less than the broker said.

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt as _};

use super::DEFAULT_ENDPOINT;
use crate::{
    host, plain,
    reason::{DOMAIN, Reason},
};

/// Why there is no token.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The endpoint is none.
    Endpoint(String),
    /// What a middleware was given is no origin.
    Origin(String),
    /// The CA, the certificate or the key can't be used.
    Security(String),
    /// The token's file can't be read.
    TokenFile {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// A [`Client`](super::Client) is used where no tokio runtime is.
    NoRuntime,
    /// The system starts no thread for a [`TokenSource`](crate::TokenSource).
    NoThread(Arc<std::io::Error>),
    /// The broker's answer, or that there was none.
    Status(Box<Status>),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(said) if host::port(said).is_err() => {
                write!(f, "the endpoint {said:?} has a port that can't be: it is a number, 1 to 65535")
            }
            Self::Endpoint(said) => {
                write!(f, "the endpoint {said:?} is not a URL such as {DEFAULT_ENDPOINT}, or https:// and the broker's CA")
            }
            Self::Origin(said) => {
                write!(f, "{said:?} is no origin, which is http:// or https://, a host, and maybe a port, up to 65535")
            }
            Self::Security(why) => {
                write!(f, "TLS can't be set up: {why}: give the broker's CA, and your certificate and its key, in PEM")
            }
            Self::TokenFile { path, source } => {
                write!(f, "the service-account token can't be read from {}: {source}", path.display())
            }
            Self::NoRuntime => f.write_str("a call to the broker needs a tokio runtime with time and I/O: make it inside of one"),
            Self::NoThread(why) => write!(f, "no thread can be started for the source of tokens: {why}"),
            Self::Status(status) => f.write_str(status.message()),
        }
    }
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::TokenFile { source, .. } | Self::NoThread(source) => Some(&**source),
            Self::Endpoint(_) | Self::Origin(_) | Self::Security(_) | Self::NoRuntime | Self::Status(_) => None,
        }
    }
}

impl ClientError {
    /// The broker's reason, such as [`Reason::CredentialsRejected`]; `None` where the broker was not reached, or is a newer one
    /// with a reason that this client doesn't know.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        Reason::named(&self.error_info()?.reason)
    }

    /// What the broker says beside the reason, such as `held_until`.
    #[must_use]
    pub fn metadata(&self) -> HashMap<String, String> {
        self.error_info().map(|info| info.metadata).unwrap_or_default()
    }

    /// Until when the broker answers so from memory, where it says so: unless its operator lifts the hold.
    #[must_use]
    pub fn held_until(&self) -> Option<SystemTime> {
        let held_until: Timestamp = self.metadata().get("held_until")?.parse().ok()?;
        held_until.try_into().ok()
    }

    /// The fields of the request that are at fault, and what is wrong with each.
    #[must_use]
    pub fn field_violations(&self) -> Vec<(String, String)> {
        let bad = self.status().and_then(|status| status.get_details_bad_request());
        let fields = bad.into_iter().flat_map(|bad| bad.field_violations);
        fields.map(|violation| (violation.field, violation.description)).collect()
    }

    /// How long to wait before trying again, where the broker says so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.status()?.get_details_retry_info()?.retry_delay
    }

    /// Whether a later call may fare better without anybody's help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        if let Some(reason) = self.reason() {
            return reason.is_temporary();
        }
        self.status().is_some_and(|status| {
            matches!(
                status.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled
            )
        })
    }

    /// Whether no later call fares better until somebody has mended something: here, at the broker or at the vault.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        !self.is_temporary()
    }

    /// What the broker calls this call in its log and its audit trail.
    #[must_use]
    pub fn request_id(&self) -> Option<String> {
        self.status()?.get_details_request_info().map(|info| info.request_id)
    }

    /// What the broker says beside the text, where it is the broker that says so.
    fn error_info(&self) -> Option<ErrorInfo> {
        self.status()?.get_details_error_info().filter(|info| info.domain == DOMAIN)
    }

    /// The gRPC status, where there is one.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Endpoint(_)
            | Self::Origin(_)
            | Self::Security(_)
            | Self::TokenFile { .. }
            | Self::NoRuntime
            | Self::NoThread(_) => None,
            Self::Status(status) => Some(status),
        }
    }

    /// Reason, text, fields at fault, wait and request id: for a person.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut lines = vec![match (self.error_info(), self.status()) {
            (Some(info), _) => format!("error: {}: {self}", info.reason),
            (None, Some(status)) => format!("error: no answer of the broker ({:?}): {self}", status.code()),
            (None, None) => format!("error: {self}"),
        }];
        let mut metadata: Vec<_> = self.metadata().into_iter().filter(|(_, value)| !value.is_empty()).collect();
        metadata.sort();
        lines.extend(metadata.into_iter().map(|(key, value)| format!("  {key}: {value}")));
        if let Some(wait) = self.retry_after() {
            lines.push(if wait.is_zero() {
                "  try again at once".to_owned()
            } else {
                format!("  try again in {}", humantime_seconds(wait))
            });
        }
        if let Some(request_id) = self.request_id() {
            lines.push(format!("  request id: {request_id}"));
        }
        // Each stays the line that it is, whatever answered.
        lines.iter_mut().for_each(|line| *line = plain::on_one_line(line).into_owned());
        lines.join("\n")
    }
}

/// Whole seconds, but milliseconds below one; rounded up, so that no wait looks like none.
fn humantime_seconds(wait: Duration) -> String {
    if wait < Duration::from_secs(1) {
        format!("{} ms", wait.as_micros().div_ceil(1_000))
    } else {
        format!("{} s", wait.as_millis().div_ceil(1_000))
    }
}
