//! Ending a token at the vault before its time: `POST /signout`.
//!
//! Must never send a token anywhere but to the vault that gave it, nor be tried twice: whatever comes of it, nobody waits for it.

use http::header::AUTHORIZATION;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{
    reply::UNAUTHORIZED,
    wire::{HttpVault, transport_cause},
};
use crate::{outbound, secret::Secret, user::UserKey};

/// What people are told where it was not in time.
const LATE: &str = "it did not answer in time";

impl HttpVault {
    /// One request and the status of its answer, within the timeout of a sign-in.
    pub(super) async fn end_token(&self, user: &UserKey, token: &Secret) -> Result<(), &'static str> {
        // It was taken as what a header can carry.
        let bearer = outbound::secret_value(Zeroizing::new(format!("Bearer {}", token.expose())))
            .ok_or("its token can't be sent in a header")?;
        let request = self.post_to(&self.sign_out, user).header(AUTHORIZATION, bearer);
        let sent = timeout(self.timeout, request.send()).await.map_err(|_elapsed| LATE)?;
        let status = sent.map_err(|error| transport_cause(&error))?.status().as_u16();
        match status {
            // 401: it had ended already.
            200..300 | UNAUTHORIZED => Ok(()),
            300..400 => Err("it redirects, and a token follows no redirect"),
            400..500 => Err("it refuses the sign-out"),
            _ => Err("it answered with a server error"),
        }
    }
}
