//! The token broker hands out OAuth access tokens to internal services over gRPC: those of users of the *vault*, a banking API.
//!
//! It holds the users' passwords, so that no other service has to; signs a user in once, however many callers ask; caches the token,
//! and renews it ahead of its end. `README.md` says what it guarantees and how it is run.
//!
//! Rust callers use the crate `token-broker-client`.
//!
//! # For whoever changes the broker
//!
//! `ARCHITECTURE.md` is the map: the way of a call, the glossary, the invariants. A module imports from those above it in this list
//! only, and opens with what it is for and what it must never do.
//!
//! - the crate that Rust callers use ([`client`]), and what is written there once for both sides: the only reader of time ([`clock`]),
//!   why there is no token ([`reason`]), the generated messages ([`proto`]), and [`secret`], [`backoff`], [`single_flight`],
//!   [`freshness`], `text`, `plain`, `host`, `pem`
//! - instants as text: `timestamp`
//! - hashes under keys of ours ([`keyed_hash`]), a directory of ours on disk ([`state_directory`])
//! - whose token ([`user`]), who asks ([`caller`]), a call's id ([`request_id`]); [`x509`], `jwks`, `hex`, `outbound`
//! - files to finished values, or every fault: [`config`]
//! - what a token is, how good it is, and the cache: [`tokens`]
//! - log, audit trail, metrics and traces: [`telemetry`]
//! - may this caller ask for this user: [`policy`]
//! - who is calling ([`authn`]); the exchange with the vault, and what its answers mean ([`vault`])
//! - connections: [`net`]
//! - the configured users, and what was learnt of each: [`users`]
//! - what is in force, as one value: [`live`]
//! - one detached sign-in per user at a time: [`signin`]
//! - the use case: [`broker`]
//! - the gRPC services, and what surrounds each call ([`rpc`]); following the configuration's files ([`reload`])
//! - `/livez`, `/readyz`, `/metrics`, `/status`: [`admin`]
//! - what an operator does to single users ([`operator`])
//! - wiring, running and draining: [`app`]
//! - `serve`, `check`, `get`: [`cli`]
//!
//! Start reading at [`app::App`], at [`rpc::services::Services`] for the way of a call, and at [`signin`] for the heart.

/// Keeps the README's Rust compiling.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

pub use token_broker_client::{self as client, backoff, clock, freshness, proto, reason, secret, single_flight};
use token_broker_client::{host, pem, plain, text};

pub mod admin;
pub mod app;
pub mod authn;
pub mod broker;
pub mod caller;
pub mod cli;
pub mod config;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod hex;
mod json;
mod jwks;
pub mod keyed_hash;
pub mod live;
pub mod net;
pub mod operator;
mod outbound;
pub mod policy;
pub mod reload;
pub mod request_id;
pub mod rpc;
pub mod signin;
pub mod state_directory;
pub mod telemetry;
pub mod tier;
mod timestamp;
pub mod tokens;
pub mod user;
pub mod users;
pub mod vault;
pub mod x509;
