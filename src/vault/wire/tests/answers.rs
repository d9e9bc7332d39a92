//! Answers that are cut off, a little wrong, or from a vault whose clock is off.

use super::*;

/// What a vault says with its status counts, however its answer goes on: a password is not sent again for a body.
#[tokio::test]
async fn a_no_is_a_no_however_its_answer_ends() {
    let credentials = |vault_error: &str| Failure::Refused { why: Refusal::Credentials, vault_error: vault_error.to_owned() };
    let forbidden = || Failure::Undocumented { status: 403, wait: None, vault_error: String::new() };
    let long = " ".repeat(BODY_MAX);
    for (answer, expected) in [
        ("HTTP/1.1 401 X\r\ncontent-length: 99\r\n\r\n<html>".to_owned(), credentials("")),
        ("HTTP/1.1 401 X\r\ntransfer-encoding: chunked\r\n\r\nnonsense".to_owned(), credentials("")),
        ("HTTP/1.1 403 X\r\ncontent-length: 99\r\n\r\n{".to_owned(), forbidden()),
        ("HTTP/1.1 400 X\r\ncontent-length: 99\r\n\r\n{\"errorId\":11,".to_owned(), credentials("11")),
        ("HTTP/1.1 400 X\r\ncontent-encoding: gzip\r\ncontent-length: 14\r\n\r\n{\"errorId\":11}".to_owned(), credentials("11")),
        (format!("HTTP/1.1 400 X\r\ncontent-length: {}\r\n\r\n{{\"errorId\":11}}{long}", BODY_MAX + 14), credentials("11")),
        (format!("HTTP/1.1 403 X\r\n\r\n{long}{long}"), forbidden()),
    ] {
        for silent in [false, true] {
            let answer = answer.clone();
            let peer = Peer::start(move |served| {
                served.request();
                served.write(answer.as_bytes());
                if silent {
                    served.request();
                }
            });
            let result = sign_in(VaultConfig { timeout: SHORT, ..peer.config() }, "1234Qwerty").await;
            assert_eq!(result, Err(expected.clone()), "{silent} {:.80?}", peer.seen());
        }
    }
}

#[tokio::test]
async fn headers_that_are_a_little_wrong_lose_no_answer() {
    let many: String = (0..150).map(|n| format!("x-{n}: {n}\r\n")).collect();
    for header in [
        "server : nginx\r\n",
        "x-folded: a\r\n b\r\n",
        "x(y): z\r\n",
        "no colon at all\r\n",
        "x-y: \u{e4}\r\n",
        "x-control: a\u{1}b\r\n",
        "set-cookie: a=b\r\nset-cookie: a=b\r\n",
        ": nothing\r\n",
        &many,
    ] {
        let peer = Peer::answering(ok(TOKEN).replacen("content-type", &format!("{header}content-type"), 1));
        let grant = sign_in(peer.config(), "1234Qwerty").await;
        assert!(grant.is_ok(), "{header:?} {grant:?}");
    }
    let peer = Peer::answering("HTTP/1.1 429 X\r\nretry-after: 3\r\nretry-after: 6.2\r\ncontent-length: 0\r\n\r\n");
    let wait = Duration::from_secs(7);
    let throttled = Failure::Throttled { scope: Scope::User, wait, vault_error: String::new() };
    assert_eq!(sign_in(peer.config(), "1234Qwerty").await, Err(throttled));
}

/// The vault's clock is two hours behind, and its cache has an old token: the one is said, the other is not handed out.
#[tokio::test]
async fn a_vault_whose_clock_is_off_is_told_once() {
    let log = Log::default();
    let _logging = log.capture();
    let now = SystemClock.now().wall.duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970").as_secs() - 7_200;
    let payload = format!(r#"{{"iat":{now},"exp":{}}}"#, now + 60);
    let token = format!("a.{}.c", base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, payload));
    let peer = Peer::answering(ok(&format!(r#"{{"access_token":"{token}"}}"#)));
    let vault = HttpVault::new(&peer.config(), Arc::new(SystemClock)).expect("TLS can be set up");
    for _ in 0..3 {
        let grant = vault.sign_in(&user(), &Secret::from("1234Qwerty"), &Span::default()).await.expect("the token is good");
        assert_eq!(grant.lifetime, Duration::from_secs(60));
    }
    let log = log.text();
    assert_eq!(log.matches("vault_ahead_s=-71").count(), 1, "{log}");
}

/// A connection that was idle for longer than a server may keep it is not used again: what is lost on it can't be resent.
#[tokio::test]
async fn a_connection_that_the_vault_may_have_forgotten_is_not_used() {
    let peer = Peer::start(|served| {
        served.request();
        served.write(ok(TOKEN).as_bytes());
        // It takes what comes next, and says nothing any more.
        served.request();
        served.request();
    });
    let vault = HttpVault::new(&peer.config(), Arc::new(SystemClock)).expect("TLS can be set up");
    for _ in 0..2 {
        vault.sign_in(&user(), &Secret::from("1234Qwerty"), &Span::default()).await.expect("the peer gives a token");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(peer.counts(), (2, 2));
}
