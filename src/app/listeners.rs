//! The sockets that the broker listens on, and the TLS that is spoken there.
//!
//! Must never bind what the configuration doesn't name.

use std::{io, net::SocketAddr, sync::Arc};

use rustix::net::sockopt;
use thiserror::Error;
use tokio::net::TcpListener;

use crate::{
    config::Config,
    live::Live,
    net::tls::{TlsAcceptor, TlsSource},
    operator::socket::{OperatorSocket, SocketError},
    rpc::guard::Observer,
};

/// What the kernel keeps of what clients send and we have not read; it takes twice this (socket(7)), and up
/// to 6 MiB by itself, which the container's limit of memory counts. Some hundred calls: who sends more is read on in its turn.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// What the kernel keeps of answers for a client that doesn't read; twice this, and up to 4 MiB by itself. Some hundred
/// answers, which is what a client that reads takes at a time.
const SEND_BUFFER: usize = 128 * 1024;
/// And for so long, in milliseconds: then the connection ends (tcp(7), TCP_USER_TIMEOUT). What it has taken is not seen from here any more.
const UNACKNOWLEDGED_MILLIS: u32 = 20_000;

/// Sockets that are bound already, so that a test can run the real thing on free ports.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For everything over gRPC.
    pub grpc: Vec<TcpListener>,
    /// For health over gRPC, in plaintext.
    pub health: Vec<TcpListener>,
    /// For the admin port.
    pub admin: Vec<TcpListener>,
    /// For the operator.
    pub operator: Option<OperatorSocket>,
}

impl Listeners {
    /// Binds what the configuration names.
    ///
    /// # Errors
    /// Names the key whose address or path can't be bound.
    pub async fn bind(config: &Config) -> Result<Self, BindError> {
        let mut listeners = Self::default();
        listeners.grpc.push(bind("grpc.listen", config.grpc.listen).await?);
        if let Some(address) = config.grpc.health_listen {
            listeners.health.push(bind("grpc.health_listen", address).await?);
        }
        if let Some(admin) = &config.admin {
            listeners.admin.push(bind("admin.listen", admin.listen).await?);
        }
        if let Some(operator) = &config.operator {
            listeners.operator = Some(OperatorSocket::bind(operator).await?);
        }
        Ok(listeners)
    }
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    let listening = async {
        let listener = TcpListener::bind(address).await?;
        // Connections inherit all of it.
        sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER)?;
        sockopt::set_socket_recv_buffer_size(&listener, RECEIVE_BUFFER)?;
        sockopt::set_tcp_user_timeout(&listener, UNACKNOWLEDGED_MILLIS)?;
        Ok(listener)
    };
    listening.await.map_err(|source| BindError::Address { key, address, source })
}

/// Something can't be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    /// An address.
    #[error("{key}: can't listen on {address}: {source}: end what listens there, or choose another address")]
    Address {
        /// What names it.
        key: &'static str,
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The operator's socket.
    #[error(transparent)]
    Operator(#[from] SocketError),
}

/// Where a socket listens, for the log.
pub(super) fn address(listener: &TcpListener) -> String {
    listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
}

/// What handshakes with callers are made by, as it is in force at each. None where the process began without: that takes a restart.
pub(super) fn tls(live: &Live, observer: &Observer) -> Option<TlsAcceptor> {
    live.load().serving.tls.as_ref()?;
    let (changed, now, policy) = (live.changes(), live.clone(), live.clone());
    let source = TlsSource {
        changed,
        current: Arc::new(move || now.load().serving.tls.clone()),
        refuses: Arc::new(move || !policy.load().policy.is_on_trial()),
    };
    Some(TlsAcceptor::new(source, Arc::clone(&observer.clock), Arc::clone(&observer.metrics)))
}
