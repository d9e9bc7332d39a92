//! A CA of a test's own, and what it signs: nothing that lasts, nothing that is trusted elsewhere.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use token_broker::client::{Client, Security};

use crate::support::PATIENCE;

/// A CA.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate with the key, both in PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A name in a certificate.
#[derive(Clone, Copy)]
pub(crate) enum Name<'a> {
    Uri(&'a str),
    Dns(&'a str),
    /// In the subject alone.
    Common(&'a str),
}

const HOUR: Duration = Duration::from_secs(3_600);

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("keys can be made");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("the parameters are good").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A CA that ends then.
    pub(crate) fn until(end: SystemTime) -> Self {
        let key = KeyPair::generate().expect("keys can be made");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = end.into();
        let pem = params.self_signed(&key).expect("the parameters are good").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A CA whose certificate is signed by this one.
    pub(crate) fn intermediate(&self) -> Self {
        let key = KeyPair::generate().expect("keys can be made");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an intermediate CA");
        let pem = params.signed_by(&key, &self.issuer).expect("the parameters are good").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate that holds between these instants.
    pub(crate) fn issue(&self, names: &[Name<'_>], from: SystemTime, until: SystemTime) -> Issued {
        let mut params = CertificateParams::default();
        for name in names {
            match name {
                Name::Uri(uri) => params.subject_alt_names.push(SanType::URI((*uri).try_into().expect("is ASCII"))),
                Name::Dns(name) => params.subject_alt_names.push(SanType::DnsName((*name).try_into().expect("is ASCII"))),
                Name::Common(name) => params.distinguished_name.push(DnType::CommonName, *name),
            }
        }
        (params.not_before, params.not_after) = (from.into(), until.into());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// One that holds now, whose names are these bytes: an extension as nobody should write it.
    pub(crate) fn with_names(&self, der: Vec<u8>) -> Issued {
        let mut params = CertificateParams::default();
        params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], der));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// One that holds now and has a name, with a serial number longer than RFC 5280 allows.
    pub(crate) fn with_a_long_serial_number(&self, name: &str) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).expect("the name is good");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x7f; 40]));
        self.sign(params)
    }

    /// One that holds now, and that no client may show.
    pub(crate) fn of_servers_alone(&self, name: &str) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).expect("the name is good");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// One that holds now.
    pub(crate) fn client(&self, names: &[Name<'_>]) -> Issued {
        let now = SystemTime::now();
        self.issue(names, now - HOUR, now + HOUR)
    }

    /// The broker's, for loopback.
    pub(crate) fn server(&self) -> Issued {
        self.sign(CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("the names are good"))
    }

    fn sign(&self, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().expect("keys can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("the parameters are good").pem();
        Issued { certificate, key: key.serialize_pem() }
    }
}

impl Issued {
    /// Puts both where the broker looks.
    pub(crate) fn write(&self, directory: &Path) {
        for (name, text) in [("tls.crt", &self.certificate), ("tls.key", &self.key)] {
            let new = directory.join(format!("{name}.new"));
            fs::write(&new, text).expect("is written");
            fs::rename(new, directory.join(name)).expect("is renamed");
        }
    }
}

/// A client that trusts `ca` and shows `issued`.
pub(crate) fn client(endpoint: &str, ca: &Authority, issued: Option<&Issued>) -> Client {
    let pem = |issued: &Issued| (issued.certificate.clone().into_bytes(), issued.key.clone().into_bytes());
    let security = Security { ca_pem: Some(ca.pem.clone().into_bytes()), identity_pem: issued.map(pem), token_file: None };
    Client::with_security(endpoint, security).expect("is an endpoint").timeout(PATIENCE)
}
