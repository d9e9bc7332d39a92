//! A client that hides nothing: what came, when, and whether the connection was closed or reset.

use std::{io::ErrorKind, time::Duration};

use serde_json::Value;
use token_broker_sandbox::{Options, Sandbox};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub(crate) const MERCHANT: &str = "bece038f-2e46-49f4-b25e-89cd38d6dc16";
pub(crate) const NUMBER: &str = "+447871239999";
/// The documented request, as the broker sends it.
pub(crate) const FORM: &str = "grant_type=mobile_phone&number=%2B447871239999&password=1234Qwerty";

/// No exchange of these tests takes a tenth of it, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn sandbox() -> Sandbox {
    Sandbox::start(Options::default()).await.unwrap()
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum End {
    Closed,
    Reset,
}

/// Everything that came until the end of the connection.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    pub(crate) end: End,
}

impl Reply {
    pub(crate) fn head(&self) -> &str {
        let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        std::str::from_utf8(&self.bytes[..end]).unwrap()
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[self.head().len() + 4..]
    }

    pub(crate) fn status(&self) -> u16 {
        self.head().split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head().lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(is, _)| is.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(self.body()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn token(&self) -> String {
        assert_eq!(self.status(), 200, "{}", String::from_utf8_lossy(self.body()));
        self.json()["access_token"].as_str().unwrap().to_owned()
    }
}

/// A request by hand.
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn new(method: &'static str, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: Vec::new(), body: String::new() }
    }

    /// The documented sign-in with this form.
    pub(crate) fn sign_in(form: &str) -> Self {
        let mut request = Self::new("POST", "/oauth/token").header("X-Merchant-ID", MERCHANT);
        request = request.header("Accept", "application/json").header("Content-Type", "application/x-www-form-urlencoded");
        request.body(form)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(is, _)| !is.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(is, _)| !is.eq_ignore_ascii_case(name));
        self
    }

    pub(crate) fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    /// The request's bytes; `more` stands among the headers.
    fn text(&self, more: &str) -> String {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let Self { method, path, body, .. } = self;
        format!("{method} {path} HTTP/1.1\r\nHost: sandbox\r\n{more}{headers}Content-Length: {}\r\n\r\n{body}", body.len())
    }

    /// Sends it on a connection of its own and leaves the reply unread.
    pub(crate) async fn open(&self, to: &Sandbox) -> TcpStream {
        let mut stream = TcpStream::connect(to.addr()).await.unwrap();
        stream.write_all(self.text("").as_bytes()).await.unwrap();
        stream
    }

    /// Sends it on a connection of its own and reads until that ends.
    pub(crate) async fn send(&self, to: &Sandbox) -> Reply {
        let mut stream = TcpStream::connect(to.addr()).await.unwrap();
        stream.write_all(self.text("Connection: close\r\n").as_bytes()).await.unwrap();
        drain(&mut stream).await
    }
}

/// Reads until the connection ends.
pub(crate) async fn drain(stream: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    let end = match tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection ends") {
        Ok(_) => End::Closed,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Reset,
        Err(error) => panic!("{error}"),
    };
    Reply { bytes, end }
}

/// The documented user signs in.
pub(crate) async fn sign_in(to: &Sandbox) -> Reply {
    Request::sign_in(FORM).send(to).await
}

/// Calls the resource endpoint with a token.
pub(crate) async fn customer(of: &Sandbox, token: &str) -> Reply {
    Request::new("GET", "/v1/customer").header("Authorization", &format!("Bearer {token}")).send(of).await
}
