//! Connections: accepted, secured, and ended. gRPC, health and the admin port all stand on it.
//!
//! Must never know what is spoken on a connection.

pub mod accept;
pub mod places;
pub mod tls;
