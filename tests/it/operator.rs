//! What an operator sees and does: the real binary's commands over the real socket of another process of it.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    process::Output,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use token_broker::{client::Client, proto::v1::Token};
use token_broker_sandbox::{Fault, Options, Sandbox, User};
use tokio::{io::AsyncReadExt as _, process::Command};
use tonic::Code;

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE, Said,
    bare::Bare,
    process::{BINARY, Process, run},
    user,
};

/// As a person may see it.
const MASKED: &str = "+44…9999";
/// Somebody else's, whom no test's process runs as.
const STRANGER: u32 = 65_534;

/// A vault, a broker, and its socket.
struct Ground {
    sandbox: Sandbox,
    broker: Process,
    client: Client,
    directory: TempDir,
}

impl Ground {
    /// `operator`: more keys of that table; `vault` and `users` likewise.
    async fn new(operator: &str, vault: &str, users: &str) -> Self {
        let sandbox = Sandbox::start(Options::default()).await.expect("starts");
        let directory = tempfile::tempdir().expect("a directory");
        let broker = Process::serve(&config(&sandbox, &directory, operator, vault, users), &[]).await;
        let client = Client::new(&broker.endpoint()).expect("is an endpoint").timeout(PATIENCE);
        Self { sandbox, broker, client, directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("operator.sock")
    }

    /// Runs a command: its exit code, standard output and standard error.
    async fn operate(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let socket = self.socket();
        run(&[arguments, &["--socket", socket.to_str().expect("is text")]].concat()).await
    }

    /// Runs one about the documented user that goes well, and returns its JSON.
    async fn done(&self, command: &str, more: &[&str]) -> Value {
        let about = [command, "--merchant-id", MERCHANT, "--number", NUMBER, "--json"];
        let (code, stdout, stderr) = self.operate(&[&about[..], more].concat()).await;
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{command}");
        serde_json::from_str(&stdout).expect("is JSON")
    }

    /// Runs one about the documented user that is refused.
    async fn refused(&self, command: &str) -> (Option<i32>, String) {
        let (code, stdout, stderr) = self.operate(&[command, "--merchant-id", MERCHANT, "--number", NUMBER]).await;
        assert_eq!(stdout, "", "{command}");
        (code, stderr)
    }

    async fn token(&self) -> Result<Token, Said> {
        self.client.token(MERCHANT, NUMBER).await.map_err(Said::of)
    }

    /// Ends the broker, and returns what the audit trail says of operators.
    async fn acts(mut self) -> Vec<Value> {
        self.broker.signal(Signal::TERM);
        self.broker.ended(PATIENCE).await;
        let lines = self.broker.log();
        lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("is JSON"))
            .filter(|line| line["event"] == "operator")
            .collect()
    }
}

fn config(sandbox: &Sandbox, directory: &TempDir, operator: &str, vault: &str, users: &str) -> String {
    let (url, directory) = (sandbox.url(), directory.path().display());
    format!(
        "state_directory = \"{directory}/state\"\n[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[operator]\nsocket = \
         \"{directory}/operator.sock\"\n{operator}\n[vault]\nbase_url = \"{url}\"\n{vault}\n{users}"
    )
}

fn one() -> String {
    user(NUMBER, PASSWORD)
}

