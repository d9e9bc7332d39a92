//! The vault stands still for half a minute under load, as a machine that hangs does: real processes, real sockets, the sandbox
//! stopped by SIGSTOP and brought back.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Stdio,
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};
use token_broker::client::Client;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::sleep,
};

use crate::support::{
    MERCHANT, PATIENCE, http,
    plain_http::post,
    process::{BINARY, Process},
    user,
};

const USERS: usize = 60;
/// Every token ends in the outage, for it begins within `WARM` of the start …
const LIFETIME: Duration = Duration::from_secs(24);
/// … and goes on for seconds after the last sign-in that began before them has failed.
const DOWN: Duration = Duration::from_secs(36);
/// The first tokens are there by then, and none of them is due.
const WARM: Duration = Duration::from_secs(2);
/// `expires_in` is whole seconds, rounded down; and a call takes a moment to be heard.
const EARLY: Duration = Duration::from_secs(2);
/// The broker's patience with one sign-in: what a caller waited if nothing bounded that.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Each user is asked for so often.
const EVERY: Duration = Duration::from_millis(250);
/// The longest pause between two probes.
const PROBED_EVERY: Duration = Duration::from_secs(8);
/// What a busy machine may add to an answer that is due at once or within a second: far less than `TIMEOUT`.
const SLACK: Duration = Duration::from_secs(3);

/// The development vault as a process of its own.
struct SandboxProcess {
    child: Child,
    address: String,
}

impl SandboxProcess {
    async fn start() -> Self {
        // Built along with the tests of its own crate.
        let program = Path::new(BINARY).with_file_name("token-broker-sandbox");
        let mut command = Command::new(&program);
        command.args(["--listen", "127.0.0.1:0", "--lifetime", &format!("{}s", LIFETIME.as_secs())]);
        for n in 0..USERS {
            command.args(["--user", &format!("{MERCHANT}:{}:p{n}", number(n))]);
        }
        let child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = child.unwrap_or_else(|_| panic!("{}: build it: cargo build --workspace", program.display()));
        let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
        let first = lines.next_line().await.expect("is UTF-8").expect("it says where it listens");
        let (_, rest) = first.split_once("http://").expect("a URL");
        let address = rest.split([' ', '(']).next().expect("an address").to_owned();
        // Whoever reads no further must not close the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, address }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().expect("it runs")).expect("is a pid");
        kill_process(Pid::from_raw(pid).expect("is a pid"), signal).expect("it can be told");
    }

    /// Tokens from now on last an hour: none of those that come after the outage falls due.
    async fn lengthens_lives(&self) {
        let answer = post(&self.address, "/_sandbox/settings", "{\"lifetime\": \"1h\"}").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// How many sign-ins it has seen.
    async fn sign_ins(&self) -> u64 {
        let answer = http(&self.address, "/_sandbox/stats").await;
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str::<serde_json::Value>(body).expect("is JSON")["sign_ins"].as_u64().expect("is a number")
    }
}

impl Drop for SandboxProcess {
    fn drop(&mut self) {
        // Nobody can end a process that is stopped but by SIGKILL, which `kill_on_drop` sends.
        self.signal(Signal::CONT);
    }
}

fn number(n: usize) -> String {
    format!("+4478712{n:05}")
}

/// How one call went.
struct Call {
    user: usize,
    asked: Instant,
    took: Duration,
    /// The token's end, or the reason why there is none.
    end: Result<SystemTime, String>,
    answered: SystemTime,
}

async fn call(client: Client, user: usize) -> Call {
    let asked = Instant::now();
    let answer = client.token(MERCHANT, &number(user)).await;
    let (took, answered) = (asked.elapsed(), SystemTime::now());
    let end = match answer {
        Ok(token) => Ok(SystemTime::try_from(token.expires_at.expect("is set")).expect("is a time")),
        Err(error) => Err(error.reason().map_or_else(|| format!("{error:?}"), |reason| reason.to_string())),
    };
    Call { user, asked, took, end, answered }
}

/// Asks for every user again and again, whatever became of the call before.
async fn load(client: Client, until: Instant) -> Vec<Call> {
    let mut calls = JoinSet::new();
    let mut turn = 0;
    while Instant::now() < until {
        calls.spawn(call(client.clone(), turn % USERS));
        turn += 1;
        sleep(EVERY / u32::try_from(USERS).expect("is small")).await;
    }
    calls.join_all().await
}

#[tokio::test]
async fn a_vault_that_hangs_costs_nobody_more_than_a_second_and_few_sign_ins() {
    let sandbox = SandboxProcess::start().await;
    let users: String = (0..USERS).map(|n| user(&number(n), &format!("p{n}"))).collect();
    let config = format!(
        "[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[vault]\nbase_url = \"http://{}\"\ntimeout = \"{}s\"\n{users}",
        sandbox.address,
        TIMEOUT.as_secs()
    );
    let broker = Process::serve(&config, &[]).await;
    let client = Client::new(&broker.endpoint()).expect("is an endpoint").timeout(PATIENCE);

    let began = Instant::now();
    let loading = tokio::spawn(load(client, began + WARM + DOWN + PROBED_EVERY + SLACK + WARM));
    sleep(WARM).await;
    assert_eq!(sandbox.sign_ins().await, USERS as u64, "one for each, and no token is due yet");
    sandbox.lengthens_lives().await;
    sandbox.signal(Signal::STOP);
    sleep(DOWN).await;
    sandbox.signal(Signal::CONT);
    let back = Instant::now();
    let calls = loading.await.expect("no panic");

    let known = broker.line("the vault is down: one sign-in at a time finds out when it is back").await;
    assert!(known.is_object());
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for call in &calls {
        match &call.end {
            Ok(end) => assert!(*end > call.answered - call.took, "user {} got a token past its end", call.user),
            Err(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    assert!(reasons.keys().all(|reason| *reason == "VAULT_UNAVAILABLE"), "{reasons:?}");
    // While their tokens live everybody is served, and at once but for the margin, in which a better one is awaited for a second.
    let served = |call: &&Call| call.asked > began + WARM && call.asked < began + LIFETIME - EARLY;
    assert!(calls.iter().filter(served).all(|call| call.end.is_ok() && call.took < Duration::from_secs(1) + SLACK));
    // Without one nobody waits longer than that either: whoever asked before the vault counted as down, for one sign-in's time.
    let known_down = began + WARM + LIFETIME + TIMEOUT - EARLY;
    let slowest = |calls: &mut dyn Iterator<Item = &Call>| calls.map(|call| call.took).max().expect("there are some");
    let late = slowest(&mut calls.iter().filter(|call| call.asked > known_down && call.asked < back));
    assert!(late < Duration::from_secs(1) + SLACK, "{late:?}");
    assert!(slowest(&mut calls.iter()) < TIMEOUT + SLACK);
    // Back within the longest pause between two probes, for everybody.
    let recovered = back + PROBED_EVERY + SLACK;
    let mut well = calls.iter().filter(|call| call.asked > recovered);
    assert!(well.all(|call| call.end.is_ok()));
    // Each one's first, each one's next, and those that were sent into the silence: the first to fail and one probe at a time.
    let sign_ins = usize::try_from(sandbox.sign_ins().await).expect("is small");
    println!("{} calls, {reasons:?}, the slowest of the dry ones {late:?}; {sign_ins} sign-ins of {USERS} users", calls.len());
    assert!((2 * USERS..=3 * USERS + 20).contains(&sign_ins), "{sign_ins}");
}
