//! What callers, tokens and the vault send, read back from the log, the audit trail and the pages of the real binary.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tempfile::TempDir;
use token_broker::proto::v1::{GetTokenRequest, token_broker_service_client::TokenBrokerServiceClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    process::{Child, Command},
    time::{sleep, timeout},
};
use tonic::{Request, Status, metadata::MetadataValue};

use crate::support::{
    Bare, MERCHANT, NUMBER, PASSWORD, PATIENCE,
    authority::{Authority, Name, client},
    process::BINARY,
    request, user,
};

/// What ends a line, steers a terminal, passes for another field or hides.
const HOSTILE: [&str; 6] = [
    "a\nlevel=ERROR message=forged",
    "a\"} \r\n{\"level\":\"ERROR\",\"message\":\"forged\"}",
    "\u{1b}[2J\u{1b}[31mforged\u{7}",
    "\u{202e}forged\u{2066}\u{200b}",
    "\u{2028}forged\u{85}\u{9b}31m",
    "a reason=forged \\ \" '",
];

/// A vault that refuses everybody in these words.
async fn vault(text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let body = json!({ "error": text, "error_description": text, "errorId": text, "message": text }).to_string();
            // A header takes no control characters, but bytes beyond ASCII.
            let id: String = text.chars().filter(|char| !char.is_control()).collect();
            let head = format!("HTTP/1.1 400 {id}\r\nx-request-id: {id}\r\ncontent-type: application/json\r\n");
            let answer = format!("{head}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            let mut request = [0; 4_096];
            // Whatever it asks.
            let _length = stream.read(&mut request).await.unwrap_or_default();
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    address
}

/// The binary, with all that it writes in a file.
struct Broker {
    _child: Child,
    directory: TempDir,
}

impl Broker {
    /// Starts it at `debug`, so that nothing is left out, and waits until it is ready.
    async fn start(format: &str, text: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        prepare(directory.path());
        let config = directory.path().join("config.toml");
        let log =
            format!("[log]\nformat = \"{format}\"\nlevel = \"debug\"\n[admin]\nlisten = \"127.0.0.1:0\"\nlabel_callers = true\n");
        fs::write(&config, format!("{text}{log}")).expect("is written");
        let out = File::create(directory.path().join("out")).expect("a file");
        let both = out.try_clone().expect("is one more");
        let mut command = Command::new(BINARY);
        command.args([Path::new("serve"), Path::new("--config"), &config]).stdout(Stdio::from(out)).stderr(Stdio::from(both));
        let child = command.kill_on_drop(true).spawn().expect("it starts");
        let broker = Self { _child: child, directory };
        broker.wait_for("ready").await;
        broker
    }

    /// Every line so far that is whole.
    fn written(&self) -> String {
        let mut written = String::from_utf8(fs::read(self.directory.path().join("out")).expect("is there")).expect("is UTF-8");
        written.truncate(written.rfind('\n').map_or(0, |end| end + 1));
        written
    }

    async fn wait_for(&self, text: &str) {
        let waiting = async {
            while !self.written().contains(text) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no {text:?} in {}", self.written()));
    }

    /// Where one of its ports listens.
    fn address(&self, port: &str) -> String {
        let written = self.written();
        let line =
            written.lines().find(|line| line.contains("listening") && line.contains(&format!("\"{port}\""))).expect("it listens");
        let from = line.find("127.0.0.1:").expect("on loopback");
        line[from..].chars().take_while(|char| char.is_ascii_digit() || matches!(char, '.' | ':')).collect()
    }

    /// Looks at all that it wrote, and at its pages.
    async fn check(&self, format: &str, hostile: &str) {
        let admin = self.address("admin");
        for (path, accept) in [("/status", "text/html"), ("/status", "application/json"), ("/metrics", "*/*")] {
            let page = request(&admin, "GET", path, accept).await;
            assert!(!page.contains(hostile), "{page}");
            assert!(page.chars().all(|char| char == '\r' || char == '\n' || is_plain(char)), "{path}: {page:?}");
        }
        self.check_lines(format);
    }

    fn check_lines(&self, format: &str) {
        let written = self.written();
        for line in written.lines() {
            assert!(line.chars().all(is_plain), "{line:?}");
            match (format, serde_json::from_str::<Value>(line)) {
                // The trail's lines are JSON whatever the log's are.
                (_, Ok(line)) => assert!(line["level"] != "ERROR", "{line}"),
                ("json", Err(_)) => panic!("is no JSON: {line}"),
                (_, Err(_)) => assert!(line.starts_with("20") && !line.contains(" ERROR "), "begins with an instant: {line}"),
            }
        }
    }
}

fn is_plain(char: char) -> bool {
    matches!(char, ' '..='~') || !char.is_ascii() && char.escape_debug().len() == 1
}

/// A token that claims this of itself in every place.
fn token(text: &str) -> String {
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let header = part(json!({ "alg": "RS256", "typ": text, "kid": text }));
    let issued = |issuer: &str| part(json!({ "iss": issuer, "sub": text, "aud": text, "nbf": 0, "exp": 9_999_999_999_u64 }));
    format!("{header}.{}.AAAA", issued(if text.len().is_multiple_of(2) { text } else { "https://i.example.org" }))
}

#[tokio::test]
async fn what_callers_send_stays_within_its_line() {
    let text = |vault: SocketAddr| {
        format!(
            "[vault]\nbase_url = \"http://{vault}\"\nrefusal_hold = \"1s\"\n[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n{}",
            user(NUMBER, PASSWORD)
        )
    };
    for format in ["json", "text"] {
        for hostile in HOSTILE {
            let vault = vault(hostile).await;
            let broker = Broker::start(format, &text(vault), |_| ()).await;
            let endpoint = format!("http://{}", broker.address("grpc"));
            let mut client = TokenBrokerServiceClient::new(Bare::connect(&endpoint).await);
            let header: Vec<u8> = hostile.bytes().filter(|byte| !byte.is_ascii_control()).collect();
            // Of the vault's words nothing but the letters of its error's name is left.
            let told = |status: Status| {
                let message = status.message();
                assert!(!message.contains(hostile) && message.chars().all(is_plain), "{status:?}");
            };
            let request = GetTokenRequest { merchant_id: MERCHANT.to_owned(), number: NUMBER.to_owned(), ..Default::default() };
            let bad = GetTokenRequest {
                merchant_id: hostile.to_owned(),
                number: hostile.to_owned(),
                rejected_token_ids: vec![hostile.repeat(9)],
                ..Default::default()
            };
            for message in [request, bad] {
                let mut request = Request::new(message);
                for key in ["x-request-id", "traceparent", "tracestate", "x-other"] {
                    // As bytes, since a header's value need not be text.
                    let value = MetadataValue::try_from(header.as_slice()).expect("a header can carry it");
                    request.metadata_mut().insert(key, value);
                }
                told(client.get_token(request).await.expect_err("there is no token"));
            }
            broker.wait_for("no token").await;
            broker.check(format, hostile).await;
        }
    }
}

#[tokio::test]
async fn what_certificates_and_tokens_say_stays_within_its_line() {
    let ca = Authority::new();
    let text = format!(
        "[vault]\nbase_url = \"http://127.0.0.1:9\"\n[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[grpc.tls]\n\
         certificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\nclient_ca_file = \"ca.crt\"\n[auth.service_accounts]\n\
         issuer = \"https://i.example.org\"\njwks_file = \"jwks\"\n[[callers]]\nid = \"spiffe://example.org/ns/*/sa/ledger\"\n\
         merchants = [\"*\"]\n[[callers]]\nid = \"*.wild.internal\"\nmerchants = [\"*\"]\n[[callers]]\n\
         id = \"system:serviceaccount:*:ledger\"\nmerchants = [\"*\"]\n{}",
        user(NUMBER, PASSWORD)
    );
    for format in ["json", "text"] {
        let broker = Broker::start(format, &text, |directory| {
            ca.server().write(directory);
            fs::write(directory.join("ca.crt"), &ca.pem).expect("is written");
            fs::write(directory.join("jwks"), "{\"keys\": []}").expect("is written");
        });
        let broker = broker.await;
        let endpoint = format!("https://{}", broker.address("grpc"));
        for hostile in HOSTILE {
            // Such names are ASCII.
            let ascii: String = hostile.chars().filter(char::is_ascii).collect();
            let (uri, dns) = (format!("spiffe://example.org/ns/{ascii}/sa/ledger"), format!("{ascii}.wild.internal"));
            for name in [Name::Uri(&uri), Name::Dns(&dns)] {
                let error =
                    client(&endpoint, &ca, Some(&ca.client(&[name]))).token(MERCHANT, NUMBER).await.expect_err("is no name");
                let told = error.in_words();
                // Without what isn't ASCII, some are names like any other.
                let is_name = ascii.bytes().all(|byte| byte.is_ascii_alphanumeric());
                assert!(!told.contains('\u{1b}') && told.contains("your certificate's") != is_name, "{told}");
            }
            let security = token_broker::client::Security {
                ca_pem: Some(ca.pem.clone().into_bytes()),
                token_file: Some(broker.directory.path().join("shown")),
                ..Default::default()
            };
            fs::write(broker.directory.path().join("shown"), token(hostile)).expect("is written");
            let shown =
                token_broker::client::Client::with_security(&endpoint, security).expect("is an endpoint").timeout(PATIENCE);
            let told = shown.token(MERCHANT, NUMBER).await.expect_err("nobody is named").in_words();
            assert!(!told.contains("forged"), "{told}");
        }
        // Once this one's line is there, those of all before it are.
        let last = Some(ca.client(&[Name::Dns("last.wild.internal")]));
        client(&endpoint, &ca, last.as_ref()).token(MERCHANT, NUMBER).await.expect_err("the vault is away");
        broker.wait_for("last.wild.internal").await;
        broker.check_lines(format);
        // Of those that are names it is said what became of them; nothing is said of the others.
        let mut written = broker.written();
        for name in ["/ns/forged/", "/ns/forged31m/", "forged.wild.internal", "forged31m.wild.internal"] {
            assert!(written.contains(name), "{name}: {written}");
            written = written.replace(name, "");
        }
        assert!(!written.contains("forged"), "{written}");
    }
}
