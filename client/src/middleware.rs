//! For HTTP clients: puts a user's token on requests to the vault's API, and takes a 401 that says it is dead for a complaint.
//!
//! Must never send a token to any origin but those that it was given, nor repeat a request more than once.
//!
#![doc = "```no_run"]
#![doc = include_str!("../examples/documentation/bearer.rs")]
#![doc = "```"]
//!
//! With the feature `reqwest-middleware` that is a middleware of the crate of this name (`ClientBuilder::with`); with the feature `tower`
//! its [`layer`](Bearer::layer) is one for any service of HTTP requests.

mod peeked;
#[cfg(feature = "reqwest-middleware")]
mod reqwest_side;
#[cfg(feature = "tower")]
mod tower_side;

use http::{
    HeaderMap, HeaderValue, StatusCode, Uri,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};

pub use self::peeked::Peeked;
#[cfg(feature = "tower")]
pub use self::tower_side::{BearerLayer, BearerService};
use crate::{ClientError, Token, TokenSource, User, host};

/// So much of a 401's body is looked at: the vault's is about 100 bytes.
const PEEKED_MAX: usize = 16 * 1024;
/// What a dead token is called: by RFC 6750 in `WWW-Authenticate`, and by the vault in the body.
const DEAD: &[u8] = b"invalid_token";

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let standard = match &*scheme {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let port = host::port(uri.authority()?.as_str()).ok()?.unwrap_or(standard);
        Some(Self { scheme, host: uri.host()?.to_ascii_lowercase(), port })
    }
}

/// Gives tokens to requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bearer {
    source: TokenSource,
    user: Option<User>,
    origins: Vec<Origin>,
}

impl Bearer {
    /// Gives tokens of this source, to nobody yet: add an [`origin`](Self::origin).
    #[must_use]
    pub fn new(source: TokenSource) -> Self {
        Self { source, user: None, origins: Vec::new() }
    }

    /// Whose token a request gets that has no [`User`] of its own among its extensions.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// Requests to this scheme, host and port get a token, such as `https://api.vault.sandbox.testessential.net`; no others do, not
    /// after a redirect either.
    ///
    /// # Errors
    /// [`ClientError::Origin`], where it is no URL with a scheme and a host, and a port that can be.
    pub fn origin(mut self, origin: &str) -> Result<Self, ClientError> {
        let parsed = origin.parse().ok().as_ref().and_then(Origin::of);
        self.origins.push(parsed.ok_or_else(|| ClientError::Origin(origin.to_owned()))?);
        Ok(self)
    }

    /// The token that a request is to have, by its URL and its headers: none at another origin, without a user, or where it brings
    /// an `Authorization` of its own. One of ours that a redirect carried to another origin is taken off.
    async fn token(&self, uri: &Uri, headers: &mut HeaderMap, own: Option<User>) -> Result<Option<Token>, ClientError> {
        let Some(user) = own.or_else(|| self.user.clone()) else { return Ok(None) };
        let is_ours = Origin::of(uri).is_some_and(|origin| self.origins.contains(&origin));
        if !is_ours {
            let held = self.source.cached(&user);
            if held.is_some_and(|held| {
                headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes() == held.authorization().as_bytes())
            }) {
                headers.remove(AUTHORIZATION);
            }
            return Ok(None);
        }
        if headers.contains_key(AUTHORIZATION) {
            return Ok(None);
        }
        self.source.token(&user).await.map(Some)
    }

    /// The next token, where this one is dead; none where the vault insists on it.
    async fn next(&self, dead: &Token) -> Option<Token> {
        self.source.rejected(dead);
        self.source.token(dead.user()).await.ok().filter(|next| next.id() != dead.id())
    }
}

/// The token as a header that nothing prints.
fn header(token: &Token) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(token.authorization())
        .map_err(|_unfit| ClientError::Security("the token has characters that no header takes".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether an answer may say that a token is dead; what it says then stands in its headers or its body.
fn is_refused(status: StatusCode) -> bool {
    status == StatusCode::UNAUTHORIZED
}

/// Whether it says so.
fn is_dead(headers: &HeaderMap, body: &[u8]) -> bool {
    let says = |text: &[u8]| text.windows(DEAD.len()).any(|window| window == DEAD);
    headers.get_all(WWW_AUTHENTICATE).iter().any(|value| says(value.as_bytes())) || says(body)
}

#[cfg(test)]
mod tests;
