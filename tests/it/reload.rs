//! The configuration changes under a running broker.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use token_broker_sandbox::{Fault, Options, Sandbox};
use tokio::time::timeout;
use tonic::Code;

use crate::support::{MERCHANT, NUMBER, PASSWORD, PATIENCE, Said, Setting, Stage, process::Process, replace, user};

/// Asks until the answer is as wanted.
async fn until(stage: &Stage, number: &str, wanted: impl Fn(&Result<(), Said>) -> bool) {
    let asking = async {
        loop {
            let answer = stage.client.token(MERCHANT, number).await.map(drop).map_err(Said::of);
            if wanted(&answer) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asking).await.expect("the configuration is taken over");
}

#[tokio::test]
async fn a_new_password_ends_the_hold_and_so_does_a_raised_attempt() {
    let setting = Setting { rest: user(NUMBER, "wrong"), ..Setting::default() };
    let stage = setting.start().await;
    stage.refused().await.check(Code::FailedPrecondition, "CREDENTIALS_REJECTED");
    // Another attempt with the same password is one try, and another hold.
    stage.reload(&format!("{}attempt = 2\n", user(NUMBER, "wrong")));
    stage.sandbox.wait_for_sign_ins(1, PATIENCE).await;
    let second = async {
        while stage.sandbox.sign_ins() < 2 {
            stage.refused().await;
        }
    };
    timeout(PATIENCE, second).await.expect("it is tried once more");
    stage.refused().await.check(Code::FailedPrecondition, "CREDENTIALS_REJECTED");
    assert_eq!(stage.sandbox.sign_ins(), 2, "and not twice");

    stage.reload(&user(NUMBER, PASSWORD));
    until(&stage, NUMBER, Result::is_ok).await;
    assert_eq!(stage.sandbox.sign_ins(), 3);
}

#[tokio::test]
async fn a_changed_password_marks_the_token_due_and_the_old_one_is_served_until_the_new_one_is_there() {
    let stage = Setting::vault("min_sign_in_interval = \"0s\"").start().await;
    let old = stage.good_token().await;
    stage.sandbox.set_password(MERCHANT, NUMBER, "another");
    stage.sandbox.set_delay(Duration::from_secs(1));
    stage.reload(&user(NUMBER, "another"));
    // Nobody has to ask for it.
    stage.sign_ins(2).await;
    assert_eq!(stage.good_token().await.token_id, old.token_id);
    let renewed = async { while stage.good_token().await.token_id == old.token_id {} };
    timeout(PATIENCE, renewed).await.expect("the new one comes");
    assert_eq!(stage.sandbox.requests().pop().expect("is there").field("password"), Some("another"));
    assert_eq!(stage.sandbox.sign_ins(), 2);
}

#[tokio::test]
async fn a_removed_user_is_not_found_and_its_token_is_gone() {
    let stage = Setting::vault("min_sign_in_interval = \"0s\"").start().await;
    let first = stage.good_token().await;
    stage.reload("");
    until(&stage, NUMBER, |answer| answer.as_ref().is_err_and(|said| said.reason == "USER_NOT_CONFIGURED")).await;
    stage.reload(&user(NUMBER, PASSWORD));
    until(&stage, NUMBER, Result::is_ok).await;
    assert_ne!(stage.good_token().await.token_id, first.token_id);
}

fn two_files(directory: &Path) {
    fs::create_dir(directory.join("users")).expect("a directory");
    fs::write(directory.join("users/a.toml"), user(NUMBER, PASSWORD)).expect("is written");
    fs::write(directory.join("users/b.toml"), user("+447871230001", "b")).expect("is written");
}

fn of_two_files() -> Setting {
    let top = "credentials_files = [\"users/*.toml\"]".to_owned();
    Setting { top, prepare: Some(Box::new(two_files)), rest: String::new(), ..Setting::default() }
}

#[tokio::test]
async fn a_faulty_credentials_file_keeps_its_last_good_version_while_the_others_change() {
    let stage = of_two_files().start().await;
    let first = stage.good_token().await;
    let (a, b) = (stage.files.path().join("users/a.toml"), stage.files.path().join("users/b.toml"));
    fs::write(&a, "[[users]]\nnumber = oops\n").expect("is written");
    replace(&b, &user("+447871230002", "b"));
    stage.hup.notify_one();
    until(&stage, "+447871230001", |answer| answer.as_ref().is_err_and(|said| said.reason == "USER_NOT_CONFIGURED")).await;
    assert_eq!(stage.good_token().await.token_id, first.token_id, "the faulty file's users are as they were");
    until(&stage, "+447871230002", |answer| answer.as_ref().is_err_and(|said| said.reason == "CREDENTIALS_REJECTED")).await;
}

#[tokio::test]
async fn half_a_credentials_file_and_files_that_are_away_cost_nobody_its_token() {
    let stage = of_two_files().start().await;
    let first = stage.good_token().await;
    let at = |name: &str| stage.files.path().join(name);
    // The first half is there, and the operator's signal comes.
    fs::write(at("users/a.toml"), user("+447871230003", "c")).expect("is written");
    replace(&at("users/b.toml"), &user("+447871230002", "b"));
    stage.hup.notify_one();
    until(&stage, "+447871230002", |answer| answer.as_ref().is_err_and(|said| said.reason == "CREDENTIALS_REJECTED")).await;
    assert_eq!(stage.good_token().await.token_id, first.token_id);
    // The rest follows.
    fs::write(at("users/a.toml"), format!("{}{}", user("+447871230003", "c"), user(NUMBER, PASSWORD))).expect("is written");
    stage.hup.notify_one();
    until(&stage, "+447871230003", |answer| answer.as_ref().is_err_and(|said| said.reason == "CREDENTIALS_REJECTED")).await;
    assert_eq!(stage.good_token().await.token_id, first.token_id);

    // Both become links to a volume that is away.
    for name in ["a.toml", "b.toml"] {
        symlink(format!("../volume/{name}"), at("users/new")).expect("a link");
        fs::rename(at("users/new"), at(&format!("users/{name}"))).expect("is renamed");
    }
    replace(&at("users/c.toml"), &user("+447871230004", "d"));
    stage.hup.notify_one();
    until(&stage, "+447871230004", |answer| answer.as_ref().is_err_and(|said| said.reason == "CREDENTIALS_REJECTED")).await;
    assert_eq!(stage.good_token().await.token_id, first.token_id);
    until(&stage, "+447871230002", |answer| answer.as_ref().is_err_and(|said| said.reason == "CREDENTIALS_REJECTED")).await;
    // A file that can be read says who goes.
    replace(&at("users/a.toml"), "");
    stage.hup.notify_one();
    until(&stage, NUMBER, |answer| answer.as_ref().is_err_and(|said| said.reason == "USER_NOT_CONFIGURED")).await;
}

/// A volume as Kubernetes mounts a Secret: files are links through `..data`, which is swapped.
fn mounted(directory: &Path) {
    fs::create_dir_all(directory.join("mount/..one")).expect("a directory");
    fs::write(directory.join("mount/..one/users.toml"), user(NUMBER, PASSWORD)).expect("is written");
    symlink("..one", directory.join("mount/..data")).expect("a link");
    symlink("..data/users.toml", directory.join("mount/users.toml")).expect("a link");
}

/// Within five seconds, which the tests of `reload` show in paused time.
#[tokio::test]
async fn a_swapped_mount_is_seen_by_itself() {
    let setting = Setting {
        top: "credentials_files = [\"mount/*.toml\"]".to_owned(),
        prepare: Some(Box::new(mounted)),
        rest: String::new(),
        ..Setting::default()
    };
    let stage = setting.start().await;
    stage.good_token().await;
    let mount = stage.files.path().join("mount");
    fs::create_dir(mount.join("..two")).expect("a directory");
    fs::write(mount.join("..two/users.toml"), user("+447871230001", "b")).expect("is written");
    symlink("..two", mount.join("..data_tmp")).expect("a link");
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("is swapped");
    until(&stage, NUMBER, |answer| answer.as_ref().is_err_and(|said| said.reason == "USER_NOT_CONFIGURED")).await;
}

#[tokio::test]
async fn a_faulty_main_file_is_told_loudly_and_changes_nothing_and_the_log_level_follows() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let text = |level: &str, more: &str| {
        format!(
            "[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[log]\nlevel = \"{level}\"\n[vault]\nbase_url = \"{}\"\n{}{more}",
            sandbox.url(),
            user(NUMBER, PASSWORD)
        )
    };
    let mut broker = Process::serve(&text("info", ""), &[]).await;
    let client = token_broker::client::Client::new(&broker.endpoint()).expect("is an endpoint");
    let first = client.token(MERCHANT, NUMBER).await.expect("there is a token");
    broker.rewrite(&text("info", "colour = \"red\"\n"));
    broker.signal(rustix::process::Signal::HUP);
    broker.line_like("the configuration is at fault, and all of the last good one stays in force").await;
    assert_eq!(client.token(MERCHANT, NUMBER).await.expect("there is a token").token_id, first.token_id);
    assert!(!broker.log().contains("\"answered\""), "hits are told at debug only");

    broker.rewrite(&text("debug", ""));
    broker.signal(rustix::process::Signal::HUP);
    broker.line("the configuration is in force").await;
    client.token(MERCHANT, NUMBER).await.expect("there is a token");
    broker.line("answered").await;
    broker.signal(rustix::process::Signal::INT);
    assert!(broker.ended(PATIENCE).await.success());
    let log = broker.log();
    assert!(log.contains("colour") && !log.contains(PASSWORD), "{log}");
}

