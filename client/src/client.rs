//! What Rust callers use: a token in one line, and an error that says what to do.
//!
//! Must never repeat a call that the broker's answer says no repeat helps against, nor print a token.

mod client_error;
mod connect;
mod key_files;
mod liveness;
mod rejected;
mod replicas;
mod retry;
mod single;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};

pub(crate) use self::key_files::PLAINTEXT;
pub use self::{client_error::ClientError, key_files::Security};
use self::{
    connect::Connector,
    rejected::Rejected,
    replicas::{Name, Replicas},
    retry::{Retry, is_late},
    single::Single,
};
use crate::{
    blocking::BlockingPool,
    host,
    proto::v1::{GetTokenRequest, Token, token_broker_service_client::TokenBrokerServiceClient},
};

/// Where a broker on this machine listens by default.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:50051";
/// A call's time, unless set: a sign-in takes up to ten seconds, and may have to queue.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time a call may take: the broker honours no longer one.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// A TLS handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is quiet for so long is asked whether it lives, even while no call is under way: calls may all be too short
/// to find out. The broker allows it.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
/// … and is given up if it does not answer within this.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most tries of one call of a [balanced](Client::balanced) client: the most that gRPC's own retry policy allows is five.
const TRIES_MAX: u32 = 4;
/// Before a call is tried again at another replica because one was lost: once for each try before.
const ELSEWHERE_PAUSE: Duration = Duration::from_millis(50);

/// A connection to the broker, or to each of its replicas, made when first used and made again when lost. Cheap to clone.
///
/// It belongs to the tokio runtime that it is made and first used in: calls from another one wait, to their deadlines at most, while
/// that one is not driven. A [`TokenSource`](crate::TokenSource) has a thread of its own for that.
///
#[doc = "```no_run"]
#[doc = include_str!("../examples/documentation/client.rs")]
#[doc = "```"]
#[derive(Clone, Debug)]
pub struct Client {
    route: Route,
    timeout: Duration,
    token_file: Option<PathBuf>,
    /// For a token's file that blocks.
    reading: BlockingPool,
    rejected: Arc<Rejected>,
}

#[derive(Clone, Debug)]
enum Route {
    Single(Arc<Single>),
    Balanced(Arc<Replicas>),
}

