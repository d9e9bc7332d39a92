//! One broker and one sandbox vault per test, on free ports.

pub(crate) mod broker_in_memory;

use std::{
    collections::HashMap,
    fs,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use tempfile::TempDir;
use token_broker::{
    app::{App, Listeners, Reloading, StopSignal},
    client::{Client, ClientError, Query, Token},
    config::Files,
    telemetry::audit::Audit,
};
use token_broker_sandbox::{Options, Sandbox};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_util::sync::DropGuard;
use tonic::{Code, body::Body};
use tower_service::Service;

/// The user of the vendor's documentation.
pub(crate) const MERCHANT: &str = "bece038f-2e46-49f4-b25e-89cd38d6dc16";
pub(crate) const NUMBER: &str = "+447871239999";
pub(crate) const PASSWORD: &str = "1234Qwerty";

/// Longer than anything here takes; a test that reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running broker and its vault.
pub(crate) struct Stage {
    pub(crate) sandbox: Sandbox,
    pub(crate) client: Client,
    pub(crate) endpoint: String,
    /// Where its admin port listens.
    pub(crate) admin: String,
    /// Tells the broker to read its configuration again, as SIGHUP does.
    pub(crate) hup: Arc<Notify>,
    /// Where the configuration is, as `config.toml`.
    pub(crate) files: TempDir,
    /// The configuration's text before `rest`.
    head: String,
    _stop: DropGuard,
}

/// Replaces a file as a whole, so that who is missing from it is believed to be gone at once.
pub(crate) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("is written");
    fs::rename(new, path).expect("is renamed");
}

/// A broker that runs in the test.
pub(crate) struct Running {
    pub(crate) client: Client,
    pub(crate) endpoint: String,
    pub(crate) admin: String,
    pub(crate) hup: Arc<Notify>,
    _stop: DropGuard,
}

impl Running {
    /// Starts a broker with the configuration at `path`, on free ports.
    pub(crate) async fn start(path: &Path) -> Self {
        let (files, loaded) = Files::open(path).expect("the configuration is in order");
        let grpc = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let admin = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = |listener: &TcpListener| listener.local_addr().expect("is bound").to_string();
        let (endpoint, at) = (format!("http://{}", address(&grpc)), address(&admin));
        let (stop, hup) = (StopSignal::default(), Arc::new(Notify::new()));
        let app = App::new(loaded.config, Audit::default()).expect("the broker can be wired");
        let app = app.reloading(Reloading { files, warnings: loaded.warnings, hup: Arc::clone(&hup), level: None });
        stop.hurry.cancel();
        let listeners = Listeners { grpc: vec![grpc], admin: vec![admin], ..Listeners::default() };
        tokio::spawn(app.run(listeners, stop.clone()));
        let client = Client::new(&endpoint).expect("is an endpoint").timeout(PATIENCE);
        Self { client, endpoint, admin: at, hup, _stop: stop.begin.drop_guard() }
    }
}

/// Does something in the directory of a configuration before it is read.
pub(crate) type Prepare = Box<dyn Fn(&Path) + Send>;

/// What a stage is made from.
pub(crate) struct Setting {
    /// Lines of `[vault]` beside `base_url`.
    pub(crate) vault: String,
    pub(crate) grpc: String,
    /// `[[users]]` and all else.
    pub(crate) rest: String,
    pub(crate) options: Options,
    /// Keys above all tables.
    pub(crate) top: String,
    /// Writes further files beside the configuration before it is read.
    pub(crate) prepare: Option<Prepare>,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            vault: String::new(),
            grpc: "lame_duck = \"0s\"\n".to_owned(),
            rest: user(NUMBER, PASSWORD),
            options: Options::default(),
            top: String::new(),
            prepare: None,
        }
    }
}

impl Setting {
    pub(crate) fn vault(lines: &str) -> Self {
        Self { vault: lines.to_owned(), ..Self::default() }
    }

    pub(crate) fn lifetime(mut self, lifetime: Duration) -> Self {
        self.options.lifetime = lifetime;
        self
    }

    pub(crate) async fn start(self) -> Stage {
        let sandbox = Sandbox::start(self.options).await.expect("the sandbox starts");
        let files = tempfile::tempdir().expect("a directory");
        let path = files.path().join("config.toml");
        let top = if self.top.is_empty() { String::new() } else { format!("{}\n", self.top) };
        let head = format!("{top}[vault]\nbase_url = \"{}\"\n{}\n[grpc]\n{}\n", sandbox.url(), self.vault, self.grpc);
        if let Some(prepare) = self.prepare {
            prepare(files.path());
        }
        fs::write(&path, format!("{head}{}", self.rest)).expect("the configuration is written");
        let Running { client, endpoint, admin, hup, _stop } = Running::start(&path).await;
        Stage { sandbox, client, endpoint, admin, hup, files, head, _stop }
    }
}

impl Stage {
    /// Another broker with the same configuration, as a second pod is.
    pub(crate) async fn replica(&self) -> Running {
        Running::start(&self.files.path().join("config.toml")).await
    }

    /// What was configured with another address of its own than `http://`: the same port.
    pub(crate) fn secure_endpoint(&self) -> String {
        self.endpoint.replace("http://", "https://")
    }

    /// Writes the configuration anew, all but `[vault]` and `[grpc]`, and tells the broker.
    pub(crate) fn reload(&self, rest: &str) {
        replace(&self.files.path().join("config.toml"), &format!("{}{rest}", self.head));
        self.hup.notify_one();
    }

    /// A token of the documented user.
    pub(crate) async fn token(&self) -> Result<Token, ClientError> {
        self.client.token(MERCHANT, NUMBER).await
    }

