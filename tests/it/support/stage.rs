//! One broker and one sandbox vault per test, on free ports.

use std::{fs, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use token_broker::{
    app::{App, Listeners, Reloading, StopSignal},
    client::{Client, ClientError, Query},
    clock::{Clock, SystemClock},
    config::Files,
    proto::v1::Token,
    telemetry::audit::Audit,
    vault::HttpVault,
};
use token_broker_sandbox::{Options, Sandbox};
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::DropGuard;

use super::{MERCHANT, NUMBER, PASSWORD, PATIENCE, Said, user};

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
        Self::start_by(path, Arc::new(SystemClock)).await
    }

    /// The same by a clock of its own.
    pub(crate) async fn start_by(path: &Path, clock: Arc<dyn Clock>) -> Self {
        let (files, loaded) = Files::open(path).expect("the configuration is in order");
        let grpc = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let admin = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = |listener: &TcpListener| listener.local_addr().expect("is bound").to_string();
        let (endpoint, at) = (format!("http://{}", address(&grpc)), address(&admin));
        let (stop, hup) = (StopSignal::default(), Arc::new(Notify::new()));
        let vault = HttpVault::new(&loaded.config.vault, Arc::clone(&clock)).expect("there is TLS");
        let app = App::with_sign_in(loaded.config, Audit::default(), Arc::new(vault), clock, fastrand::u64(..));
        let app = app.expect("the broker can be wired");
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