#[tokio::test]
async fn users_are_listed_by_state_and_merchant_page_by_page_and_masked() {
    let others: String = (0..5)
        .map(|n| format!("[[users]]\nmerchant_id = \"m-{}\"\nnumber = \"+4478712300{n}0\"\npassword = \"x\"\n", n % 2))
        .collect();
    let ground = Ground::new("", "", &format!("{}{others}", one())).await;
    ground.sandbox.add_user(User::new("m-1", "+447871230010", "another"));
    let token = ground.token().await.expect("there is one");
    ground.client.token("m-1", "+447871230010").await.expect_err("its password is wrong");

    let list = async |more: &[&str]| {
        let (code, stdout, stderr) = ground.operate(&[&["users", "--json"], more].concat()).await;
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        serde_json::from_str::<Value>(&stdout).expect("is JSON")
    };
    let numbers = |list: &Value| -> Vec<String> {
        let mut numbers: Vec<_> = list["users"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|user| user["number"].as_str().expect("text").to_owned())
            .collect();
        numbers.sort();
        numbers
    };
    let all = list(&[]).await;
    assert_eq!((all["total"].as_u64(), numbers(&all).len()), (Some(6), 6));
    assert!(numbers(&all).iter().all(|number| number.contains('…')), "{all}");
    let cached = list(&["--state", "cached"]).await;
    assert_eq!(cached["users"][0]["token"]["token_id"], token.token_id.as_str());
    assert_eq!((cached["users"][0]["states"].clone(), numbers(&cached)), (json!(["cached"]), vec![MASKED.to_owned()]));
    let held = list(&["--state", "held", "--merchant", "m-1", "--reveal"]).await;
    assert_eq!(numbers(&held), ["+447871230010"]);
    assert_eq!(held["users"][0]["failure"]["reason"], "CREDENTIALS_REJECTED");
    assert_eq!(list(&["--state", "failing"]).await["total"], 0);
    assert_eq!(numbers(&list(&["--merchant", "m-0", "--limit", "2"]).await).len(), 2);

    // A page at a time, each user is there once.
    let mut client = token_broker::operator::channel::connect(&ground.socket()).await.expect("connects");
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            token_broker::operator::proto::ListUsersRequest { page_size: 2, page_token, reveal: true, ..Default::default() };
        let page = client.client.list_users(request).await.expect("is a page").into_inner();
        assert!(page.users.len() <= 2 && page.total_size == 6);
        seen.extend(page.users.into_iter().map(|user| (user.merchant_id, user.number)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert!(seen.is_sorted_by_key(|(merchant, _)| merchant.clone()), "{seen:?}");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 6);

    let (code, stdout, _) = ground.operate(&["users", "--state", "cached"]).await;
    let rows: Vec<_> = stdout.lines().collect();
    assert!(
        code == Some(0) && rows[0].starts_with("MERCHANT") && rows[1].contains(MASKED) && rows[1].contains("cached"),
        "{stdout}"
    );
    assert_eq!(rows[2], "1 user");

    drop(client);
    let acts = ground.acts().await;
    assert!(acts.iter().all(|act| act["act"] == "list" && act["verdict"] == "allowed"), "{acts:?}");
    let revealed: Vec<_> = acts.iter().filter(|act| act["revealed"] == true).collect();
    assert_eq!(revealed.len(), 1 + 3, "once by the command, and three pages");
    assert!(revealed[0]["uid"].is_u64() && revealed[0]["pid"].as_u64() > Some(1), "{revealed:?}");
}

#[tokio::test]
async fn a_renewal_brings_another_token_and_waits_for_the_floor() {
    let ground = Ground::new("", "min_sign_in_interval = \"2s\"\n", &one()).await;
    let before = ground.token().await.expect("there is one");
    let shown = ground.done("user", &[]).await;
    assert_eq!((shown["number"].as_str(), shown["token"]["token_id"].as_str()), (Some(MASKED), Some(before.token_id.as_str())));
    assert!(shown["floor_ends_at"].is_string() && shown["renews_at"].is_string() && shown["failure"].is_null(), "{shown}");

    // It has not the time to wait for the floor's end.
    let (code, _, stderr) = ground.operate(&["renew", "--merchant-id", MERCHANT, "--number", NUMBER, "--timeout", "300ms"]).await;
    assert!(code == Some(75) && stderr.contains("SIGN_IN_TOO_SOON") && stderr.contains("try again in"), "{stderr}");
    assert_eq!(ground.sandbox.sign_ins(), 1);

    let began = Instant::now();
    let renewed = ground.done("renew", &[]).await;
    assert!(began.elapsed() < Duration::from_secs(10));
    let after = ground.token().await.expect("there is one");
    assert_ne!(after.token_id, before.token_id);
    assert_eq!(renewed["user"]["token"]["token_id"], after.token_id.as_str());
    assert_eq!(renewed["reach"], "this_replica");
    assert_eq!(ground.sandbox.sign_ins(), 2);

    // A sign-in that fails leaves the good token where it is.
    ground.sandbox.script(Fault::refusal(11, "WRONG_LOGIN_OR_PASSWORD_EXCEPTION", ""));
    let (code, stderr) = ground.refused("renew").await;
    assert!(code == Some(1) && stderr.contains("CREDENTIALS_REJECTED"), "{stderr}");
    let (code, stderr) = ground.refused("renew").await;
    assert!(code == Some(1) && stderr.contains("CREDENTIALS_REJECTED"), "a hold is heeded: {stderr}");
    assert_eq!(ground.sandbox.sign_ins(), 3);
    assert_eq!(ground.token().await.expect("is held").token_id, after.token_id);

    let acts = ground.acts().await;
    let told: Vec<_> = acts.iter().map(|act| (act["act"].as_str(), act["verdict"].as_str(), act["reason"].as_str())).collect();
    assert_eq!(
        told,
        [
            (Some("show"), Some("allowed"), Some("")),
            (Some("renew"), Some("failed"), Some("SIGN_IN_TOO_SOON")),
            (Some("renew"), Some("allowed"), Some("")),
            (Some("renew"), Some("failed"), Some("CREDENTIALS_REJECTED")),
            (Some("renew"), Some("failed"), Some("CREDENTIALS_REJECTED")),
        ]
    );
    assert!(acts.iter().all(|act| act["number"] == MASKED && act["merchant_id"] == MERCHANT));
    assert_eq!(acts[2]["token_id"], after.token_id.as_str());
}

#[tokio::test]
async fn an_act_whose_client_goes_away_is_done_and_told_all_the_same() {
    let ground = Ground::new("", "", &one()).await;
    ground.sandbox.script(Fault::truth().after(Duration::from_millis(500)));
    let renew = ["renew", "--merchant-id", MERCHANT, "--number", NUMBER, "--socket"];
    let mut client = Command::new(BINARY).args(renew).arg(ground.socket()).kill_on_drop(true).spawn().expect("starts");
    ground.sandbox.wait_for_sign_ins(1, PATIENCE).await;
    client.kill().await.expect("is killed");
    ground.broker.line_like("an operator's act").await;
    let token = ground.token().await.expect("was renewed");
    assert_eq!(ground.sandbox.sign_ins(), 1);
    let acts = ground.acts().await;
    let told: Vec<_> = acts.iter().map(|act| (act["act"].as_str(), act["verdict"].as_str(), act["token_id"].as_str())).collect();
    assert_eq!(told, [(Some("renew"), Some("allowed"), Some(token.token_id.as_str()))]);
}

#[tokio::test]
async fn a_dropped_token_is_handed_out_no_more_and_the_floor_stays() {
    let ground = Ground::new("", "min_sign_in_interval = \"1s\"\n", &one()).await;
    assert!(ground.done("drop", &[]).await["token_id"].is_null());
    let began = Instant::now();
    let before = ground.token().await.expect("there is one");
    let dropped = ground.done("drop", &[]).await;
    assert_eq!((dropped["token_id"].as_str(), dropped["signs_out"].as_bool()), (Some(before.token_id.as_str()), Some(false)));
    assert!(ground.done("user", &[]).await["token"].is_null());
    let after = ground.token().await.expect("there is one");
    assert_ne!(after.token_id, before.token_id);
    assert!(began.elapsed() >= Duration::from_secs(1), "the floor is waited for");
    assert_eq!(ground.sandbox.sign_ins(), 2);
    assert_eq!(ground.sandbox.stats().signouts, 0);
}

#[tokio::test]
async fn a_hold_that_is_lifted_gives_one_more_try_also_after_a_restart() {
    let mut ground = Ground::new("", "", &user(NUMBER, "wrong")).await;
    for _ in 0..2 {
        ground.token().await.expect_err("is refused").check(Code::FailedPrecondition, "CREDENTIALS_REJECTED");
    }
    assert_eq!(ground.sandbox.sign_ins(), 1);
    let lifted = ground.done("lift-hold", &[]).await;
    assert_eq!((&lifted["lifted"]["reason"], &lifted["reach"]), (&json!("CREDENTIALS_REJECTED"), &json!("this_replica")));
    assert!(ground.done("lift-hold", &[]).await["lifted"].is_null(), "it is lifted already");
    for _ in 0..2 {
        ground.token().await.expect_err("is refused").check(Code::FailedPrecondition, "CREDENTIALS_REJECTED");
    }
    assert_eq!(ground.sandbox.sign_ins(), 2, "one more");

    // The password is right now at the vault; what is lifted is so on disk too.
    ground.sandbox.set_password(MERCHANT, NUMBER, "wrong");
    ground.done("lift-hold", &[]).await;
    ground.broker.signal(Signal::TERM);
    ground.broker.ended(PATIENCE).await;
    let config = config(&ground.sandbox, &ground.directory, "", "", &user(NUMBER, "wrong"));
    ground.broker = Process::serve(&config, &[]).await;
    ground.client = Client::new(&ground.broker.endpoint()).expect("is an endpoint").timeout(PATIENCE);
    ground.token().await.expect("nothing is held");
}

#[tokio::test]
async fn a_merchants_waits_are_lifted_with_its_users_own() {
    let other = "+447871238888";
    let ground = Ground::new("", "", &format!("{}{}", one(), user(other, "x"))).await;
    ground.sandbox.add_user(User::new(MERCHANT, other, "x"));
    ground.sandbox.script(Fault::refusal(429, "WAF_LOCK_NOT_IN_LIST", ""));
    ground.token().await.expect_err("waits").check(Code::Unavailable, "VAULT_THROTTLED");
    ground
        .client
        .token(MERCHANT, other)
        .await
        .map_err(Said::of)
        .expect_err("waits as well")
        .check(Code::Unavailable, "VAULT_THROTTLED");
    assert_eq!(ground.sandbox.sign_ins(), 1);
    // What stops one user by itself is lifted, and the merchant's wait stays.
    assert!(ground.done("lift-hold", &[]).await["lifted"].is_object());
    let shown = ground.done("user", &[]).await;
    assert_eq!((&shown["failure"], &shown["merchant_wait"]["reason"]), (&Value::Null, &json!("VAULT_THROTTLED")));
    ground.token().await.expect_err("waits").check(Code::Unavailable, "VAULT_THROTTLED");
    assert_eq!(ground.sandbox.sign_ins(), 1);

    let (code, stdout, stderr) = ground.operate(&["lift-hold", "--merchant", MERCHANT]).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.starts_with("lifted: the merchant's wait, until in "), "{stdout}");
    ground.token().await.expect("is asked for");
    ground.client.token(MERCHANT, other).await.expect("is asked for");
    let (code, _, stderr) = ground.operate(&["lift-hold", "--merchant", "nobody"]).await;
    assert!(code == Some(2) && stderr.contains("merchant_id has no users in the configuration"), "{stderr}");
}

