//! The client against a peer of the test's own on real sockets, whose bytes are the test's.

use std::{
    io::Write,
    net::TcpListener,
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
use reqwest::header::HeaderValue;

use self::peer::Peer;
use super::*;
use crate::{
    clock::SystemClock,
    config::{Renewal, Target},
    user::{MerchantId, Number},
    vault::{Refusal, Scope},
};

mod answers;
mod peer;
mod tls;

const MERCHANT_ID: &str = "bece038f-2e46-49f4-b25e-89cd38d6dc16";
const TOKEN: &str = r#"{"access_token":"opaque","token_type":"bearer","expires_in":60}"#;
/// Long enough for a busy machine, and the most that a test waits for nothing.
const TIMEOUT: Duration = Duration::from_secs(20);
/// For the tests that wait for it to pass.
const SHORT: Duration = Duration::from_millis(300);

fn config(base_url: &str) -> VaultConfig {
    VaultConfig {
        base_url: Target::parse(base_url).expect("is one"),
        ca_file: None,
        headers: HeaderMap::new(),
        timeout: TIMEOUT,
        max_concurrent_sign_ins: 4,
        min_sign_in_interval: Duration::ZERO,
        refusal_hold: Duration::ZERO,
        renewal: Renewal::Ahead,
        sign_out: false,
        assumed_lifetime: Duration::from_secs(300),
        idle_after: Duration::ZERO,
        caller_sign_ins_per_minute: u32::MAX,
        caller_forced_sign_ins_per_minute: u32::MAX,
    }
}

fn user() -> UserKey {
    UserKey {
        merchant: MerchantId::parse(MERCHANT_ID.to_owned()).expect("is visible ASCII"),
        number: Number::parse("+447871239999".to_owned()).expect("is E.164"),
    }
}

async fn sign_in(config: VaultConfig, password: &str) -> Result<Grant, Failure> {
    let vault = HttpVault::new(&config, Arc::new(SystemClock)).expect("TLS can be set up");
    vault.sign_in(&user(), &Secret::from(password), &Span::default()).await
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn is_unavailable(result: &Result<Grant, Failure>) -> bool {
    matches!(result, Err(Failure::Unavailable { wait: None, vault_error, .. }) if vault_error.is_empty())
}

fn is_invalid(result: &Result<Grant, Failure>) -> bool {
    matches!(result, Err(Failure::Invalid { .. }))
}

#[tokio::test]
async fn the_request_is_as_documented_to_the_byte() {
    let peer = Peer::answering(ok(TOKEN));
    let mut config = config(&format!("http://{}/base/", peer.address));
    for (name, value) in [("x-version", "1.2"), ("authorization", "Basic eDp5")] {
        config.headers.insert(name, HeaderValue::from_static(value));
    }
    let grant = sign_in(config, " 1&2+3ä% =").await.expect("the peer gives a token");
    assert_eq!((grant.access_token.expose(), grant.lifetime), ("opaque", Duration::from_secs(60)));

    let seen = peer.seen();
    let (head, body) = seen[0].split_once("\r\n\r\n").expect("a head ends so");
    assert_eq!(body, "grant_type=mobile_phone&number=%2B447871239999&password=+1%262%2B3%C3%A4%25+%3D");
    let mut lines: Vec<_> = head.split("\r\n").collect();
    assert_eq!(lines.remove(0), "POST /base/oauth/token HTTP/1.1");
    lines.sort_unstable();
    let host = format!("host: {}", peer.address);
    let agent = format!("user-agent: token-broker/{}", env!("CARGO_PKG_VERSION"));
    let length = format!("content-length: {}", body.len());
    let merchant = format!("x-merchant-id: {MERCHANT_ID}");
    let form = "content-type: application/x-www-form-urlencoded";
    assert_eq!(
        lines,
        [
            "accept-encoding: identity",
            "accept: application/json",
            "authorization: Basic eDp5",
            &length,
            form,
            &host,
            &agent,
            &merchant,
            "x-version: 1.2"
        ]
    );
}

#[tokio::test]
async fn connections_are_reused() {
    let peer = Peer::answering(ok(TOKEN));
    let vault = HttpVault::new(&peer.config(), Arc::new(SystemClock)).expect("TLS can be set up");
    for _ in 0..3 {
        vault.sign_in(&user(), &Secret::from("1234Qwerty"), &Span::default()).await.expect("the peer gives a token");
    }
    assert_eq!(peer.counts(), (1, 3));
}

#[tokio::test]
async fn a_password_follows_no_redirect() {
    for status in [301, 302, 303, 307, 308] {
        let elsewhere = Peer::answering(ok(TOKEN));
        let target = elsewhere.address;
        let peer =
            Peer::answering(format!("HTTP/1.1 {status} X\r\nlocation: http://{target}/oauth/token\r\ncontent-length: 0\r\n\r\n"));
        let result = sign_in(peer.config(), "1234Qwerty").await;
        assert!(is_invalid(&result), "{status} {result:?}");
        assert_eq!((peer.counts(), elsewhere.counts()), ((1, 1), (0, 0)), "{status}");
    }
}

#[tokio::test]
async fn the_headers_of_an_answer_count() {
    for (answer, expected) in [
        (
            "HTTP/1.1 503 X\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",
            Failure::Unavailable {
                cause: "it answered with a server error",
                wait: Some(Duration::from_secs(7)),
                vault_error: String::new(),
            },
        ),
        (
            "HTTP/1.1 429 X\r\ncontent-encoding: gzip\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",
            Failure::Throttled { scope: Scope::User, wait: Duration::from_secs(7), vault_error: String::new() },
        ),
        (
            "HTTP/1.1 400 X\r\ncontent-encoding: Identity\r\ncontent-length: 14\r\n\r\n{\"errorId\":11}",
            Failure::Refused { why: Refusal::Credentials, vault_error: "11".to_owned() },
        ),
    ] {
        let peer = Peer::answering(answer);
        assert_eq!(sign_in(peer.config(), "1234Qwerty").await, Err(expected), "{answer}");
    }
    for encoding in ["gzip", "br", "identity, gzip", "\u{e4}"] {
        let peer = Peer::answering(ok(TOKEN).replacen("content-type", &format!("content-encoding: {encoding}\r\nx"), 1));
        let result = sign_in(peer.config(), "1234Qwerty").await;
        assert!(is_invalid(&result), "{encoding} {result:?}");
    }
}

#[tokio::test]
async fn a_body_is_read_up_to_its_limit() {
    let fits = format!("{TOKEN}{}", " ".repeat(BODY_MAX - TOKEN.len()));
    let chunked = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
            &body[..16],
            body.len() - 16,
            &body[16..]
        )
    };
    for (answer, good) in
        [(ok(&fits), true), (chunked(&fits), true), (ok(&format!("{fits} ")), false), (chunked(&format!("{fits} ")), false)]
    {
        let peer = Peer::answering(answer);
        let result = sign_in(peer.config(), "1234Qwerty").await;
        assert!(if good { result.is_ok() } else { is_invalid(&result) }, "{good} {result:?}");
    }
}