/// What else a token must be.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// It must live at least this long: up to 7 days.
    pub min_remaining: Option<Duration>,
    /// The `token_id`s of the user's tokens that the vault's API answered with 401, beside those that the client remembers; it
    /// remembers these too. At most 16.
    pub rejected_token_ids: Vec<String>,
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
        let route = Route::Single(Arc::new(Single::new(prepare(endpoint, &security)?, Connector::default())));
        Ok(Self::over(route, security.token_file))
    }

    /// A client of all replicas behind a name, such as a headless service's: `http://token-broker-headless.cards.svc:50051`.
    ///
    /// It looks the name up again and again, keeps a connection to each address, and asks in turn those that have shown life. A call
    /// that a replica was lost over, that one refused because it ends, or that waits at one that has fallen silent, goes to another:
    /// not one that waits for a sign-in, however long, at one that lives. A replica that says it ends gets no call while there is another:
    /// those that get calls are asked every 5 s. One that the broker asks to wait with, for 5 s at most, is
    /// tried again after that: within the time that the call may take, and four times at most.
    ///
    /// Tokio must be running.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`] and [`ClientError::Security`].
    pub fn balanced(endpoint: &str, security: Security) -> Result<Self, ClientError> {
        Self::balanced_with(endpoint, security, Connector::default())
    }

    /// The same of all replicas behind any of several names or addresses.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`] and [`ClientError::Security`].
    pub fn balanced_over(endpoints: &[String], security: Security) -> Result<Self, ClientError> {
        Self::balanced_among(endpoints, security, Connector::default())
    }

    fn balanced_with(endpoint: &str, security: Security, connector: Connector) -> Result<Self, ClientError> {
        Self::balanced_among(&[endpoint.to_owned()], security, connector)
    }

    fn balanced_among(endpoints: &[String], security: Security, connector: Connector) -> Result<Self, ClientError> {
        tokio::runtime::Handle::try_current().map_err(|_none| ClientError::NoRuntime)?;
        let (mut names, mut told) = (Vec::new(), Vec::new());
        for endpoint in endpoints {
            let named = prepare(endpoint, &security)?.uri().clone();
            let host = named.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = named.port_u16().unwrap_or(if named.scheme_str() == Some("https") { 443 } else { 80 });
            names.push(Name { host, port });
            told.push(key_files::without_dot(endpoint).unwrap_or(named));
        }
        let token_file = security.token_file.clone();
        // An address is where to connect to; what is asked for, and whose certificate it must be, stays the name.
        let at = move |address, name: usize| {
            let told = told.get(name)?;
            let url = format!("{}://{address}", told.scheme_str()?);
            Some(prepare_at(&url, &security, told.host()).ok()?.origin(told.clone()))
        };
        let route = Route::Balanced(Arc::new(Replicas::new(names, connector, at)));
        Ok(Self::over(route, token_file))
    }

    /// Whether this is a URL that goes with a CA, or with none.
    pub(crate) fn is_endpoint(endpoint: &str, with_ca: bool) -> bool {
        let wanted = if with_ca { "https" } else { "http" };
        let parsed = Endpoint::from_shared(endpoint.to_owned());
        parsed.is_ok_and(|parsed| parsed.uri().scheme_str() == Some(wanted)) && host::port(endpoint).is_ok()
    }

    fn over(route: Route, token_file: Option<PathBuf>) -> Self {
        let (reading, rejected) = (BlockingPool::default(), Arc::default());
        Self { route, timeout: DEFAULT_TIMEOUT, token_file, reading, rejected }
    }

    /// Sets the time a call may take, at most [`TIMEOUT_MAX`]: from the look-up of the broker's name to the answer, repeats included.
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
        tokio::runtime::Handle::try_current().map_err(|_none| ClientError::NoRuntime)?;
        let began = now();
        if query.rejected_token_ids.len() <= rejected::IDS_MAX {
            query.rejected_token_ids.iter().for_each(|id| self.rejected.note(merchant_id, number, id, None, began));
        }
        let message = GetTokenRequest {
            merchant_id: merchant_id.to_owned(),
            number: number.to_owned(),
            min_remaining: query.min_remaining.map(|least| prost_types::Duration {
                seconds: i64::try_from(least.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(least.subsec_nanos()).unwrap_or_default(),
            }),
            rejected_token_ids: self.rejected.named(merchant_id, number, query.rejected_token_ids, began),
        };
        let named = message.rejected_token_ids.clone();
        let end = began + self.timeout;
        let asking = async {
            match &self.route {
                Route::Single(one) => self.ask_one(one, message, end).await,
                Route::Balanced(replicas) => self.ask_around(replicas, message, end).await,
            }
        };
        let answer = timeout_at(end, asking).await.unwrap_or_else(|_elapsed| Ok(Err(self.late())))?;
        let answer = answer.map_err(|status| if is_late(&status) { self.late() } else { status });
        let token = answer.map_err(|status| ClientError::Status(Box::new(status)))?;
        self.rejected.answered(merchant_id, number, &named, &token, now());
        Ok(token)
    }

    /// The connection to the one broker that this is a client of, once it has shown life.
    #[doc(hidden)]
    pub async fn channel(&self) -> Result<Channel, ClientError> {
        let reached = match &self.route {
            Route::Single(one) => one.reached().await.map(|reached| reached.channel.inner),
            Route::Balanced(_) => Err(Status::unimplemented("a client of several replicas has no one connection")),
        };
        reached.map_err(|status| ClientError::Status(Box::new(status)))
    }

    /// Notes that the vault's API answered this token of the user's with 401. Every later call for the user, of this client and
    /// of its clones, names it, for as long as it would have lived: the next may be answered by a replica that does not know of
    /// it. So one caller of N replicas whose tokens have all ended has a good one after N + 1 calls at most.
    pub fn rejected(&self, merchant_id: &str, number: &str, token: &Token) {
        self.rejected.note(merchant_id, number, &token.token_id, rejected::life(token), now());
    }

    /// What is said once a call's time is over.
    fn late(&self) -> Status {
        // Tenths, up: of a time limit, what was left after reading files may have come here.
        let within = (self.timeout.as_secs_f64() * 10.0).ceil() / 10.0;
        Status::deadline_exceeded(match &self.route {
            Route::Single(one) if one.is_connecting() => {
                format!("no connection within {within} s: the name's look-up, the connection or the TLS handshake took longer")
            }
            Route::Balanced(replicas) if replicas.are_unknown() => {
                format!(
                    "no replica answered within {within} s: the name's look-up, connections, TLS handshakes or first answers took longer"
                )
            }
            Route::Single(_) | Route::Balanced(_) => format!("no answer within {within} s"),
        })
    }

    /// Asks at the one address, once.
    async fn ask_one(&self, one: &Single, message: GetTokenRequest, end: Instant) -> Result<Result<Token, Status>, ClientError> {
        // Before it connects: that a file is unfit is said whether or not a broker is there.
        let token = self.authorization().await?;
        let reached = match one.reached().await {
            Ok(reached) => reached,
            Err(none) => return Ok(Err(none)),
        };
        let unanswered = one.unanswered(&reached);
        let answer = ask(&reached.channel.inner, request(message, token, end)).await;
        unanswered.over();
        if answer.as_ref().is_err_and(|status| matches!(Retry::after(status), Retry::Lost)) {
            one.lost(&reached);
        }
        Ok(answer)
    }

    /// Asks one replica after the other, as long as that helps and there is time.
    async fn ask_around(
        &self,
        replicas: &Replicas,
        message: GetTokenRequest,
        end: Instant,
    ) -> Result<Result<Token, Status>, ClientError> {
        let (mut tries, mut avoid) = (0, None);
        loop {
            tries += 1;
            let token = self.authorization().await?;
            let replica = match replicas.next(avoid.as_ref()).await {
                Ok(replica) => replica,
                Err(none) => return Ok(Err(none)),
            };
            let asking = ask(&replica.channel.inner, request(message.clone(), token, end));
            let left = end.saturating_duration_since(now());
            let answer =
                if tries < TRIES_MAX { replicas.unless_silent(&replica, left, asking).await } else { Some(asking.await) };
            let Some(answer) = answer else {
                avoid = Some(replica);
                continue;
            };
            let Err(status) = &answer else { return Ok(answer) };
            let pause = match Retry::after(status) {
                Retry::Lost => {
                    replicas.lost(&replica).await;
                    ELSEWHERE_PAUSE * (tries - 1)
                }
                Retry::Elsewhere => {
                    replicas.ends(&replica);
                    avoid = Some(replica);
                    ELSEWHERE_PAUSE * (tries - 1)
                }
                Retry::Later(wait) => wait,
                Retry::No => return Ok(answer),
            };
            // Where the wait is longer than the time that is left, the caller learns why at once.
            if tries == TRIES_MAX || now() + pause >= end {
                return Ok(answer);
            }
            sleep(pause).await;
        }
    }

    /// Our token, if we have one, as it is now.
    async fn authorization(&self) -> Result<Option<MetadataValue<Ascii>>, ClientError> {
        let Some(path) = &self.token_file else { return Ok(None) };
        // A projected token is in memory. What is no regular file, say a pipe, may have nobody at its other end.
        let read = match fs::metadata(path) {
            Ok(file) if file.is_file() => key_files::bearer(path),
            Ok(_) => {
                let path = path.clone();
                self.reading.run(move || key_files::bearer(&path)).await
            }
            Err(error) => Err(error),
        };
        read.map(Some).map_err(|source| ClientError::TokenFile { path: path.clone(), source: Arc::new(source) })
    }
}

