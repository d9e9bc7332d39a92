//! A broker of this vault's, for test suites in any language: one program to start, one line that says where everything is.
//!
//! Must never leave the broker running once the suite has ended, nor any file of it behind.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use token_broker_sandbox::User;

/// So many users are there, a new one for each test: as many as numbers are set aside for stories (Ofcom, 07700 900000 to 900999).
pub(crate) const USERS: usize = 1_000;
/// All of them have it: whoever knows it can sign in at this sandbox, and nowhere else.
const PASSWORD: &str = "only for tests";
/// A broker starts within a second; on a machine that is busy with tests, later.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A broker that runs, and what it is told.
pub(crate) struct WithBroker {
    child: Child,
    log: Lines<BufReader<ChildStdout>>,
    kept: Option<File>,
    endpoint: String,
    _directory: TempDir,
}

/// The users that are there for tests.
pub(crate) fn users() -> impl Iterator<Item = User> {
    let merchant = User::documented().merchant_id;
    (0..USERS).map(move |n| User::new(&merchant, format!("+447700900{n:03}"), PASSWORD))
}

impl WithBroker {
    /// Starts the program at `program` for the vault at `url`; what it logs goes to `log`, if that is given.
    pub(crate) async fn start(program: &Path, url: &str, log: Option<PathBuf>) -> Result<Self, String> {
        let failed = |what: &str, why: io::Error| format!("{what}: {why}");
        let directory = tempfile::tempdir().map_err(|why| failed("no directory for the broker's configuration", why))?;
        let config = directory.path().join("broker.toml");
        write(&config, &configuration(url)).map_err(|why| failed("the broker's configuration can't be written", why))?;
        let kept = log.map(|path| File::create(&path).map_err(|why| failed(&path.display().to_string(), why))).transpose()?;
        let mut child = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|why| failed(&format!("the broker {} can't be started", program.display()), why))?;
        let log = BufReader::new(child.stdout.take().ok_or("the broker has no output")?).lines();
        let mut started = Self { child, log, kept, endpoint: String::new(), _directory: directory };
        match timeout(START_TIMEOUT, started.ready()).await {
            Ok(Ok(())) => Ok(started),
            Ok(Err(why)) => Err(why),
            Err(_late) => Err(format!("the broker is not ready after {} s", START_TIMEOUT.as_secs())),
        }
    }

    /// Where everything is, as one line for a program.
    pub(crate) fn describe(&self, url: &str) -> String {
        let numbers: Vec<_> = users().map(|user| user.number).collect();
        let merchant_id = User::documented().merchant_id;
        json!({"endpoint": self.endpoint, "vault_url": url, "merchant_id": merchant_id, "numbers": numbers}).to_string()
    }

    /// Keeps what it logs, until it has ended by itself.
    pub(crate) async fn ended(&mut self) {
        while let Ok(Some(line)) = self.log.next_line().await {
            self.keep(&line);
        }
    }

    /// Ends it, and waits until it has ended.
    pub(crate) async fn end(mut self) {
        // Where it has ended by itself, all is well.
        drop(self.child.kill().await);
    }

    async fn ready(&mut self) -> Result<(), String> {
        while let Some(line) = self.log.next_line().await.map_err(|why| format!("the broker's log can't be read: {why}"))? {
            self.keep(&line);
            let Ok(told) = serde_json::from_str::<Value>(&line) else { continue };
            let text = |key: &str| told.get(key).and_then(Value::as_str);
            match (text("message"), text("port"), text("address")) {
                (Some("listening"), Some("grpc"), Some(address)) => self.endpoint = format!("http://{address}"),
                (Some("ready"), ..) => return Ok(()),
                _ => {}
            }
        }
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            drop(stderr.read_to_string(&mut said).await);
        }
        Err(format!("the broker did not start: {}", said.trim()))
    }

    fn keep(&mut self, line: &str) {
        if let Some(file) = &mut self.kept {
            // A disk that is full must not end the tests.
            drop(writeln!(file, "{line}"));
        }
    }
}

/// On any free port, in plaintext on this machine; a new token may follow the last at once.
fn configuration(url: &str) -> String {
    let mut text = format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[vault]\nbase_url = \"{url}\"\nmin_sign_in_interval = \"0s\"\n"
    );
    for User { merchant_id, number, password } in users() {
        text += &format!("[[users]]\nmerchant_id = \"{merchant_id}\"\nnumber = \"{number}\"\npassword = \"{password}\"\n");
    }
    text
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    fs::write(path, text)
}
