//! What stands where a broker should: its addresses, whether anybody listens there, what is spoken, and whose certificate is
//! shown.
//!
//! Must never send anything secret, nor wait for longer than it is given: whoever is asked may be anybody.

use std::{fmt, io, net::SocketAddr, time::Duration};

use http::Uri;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    client::{
        blocking::BlockingPool,
        peer::{self, Cause, STEP},
    },
    clock::{Clock as _, SystemClock},
    host, outbound, plain, timestamp,
    x509::Facts,
};

/// Where the CA was given.
const CA: &str = "--ca-file";
/// Most addresses that are tried: those of a name with more replicas look alike.
const ADDRESSES_MAX: usize = 8;
/// What was found.
#[derive(Debug, Default)]
pub(super) struct Diagnosis {
    /// Step by step, for `--verbose`.
    pub(super) steps: Vec<String>,
    /// Why no broker can be asked there, if so.
    pub(super) cause: Option<Cause>,
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
                let why = format!("{address}: {}", peer::unconnected(&error));
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
            let Cause { text, temporary } = peer::no_tls(&error, host, CA);
            found.ends(format!("{address}: {text}"), temporary)
        }
        Err(_elapsed) => {
            found.ends(format!("{address}: it accepts connections, and shakes no hands (TLS) within {} s", STEP.as_secs()), true)
        }
    }
}

/// What is to be seen of a certificate: its names and its end.
fn certificate(der: &CertificateDer<'_>) -> String {
    let Ok(Facts { not_after, names, .. }) = Facts::read(der) else { return String::new() };
    let names = names.map(|names| [names.uris, names.dns_names].concat().join(", ")).unwrap_or_default();
    let until = timestamp::rfc3339(not_after).unwrap_or_default();
    format!(", with a certificate for {names} until {until}")
}

async fn in_plaintext(mut found: Diagnosis, address: SocketAddr, stream: TcpStream) -> Diagnosis {
    match peer::in_plaintext(stream, CA).await {
        Some(Cause { text, temporary }) => found.ends(format!("{address}: {text}"), temporary),
        None => {
            found.found(format_args!("{address} speaks HTTP/2 in plaintext"));
            found
        }
    }
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
