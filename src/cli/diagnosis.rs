//! What stands where a broker should: its addresses, whether anybody listens there, what is spoken, and whose certificate is
//! shown.
//!
//! Must never send anything secret, nor wait for longer than it is given: whoever is asked may be anybody.

use std::{fmt, io, net::SocketAddr, time::Duration};

use http::Uri;
use rustls::{
    CertificateError, Error as TlsError,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    client::blocking::BlockingPool,
    clock::{Clock as _, SystemClock},
    host, outbound, plain, timestamp,
    x509::Facts,
};

/// Each step takes at most this long: nobody who listens needs it.
const STEP: Duration = Duration::from_secs(2);
/// Most addresses that are tried: those of a name with more replicas look alike.
const ADDRESSES_MAX: usize = 8;
/// How a client of HTTP/2 begins, with empty settings (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The first byte of an alert of TLS, as a server answers that waits for a handshake (RFC 8446, 5.1).
const TLS_ALERT: u8 = 0x15;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Diagnosis {
    /// Step by step, for `--verbose`.
    pub(super) steps: Vec<String>,
    /// Why no broker can be asked there, if so.
    pub(super) cause: Option<Cause>,
}

/// Why not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// Where, and what is wrong.
    pub(super) text: String,
    /// Whether it may pass without anybody's help.
    pub(super) temporary: bool,
}

impl Diagnosis {
    fn found(&mut self, step: impl fmt::Display) {
        self.steps.push(plain::on_one_line(&step.to_string()).into_owned());
    }

    fn ends(mut self, text: String, temporary: bool) -> Self {
        self.cause = Some(Cause { text: plain::on_one_line(&text).into_owned(), temporary });
        self
    }
}

/// Looks at an endpoint; `ca`: the CA's certificates, in PEM, for `https://`.
pub(super) async fn diagnose(endpoint: &str, ca: Option<&[u8]>) -> Diagnosis {
    let mut found = Diagnosis::default();
    let told = host::without_dot(endpoint).map_or_else(|| endpoint.to_owned(), |(url, _)| url);
    let (Ok(looked_up), Ok(told)) = (endpoint.parse::<Uri>(), told.parse::<Uri>()) else { return found };
    let (Some(name), Some(host)) = (looked_up.host(), told.host()) else { return found };
    let secure = told.scheme_str() == Some("https");
    let port = told.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let name = name.trim_matches(['[', ']']).to_owned();
    let addresses = match look_up(name.clone(), port).await {
        Ok(addresses) if !addresses.is_empty() => addresses,
        Ok(_) => return found.ends(format!("{name} has no address"), true),
        Err(error) => return found.ends(format!("{name} has no address that could be looked up: {error}"), true),
    };
    let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    found.found(format_args!("{name} is {}", shown.join(", ")));
    let (mut reached, mut last) = (None, None);
    for address in addresses.iter().take(ADDRESSES_MAX) {
        let began = SystemClock.now().mono;
        match timeout(STEP, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                found.found(format_args!("{address} accepts connections, after {}", millis(began.elapsed())));
                reached = reached.or(Some((*address, stream)));
            }
            Ok(Err(error)) => {
                let why = format!("{address}: {}", refused(&error));
                found.found(&why);
                last = Some(why);
            }
            Err(_elapsed) => {
                let why = format!(
                    "{address}: no answer within {} s: is it the right address, and does a firewall let you through?",
                    STEP.as_secs()
                );
                found.found(&why);
                last = Some(why);
            }
        }
    }
    match (reached, last) {
        (Some((address, stream)), _) if secure => over_tls(found, address, stream, host, ca).await,
        (Some((address, stream)), _) => in_plaintext(found, address, stream).await,
        (None, Some(why)) => found.ends(why, true),
        (None, None) => found,
    }
}

async fn look_up(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    use std::net::ToSocketAddrs as _;
    let looking = BlockingPool::default();
    let looking = looking.run(move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect));
    timeout(STEP, looking).await.unwrap_or_else(|_elapsed| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
}

fn refused(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        "refused: nobody listens there".to_owned()
    } else {
        format!("no connection: {error}")
    }
}

