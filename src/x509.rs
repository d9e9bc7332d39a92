//! What a certificate says of itself: until when it holds, and the names in it.
//!
//! Must never judge: whether a certificate can be trusted is rustls' matter, whom it names is `authn`'s. Must never skip a
//! name that it can't read.

use std::time::SystemTime;

use x509_cert::{
    Certificate, Version,
    der::Decode as _,
    ext::pkix::{BasicConstraints, KeyUsage, SubjectAltName, name::GeneralName},
};

/// What is read of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// It doesn't hold before this instant.
    pub not_before: SystemTime,
    /// Nor after this one.
    pub not_after: SystemTime,
    /// The names in it.
    pub names: Result<Names, Unreadable>,
}

/// Those of its subject alternative names that can name a caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Every URI among them.
    pub uris: Vec<String>,
    /// Every DNS name.
    pub dns_names: Vec<String>,
}

impl Facts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// Where it is no certificate in DER, or not such as RFC 5280 has them; names that can't be read are told apart.
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let certificate = Certificate::from_der(der).map_err(|_malformed| Unreadable)?;
        let body = certificate.tbs_certificate();
        let names = body.get_extension::<SubjectAltName>().map_err(|_malformed| Unreadable);
        let names = names.map(|names| Names::of(names.map(|(_critical, SubjectAltName(names))| names).unwrap_or_default()));
        let validity = body.validity();
        let (not_before, not_after) = (validity.not_before.to_system_time(), validity.not_after.to_system_time());
        Ok(Self { not_before, not_after, names })
    }
}

impl Names {
    fn of(names: Vec<GeneralName>) -> Self {
        let mut found = Self::default();
        for name in names {
            match name {
                GeneralName::UniformResourceIdentifier(uri) => found.uris.push(uri.as_str().to_owned()),
                GeneralName::DnsName(name) => found.dns_names.push(name.as_str().to_owned()),
                GeneralName::OtherName(_)
                | GeneralName::Rfc822Name(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EdiPartyName(_)
                | GeneralName::IpAddress(_)
                | GeneralName::RegisteredId(_) => {}
            }
        }
        found
    }
}

/// The end of the certificate that ends first: of those before, and of this one. One that can't be read counts for nothing.
#[must_use]
pub fn first_end(before: Option<SystemTime>, certificate: &[u8]) -> Option<SystemTime> {
    let ends = Facts::read(certificate).ok().map(|facts| facts.not_after);
    before.into_iter().chain(ends).min()
}

/// Whether a certificate may vouch for others: it says so (RFC 5280, 4.2.1.9 and 4.2.1.3), or is a root from before certificates
/// could say.
///
/// # Errors
/// Where it can't be read.
pub fn may_vouch(certificate: &[u8]) -> Result<bool, Unreadable> {
    let certificate = Certificate::from_der(certificate).map_err(|_malformed| Unreadable)?;
    let body = certificate.tbs_certificate();
    if body.version() != Version::V3 {
        return Ok(body.subject() == body.issuer());
    }
    let constraints = body.get_extension::<BasicConstraints>().map_err(|_malformed| Unreadable)?;
    let usage = body.get_extension::<KeyUsage>().map_err(|_malformed| Unreadable)?;
    Ok(constraints.is_some_and(|(_, constraints)| constraints.ca) && usage.is_none_or(|(_, usage)| usage.key_cert_sign()))
}

/// It can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;