#[tokio::test]
async fn only_the_own_user_root_and_who_is_listed_may_act_and_every_refusal_is_told() {
    let strangers = async |ground: &Ground, uid: u32| {
        let socket = ground.socket();
        // Where a stranger may go, and the program too.
        fs::set_permissions(ground.directory.path(), fs::Permissions::from_mode(0o755)).expect("is ours");
        let program = ground.directory.path().join("token-broker");
        if !program.exists() {
            fs::copy(BINARY, &program).expect("is copied");
        }
        let about = ["lift-hold", "--merchant-id", MERCHANT, "--number", NUMBER, "--socket"];
        let Output { status, stdout, stderr } =
            Command::new(program).args(about).arg(socket).uid(uid).current_dir("/").output().await.expect("runs");
        let text = |bytes| String::from_utf8(bytes).expect("is text");
        (status.code(), text(stdout), text(stderr))
    };
    assert!(rustix::process::geteuid().is_root(), "to run a command as somebody else, this test runs as root");

    let ground = Ground::new("", "", &one()).await;
    let found = fs::symlink_metadata(ground.socket()).expect("is there");
    assert!(found.file_type().is_socket());
    assert_eq!(found.mode() & 0o777, 0o600);
    let (code, _, stderr) = strangers(&ground, STRANGER).await;
    assert!(code == Some(1) && stderr.contains("run this as the broker's own user, or as root"), "{stderr}");

    let listed = STRANGER - 1;
    let ground = Ground::new(&format!("uids = [{listed}]"), "", &one()).await;
    let (code, stdout, stderr) = strangers(&ground, listed).await;
    assert_eq!(
        (code, stdout.trim(), stderr.as_str()),
        (Some(0), "nothing stopped this user by itself: at this replica alone; do the same at the others", "")
    );
    let (code, stdout, stderr) = strangers(&ground, STRANGER).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("CALLER_NOT_ALLOWED: user 65534 is no operator of this broker"), "{stderr}");
    ground.broker.line_like("an act of somebody who is no operator was refused").await;
    // However often it tries: the first in a minute has a line, and the others are counted into the next, which the end brings.
    for _ in 0..3 {
        assert_eq!(strangers(&ground, STRANGER).await.0, Some(1));
    }
    let acts = ground.acts().await;
    let told: Vec<_> = acts
        .iter()
        .map(|act| (act["uid"].as_u64(), act["verdict"].as_str(), act["reason"].as_str(), act["count"].as_u64()))
        .collect();
    let (listed, stranger) = (Some(u64::from(listed)), Some(u64::from(STRANGER)));
    let denied = |count| (stranger, Some("denied"), Some("CALLER_NOT_ALLOWED"), count);
    assert_eq!(told, [(listed, Some("allowed"), Some(""), None), denied(None), denied(Some(3))]);
    assert!(acts[1]["number"].is_null(), "what a stranger asks for is not looked at");
}

