//! A broker of a test's own, with a sandbox vault behind it: for your team's tests.
//!
//! Must never outlive the test that started it, nor hand one user to two tests.

use std::{
    env,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;

use crate::{ClientError, TokenSource, User};

/// Where the programs are, each by itself, if not in `PATH`.
const SANDBOX: (&str, &str) = ("TOKEN_BROKER_SANDBOX_PROGRAM", "token-broker-sandbox");
const BROKER: (&str, &str) = ("TOKEN_BROKER_PROGRAM", "token-broker");

/// A broker and its vault, on free ports of this machine; they end with this.
///
/// ```no_run
/// # async fn a_test() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = token_broker_client::testing::TestBroker::start()?;
/// let (source, user) = (broker.source()?, broker.user());
/// let token = source.token(&user).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TestBroker {
    sandbox: Child,
    endpoint: String,
    vault_url: String,
    merchant_id: String,
    numbers: Vec<String>,
    given: AtomicUsize,
}

impl TestBroker {
    /// Starts both, and waits until they are ready.
    ///
    /// # Errors
    /// Where a program isn't there, or doesn't start: it says why on standard error.
    pub fn start() -> io::Result<Self> {
        Self::start_with(&[])
    }

    /// The same with more of the sandbox's options, such as `["--lifetime", "20s"]`.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(options: &[&str]) -> io::Result<Self> {
        Self::start_programs(&program(SANDBOX), &program(BROKER), options)
    }

    /// The same with the programs at these paths.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_programs(sandbox: &Path, broker: &Path, options: &[&str]) -> io::Result<Self> {
        let mut sandbox = Command::new(sandbox)
            .args(["--listen", "127.0.0.1:0", "--broker"])
            .arg(broker)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|why| missing(&why))?;
        let mut line = String::new();
        if let Some(told) = sandbox.stdout.take() {
            BufReader::new(told).read_line(&mut line)?;
        }
        let told: Value =
            serde_json::from_str(&line).map_err(|_nothing| io::Error::other("the sandbox did not start: see standard error"))?;
        let text = |key| told.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let numbers = told.get("numbers").and_then(Value::as_array).into_iter().flatten();
        let numbers = numbers.filter_map(Value::as_str).map(str::to_owned).collect();
        let (endpoint, vault_url, merchant_id) = (text("endpoint"), text("vault_url"), text("merchant_id"));
        Ok(Self { sandbox, endpoint, vault_url, merchant_id, numbers, given: AtomicUsize::new(0) })
    }

    /// A source of this broker's tokens.
    ///
    /// # Errors
    /// As [`TokenSourceBuilder::build`](crate::TokenSourceBuilder::build).
    pub fn source(&self) -> Result<TokenSource, ClientError> {
        TokenSource::builder().endpoint(&self.endpoint).build()
    }

    /// A user whom no other test has had.
    ///
    /// # Panics
    /// Once all thousand are given: start another broker.
    #[must_use]
    #[allow(clippy::panic, reason = "a test can't go on, and should say why")]
    pub fn user(&self) -> User {
        let at = self.given.fetch_add(1, Ordering::Relaxed);
        match self.numbers.get(at) {
            Some(number) => User::new(&self.merchant_id, number),
            None => panic!("all {} users of this broker are given: start another for more tests", self.numbers.len()),
        }
    }

    /// Where the broker is.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where the vault is, for requests with a token (`/v1/customer`) and for its faults (`/_sandbox/faults`).
    #[must_use]
    pub fn vault_url(&self) -> &str {
        &self.vault_url
    }
}

impl Drop for TestBroker {
    /// Both end with the sandbox's standard input.
    fn drop(&mut self) {
        drop(self.sandbox.stdin.take());
        // Nobody is left to be told.
        drop(self.sandbox.wait());
    }
}

fn program((variable, name): (&str, &str)) -> PathBuf {
    env::var_os(variable).map_or_else(|| name.into(), PathBuf::from)
}

fn missing(why: &io::Error) -> io::Error {
    let (sandbox, broker) = (SANDBOX.0, BROKER.0);
    let text =
        format!("the sandbox can't be started ({why}): have it and the broker in PATH, or name them in {sandbox} and {broker}");
    io::Error::new(why.kind(), text)
}
