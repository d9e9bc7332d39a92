//! What Rust callers use: a token in one line, and an error that says what to do.
//!
//! Must never retry by itself (the broker's answer says when that helps), nor print a token.
//!
//! ```no_run
//! # async fn example() -> Result<(), token_broker::client::ClientError> {
//! let broker = token_broker::client::Client::new("http://127.0.0.1:50051")?;
//! let token = broker.token("bece038f-2e46-49f4-b25e-89cd38d6dc16", "+447871239999").await?;
//! let header = format!("Bearer {}", token.access_token);
//! # Ok(())
//! # }
//! ```

use std::{collections::HashMap, fmt, fs, path::PathBuf, time::Duration};

use thiserror::Error;
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_types::StatusExt as _;

pub use crate::proto::v1::Token;
use crate::proto::v1::{GetTokenRequest, token_broker_service_client::TokenBrokerServiceClient};

/// Where a broker on this machine listens by default.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:50051";
/// A call's time, unless set: a sign-in takes up to ten seconds, and may have to queue.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time a call may take: the broker honours no longer one.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// A broker that can't be reached in this time is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is quiet for so long is asked whether it lives; the broker allows it.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);

/// A connection to the broker, made when first used and made again when lost. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    channel: TokenBrokerServiceClient<Channel>,
    timeout: Duration,
    token_file: Option<PathBuf>,
}

/// How a broker is known, and how it knows us.
#[derive(Clone, Default)]
pub struct Security {
    /// The CA of the broker's certificate, in PEM; needed for `https://`.
    pub ca_pem: Option<Vec<u8>>,
    /// Our certificate, with those that lead to its CA, and its key, both in PEM.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// A projected service-account token, read anew for each call since it is replaced from time to time.
    pub token_file: Option<PathBuf>,
}

/// Without the key.
impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security")
            .field("ca_pem", &self.ca_pem.is_some())
            .field("identity_pem", &self.identity_pem.is_some())
            .field("token_file", &self.token_file)
            .finish()
    }
}

/// What else a token must be.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// It must live at least this long: up to 7 days.
    pub min_remaining: Option<Duration>,
    /// The `token_id` of a token that the vault's API answered with 401; empty for none.
    pub rejected_token_id: String,
}

/// Why there is no token.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The endpoint is none.
    #[error("the endpoint {0:?} is not a URL such as {DEFAULT_ENDPOINT}, or https:// and the broker's CA")]
    Endpoint(String),
    /// The CA, the certificate or the key can't be used.
    #[error("TLS can't be set up: {0}: give the broker's CA, and your certificate and its key, in PEM")]
    Security(String),
    /// The token's file can't be read.
    #[error("the service-account token can't be read from {}: {source}", path.display())]
    TokenFile {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The broker's answer, or that there was none.
    #[error("{}", .0.message())]
    Status(Box<Status>),
}

impl Client {
    /// A client of the broker at `endpoint`, such as `http://127.0.0.1:50051`; connects with the first call.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`], where it is not a URL.
    pub fn new(endpoint: &str) -> Result<Self, ClientError> {
        Self::with_security(endpoint, Security::default())
    }

    /// The same over TLS, with a certificate or a service account's token, as the broker asks for.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`] and [`ClientError::Security`].
    pub fn with_security(endpoint: &str, security: Security) -> Result<Self, ClientError> {
        let parsed = Endpoint::from_shared(endpoint.to_owned()).ok();
        let mut parsed = match (parsed, &security.ca_pem) {
            (Some(parsed), None) if parsed.uri().scheme_str() == Some("http") => parsed,
            (Some(parsed), Some(_)) if parsed.uri().scheme_str() == Some("https") => parsed,
            _ => return Err(ClientError::Endpoint(endpoint.to_owned())),
        };
        if let Some(ca) = security.ca_pem {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
            if let Some((certificate, key)) = security.identity_pem {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            parsed = parsed.tls_config(tls).map_err(|error| ClientError::Security(error.to_string()))?;
        }
        let channel =
            parsed.connect_timeout(CONNECT_TIMEOUT).http2_keep_alive_interval(KEEPALIVE_EVERY).tcp_nodelay(true).connect_lazy();
        let channel = TokenBrokerServiceClient::new(channel);
        Ok(Self { channel, timeout: DEFAULT_TIMEOUT, token_file: security.token_file })
    }

    /// Sets the time a call may take; at most [`TIMEOUT_MAX`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(TIMEOUT_MAX);
        self
    }

