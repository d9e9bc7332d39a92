//! The sockets that the broker listens on.
//!
//! Must never bind what the configuration doesn't name.

use std::{io, net::SocketAddr};

use thiserror::Error;
use tokio::net::TcpListener;

use crate::config::Config;

/// Sockets that are bound already, so that a test can run the real thing on free ports.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For everything over gRPC.
    pub grpc: Vec<TcpListener>,
    /// For health over gRPC, in plaintext.
    pub health: Vec<TcpListener>,
    /// For the admin port.
    pub admin: Vec<TcpListener>,
}

impl Listeners {
    /// Binds what the configuration names.
    ///
    /// # Errors
    /// Names the key whose address can't be bound.
    pub async fn bind(config: &Config) -> Result<Self, BindError> {
        let mut listeners = Self::default();
        listeners.grpc.push(bind("grpc.listen", config.grpc.listen).await?);
        if let Some(address) = config.grpc.health_listen {
            listeners.health.push(bind("grpc.health_listen", address).await?);
        }
        if let Some(admin) = &config.admin {
            listeners.admin.push(bind("admin.listen", admin.listen).await?);
        }
        Ok(listeners)
    }
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { key, address, source })
}

/// An address can't be listened on.
#[derive(Debug, Error)]
#[error("{key}: can't listen on {address}: {source}: end what listens there, or choose another address")]
pub struct BindError {
    key: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// Where a socket listens, for the log.
pub(super) fn address(listener: &TcpListener) -> String {
    listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
}
