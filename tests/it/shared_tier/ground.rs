//! A vault, a Redis, and as many replicas as a test wants.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tempfile::TempDir;
use token_broker::{
    client::{Client, ClientError, Query},
    clock::{Clock, Moment, SystemClock},
    proto::v1::Token,
};
use token_broker_sandbox::{Options, Sandbox, User};
use tokio::time::sleep;

use crate::support::{MERCHANT, NUMBER, PASSWORD, PATIENCE, Running, http, process::Process, redis::Redis, user};

/// A clock that was set wrong.
#[derive(Debug)]
struct Ahead(i64);

impl Clock for Ahead {
    fn now(&self) -> Moment {
        let Moment { mono, wall } = SystemClock.now();
        let by = Duration::from_secs(self.0.unsigned_abs());
        Moment { mono, wall: if self.0 < 0 { wall - by } else { wall + by } }
    }
}

pub(crate) struct Ground {
    pub(crate) sandbox: Sandbox,
    pub(crate) redis: Redis,
    pub(crate) files: TempDir,
    /// Lines of no table.
    pub(crate) top: String,
    /// Lines of `[vault]` beside `base_url`.
    pub(crate) vault: String,
    /// Lines of `[shared]` beside the keys; `url` where it is another than the server's own.
    pub(crate) shared: String,
    pub(crate) url: String,
    pub(crate) users: String,
    /// Ids of the keys, the first of which seals.
    pub(crate) keys: Vec<u32>,
    /// How many configurations were written.
    written: std::cell::Cell<usize>,
}

/// Of so many users, one after the other.
pub(crate) fn numbers(users: usize) -> Vec<String> {
    (0..users).map(|n| format!("+4478{n:08}")).collect()
}

impl Ground {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default(), Redis::start(&[])).await
    }

    pub(crate) async fn with(options: Options, redis: Redis) -> Self {
        let sandbox = Sandbox::start(options).await.expect("starts");
        let files = tempfile::tempdir().expect("a directory");
        let url = redis.url();
        let ground = Self {
            sandbox,
            redis,
            files,
            top: String::new(),
            vault: String::new(),
            shared: String::new(),
            url,
            users: user(NUMBER, PASSWORD),
            keys: vec![1],
            written: std::cell::Cell::new(0),
        };
        for (name, byte) in [("names", 9), ("other-names", 8), ("1", 1), ("2", 2)] {
            ground.write(name, &BASE64_STANDARD.encode([byte; 32]));
        }
        ground
    }

    /// With many users, all of one password.
    pub(crate) async fn with_users(users: usize) -> Self {
        Self::with_users_and(users, Options::default()).await
    }

    pub(crate) async fn with_users_and(users: usize, options: Options) -> Self {
        let numbers = numbers(users);
        let known = numbers.iter().map(|number| User::new(MERCHANT, number.as_str(), PASSWORD)).collect();
        let mut ground = Self::with(Options { users: known, ..options }, Redis::start(&[])).await;
        ground.users = numbers.iter().map(|number| user(number, PASSWORD)).collect();
        ground
    }

    /// A file beside the configuration that others may not read.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.files.path().join(name);
        let new = path.with_extension("new");
        fs::write(&new, text).expect("is written");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("is ours");
        fs::rename(new, &path).expect("is renamed");
        path
    }

    pub(crate) fn config(&self) -> String {
        let (vault, url, at) = (self.sandbox.url(), &self.url, self.files.path().display());
        let keys: Vec<_> = self.keys.iter().map(|id| format!("{{ id = {id}, file = \"{at}/{id}\" }}")).collect();
        let keys = keys.join(", ");
        let names =
            if self.shared.contains("name_key_file") { String::new() } else { format!("name_key_file = \"{at}/names\"\n") };
        format!(
            "{}\n[vault]\nbase_url = \"{vault}\"\n{}\n[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [shared]\nurl = \"{url}\"\n{names}keys = [{keys}]\n{}\n{}",
            self.top, self.vault, self.shared, self.users
        )
    }

    /// A replica in this process, with the configuration as it is now.
    pub(crate) async fn replica(&self) -> Running {
        self.replica_at().await.0
    }

    /// The same, and where its configuration is.
    pub(crate) async fn replica_at(&self) -> (Running, PathBuf) {
        let path = self.written();
        (Running::start(&path).await, path)
    }

    /// One whose wall clock is so many seconds ahead.
    pub(crate) async fn replica_ahead(&self, seconds: i64) -> Running {
        Running::start_by(&self.written(), Arc::new(Ahead(seconds))).await
    }

    fn written(&self) -> PathBuf {
        let n = self.written.get();
        self.written.set(n + 1);
        self.write(&format!("config-{n}.toml"), &self.config())
    }

    pub(crate) async fn replicas(&self, count: usize) -> Vec<Running> {
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(self.replica().await);
        }
        replicas
    }

    /// One in a process of its own.
    pub(crate) async fn process(&self) -> Process {
        Process::serve(&self.config(), &[]).await
    }
}

pub(crate) async fn token(client: &Client) -> Token {
    client.token(MERCHANT, NUMBER).await.expect("there is a token")
}

/// A client that has complained of nothing.
pub(crate) fn caller(endpoint: &str) -> Client {
    Client::new(endpoint).expect("is an endpoint").timeout(PATIENCE)
}

pub(crate) async fn complain(client: &Client, token_id: &str) -> Result<Token, ClientError> {
    let query = Query { rejected_token_ids: vec![token_id.to_owned()], ..Query::default() };
    client.token_with(MERCHANT, NUMBER, query).await
}

/// Waits until a replica answers a token of this id; how long that took.
pub(crate) async fn answers(endpoint: &str, token_id: &str) -> Duration {
    let began = std::time::Instant::now();
    while token(&caller(endpoint)).await.token_id != token_id {
        assert!(began.elapsed() < PATIENCE, "it goes on answering another");
        sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}

/// What a replica's metrics say under this name; 0 where it is not there.
pub(crate) async fn metric(admin: &str, name: &str) -> u64 {
    let text = http(admin, "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.trim().parse().expect("is a whole number"))
}

/// Waits until it says so.
pub(crate) async fn metric_is(admin: &str, name: &str, value: u64) {
    let began = std::time::Instant::now();
    loop {
        let is = metric(admin, name).await;
        if is == value {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{name} is {is}, not {value}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn shared_entries(result: &str) -> String {
    format!("token_broker_shared_entries_total{{result=\"{result}\"}}")
}

pub(crate) const UP: &str = "token_broker_shared_up";

/// Rewrites a replica's configuration and has it read.
pub(crate) fn reload(running: &Running, path: &Path, text: &str) {
    crate::support::replace(path, text);
    running.hup.notify_one();
}