/// Of a token held, of a token on its way and of a refusal on its way, nothing counts at the next vault.
#[tokio::test]
async fn another_vault_is_another_vault() {
    let (former, next) = tokio::join!(Sandbox::start(Options::default()), Sandbox::start(Options::default()));
    let (former, next) = (former.expect("starts"), next.expect("starts"));
    let text = |sandbox: &Sandbox| {
        format!(
            "[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[vault]\nbase_url = \"{}\"\n{}",
            sandbox.url(),
            user(NUMBER, PASSWORD)
        )
    };
    for on_its_way in [None, Some(None), Some(Some(Fault::refusal(11, "INVALID_CREDENTIALS", "no")))] {
        let broker = Process::serve(&text(&former), &[]).await;
        let client = token_broker::client::Client::new(&broker.endpoint()).expect("is an endpoint");
        let (asked_former, asked_next) = (former.sign_ins(), next.sign_ins());
        let mut waiting = None;
        match on_its_way {
            None => drop(client.token(MERCHANT, NUMBER).await.expect("there is a token")),
            Some(fault) => {
                former.set_delay(Duration::from_secs(2));
                fault.into_iter().for_each(|fault| former.script(fault));
                let client = client.clone();
                waiting = Some(tokio::spawn(async move { client.token(MERCHANT, NUMBER).await }));
                former.wait_for_sign_ins(asked_former + 1, PATIENCE).await;
            }
        }
        broker.rewrite(&text(&next));
        broker.signal(rustix::process::Signal::HUP);
        broker.line("the configuration is in force").await;
        if let Some(waiting) = waiting {
            let token = waiting.await.expect("no panic").expect("it waits for the next one's");
            assert!(next.is_live(&token.access_token));
        }
        let token = client.token(MERCHANT, NUMBER).await.expect("there is a token");
        assert!(next.is_live(&token.access_token) && !former.is_live(&token.access_token));
        assert_eq!((former.sign_ins(), next.sign_ins()), (asked_former + 1, asked_next + 1));
        former.set_delay(Duration::ZERO);
    }
}