    pub(crate) async fn good_token(&self) -> Token {
        self.token().await.expect("there is a token")
    }

    /// What a caller gets who has complained of nothing.
    pub(crate) async fn others_token(&self) -> Token {
        let other = Client::new(&self.endpoint).expect("is an endpoint").timeout(PATIENCE);
        other.token(MERCHANT, NUMBER).await.expect("there is a token")
    }

    pub(crate) async fn refused(&self) -> Said {
        Said::of(self.token().await.expect_err("there is no token"))
    }

    pub(crate) async fn complain(&self, token_id: &str) -> Result<Token, ClientError> {
        let query = Query { rejected_token_ids: vec![token_id.to_owned()], ..Query::default() };
        self.client.token_with(MERCHANT, NUMBER, query).await
    }

    pub(crate) async fn living(&self, min_remaining: Duration) -> Result<Token, ClientError> {
        let query = Query { min_remaining: Some(min_remaining), ..Query::default() };
        self.client.token_with(MERCHANT, NUMBER, query).await
    }

    /// Waits until the vault has seen `n` sign-ins.
    pub(crate) async fn sign_ins(&self, n: u64) {
        self.sandbox.wait_for_sign_ins(n, PATIENCE).await;
    }
}

/// What an error said, in the contract's terms.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) retry: Option<Duration>,
    pub(crate) pushback: Option<String>,
    pub(crate) error: ClientError,
}

impl Said {
    pub(crate) fn of(error: ClientError) -> Self {
        let status = error.status().expect("the broker answered");
        let pushback = status.metadata().get("grpc-retry-pushback-ms").map(|value| value.to_str().expect("is text").to_owned());
        Self {
            code: status.code(),
            reason: error.reason().unwrap_or_else(|| panic!("no reason in {status:?}")).to_string(),
            metadata: error.metadata(),
            retry: error.retry_after(),
            pushback,
            error,
        }
    }

    /// The contract's rule: every error with `RetryInfo` has the trailer, −1 where the wait is over 5 s.
    pub(crate) fn check(&self, code: Code, reason: &str) -> &Self {
        assert_eq!((self.code, self.reason.as_str()), (code, reason), "{self:?}");
        match (self.retry, self.pushback.as_deref()) {
            (None, None) => {}
            (Some(wait), Some("-1")) => assert!(wait > Duration::from_secs(5), "{self:?}"),
            (Some(wait), Some(millis)) => {
                assert!(
                    wait <= Duration::from_secs(5) && u128::from(millis.parse::<u64>().expect("is a number")) == wait.as_millis(),
                    "{self:?}"
                );
            }
            (retry, pushback) => panic!("RetryInfo {retry:?} and the trailer {pushback:?} belong together"),
        }
        self
    }
}

/// `[[users]]` of the documented merchant.
pub(crate) fn user(number: &str, password: &str) -> String {
    format!("[[users]]\nmerchant_id = \"{MERCHANT}\"\nnumber = \"{number}\"\npassword = \"{password}\"\n")
}

/// What is left of a token, as its answer says.
pub(crate) fn left(token: &Token) -> Duration {
    Duration::try_from(token.expires_in.expect("is set")).expect("is positive")
}

/// A connection without a client library's own timers and retries, so that a test sees what the broker says.
#[derive(Clone)]
pub(crate) struct Bare {
    connection: http2::SendRequest<Body>,
    authority: String,
}

impl Bare {
    pub(crate) async fn connect(endpoint: &str) -> Self {
        Self::with(endpoint, &http2::Builder::new(TokioExecutor::new())).await
    }

    /// One that takes no byte of an answer.
    pub(crate) async fn that_never_reads(endpoint: &str) -> Self {
        Self::with(endpoint, http2::Builder::new(TokioExecutor::new()).initial_stream_window_size(0)).await
    }

    async fn with(endpoint: &str, builder: &http2::Builder<TokioExecutor>) -> Self {
        let authority = endpoint.strip_prefix("http://").expect("is plaintext").to_owned();
        let stream = TcpStream::connect(&authority).await.expect("it listens");
        let (connection, driver) = builder.handshake(TokioIo::new(stream)).await.expect("speaks HTTP/2");
        tokio::spawn(driver);
        Self { connection, authority }
    }
}

impl Bare {
    /// Begins a call whose message never comes.
    pub(crate) async fn begin(&mut self, path: &str) -> Result<http::Response<Incoming>, hyper::Error> {
        self.begin_with_id(path, "unnamed").await
    }

    /// The same with an id to find it by.
    pub(crate) async fn begin_with_id(&mut self, path: &str, id: &str) -> Result<http::Response<Incoming>, hyper::Error> {
        let request = http::Request::post(path).header("content-type", "application/grpc").header("x-request-id", id);
        self.call(request.body(Body::new(Never)).expect("is a request")).await
    }
}

/// A message that never comes.
struct Never;

impl http_body::Body for Never {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        Poll::Pending
    }
}

impl Service<http::Request<Body>> for Bare {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let uri = format!("http://{}{}", self.authority, request.uri().path());
        *request.uri_mut() = uri.parse().expect("is a URL");
        let mut connection = self.connection.clone();
        Box::pin(async move { connection.send_request(request).await })
    }
}

/// The head and the body that the admin port answers with.
pub(crate) async fn http(address: &str, path: &str) -> String {
    request(address, "GET", path, "*/*").await
}

/// The same for whoever reads only this.
pub(crate) async fn request(address: &str, method: &str, path: &str, accept: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("{method} {path} HTTP/1.1\r\nhost: admin\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer
}
