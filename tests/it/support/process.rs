//! The real binary: started with a configuration file, read by its log, ended by signals.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use crate::support::{PATIENCE, replace};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_token-broker");

/// Runs the binary to its end: its exit code, standard output and standard error.
pub(crate) async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(BINARY).args(arguments).output().await.expect("the binary runs");
    (status.code(), String::from_utf8(stdout).expect("is UTF-8"), String::from_utf8(stderr).expect("is UTF-8"))
}

/// A running `token-broker serve`.
pub(crate) struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<serde_json::Value>>>,
    news: watch::Receiver<usize>,
    readers: Vec<JoinHandle<()>>,
    path: PathBuf,
    _files: TempDir,
}

/// A configuration in a directory of its own.
pub(crate) fn written(text: &str) -> (TempDir, PathBuf) {
    let files = tempfile::tempdir().expect("a directory");
    let path = files.path().join("config.toml");
    std::fs::write(&path, text).expect("the configuration is written");
    (files, path)
}

impl Process {
    /// Starts the broker and waits until it is ready.
    pub(crate) async fn serve(config: &str, environment: &[(&str, &str)]) -> Self {
        let (files, path) = written(config);
        let mut command = Command::new(BINARY);
        command.envs(environment.iter().copied());
        Self::start(command, files, path).await
    }

    /// The same with this many descriptors, softly and at most.
    pub(crate) async fn with_descriptors(config: &str, soft: u32, hard: u32) -> Self {
        let (files, path) = written(config);
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={soft}:{hard}")).arg(BINARY);
        Self::start(command, files, path).await
    }

    async fn start(mut command: Command, files: TempDir, path: PathBuf) -> Self {
        let mut child = command
            .args([Path::new("serve"), Path::new("--config"), &path])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (told, news) = watch::channel(0);
        let (stdout, stderr) = (child.stdout.take().expect("is piped"), child.stderr.take().expect("is piped"));
        let kept = Arc::clone(&lines);
        let out = tokio::spawn(async move {
            let mut reader = BufReader::new(stdout).lines();
            while let Some(line) = reader.next_line().await.expect("is UTF-8") {
                let line = serde_json::from_str(&line).unwrap_or(serde_json::Value::String(line));
                kept.lock().expect("no panic").push(line);
                told.send_modify(|n| *n += 1);
            }
        });
        let kept = Arc::clone(&lines);
        let err = tokio::spawn(async move {
            let mut text = String::new();
            BufReader::new(stderr).read_to_string(&mut text).await.expect("is UTF-8");
            kept.lock().expect("no panic").push(serde_json::Value::String(text));
        });
        let process = Self { child, lines, news, readers: vec![out, err], path, _files: files };
        process.line("ready").await;
        process
    }

    /// Waits for a log line with this message.
    pub(crate) async fn line(&self, message: &str) -> serde_json::Value {
        self.first(message, |line| line["message"] == message).await
    }

    /// Waits for a log line whose message begins so.
    pub(crate) async fn line_like(&self, message: &str) -> serde_json::Value {
        self.first(message, |line| line["message"].as_str().is_some_and(|text| text.starts_with(message))).await
    }

    async fn first(&self, message: &str, is: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let mut news = self.news.clone();
        let find = || self.lines.lock().expect("no panic").iter().find(|line| is(line)).cloned();
        let found = timeout(PATIENCE, async {
            loop {
                if let Some(line) = find() {
                    return line;
                }
                news.changed().await.unwrap_or_else(|_| panic!("no line {message:?} in {}", self.log()));
            }
        });
        found.await.unwrap_or_else(|_| panic!("no line {message:?} in {}", self.log()))
    }

    /// Writes its configuration anew.
    pub(crate) fn rewrite(&self, text: &str) {
        std::fs::write(&self.path, text).expect("the configuration is written");
    }

    /// Replaces its configuration as a whole.
    pub(crate) fn replace(&self, text: &str) {
        replace(&self.path, text);
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Where it listens for gRPC.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address("grpc"))
    }

    /// Where one of its ports listens.
    pub(crate) fn address(&self, port: &str) -> String {
        let lines = self.lines.lock().expect("no panic");
        let line = lines.iter().find(|line| line["message"] == "listening" && line["port"] == port).expect("it listens");
        line["address"].as_str().expect("is text").to_owned()
    }

    /// Everything it has written so far.
    pub(crate) fn log(&self) -> String {
        self.lines.lock().expect("no panic").iter().map(|line| format!("{line}\n")).collect()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.id()).expect("is a pid");
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).expect("is a pid"), signal).expect("it can be told");
    }

    /// Waits for its end; then the log is whole.
    pub(crate) async fn ended(&mut self, within: Duration) -> ExitStatus {
        let status = timeout(within, self.child.wait()).await.unwrap_or_else(|_| panic!("still there: {}", self.log()));
        for reader in self.readers.drain(..) {
            reader.await.expect("no panic");
        }
        status.expect("it ended")
    }
}
