//! What Rust callers use: a token in one line, and an error that says what to do.
//!
//! Must never repeat a call that the broker's answer says no repeat helps against, nor print a token.
//!
//! ```no_run
//! # async fn example() -> Result<(), token_broker::client::ClientError> {
//! let broker = token_broker::client::Client::new("http://127.0.0.1:50051")?;
//! let token = broker.token("bece038f-2e46-49f4-b25e-89cd38d6dc16", "+447871239999").await?;
//! let header = format!("Bearer {}", token.access_token);
//! # Ok(())
//! # }
//! ```

mod files;
mod memory;
mod replicas;

use std::{collections::HashMap, error::Error as _, fmt, path::PathBuf, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint, Uri},
};
use tonic_types::StatusExt as _;

use self::{memory::Memory, replicas::Replicas};
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

/// … and is given up if it does not answer within this.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The broker tells its own end of the deadline, with details: so long after it the client stops waiting for that.
const GRACE: Duration = Duration::from_millis(200);
/// Most tries of one call of a [balanced](Client::balanced) client: the most that gRPC's own retry policy allows is five.
const TRIES_MAX: u32 = 4;
/// Before a call is tried again at another replica because one was lost: once for each try before.
const ELSEWHERE_PAUSE: Duration = Duration::from_millis(50);
/// The broker's word on when to try again, in milliseconds; negative for "don't".
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// A connection to the broker, or to each of its replicas, made when first used and made again when lost. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    route: Route,
    timeout: Duration,
    token_file: Option<PathBuf>,
    /// Shared by all clones: a complaint goes along with each call for its user, whoever makes it.
    memory: Arc<Memory>,
}

#[derive(Clone, Debug)]
enum Route {
    One(Channel),
    Balanced(Arc<Replicas>),
}