#[tokio::test]
async fn a_body_without_end_is_left() {
    let (left, noticed) = tokio::sync::oneshot::channel();
    let left = Mutex::new(Some(left));
    let peer = Peer::start(move |served| {
        served.request();
        served.write(b"HTTP/1.1 200 OK\r\n\r\n");
        while served.write(&[b' '; 4_096]) {}
        left.lock().expect("no thread panicked").take().expect("there is one connection").send(()).expect("the test waits");
    });
    let result = sign_in(peer.config(), "1234Qwerty").await;
    assert!(is_invalid(&result), "{result:?}");
    noticed.await.expect("the peer sees that nobody reads on");
    assert_eq!(peer.counts(), (1, 1));
}

#[tokio::test]
async fn what_drips_or_is_silent_ends_with_the_timeout() {
    for (head, drips) in
        [("", false), ("HTTP/1.1 200 OK\r\n\r\n", false), ("HTTP/1.1 200 OK\r\n\r\n", true), ("HTTP/1.1 200 OK\r\nx: ", true)]
    {
        let peer = Peer::start(move |served| {
            served.request();
            served.write(head.as_bytes());
            while drips && served.write(b"x") && !served.is_left_within(Duration::from_millis(10)) {}
            served.request();
        });
        let started = SystemClock.now();
        let result = sign_in(VaultConfig { timeout: SHORT, ..peer.config() }, "1234Qwerty").await;
        assert!(is_unavailable(&result), "{head} {result:?}");
        assert!((SHORT..TIMEOUT).contains(&started.age_at(SystemClock.now())), "{head}");
        // On a busy machine the peer may not have got to it yet.
        let (connections, requests) = peer.counts();
        assert!(connections <= 1 && requests <= 1, "{head} {connections} {requests}");
    }
}

