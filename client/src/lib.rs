//! What Rust callers of the token broker use: a token in one line, and an error that says what to do.
//!
//! ```no_run
//! use token_broker_client::{Client, Reason};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), token_broker_client::ClientError> {
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
//! [`Client::new`] is for one address; [`Client::balanced`] asks all replicas behind a name in turn, and repeats what a repeat helps
//! against. [`ClientError`] says why there is no token, by [`Reason`], and how long to wait. `docs/callers.md` has the whole contract;
//! the messages are in [`proto`].
//!
//! What is hidden here is the broker's too, which has no code of its own for it: no caller's business, and free to change.

mod client;
pub mod proto;
pub mod reason;

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
pub mod pem;
#[doc(hidden)]
pub mod plain;
#[doc(hidden)]
pub mod secret;
#[doc(hidden)]
pub mod single_flight;
#[doc(hidden)]
pub mod text;

pub use self::{
    client::{Client, ClientError, DEFAULT_ENDPOINT, DEFAULT_TIMEOUT, Query, Security, TIMEOUT_MAX},
    proto::v1::Token,
    reason::Reason,
};
