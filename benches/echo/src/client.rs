//! A client of `GetToken` on HTTP/2 alone, over plaintext or TLS 1.3, cheap enough that one core of it keeps the other busy.
//!
//! It must never retry, and never hide what an answer was: whoever measures counts answers.

use std::{error::Error, fs, future::poll_fn, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{
    RecvStream,
    client::{Builder, SendRequest},
};
use http::{HeaderMap, HeaderValue, Request, Uri};
use prost::Message;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::TLS13,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{number, options::Options, proto};

/// What can go wrong with a call or a connection.
pub type Failure = Box<dyn Error + Send + Sync>;

/// gRPC's frame before each message: a byte of flags and four of length.
pub const FRAME_BYTES: usize = 5;

/// What the client lets the server send ahead: more than all answers under way, so that it is never what is waited for.
const WINDOW: u32 = 16 * 1024 * 1024;

/// How a server is called: where, over what, and with which headers.
#[derive(Clone)]
pub struct Target {
    address: String,
    uri: Uri,
    headers: HeaderMap,
    tls: Option<Arc<ClientConfig>>,
}

/// An answer: gRPC's status, and the message without its frame.
#[derive(Debug)]
pub struct Answer {
    /// `grpc-status`.
    pub status: i32,
    /// Empty after an error.
    pub message: Bytes,
}

impl Target {
    /// Reads `http://ADDRESS` or `https://ADDRESS`, and of the options `ca`, `certificate` and `key` (files in PEM) and `token_file`.
    ///
    /// # Errors
    ///
    /// Where a file or the URL can't be read.
    pub fn new(url: &str, options: &mut Options) -> Result<Self, Failure> {
        let uri: Uri = format!("{url}/tokenbroker.v1.TokenBrokerService/GetToken").parse()?;
        let address = uri.authority().ok_or("no host in the URL")?.to_string();
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        if let Some(path) = options.find::<String>("token_file")? {
            headers.insert("authorization", format!("Bearer {}", fs::read_to_string(path)?.trim()).parse()?);
        }
        let client = options.find("certificate")?.zip(options.find("key")?);
        let tls = options.find::<String>("ca")?.map(|ca| tls(&ca, client)).transpose()?;
        Ok(Self { address, uri, headers, tls })
    }

    /// Adds gRPC's deadline to all calls.
    pub fn set_deadline(&mut self, seconds: u64) {
        self.headers
            .insert("grpc-timeout", HeaderValue::from_str(&format!("{seconds}S")).unwrap_or(HeaderValue::from_static("30S")));
    }

    /// Opens a connection.
    ///
    /// # Errors
    ///
    /// Where there is none to be had.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return self.handshake(stream).await };
        let name = ServerName::from(stream.peer_addr()?.ip());
        self.handshake(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?).await
    }

    async fn handshake(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Connection, Failure> {
        let mut builder = Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
        let (sender, connection) = builder.handshake(stream).await?;
        #[allow(clippy::disallowed_methods, reason = "it ends with the connection, and the process soon after")]
        tokio::spawn(async {
            // Calls that were under way tell of it.
            let _ended = connection.await;
        });
        Ok(Connection { sender, uri: self.uri.clone(), headers: self.headers.clone() })
    }
}

fn tls(ca: &str, client: Option<(String, String)>) -> Result<Arc<ClientConfig>, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots);
    let mut config = match client {
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// A connection; clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    uri: Uri,
    headers: HeaderMap,
}

impl Connection {
    /// One call, whose body is a framed message.
    ///
    /// # Errors
    ///
    /// Where the connection or the stream broke off. An answer with an error is an answer.
    pub async fn call(&mut self, body: Bytes) -> Result<Answer, Failure> {
        poll_fn(|context| self.sender.poll_ready(context)).await?;
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let (response, mut stream) = self.sender.send_request(request, false)?;
        stream.send_data(body, true)?;
        let (head, body) = response.await?.into_parts();
        // An error may come as one head, without trailers.
        if let Some(status) = head.headers.get("grpc-status") {
            return Ok(Answer { status: status.to_str()?.parse()?, message: Bytes::new() });
        }
        read(body).await
    }
}

async fn read(mut body: RecvStream) -> Result<Answer, Failure> {
    let mut message = Bytes::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        // Answers are so small that one comes in parts once in a blue moon.
        message = if message.is_empty() { data } else { [message, data].concat().into() };
    }
    let trailers = body.trailers().await?.ok_or("no trailers")?;
    let status = trailers.get("grpc-status").ok_or("no grpc-status")?.to_str()?.parse()?;
    message.advance(FRAME_BYTES.min(message.len()));
    Ok(Answer { status, message })
}

/// The framed request for the user with this index, who complains about these tokens.
///
/// # Panics
///
/// Never: a buffer grows.
#[must_use]
pub fn request(merchant: &str, user: usize, rejected: Vec<String>) -> Bytes {
    let message = proto::GetTokenRequest {
        merchant_id: merchant.to_owned(),
        number: number(user),
        rejected_token_ids: rejected,
        ..proto::GetTokenRequest::default()
    };
    let mut framed = BytesMut::with_capacity(FRAME_BYTES + message.encoded_len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    framed.put_slice(&message.encode_to_vec());
    framed.freeze()
}
