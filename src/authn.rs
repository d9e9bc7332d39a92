//! Who is calling: proven by the client's certificate, or by a service account's token.
//!
//! Must never take a name that was not proven, choose among several, or fall back to a weaker proof where a stronger one was given.

pub mod service_accounts;

use std::{sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use http::{HeaderMap, header::AUTHORIZATION};
use rustls::pki_types::CertificateDer;

use self::service_accounts::{ServiceAccounts, Unverified};
use crate::{
    broker::BrokerError,
    caller::CallerId,
    clock::Clock,
    x509::{Facts, Names},
};

/// What service meshes and SPIRE put into certificates.
const SPIFFE: &str = "spiffe://";

/// What a client is told whose certificate is malformed in a way that the handshake lets pass.
const UNREADABLE: &str =
    "your certificate can't be read: have it issued with dates, serial number and extensions as RFC 5280 has them";
/// And where that is so of its names only.
const NAMES_UNREADABLE: &str =
    "your certificate's names can't be read: have it issued with subject alternative names as RFC 5280 has them, in ASCII";

/// What a connection says of its client: the same for all its calls.
#[derive(Clone, Debug)]
pub struct Peer {
    certificate: Option<Certificate>,
    /// Whether a token may come this way: nobody else reads along.
    private: bool,
}

#[derive(Clone, Debug)]
struct Certificate {
    caller: Result<CallerId, &'static str>,
    /// None where that can't be read; then there is no caller either.
    not_after: Option<SystemTime>,
}

impl Peer {
    /// A client in plaintext.
    #[must_use]
    pub fn in_plaintext(loopback: bool) -> Self {
        Self { certificate: None, private: loopback }
    }

    /// A client whose certificate, if it showed one, was verified.
    #[must_use]
    pub fn over_tls(certificate: Option<&CertificateDer<'_>>) -> Self {
        let certificate = certificate.map(|der| match Facts::read(der) {
            Ok(Facts { not_after, names: Ok(names), .. }) => Certificate { not_after: Some(not_after), caller: name_in(names) },
            Ok(Facts { not_after, names: Err(_), .. }) => {
                Certificate { not_after: Some(not_after), caller: Err(NAMES_UNREADABLE) }
            }
            // The handshake looked at its dates and signature; it reads less strictly, and less.
            Err(_) => Certificate { not_after: None, caller: Err(UNREADABLE) },
        });
        Self { certificate, private: true }
    }
}

/// The one name in a certificate: with any URI, exactly one and it is a SPIFFE id (X509-SVID, 2); else the one DNS name. Never the
/// subject, which nobody checks.
fn name_in(names: Names) -> Result<CallerId, &'static str> {
    let Names { uris, dns_names } = names;
    let one = |mut names: Vec<String>, fault| match (names.pop(), names.is_empty()) {
        (Some(name), true) => Ok(name),
        _ => Err(fault),
    };
    let name = if uris.is_empty() {
        let fault = "your certificate must have one SPIFFE id (URI) or one DNS name among its subject alternative names";
        let name = one(dns_names, fault)?;
        if name.contains('*') {
            return Err("your certificate has a wildcard for a name, which names nobody in particular");
        }
        if name.contains(['/', ':']) {
            return Err("your certificate's DNS name is none");
        }
        name
    } else {
        let name = one(uris, "your certificate has several URIs among its names: it must be one SPIFFE id")?;
        if !name.starts_with(SPIFFE) {
            return Err("your certificate's URI is no SPIFFE id (spiffe://…)");
        }
        name
    };
    Ok(CallerId::Named(name.into()))
}

/// Finds out who calls.
#[derive(Clone, Debug)]
pub struct Identity {
    asked: Arc<ArcSwap<Asked>>,
    clock: Arc<dyn Clock>,
}

