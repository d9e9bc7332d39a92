//! What stands where a broker should, in words: why it can't be reached, or what it speaks instead of gRPC.
//!
//! Must never send anything secret, nor wait for longer than [`STEP`]: whoever is asked may be anybody.

use std::{error::Error, io, iter::successors, time::Duration};

use rustls::{CertificateError, Error as TlsError};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Each step takes at most this long: nobody who listens needs it.
pub const STEP: Duration = Duration::from_secs(2);
/// How a client of HTTP/2 begins, with empty settings (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The first byte of an alert of TLS, as a server answers that waits for a handshake (RFC 8446, 5.1).
const TLS_ALERT: u8 = 0x15;

/// Why no broker can be asked somewhere.
#[derive(Debug, PartialEq, Eq)]
pub struct Cause {
    /// What is wrong.
    pub text: String,
    /// Whether it may pass without anybody's help.
    pub temporary: bool,
}

/// Why there is no connection.
#[must_use]
pub fn unconnected(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        "refused: nobody listens there".to_owned()
    } else {
        format!("no connection: {error}")
    }
}

/// Why there is no TLS with this host; `ca` says where its CA was given.
#[must_use]
pub fn no_tls(error: &io::Error, host: &str, ca: &str) -> Cause {
    match error.get_ref().and_then(|error| error.downcast_ref::<TlsError>()) {
        Some(fault) => Cause { text: tls_fault(fault, host, ca), temporary: false },
        None => Cause { text: format!("the TLS handshake ended: {error}"), temporary: true },
    }
}

fn tls_fault(fault: &TlsError, host: &str, ca: &str) -> String {
    use CertificateError as Why;
    let TlsError::InvalidCertificate(why) = fault else {
        return if matches!(fault, TlsError::InvalidMessage(_)) {
            "it speaks no TLS: use http://, or the port that does".to_owned()
        } else {
            format!("no TLS: {fault}")
        };
    };
    if matches!(why, Why::UnknownIssuer | Why::BadSignature) {
        format!("the broker's certificate is not of the CA in {ca}: name the one that signed it")
    } else if matches!(why, Why::NotValidForName | Why::NotValidForNameContext { .. }) {
        format!("the broker's certificate is not for {host}: ask by a name that it has ({why})")
    } else if matches!(why, Why::Expired | Why::ExpiredContext { .. }) {
        format!("the broker's certificate, or its CA's in {ca}, has ended ({why})")
    } else {
        format!("the broker's certificate can't be trusted: {why}")
    }
}

/// What of an error and of what it comes from has a name here.
#[must_use]
pub fn named(error: &(dyn Error + 'static), host: &str, ca: &str) -> Option<String> {
    let io = successors(Some(error), |error| (*error).source()).find_map(|error| error.downcast_ref::<io::Error>())?;
    let is_tls = io.get_ref().is_some_and(|error| error.is::<TlsError>());
    (is_tls || io.kind() == io::ErrorKind::ConnectionRefused)
        .then(|| if is_tls { no_tls(io, host, ca).text } else { unconnected(io) })
}

/// What keeps a peer from being a broker that speaks plaintext, by its first byte; none where it may be one.
pub async fn in_plaintext(mut stream: TcpStream, ca: &str) -> Option<Cause> {
    let mut first = [0];
    let asked = async {
        stream.write_all(PREFACE).await?;
        stream.read(&mut first).await
    };
    let (text, temporary) = match timeout(STEP, asked).await {
        Ok(Ok(1..)) if first == [TLS_ALERT] => (format!("the broker speaks TLS: use https:// and {ca}"), false),
        Ok(Ok(1..)) if first == *b"H" => {
            ("it speaks HTTP/1.1: is this the admin port? Use that of grpc.listen".to_owned(), false)
        }
        Ok(Ok(1..)) => return None,
        Ok(Ok(0) | Err(_)) => {
            (format!("it ends connections at once: does it speak TLS (https:// and {ca}), or is it no broker?"), true)
        }
        Err(_elapsed) => ("it accepts connections, and says nothing".to_owned(), true),
    };
    Some(Cause { text, temporary })
}