/// The message with the time that is left for it, and with our token.
fn request(message: GetTokenRequest, token: Option<MetadataValue<Ascii>>, end: Instant) -> Request<GetTokenRequest> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", token);
    }
    request.set_timeout(end.saturating_duration_since(now()));
    request
}

#[allow(clippy::disallowed_methods, reason = "nothing else tells how much of a call's time is left")]
fn now() -> Instant {
    Instant::now()
}

/// The endpoint with all that every connection has.
fn prepare(endpoint: &str, security: &Security) -> Result<Endpoint, ClientError> {
    prepare_at(endpoint, security, None)
}

/// The same, where the certificate is not the endpoint's but `name`'s.
fn prepare_at(endpoint: &str, security: &Security, name: Option<&str>) -> Result<Endpoint, ClientError> {
    let parsed = Endpoint::from_shared(endpoint.to_owned()).ok().filter(|_| host::port(endpoint).is_ok());
    let mut parsed = match (parsed, &security.ca_pem) {
        (Some(parsed), None) if parsed.uri().scheme_str() == Some("http") => parsed,
        (Some(parsed), Some(_)) if parsed.uri().scheme_str() == Some("https") => parsed,
        _ => return Err(ClientError::Endpoint(endpoint.to_owned())),
    };
    let shows_identity = security.token_file.is_some() || security.identity_pem.is_some();
    if security.ca_pem.is_none() && shows_identity && !parsed.uri().host().is_some_and(host::is_loopback) {
        return Err(ClientError::Security(PLAINTEXT.to_owned()));
    }
    // A dot at the end of the host is for the look-up alone.
    let told = key_files::without_dot(endpoint);
    if let Some(told) = &told {
        parsed = parsed.origin(told.clone());
    }
    if let Some(ca) = &security.ca_pem {
        let mut tls = key_files::tls(security, ca)?.timeout(HANDSHAKE_TIMEOUT);
        let name = name.or(told.as_ref().and_then(Uri::host));
        if let Some(name) = name {
            tls = tls.domain_name(name);
        }
        parsed = parsed.tls_config(tls).map_err(|error| ClientError::Security(error.to_string()))?;
    }
    let parsed = parsed.http2_keep_alive_interval(KEEPALIVE_EVERY).keep_alive_timeout(KEEPALIVE_TIMEOUT);
    Ok(parsed.keep_alive_while_idle(true))
}

async fn ask(channel: &Channel, request: Request<GetTokenRequest>) -> Result<Token, Status> {
    let answer = TokenBrokerServiceClient::new(channel.clone()).get_token(request).await?;
    answer.into_inner().token.ok_or_else(|| Status::internal("the broker's answer holds no token"))
}

#[cfg(test)]
mod tests;
