//! What Rust callers of the token broker use: a token in one line, and an error that says what to do.
//!
//! ```no_run
//! use token_broker_client::{Reason, TokenSource, User};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), token_broker_client::ClientError> {
//! // Make one for the process and clone it: clones share everything.
//! let source = TokenSource::builder().endpoint("http://127.0.0.1:50051").build()?;
//! let user = User::new("bece038f-2e46-49f4-b25e-89cd38d6dc16", "+447871239999");
//! match source.token(&user).await {
//!     Ok(token) => println!("good for {:?}: {}", token.expires_in(), token.id()), // for the API: token.authorization()
//!     Err(error) if error.reason() == Some(Reason::CredentialsRejected) => println!("have the password mended: {error}"),
//!     Err(error) if error.is_permanent() => println!("{}", error.in_words()),
//!     Err(error) => println!("try again in {:?}: {error}", error.retry_after()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`TokenSource`] keeps tokens in memory and renews them behind their users. It stands on [`Client`], for which each call is one:
//! [`Client::new`] is for one address; [`Client::balanced`] asks all replicas behind a name in turn, and repeats what a repeat helps
//! against. [`ClientError`] says why there is no token, by [`Reason`], and how long to wait. `docs/callers.md` has the whole contract;
//! the messages are in [`proto`].
//!
//! What is hidden here is the broker's too, which has no code of its own for it: no caller's business, and free to change.

mod client;
#[cfg(any(feature = "tower", feature = "reqwest-middleware"))]
pub mod middleware;
pub mod proto;
pub mod reason;
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