async fn over_tls(mut found: Diagnosis, address: SocketAddr, stream: TcpStream, host: &str, ca: Option<&[u8]>) -> Diagnosis {
    let (Some(ca), Ok(name)) = (ca, ServerName::try_from(host.trim_matches(['[', ']']).to_owned())) else { return found };
    let config = outbound::authorities(ca).ok().and_then(|authorities| outbound::tls(authorities.roots).ok());
    let Some(mut config) = config else { return found };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let began = SystemClock.now().mono;
    let shaken = timeout(STEP, TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream)).await;
    match shaken {
        Ok(Ok(stream)) => {
            let (_, session) = stream.get_ref();
            let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
            let peer = session.peer_certificates().and_then(<[_]>::first).map(certificate).unwrap_or_default();
            found.found(format_args!("{address} speaks {version}, after {}{peer}", millis(began.elapsed())));
            found
        }
        Ok(Err(error)) => {
            let (why, temporary) = tls_fault(&error, host);
            found.ends(format!("{address}: {why}"), temporary)
        }
        Err(_elapsed) => {
            found.ends(format!("{address}: it accepts connections, and shakes no hands (TLS) within {} s", STEP.as_secs()), true)
        }
    }
}

/// Why there is no TLS, and whether that may pass.
fn tls_fault(error: &io::Error, host: &str) -> (String, bool) {
    use CertificateError as Why;
    let Some(fault) = error.get_ref().and_then(|error| error.downcast_ref::<TlsError>()) else {
        return (format!("the TLS handshake ended: {error}"), true);
    };
    let TlsError::InvalidCertificate(why) = fault else {
        let speaks_none = matches!(fault, TlsError::InvalidMessage(_));
        let told = if speaks_none {
            "it speaks no TLS: use http://, or the port that does".to_owned()
        } else {
            format!("no TLS: {fault}")
        };
        return (told, false);
    };
    let told = if matches!(why, Why::UnknownIssuer | Why::BadSignature) {
        "the broker's certificate is not of the CA in --ca-file: name the one that signed it".to_owned()
    } else if matches!(why, Why::NotValidForName | Why::NotValidForNameContext { .. }) {
        format!("the broker's certificate is not for {host}: ask by a name that it has ({why})")
    } else if matches!(why, Why::Expired | Why::ExpiredContext { .. }) {
        format!("the broker's certificate, or its CA's in --ca-file, has ended ({why})")
    } else {
        format!("the broker's certificate can't be trusted: {why}")
    };
    (told, false)
}

/// What is to be seen of a certificate: its names and its end.
fn certificate(der: &CertificateDer<'_>) -> String {
    let Ok(Facts { not_after, names, .. }) = Facts::read(der) else { return String::new() };
    let names = names.map(|names| [names.uris, names.dns_names].concat().join(", ")).unwrap_or_default();
    let until = timestamp::rfc3339(not_after).unwrap_or_default();
    format!(", with a certificate for {names} until {until}")
}

async fn in_plaintext(mut found: Diagnosis, address: SocketAddr, mut stream: TcpStream) -> Diagnosis {
    let mut first = [0];
    let asked = async {
        stream.write_all(PREFACE).await?;
        stream.read(&mut first).await
    };
    let cause = match timeout(STEP, asked).await {
        Ok(Ok(1..)) if first == [TLS_ALERT] => ("the broker speaks TLS: use https:// and --ca-file", false),
        Ok(Ok(1..)) if first == *b"H" => ("it speaks HTTP/1.1: is this the admin port? Use that of grpc.listen", false),
        Ok(Ok(1..)) => {
            found.found(format_args!("{address} speaks HTTP/2 in plaintext"));
            return found;
        }
        Ok(Ok(0) | Err(_)) => {
            ("it ends connections at once: does it speak TLS (https:// and --ca-file), or is it no broker?", true)
        }
        Err(_elapsed) => ("it accepts connections, and says nothing", true),
    };
    found.ends(format!("{address}: {}", cause.0), cause.1)
}

/// Milliseconds and never `0 ms`, which is no time.
pub(super) fn millis(took: Duration) -> String {
    if took < Duration::from_millis(10) {
        format!("{:.1} ms", (took.as_secs_f64() * 1_000.0).max(0.1))
    } else {
        format!("{} ms", took.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_shown_as_none() {
        for (took, shown) in [(0, "0.1 ms"), (1, "0.1 ms"), (1_250, "1.2 ms"), (9_999, "10.0 ms"), (12_345, "12 ms")] {
            assert_eq!(millis(Duration::from_micros(took)), shown);
        }
    }
}