#[tokio::test]
async fn what_may_have_been_read_is_not_sent_again() {
    let unread = [
        "nonsense\r\n\r\n",
        "HTTP/1.1 401 No\r\ncontent-length: abc\r\n\r\n",
        "HTTP/1.1 403 No\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n12",
        "HTTP/2 401\r\n\r\n",
    ];
    for part in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"].into_iter().chain(unread) {
        for resets in [false, true] {
            // The first connection answers once, so that the request that is lost is also one on a connection used before.
            for used_before in [false, true] {
                let peer = Peer::start(move |served| {
                    if used_before && served.before == 0 {
                        served.request();
                        served.write(ok(TOKEN).as_bytes());
                    }
                    served.request();
                    served.write(part.as_bytes());
                    if resets {
                        served.reset();
                    }
                });
                let vault = HttpVault::new(&peer.config(), Arc::new(SystemClock)).expect("TLS can be set up");
                let password = Secret::from("1234Qwerty");
                if used_before {
                    vault.sign_in(&user(), &password, &Span::default()).await.expect("the peer gives a token");
                }
                let result = vault.sign_in(&user(), &password, &Span::default()).await;
                // What can't be read may have been a no.
                let may_be_no = matches!(result, Err(Failure::Undocumented { status: UNREADABLE, .. }));
                assert!(if unread.contains(&part) { may_be_no } else { is_unavailable(&result) }, "{part:?} {result:?}");
                assert_eq!(peer.counts(), (1, 1 + usize::from(used_before)), "{part:?} {resets} {used_before}");
            }
        }
    }
}

#[tokio::test]
async fn a_refused_connection_is_told_at_once() {
    let unbound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("loopback is there");
    let started = SystemClock.now();
    let result = sign_in(config(&format!("http://{unbound}")), "1234Qwerty").await;
    assert_eq!(result, Err(unavailable("no connection to it could be made")));
    assert!(started.age_at(SystemClock.now()) < TIMEOUT / 2);
}

#[tokio::test]
async fn a_failure_is_logged_with_the_vaults_request_id_and_nothing_else() {
    for (id, expected) in
        [("3f-A_.9", Some("3f-A_.9")), ("1234Qwerty", None), ("447871239999", None), ("a b\u{e4}", None), ("ab;c\"", Some("abc"))]
    {
        let log = Log::default();
        let _logging = log.capture();
        let peer =
            Peer::answering(format!("HTTP/1.1 400 X\r\nx-request-id: {id}\r\ncontent-length: 14\r\n\r\n{{\"errorId\":11}}"));
        let result = sign_in(peer.config(), "1234Qwerty").await;
        assert!(matches!(result, Err(Failure::Refused { .. })), "{result:?}");
        let log = log.text();
        match expected {
            Some(id) => assert!(log.contains(&format!("x_request_id=\"{id}\"")), "{log}"),
            None => assert!(!log.contains("x_request_id"), "{log}"),
        }
        for secret in ["1234Qwerty", "447871239999", "oauth/token", "errorId"] {
            assert!(!log.contains(secret), "{log}");
        }
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Takes what this thread logs from now on.
    fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let sink = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .without_time()
            .with_writer(move || sink.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no thread panicked").clone()).expect("logs are text")
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no thread panicked").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_vault_shows_no_header() {
    let mut config = config("https://vault.example.org");
    config.headers.insert("x-a", outbound::secret_value("secret").expect("is plain"));
    let vault = HttpVault::new(&config, Arc::new(SystemClock)).expect("TLS can be set up");
    assert_eq!(format!("{vault:?}"), r#"HttpVault { endpoint: "https://vault.example.org/oauth/token", .. }"#);
    assert!(!format!("{:?} {config:?}", vault.client).contains("secret"));
}

proptest! {
    #[test]
    fn a_password_is_sent_as_it_is(password in any::<String>()) {
        let body = form(&user(), &Secret::from(password.as_str()));
        let pairs: Vec<_> = form_urlencoded::parse(&body).into_owned().collect();
        let expected = [("grant_type", "mobile_phone"), ("number", "+447871239999"), ("password", password.as_str())];
        prop_assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        prop_assert!(body.iter().all(u8::is_ascii_graphic));
    }
}
