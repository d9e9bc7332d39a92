//! A development vault: speaks the documented sign-in API truthfully, and does otherwise only when a test asks for it.
//!
//! [`Sandbox`] runs inside a test; the program `token-broker-sandbox` is the same thing for teams that don't write Rust. It is
//! for made-up users: it keeps passwords in memory and counts on nobody but its owner reaching its port. It must never become a
//! dependency of the broker itself.

/// Keeps the README's example compiling.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

mod body;
mod clock;
mod control;
mod core;
mod fault;
mod mint;
mod oauth;
mod options;
mod sandbox;
mod script;
mod seen;
mod server;
mod shapes;
mod tls;
mod tokens;
mod vault;
mod wire;

pub use crate::{
    fault::{Fault, Reply},
    options::{DEFAULT_WRONG_PASSWORDS, DOCUMENTED_LIFETIME, Mode, Options, User},
    sandbox::Sandbox,
    script::MAX_SCRIPT,
    seen::{MAX_SEEN, Seen, Stats},
    shapes::{DOCUMENTED, Refusal},
    tls::Tls,
};

/// Reads a duration as the program and its control interface take it: `"250ms"`, `"90s"`, `"5m"`, `"24h"`, `"7d"`.
///
/// # Errors
/// Says what is wrong and how to write it.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    clock::duration(text)
}
