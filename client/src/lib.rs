//! What Rust callers of the token broker use: a token in one line, and an error that says what to do.
//!
#![doc = "```no_run"]
#![doc = include_str!("../examples/documentation/token.rs")]
#![doc = "```"]
//!
//! [`TokenSource`] keeps tokens in memory and renews them behind their users. It stands on [`Client`], for which each call is one:
//! [`Client::new`] is for one address; [`Client::balanced`] asks all replicas behind a name in turn, and repeats what a repeat helps
//! against. [`ClientError`] says why there is no token, by [`Reason`], and how long to wait. `docs/callers.md` has the whole contract;
//! the messages are in [`proto`].
//!
//! What is hidden here is the broker's too, which has no code of its own for it: no caller's business, and free to change.

// The examples name it as callers do.
#[cfg(test)]
extern crate self as token_broker_client;

mod client;
#[cfg(any(feature = "tower", feature = "reqwest-middleware"))]
pub mod middleware;
pub mod proto;
pub mod reason;
#[cfg(feature = "testing")]
pub mod testing;
mod token_source;

#[doc(hidden)]
pub mod backoff;
#[doc(hidden)]
pub mod blocking;
#[doc(hidden)]
pub mod clock;
#[doc(hidden)]
pub mod freshness;
#[doc(hidden)]
pub mod host;
#[doc(hidden)]
pub mod jitter;
#[doc(hidden)]
pub mod peer;
#[doc(hidden)]
pub mod pem;
#[doc(hidden)]
pub mod plain;
#[doc(hidden)]
pub mod secret;
#[doc(hidden)]
pub mod single_flight;
#[doc(hidden)]
pub mod text;

#[doc(hidden)]
pub use self::token_source::{Ask, Asking};
pub use self::{
    client::{Client, ClientError, DEFAULT_ENDPOINT, DEFAULT_TIMEOUT, Query, Security, TIMEOUT_MAX},
    reason::Reason,
    token_source::{Counts, Identity, Missing, Token, TokenSource, TokenSourceBuilder, User},
};