    /// A token of the user with this number at this merchant.
    ///
    /// # Errors
    /// [`ClientError::Status`]; its [`reason`](ClientError::reason) says what to do.
    pub async fn token(&self, merchant_id: &str, number: &str) -> Result<Token, ClientError> {
        self.token_with(merchant_id, number, Query::default()).await
    }

    /// A token that is also what `query` says.
    ///
    /// # Errors
    /// The same.
    pub async fn token_with(&self, merchant_id: &str, number: &str, query: Query) -> Result<Token, ClientError> {
        let mut request = Request::new(GetTokenRequest {
            merchant_id: merchant_id.to_owned(),
            number: number.to_owned(),
            min_remaining: query.min_remaining.map(|least| prost_types::Duration {
                seconds: i64::try_from(least.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(least.subsec_nanos()).unwrap_or_default(),
            }),
            rejected_token_id: query.rejected_token_id,
        });
        request.set_timeout(self.timeout);
        if let Some(path) = &self.token_file {
            let unreadable = |source| ClientError::TokenFile { path: path.clone(), source };
            let token = fs::read_to_string(path).map_err(unreadable)?;
            let value = MetadataValue::try_from(format!("Bearer {}", token.trim()));
            let mut value = value.map_err(|_not_ascii| unreadable(std::io::ErrorKind::InvalidData.into()))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        let answer = self.channel.clone().get_token(request).await.map_err(|status| ClientError::Status(Box::new(status)))?;
        let missing = || ClientError::Status(Box::new(Status::internal("the broker's answer holds no token")));
        answer.into_inner().token.ok_or_else(missing)
    }
}

impl ClientError {
    /// The broker's reason, such as `CREDENTIALS_REJECTED`; `None` where the broker was not reached.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.status()?.get_details_error_info().map(|info| info.reason)
    }

    /// What the broker says beside the reason, such as `held_until`.
    #[must_use]
    pub fn metadata(&self) -> HashMap<String, String> {
        self.status().and_then(Status::get_details_error_info).map(|info| info.metadata).unwrap_or_default()
    }

    /// How long to wait before trying again, where the broker says so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.status()?.get_details_retry_info()?.retry_delay
    }

    /// Whether a later call may fare better without anybody's help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.status().is_some_and(|status| {
            matches!(
                status.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled
            )
        })
    }

    /// The gRPC status, where there is one.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Endpoint(_) | Self::Security(_) | Self::TokenFile { .. } => None,
            Self::Status(status) => Some(status),
        }
    }

    /// Reason, text, fields at fault, wait and request id: for a person.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut lines = vec![match (self.reason(), self.status()) {
            (Some(reason), _) => format!("error: {reason}: {self}"),
            (None, Some(status)) => format!("error: no answer of the broker ({:?}): {self}", status.code()),
            (None, None) => format!("error: {self}"),
        }];
        let mut metadata: Vec<_> = self.metadata().into_iter().filter(|(_, value)| !value.is_empty()).collect();
        metadata.sort();
        lines.extend(metadata.into_iter().map(|(key, value)| format!("  {key}: {value}")));
        if let Some(wait) = self.retry_after() {
            lines.push(format!("  try again in {}", humantime_seconds(wait)));
        }
        if let Some(request) = self.status().and_then(Status::get_details_request_info) {
            lines.push(format!("  request id: {}", request.request_id));
        }
        lines.join("\n")
    }
}

/// Whole seconds, rounded up, but milliseconds below one.
fn humantime_seconds(wait: Duration) -> String {
    if wait < Duration::from_secs(1) {
        format!("{} ms", wait.as_millis())
    } else {
        format!("{} s", wait.as_millis().div_ceil(1_000))
    }
}
