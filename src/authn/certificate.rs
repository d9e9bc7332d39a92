//! What a connection says of its client: whether a token may come this way, and the name in the client's certificate.
//!
//! Must never take a name that was not proven, or that `[[callers]]` would not take, nor choose among several; never repeat it to whoever has none.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use crate::{
    caller::{BadName, CallerId, CallerName, NameKind},
    x509::{Facts, Names},
};

/// What a client is told whose certificate is malformed in a way that the handshake lets pass.
pub const UNREADABLE: &str =
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
    /// None where that can't be read, or nobody vouches for it; then there is no caller either.
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

    /// A client over TLS whose certificate proves nothing, for this reason: nobody, whatever else it shows.
    #[must_use]
    pub fn unproven(why: &'static str) -> Self {
        Self { certificate: Some(Certificate { caller: Err(why), not_after: None }), private: true }
    }

    /// Whom the client's certificate names at this time, or why nobody; none where it showed none.
    #[must_use]
    pub fn caller(&self, now: SystemTime) -> Option<Result<CallerId, &'static str>> {
        let Certificate { caller, not_after } = self.certificate.as_ref()?;
        // Connections outlive certificates.
        if not_after.is_some_and(|end| now > end) {
            return Some(Err("your certificate has ended since you connected: connect again with the next one"));
        }
        Some(caller.clone())
    }

    /// Whether a token may come this way.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.private
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
    let (name, is_uri) = if uris.is_empty() {
        let fault = "your certificate must have one SPIFFE id (URI) or one DNS name among its subject alternative names";
        (one(dns_names, fault)?, false)
    } else {
        (one(uris, "your certificate has several URIs among its names: it must be one SPIFFE id")?, true)
    };
    match (is_uri, NameKind::of(&name)) {
        (true, NameKind::Spiffe) | (false, NameKind::Dns) => {
            CallerName::parse(&name).map(CallerId::Named).map_err(|why| refusal(is_uri, why))
        }
        (true, NameKind::ServiceAccount | NameKind::Dns) => Err("your certificate's URI is no SPIFFE id (spiffe://…)"),
        (false, NameKind::Spiffe | NameKind::ServiceAccount) => Err(NO_DNS_NAME),
    }
}

const NO_DNS_NAME: &str = "your certificate's DNS name is none as it must be: labels of lower-case letters, digits and `-` with single dots in \
                           between, 63 characters each and 253 in all";

/// What its owner is told of a name that is none; nothing of the name itself, which may be meant for somebody's terminal.
fn refusal(is_uri: bool, why: BadName) -> &'static str {
    match why {
        BadName::Wildcard | BadName::Nobody => "your certificate has a wildcard for a name, which names nobody in particular",
        BadName::TooLong if is_uri => {
            "your certificate's SPIFFE id is too long: at most 2,048 characters, of which 255 for the trust domain"
        }
        BadName::TrustDomain => {
            "your certificate's SPIFFE id has no trust domain as it must be: lower-case letters, digits, `-` and `_`, with single dots in \
             between, and neither port nor user"
        }
        BadName::NoPath => "your certificate's SPIFFE id names a trust domain and nobody in it: it must have a path",
        BadName::Path => {
            "your certificate's SPIFFE id has a path that none may have: letters, digits, `.`, `-` and `_` between single slashes, \
             without `.` and `..`, and nothing percent-encoded"
        }
        BadName::TooLong | BadName::ServiceAccount | BadName::Dns => NO_DNS_NAME,
    }
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
            // What no pattern may be met by, and what no log may be handed.
            (vec!["spiffe://example.org/ns//sa/ledger"], vec![], None),
            (vec!["spiffe://example.org/ns/../sa/ledger"], vec![], None),
            (vec!["spiffe://example.org/ns/a%2Fb/sa/ledger"], vec![], None),
            (vec!["spiffe://example.org/ns/*/sa/ledger"], vec![], None),
            (vec!["spiffe://example.org/ns/a\nb/sa/ledger"], vec![], None),
            (vec!["spiffe://example.org/ns/\u{1b}[2J/sa/ledger"], vec![], None),
            (vec!["spiffe://example.org"], vec![], None),
            (vec!["spiffe://EXAMPLE.org/x"], vec![], None),
            (vec![], vec![".wild.internal"], None),
            (vec![], vec!["a..wild.internal"], None),
            (vec![], vec!["a.wild.internal."], None),
            (vec![], vec!["a\n.wild.internal"], None),
            (vec![], vec!["A.wild.internal"], None),
            (vec![], vec![""], None),
        ] {
            let found = name_in(names(&uris, &dns_names));
            if let Err(told) = found {
                let given: String = uris.iter().chain(&dns_names).filter(|name| name.len() > 3).copied().collect();
                assert!(told.starts_with("your certificate") && (given.is_empty() || !told.contains(&given)), "{told}");
            }
            let expected = expected.map(|name| CallerId::Named(CallerName::parse(name).expect(name)));
            assert_eq!(found.ok(), expected, "{uris:?} {dns_names:?}");
        }
    }
}
