//! Who is calling: proven by the client's certificate, or by a service account's token.
//!
//! Must never take a name that was not proven, choose among several, or fall back to a weaker proof where a stronger one was given.

pub mod certificate;
pub mod service_accounts;

use std::{sync::Arc, time::SystemTime};

use http::{HeaderMap, header::AUTHORIZATION};

use self::{
    certificate::Peer,
    service_accounts::{ServiceAccounts, Unverified},
};
use crate::caller::CallerId;

/// Who may be believed, and how: a part of what is in force.
#[derive(Clone, Debug, Default)]
pub struct Authenticator {
    /// Whether callers are asked who they are; where they are not, everybody is anonymous.
    pub required: bool,
    /// Takes service accounts' tokens, if those are taken.
    pub service_accounts: Option<Arc<ServiceAccounts>>,
}

impl Authenticator {
    /// Who makes a call with these headers, on this connection, at this time.
    ///
    /// # Errors
    /// `Refused` where that isn't proven, `Unavailable` where it can't be found out now.
    pub async fn identify(&self, peer: &Peer, headers: &HeaderMap, now: SystemTime) -> Result<CallerId, Unverified> {
        if !self.required {
            return Ok(CallerId::Anonymous);
        }
        if let Some(caller) = peer.caller(now) {
            return caller.map_err(Unverified::Refused);
        }
        let Some(accounts) = &self.service_accounts else {
            return Err(Unverified::Refused(
                "you showed no client certificate: connect with one that the broker's client CA has signed",
            ));
        };
        if !peer.is_private() {
            return Err(Unverified::Refused("tokens are taken over TLS only: connect to https://"));
        }
        let token = bearer(headers).map_err(Unverified::Refused)?;
        // Boxed, so that other calls have no room to make for it.
        Box::pin(accounts.verify(token)).await.map(CallerId::Named)
    }
}

/// The token of `authorization: Bearer …` (RFC 6750, 2.1).
fn bearer(headers: &HeaderMap) -> Result<&str, &'static str> {
    const MISSING: &str = "you showed neither a client certificate nor a token: send \"authorization: Bearer \" and the projected \
                           service-account token with each call";
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(MISSING)?;
    if values.next().is_some() {
        return Err("you sent several authorization headers: send one");
    }
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(MISSING)?;
    if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() { Ok(token) } else { Err(MISSING) }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;

    use super::*;

    #[tokio::test]
    async fn what_is_no_certificate_is_told_so_and_not_that_it_has_ended() {
        let authenticator = Authenticator { required: true, service_accounts: None };
        let peer = Peer::over_tls(Some(&CertificateDer::from(&b"nonsense"[..])));
        let refused = authenticator.identify(&peer, &HeaderMap::new(), SystemTime::UNIX_EPOCH).await;
        assert_eq!(refused, Err(Unverified::Refused(certificate::UNREADABLE)));
    }

    #[tokio::test]
    async fn a_certificate_that_proves_nothing_is_never_passed_over_for_a_token() {
        let authenticator = Authenticator { required: true, service_accounts: None };
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, "Bearer abc".parse().expect("is a value"));
        let refused = authenticator.identify(&Peer::unproven("it has ended"), &headers, SystemTime::UNIX_EPOCH).await;
        assert_eq!(refused, Err(Unverified::Refused("it has ended")));
    }

    #[test]
    fn one_bearer_token_is_taken() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().expect("is a value"));
            }
            headers
        };
        assert_eq!(bearer(&headers(&["Bearer abc"])), Ok("abc"));
        assert_eq!(bearer(&headers(&["bearer abc"])), Ok("abc"));
        for bad in [&[][..], &["Bearer"], &["Bearer "], &["Basic abc"], &["abc"], &["Bearer a", "Bearer b"]] {
            assert!(bearer(&headers(bad)).is_err(), "{bad:?}");
        }
    }
}
