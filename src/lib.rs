//! The token broker hands out OAuth access tokens to internal services over gRPC: those of users of the *vault*, a banking API.
//!
//! It holds the users' passwords, so that no other service has to; signs a user in once, however many callers ask; caches the token,
//! and renews it ahead of its end. `README.md` says what it guarantees and how it is run.
//!
//! # For callers
//!
//! Feature `client` alone is what a caller needs:
//!
//! ```toml
//! token-broker = { path = "../token-broker", default-features = false, features = ["client"] }
//! ```
//!
//! ```no_run
//! use token_broker::client::{Client, Reason};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), token_broker::client::ClientError> {
//! // Make one and clone it: clones share the connection.
//! let broker = Client::new("http://127.0.0.1:50051")?;
//! match broker.token("bece038f-2e46-49f4-b25e-89cd38d6dc16", "+447871239999").await {
//!     Ok(token) => println!("good for {:?}: {}", token.expires_in, token.token_id), // the secret: token.access_token
//!     Err(error) if error.is_temporary() => println!("try again in {:?}: {error}", error.retry_after()),
//!     Err(error) if error.reason() == Some(Reason::CredentialsRejected) => println!("have the password mended: {error}"),
//!     Err(error) => println!("{}", error.in_words()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Client::new`](client::Client::new) is for one address; [`Client::balanced`](client::Client::balanced) asks all replicas behind
//! a name in turn, and repeats what a repeat helps against. [`ClientError`](client::ClientError) says why there is no token, by
//! [`Reason`](client::Reason), and how long to wait. `docs/callers.md` has the whole contract; the messages are in [`proto`].
#![cfg_attr(
    feature = "server",
    doc = r#"
# For whoever changes the broker

`ARCHITECTURE.md` is the map: the way of a call, the glossary, the invariants. Feature `server` (default) is the broker; it needs
`client`, with which it shares what both sides use. A module imports from those above it in this list only, and opens with what it
is for and what it must never do.

- shared with the client: the only reader of time ([`clock`]), why there is no token ([`reason`]), the generated messages
  ([`proto`]), and [`secret`], [`backoff`], [`single_flight`], [`freshness`], `text`, `plain`, `host`, `pem`
- what Rust callers use: [`client`]
- hashes under keys of ours ([`keyed_hash`]), a directory of ours on disk ([`state_directory`])
- whose token ([`user`]), who asks ([`caller`]), a call's id ([`request_id`]); [`x509`], `jwks`, `hex`, `outbound`
- files to finished values, or every fault: [`config`]
- what a token is, how good it is, and the cache: [`tokens`]
- log, audit trail, metrics and traces: [`telemetry`]
- may this caller ask for this user: [`policy`]
- who is calling ([`authn`]); the exchange with the vault, and what its answers mean ([`vault`])
- connections: [`net`]
- the configured users, and what was learnt of each: [`users`]
- what is in force, as one value: [`live`]
- one detached sign-in per user at a time: [`signin`]
- the use case: [`broker`]
- the gRPC services, and what surrounds each call ([`rpc`]); following the configuration's files ([`reload`])
- `/livez`, `/readyz`, `/metrics`, `/status`: [`admin`]
- wiring, running and draining: [`app`]
- `serve`, `check`, `get`: [`cli`]

Start reading at [`app::App`], at [`rpc::services::Services`] for the way of a call, and at [`signin`] for the heart.
"#
)]

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
mod plain;
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
#[cfg(any(test, fuzzing))]
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod fuzz;
#[cfg(feature = "server")]
mod hex;
#[cfg(feature = "server")]
mod json;
#[cfg(feature = "server")]
mod jwks;
#[cfg(feature = "server")]
pub mod keyed_hash;
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
pub mod state_directory;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "server")]
pub mod tier;
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
