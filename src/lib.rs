//! The token broker: hands out the vault's OAuth access tokens to internal services, one sign-in per user.
//!
//! `ARCHITECTURE.md` is the map. Two features: `client` (what a Rust caller needs, and what both sides share) and `server` (the
//! broker, default).

/// Keeps the README's Rust compiling.
#[cfg(all(doctest, feature = "client"))]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(feature = "client")]
pub mod backoff;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
pub mod clock;
#[cfg(feature = "client")]
pub mod freshness;
#[cfg(feature = "client")]
mod host;
#[cfg(feature = "client")]
mod pem;
#[cfg(feature = "client")]
pub mod proto;
#[cfg(feature = "client")]
pub mod reason;
#[cfg(feature = "client")]
pub mod secret;
#[cfg(feature = "client")]
pub mod single_flight;
#[cfg(feature = "client")]
mod text;

#[cfg(feature = "server")]
pub mod admin;
#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "server")]
pub mod authn;
#[cfg(feature = "server")]
pub mod broker;
#[cfg(feature = "server")]
pub mod caller;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
mod hex;
#[cfg(feature = "server")]
mod jwks;
#[cfg(feature = "server")]
pub mod live;
#[cfg(feature = "server")]
pub mod net;
#[cfg(feature = "server")]
mod outbound;
#[cfg(feature = "server")]
pub mod policy;
#[cfg(feature = "server")]
pub mod reload;
#[cfg(feature = "server")]
pub mod request_id;
#[cfg(feature = "server")]
pub mod rpc;
#[cfg(feature = "server")]
pub mod signin;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "server")]
pub mod tokens;
#[cfg(feature = "server")]
pub mod user;
#[cfg(feature = "server")]
pub mod users;
#[cfg(feature = "server")]
pub mod vault;
#[cfg(feature = "server")]
pub mod x509;
