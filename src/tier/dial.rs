//! How the server is reached: by TCP, and TLS where that is configured.
//!
//! Must never connect to another server than the configured one, or without its certificate being verified.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::link::{Dial, Dialled, LinkError, Stream};
use crate::{config::SharedServer, outbound};

/// The way of every broker outside of a simulation.
#[derive(Debug)]
pub(super) struct Tcp;

impl Dial for Tcp {
    fn dial<'a>(&'a self, server: &'a SharedServer) -> Dialled<'a> {
        Box::pin(connect(server))
    }
}

async fn connect(server: &SharedServer) -> Result<Box<dyn Stream>, LinkError> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(|_refused| LinkError::Unreachable)?;
    stream.set_nodelay(true).map_err(|_broken| LinkError::Broken)?;
    if !server.tls {
        return Ok(Box::new(stream));
    }
    let roots = server.ca_file.as_ref().map_or_else(outbound::public_roots, |file| Arc::clone(&file.roots));
    let config = outbound::tls(roots).map_err(|_unusable| LinkError::Tls)?;
    let name = server.host.strip_suffix('.').unwrap_or(&server.host);
    let name = ServerName::try_from(name.to_owned()).map_err(|_no_name| LinkError::Tls)?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    Ok(Box::new(connected.map_err(|_refused| LinkError::Tls)?))
}
