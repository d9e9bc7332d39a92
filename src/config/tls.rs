//! `[grpc.tls]`: the broker's certificate and key, and who vouches for callers.
//!
//! Must never take a key that doesn't fit its certificate, nor repeat anything of a key in a fault.

use std::{borrow::Cow, fmt, sync::Arc, time::SystemTime};

use rustls::{
    Error, InconsistentKeys, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use zeroize::Zeroize as _;

use super::{
    limits,
    reader::{Found, Reader},
    source::{Contents, Unreadable},
};
use crate::x509;

/// What the broker shows callers, and asks of them.
#[derive(Clone)]
pub struct Tls {
    /// The certificate, those that lead to its CA, and the key.
    pub certificate: Arc<CertifiedKey>,
    /// Its end.
    pub not_after: SystemTime,
    /// The CAs that callers' certificates may come from; none where callers aren't asked for one.
    pub client_ca: Option<Arc<RootCertStore>>,
    /// The end of the one that ends first.
    pub client_ca_not_after: Option<SystemTime>,
}

impl Tls {
    /// Whether callers are shown the same certificate, and asked for one of the same CAs.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let roots = |tls: &Self| tls.client_ca.as_ref().map(|store| store.roots.clone());
        self.certificate.cert == other.certificate.cert && roots(self) == roots(other)
    }
}

/// Without the key, whose own `Debug` is a library's.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("not_after", &self.not_after)
            .field("client_ca", &self.client_ca.is_some())
            .finish_non_exhaustive()
    }
}

/// Reads the table; none where it is at fault.
pub(super) fn read(mut table: Reader<'_, '_>) -> Option<Tls> {
    for key in ["certificate_file", "key_file"] {
        if !table.has(key) {
            table.fault(table.at(), key, "is missing: name a PEM file, by a path relative to this one");
        }
    }
    let certificate_file = table.string("certificate_file");
    let key_file = table.string("key_file");
    let client_ca_file = table.string("client_ca_file");
    let tls = put_together(&table, certificate_file, key_file, client_ca_file);
    table.finish();
    tls
}

type Named<'i> = Option<Found<Cow<'i, str>>>;

fn put_together(
    table: &Reader<'_, '_>,
    certificate_file: Named<'_>,
    key_file: Named<'_>,
    client_ca_file: Named<'_>,
) -> Option<Tls> {
    let at = certificate_file.as_ref().map(|found| found.at);
    let chain = certificate_file.and_then(|found| certificates(table, "certificate_file", found));
    let key = key_file.and_then(|found| private_key(table, found));
    let client_ca = client_ca_file.map(|found| roots(table, found));
    let (chain, key, at) = (chain?, key?, at?);
    let fault = |message: &str| table.fault(at, "certificate_file", message);
    let facts = chain.first().and_then(|first| x509::Facts::read(first).ok());
    let Some(facts) = facts else {
        fault("names a file whose first certificate can't be read: give the broker's certificate first, then its CA's");
        return None;
    };
    let mut key = key;
    let certified = CertifiedKey::from_der(chain, key.clone_key(), &aws_lc_rs::default_provider());
    key.zeroize();
    let certified = match certified {
        Ok(certified) => certified,
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            fault("names a certificate that key_file's key doesn't belong to: give the two that were made together");
            return None;
        }
        Err(_) => {
            fault("names a certificate or, in key_file, a key of a kind that TLS has no use for: give RSA, ECDSA or Ed25519");
            return None;
        }
    };
    let (client_ca, client_ca_not_after) = match client_ca {
        Some(roots) => roots.map(|(roots, not_after)| (Some(Arc::new(roots)), not_after))?,
        None => (None, None),
    };
    Some(Tls { certificate: Arc::new(certified), not_after: facts.not_after, client_ca, client_ca_not_after })
}

fn read_file(table: &Reader<'_, '_>, key: &'static str, Found { value, at }: &Found<impl AsRef<str>>) -> Option<Contents> {
    let unreadable = |why: Unreadable| {
        table.fault(*at, key, format!("names a file that {why}: give a PEM file, by a path relative to this one"))
    };
    table.findings().source().read_beside(value.as_ref(), limits::CA_BYTES).1.map_err(unreadable).ok()
}

fn certificates(
    table: &Reader<'_, '_>,
    key: &'static str,
    found: Found<impl AsRef<str>>,
) -> Option<Vec<CertificateDer<'static>>> {
    let contents = read_file(table, key, &found)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&contents.bytes).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Some(chain),
        Ok(_) => {
            table.fault(found.at, key, "names a file without a certificate: give it in PEM (-----BEGIN CERTIFICATE-----)");
            None
        }
        Err(_) => {
            table.fault(found.at, key, "names a file that is not PEM: give certificates between their BEGIN and END lines");
            None
        }
    }
}

fn private_key(table: &Reader<'_, '_>, found: Found<impl AsRef<str>>) -> Option<PrivateKeyDer<'static>> {
    const KEY: &str = "key_file";
    let contents = read_file(table, KEY, &found)?;
    if contents.open_to_others {
        let message = "holds the broker's key, and every user of this machine can get at it: take that away (chmod o-rwx)";
        table.findings().warn(found.at, table.key(KEY), message);
    }
    let key = PrivateKeyDer::from_pem_slice(&contents.bytes).ok();
    if key.is_none() {
        table.fault(found.at, KEY, "names a file without a private key in PEM: give PKCS #8, PKCS #1 or SEC 1, not encrypted");
    }
    key
}

fn roots(table: &Reader<'_, '_>, found: Found<impl AsRef<str>>) -> Option<(RootCertStore, Option<SystemTime>)> {
    const KEY: &str = "client_ca_file";
    let at = found.at;
    let (mut roots, mut not_after) = (RootCertStore::empty(), None);
    for certificate in certificates(table, KEY, found)? {
        not_after = x509::first_end(not_after, &certificate);
        if roots.add(certificate).is_err() {
            table.fault(at, KEY, "names a file with a certificate that can't be a CA's: give the CAs of callers' certificates");
            return None;
        }
    }
    Some((roots, not_after))
}
