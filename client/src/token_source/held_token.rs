//! A token that the source holds, and its end by the monotonic clock.
//!
//! Must never show the secret, nor copy it: clones hold the same bytes.

use std::{fmt, sync::Arc, time::Duration};

use zeroize::{Zeroize as _, Zeroizing};

use super::{User, now, rules::Life};
use crate::proto::v1;

/// How every token is presented (RFC 6750).
const BEARER: &str = "Bearer ";

/// A token of one user. Cheap to clone; wiped when the last clone is dropped.
#[derive(Clone)]
pub struct Token(Arc<Held>);

/// The same, where it is kept.
pub(super) struct Held {
    user: User,
    /// The value of `Authorization`: the token stands behind [`BEARER`].
    header: Zeroizing<String>,
    id: String,
    scope: String,
    pub(super) life: Life,
}

impl Token {
    /// Takes the answer's secret over, and wipes it there.
    pub(super) fn new(user: User, mut answer: v1::Token, life: Life) -> Self {
        let mut header = Zeroizing::new(String::with_capacity(BEARER.len() + answer.access_token.len()));
        header.push_str(BEARER);
        header.push_str(&answer.access_token);
        answer.access_token.zeroize();
        Self(Arc::new(Held { user, header, id: answer.token_id, scope: answer.scope, life }))
    }

    pub(super) fn of(held: &Arc<Held>) -> Self {
        Self(Arc::clone(held))
    }

    pub(super) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.0)
    }

    /// The access token itself: the secret.
    #[must_use]
    pub fn secret(&self) -> &str {
        self.0.header.get(BEARER.len()..).unwrap_or_default()
    }

    /// The value of the header `Authorization`: `Bearer` and the secret.
    #[must_use]
    pub fn authorization(&self) -> &str {
        &self.0.header
    }

    /// Its name, which is safe to log and the same everywhere.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// What it allows, as the vault says.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.0.scope
    }

    /// Whose it is.
    #[must_use]
    pub fn user(&self) -> &User {
        &self.0.user
    }

    /// How long it still lives, by the monotonic clock; zero once it has ended.
    #[must_use]
    pub fn expires_in(&self) -> Duration {
        self.life().ends.saturating_duration_since(now())
    }

    pub(super) fn life(&self) -> Life {
        self.0.life
    }
}

/// Without the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("user", &self.0.user)
            .field("id", &self.0.id)
            .field("expires_in", &self.expires_in())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shows_its_id_and_no_secret() {
        let life = Life { ends: now() + Duration::from_secs(9), renew: now() };
        let answer = v1::Token { access_token: "the secret".to_owned(), token_id: "its id".to_owned(), ..v1::Token::default() };
        let token = Token::new(User::new("m", "+447871239999"), answer, life);
        assert_eq!((token.secret(), token.authorization(), token.id()), ("the secret", "Bearer the secret", "its id"));
        let shown = format!("{token:?} {token:#?}");
        assert!(
            !shown.contains("secret") && !shown.contains("+44787") && shown.contains("its id") && shown.contains("9s"),
            "{shown}"
        );
    }
}
