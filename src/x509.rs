//! What a certificate says of itself: until when it holds, and the names in it.
//!
//! Must never judge: whether a certificate can be trusted is rustls' matter, whom it names is `grpc::identity`'s. Must never skip a
//! name that it can't read.

use std::time::SystemTime;

use x509_cert::{
    Certificate,
    der::Decode as _,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// What is read of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// It doesn't hold before this instant.
    pub not_before: SystemTime,
    /// Nor after this one.
    pub not_after: SystemTime,
    /// Every URI among its subject alternative names.
    pub uris: Vec<String>,
    /// Every DNS name among them.
    pub dns_names: Vec<String>,
}

impl Facts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// Where it is no certificate in DER, or its names can't be read.
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let certificate = Certificate::from_der(der).map_err(|_malformed| Unreadable)?;
        let body = certificate.tbs_certificate();
        let names = body.get_extension::<SubjectAltName>().map_err(|_malformed| Unreadable)?;
        let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
        for name in names.into_iter().flat_map(|(_critical, SubjectAltName(names))| names) {
            match name {
                GeneralName::UniformResourceIdentifier(uri) => uris.push(uri.as_str().to_owned()),
                GeneralName::DnsName(name) => dns_names.push(name.as_str().to_owned()),
                GeneralName::OtherName(_)
                | GeneralName::Rfc822Name(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EdiPartyName(_)
                | GeneralName::IpAddress(_)
                | GeneralName::RegisteredId(_) => {}
            }
        }
        let validity = body.validity();
        Ok(Self {
            not_before: validity.not_before.to_system_time(),
            not_after: validity.not_after.to_system_time(),
            uris,
            dns_names,
        })
    }
}

/// The end of the certificate that ends first: of those before, and of this one. One that can't be read counts for nothing.
#[must_use]
pub fn first_end(before: Option<SystemTime>, certificate: &[u8]) -> Option<SystemTime> {
    let ends = Facts::read(certificate).ok().map(|facts| facts.not_after);
    before.into_iter().chain(ends).min()
}

/// It is no certificate, or has names that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;