/// How a broker is known, and how it knows us.
#[derive(Clone, Default)]
pub struct Security {
    /// The CA of the broker's certificate, in PEM; needed for `https://`.
    pub ca_pem: Option<Vec<u8>>,
    /// Our certificate, with those that lead to its CA, and its key, both in PEM; one text with all of it may stand for both.
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
    /// The `token_id`s of this user's tokens that the vault's API answered with 401. The client remembers them while the tokens would
    /// have lived, and sends them with each call for the user, since each replica has a token of its own.
    pub rejected_token_ids: Vec<String>,
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
        let route = Route::One(prepare(endpoint, &security)?.connect_lazy());
        Ok(Self { route, timeout: DEFAULT_TIMEOUT, token_file: security.token_file, memory: Arc::default() })
    }

    /// A client of all replicas behind a name, such as a headless service's: `http://token-broker-headless.cards.svc:50051`.
    ///
    /// It looks the name up again and again, keeps a connection to each address, and asks them in turn. A call that a replica was
    /// lost over, or that one refused because it ends, goes to another; one that the broker asks to wait with, for 5 s at most, is
    /// tried again after that: within the time that the call may take, and four times at most.
    ///
    /// Tokio must be running.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`] and [`ClientError::Security`].
    pub fn balanced(endpoint: &str, security: Security) -> Result<Self, ClientError> {
        let named = prepare(endpoint, &security)?.uri().clone();
        let host = named.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let secure = named.scheme_str() == Some("https");
        let port = named.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let token_file = security.token_file.clone();
        let told = files::without_dot(endpoint).unwrap_or_else(|| named.clone());
        // An address is where to connect to; what is asked for, and whose certificate it must be, stays the name.
        let at = move |address| {
            let url = format!("{}://{address}", if secure { "https" } else { "http" });
            Some(prepare_at(&url, &security, told.host()).ok()?.origin(told.clone()))
        };
        let route = Route::Balanced(Arc::new(Replicas::new(host, port, at)));
        Ok(Self { route, timeout: DEFAULT_TIMEOUT, token_file, memory: Arc::default() })
    }

    /// Sets the time a call may take, look-up, connecting and handshake included; at most [`TIMEOUT_MAX`].
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
    #[allow(clippy::disallowed_methods, reason = "the call's time is counted from here")]
    pub async fn token_with(&self, merchant_id: &str, number: &str, query: Query) -> Result<Token, ClientError> {
        let began = Instant::now();
        let message = GetTokenRequest {
            merchant_id: merchant_id.to_owned(),
            number: number.to_owned(),
            min_remaining: query.min_remaining.map(|least| prost_types::Duration {
                seconds: i64::try_from(least.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(least.subsec_nanos()).unwrap_or_default(),
            }),
            rejected_token_ids: self.memory.rejected(merchant_id, number, &query.rejected_token_ids, began),
        };
        let end = began + self.timeout;
        let answer = match &self.route {
            Route::One(channel) => {
                let asked = ask(channel, self.request(message, self.timeout)?, self.timeout);
                timeout_at(end + GRACE, asked).await.unwrap_or_else(|_elapsed| Err(late(self.timeout)))
            }
            Route::Balanced(replicas) => self.ask_around(replicas, message, end).await?,
        };
        let token = answer.map_err(|status| ClientError::Status(Box::new(status)))?;
        let left = token.expires_in.and_then(|left| Duration::try_from(left).ok()).unwrap_or_default();
        self.memory.given(merchant_id, number, &token.token_id, left, Instant::now());
        Ok(token)
    }

    /// Asks one replica after the other, as long as that helps and there is time.
    #[allow(clippy::disallowed_methods, reason = "nothing else tells how much of the call's time is left")]
    async fn ask_around(
        &self,
        replicas: &Replicas,
        message: GetTokenRequest,
        end: Instant,
    ) -> Result<Result<Token, Status>, ClientError> {
        let late = || late(self.timeout);
        let mut tries = 0;
        loop {
            tries += 1;
            let replica = match timeout_at(end, replicas.next()).await {
                Ok(Ok(replica)) => replica,
                Ok(Err(none)) => return Ok(Err(none)),
                Err(_elapsed) => return Ok(Err(late())),
            };
            let request = self.request(message.clone(), end.saturating_duration_since(Instant::now()))?;
            let Ok(answer) = timeout_at(end, ask(&replica.channel, request, self.timeout)).await else { return Ok(Err(late())) };
            let Err(status) = &answer else { return Ok(answer) };
            let pause = match Again::after(status) {
                Again::Lost => {
                    replicas.lost(&replica).await;
                    ELSEWHERE_PAUSE * (tries - 1)
                }
                Again::Elsewhere => ELSEWHERE_PAUSE * (tries - 1),
                Again::Later(wait) => wait,
                Again::No => return Ok(answer),
            };
            // Where the wait is longer than the time that is left, the caller learns why at once.
            if tries == TRIES_MAX || Instant::now() + pause >= end {
                return Ok(answer);
            }
            sleep(pause).await;
        }
    }

    fn request(&self, message: GetTokenRequest, time: Duration) -> Result<Request<GetTokenRequest>, ClientError> {
        let mut request = Request::new(message);
        request.set_timeout(time);
        if let Some(path) = &self.token_file {
            let value = files::bearer(path).map_err(|source| ClientError::TokenFile { path: path.clone(), source })?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// The endpoint with all that every connection has.
fn prepare(endpoint: &str, security: &Security) -> Result<Endpoint, ClientError> {
    prepare_at(endpoint, security, None)
}

/// The same, where the certificate is not the endpoint's but `name`'s.
fn prepare_at(endpoint: &str, security: &Security, name: Option<&str>) -> Result<Endpoint, ClientError> {
    let parsed = Endpoint::from_shared(endpoint.to_owned()).ok();
    let mut parsed = match (parsed, &security.ca_pem) {
        (Some(parsed), None) if parsed.uri().scheme_str() == Some("http") => parsed,
        (Some(parsed), Some(_)) if parsed.uri().scheme_str() == Some("https") => parsed,
        _ => return Err(ClientError::Endpoint(endpoint.to_owned())),
    };
    // A dot at the end of the host is for the look-up alone.
    let told = files::without_dot(endpoint);
    if let Some(told) = &told {
        parsed = parsed.origin(told.clone());
    }
    if let Some(ca) = &security.ca_pem {
        let mut tls = files::tls(security, ca)?;
        let name = name.or(told.as_ref().and_then(Uri::host));
        if let Some(name) = name {
            tls = tls.domain_name(name);
        }
        parsed = parsed.tls_config(tls).map_err(|error| ClientError::Security(error.to_string()))?;
    }
    let parsed = parsed.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    Ok(parsed.http2_keep_alive_interval(KEEPALIVE_EVERY).keep_alive_timeout(KEEPALIVE_TIMEOUT))
}

/// The time of a call is over, and nobody has said anything: not the name server, not the broker's port, not the broker.
fn late(timeout: Duration) -> Status {
    let time = humantime_seconds(timeout);
    Status::deadline_exceeded(format!(
        "there was no answer within {time}, look-up and connecting included: check the endpoint and whether the broker is up, or give more time"
    ))
}

async fn ask(channel: &Channel, request: Request<GetTokenRequest>, timeout: Duration) -> Result<Token, Status> {
    let answer = TokenBrokerServiceClient::new(channel.clone()).get_token(request).await.map_err(|status| {
        // The channel's own end of the deadline, which tonic calls CANCELLED; the broker's word has no source.
        let own = status.code() == Code::Cancelled && status.source().is_some();
        if own { late(timeout) } else { status }
    })?;
    answer.into_inner().token.ok_or_else(|| Status::internal("the broker's answer holds no token"))
}

/// Whether to ask again, for a request that does no harm twice.
enum Again {
    /// At another replica: the connection to this one failed.
    Lost,
    /// At another replica: this one ends.
    Elsewhere,
    /// After this long, since the broker says so.
    Later(Duration),
    No,
}

impl Again {
    fn after(status: &Status) -> Self {
        // An error with a source was not sent by anyone: it is the connection's. The deadline's is none to repeat.
        if status.source().is_some() {
            return if status.code() == Code::DeadlineExceeded { Self::No } else { Self::Lost };
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

#[cfg(test)]
mod tests;