#[tokio::test]
async fn a_connection_that_says_nothing_holds_no_end_up() {
    let mut ground = Ground::new("", "", &one()).await;
    let silent = tokio::net::UnixStream::connect(ground.socket()).await.expect("connects");
    ground.done("user", &[]).await;
    let began = Instant::now();
    ground.broker.signal(Signal::TERM);
    ground.broker.ended(PATIENCE).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(silent);
}

#[tokio::test]
async fn it_is_no_ports_and_ends_with_its_broker() {
    let ground = Ground::new("", "", &one()).await;
    let mut bare = Bare::connect(&ground.broker.endpoint()).await;
    let response = bare.begin("/tokenbroker.operator.v1.OperatorService/ListUsers").await.expect("answers");
    assert_eq!(response.headers()["grpc-status"], "12", "no such method");
    let socket = ground.socket();
    ground.acts().await;
    assert!(!socket.exists());
    let (code, _, stderr) = run(&["users", "--socket", socket.to_str().expect("is text")]).await;
    assert!(code == Some(1) && stderr.contains("no broker has made it"), "{stderr}");
    // One that ends before and as it is asked.
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("operator.sock");
    let listener = tokio::net::UnixListener::bind(&socket).expect("binds");
    for read in [0, 64] {
        let ending = async {
            let (mut stream, _) = listener.accept().await.expect("is asked");
            stream.read_exact(&mut vec![0; read]).await.expect("are sent");
        };
        let about = ["users", "--socket", socket.to_str().expect("is text")];
        let ((code, _, stderr), ()) = tokio::join!(run(&about), ending);
        assert!(code == Some(75) && stderr.contains("try again"), "{read}: {stderr}");
    }
    let (code, _, stderr) = run(&["lift-hold", "--socket", "/nowhere"]).await;
    assert!(code == Some(2) && stderr.contains("--merchant-id"), "{stderr}");
}