/// What callers are asked for.
#[derive(Debug, Default)]
pub struct Asked {
    /// Whether they are asked at all.
    pub at_all: bool,
    /// Takes service accounts' tokens, if those are taken.
    pub service_accounts: Option<Arc<ServiceAccounts>>,
}

impl Identity {
    /// Asks for this, for now.
    #[must_use]
    pub fn new(asked: Asked, clock: Arc<dyn Clock>) -> Self {
        Self { asked: Arc::new(ArcSwap::from_pointee(asked)), clock }
    }

    /// Asks for something else from the next call on.
    pub fn ask(&self, asked: Asked) {
        self.asked.store(Arc::new(asked));
    }

    /// What is asked for now.
    #[must_use]
    pub fn asked(&self) -> Arc<Asked> {
        self.asked.load_full()
    }

    /// Who makes a call.
    ///
    /// # Errors
    /// `Unauthenticated` where that isn't proven, `IdentityUnavailable` where it can't be found out now.
    pub async fn of(&self, peer: &Peer, headers: &HeaderMap) -> Result<CallerId, BrokerError> {
        let asked = self.asked.load_full();
        if !asked.at_all {
            return Ok(CallerId::Anonymous);
        }
        let refused = |why| BrokerError::Unauthenticated { why };
        if let Some(certificate) = &peer.certificate {
            // Connections outlive certificates.
            if certificate.not_after.is_some_and(|end| self.clock.now().wall > end) {
                return Err(refused("your certificate has ended since you connected: connect again with the next one"));
            }
            return certificate.caller.clone().map_err(refused);
        }
        let Some(accounts) = &asked.service_accounts else {
            return Err(refused("you showed no client certificate: connect with one that the broker's client CA has signed"));
        };
        if !peer.private {
            return Err(refused("tokens are taken over TLS only: connect to https://"));
        }
        let token = bearer(headers).map_err(refused)?;
        match accounts.verify(token).await {
            Ok(account) => Ok(CallerId::Named(account)),
            Err(Unverified::Refused(why)) => Err(refused(why)),
            Err(Unverified::Unavailable(why)) => Err(BrokerError::IdentityUnavailable { why }),
        }
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
    use super::*;

    fn names(uris: &[&str], dns_names: &[&str]) -> Names {
        let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Names { uris: all(uris), dns_names: all(dns_names) }
    }

    #[test]
    fn a_certificate_names_one_caller_or_none() {
        let spiffe = "spiffe://example.org/ns/cards/sa/cards";
        for (uris, dns_names, expected) in [
            (vec![spiffe], vec![], Some(spiffe)),
            (vec![spiffe], vec!["cards.example.org", "b"], Some(spiffe)),
            (vec![], vec!["cards.example.org"], Some("cards.example.org")),
            (vec![spiffe, "spiffe://example.org/other"], vec![], None),
            (vec![spiffe, "https://example.org"], vec![], None),
            (vec!["https://example.org"], vec!["cards.example.org"], None),
            (vec!["SPIFFE://example.org/x"], vec![], None),
            (vec![], vec!["a.example.org", "b.example.org"], None),
            (vec![], vec!["*.example.org"], None),
            (vec![], vec!["system:serviceaccount:cards:cards"], None),
            (vec![], vec!["spiffe://example.org/x"], None),
            (vec![], vec![], None),
        ] {
            let found = name_in(names(&uris, &dns_names)).ok();
            assert_eq!(found, expected.map(|name| CallerId::Named(name.into())), "{uris:?} {dns_names:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_certificate_is_told_so_and_not_that_it_has_ended() {
        let asked = Asked { at_all: true, ..Asked::default() };
        let identity = Identity::new(asked, Arc::new(crate::clock::SystemClock));
        let peer = Peer::over_tls(Some(&CertificateDer::from(&b"nonsense"[..])));
        let refused = identity.of(&peer, &HeaderMap::new()).await;
        assert_eq!(refused, Err(BrokerError::Unauthenticated { why: UNREADABLE }));
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
