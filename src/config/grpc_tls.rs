//! `[grpc.tls]`: the broker's certificate and key, and who vouches for callers.
//!
//! Must never take a key that doesn't fit its certificate, nor repeat anything of a key in a fault.

use std::{borrow::Cow, sync::Arc, time::SystemTime};

use rustls::{
    Error, InconsistentKeys,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer},
    sign::CertifiedKey,
};

use super::{
    client_ca, limits,
    reader::{Found, Reader},
    source::Contents,
    values::TlsConfig,
};
use crate::{
    outbound::{self, Authorities},
    pem, x509,
};

const CERTIFICATE: &str = "certificate_file";
const KEY: &str = "key_file";
const CLIENT_CA: &str = "client_ca_file";

/// Reads the table; none where it is at fault.
pub(super) fn read(mut table: Reader<'_, '_>) -> Option<TlsConfig> {
    for key in [CERTIFICATE, KEY] {
        if !table.has(key) {
            table.fault(table.at(), key, "is missing: name a PEM file, by a path relative to this one");
        }
    }
    let certificate_file = table.string(CERTIFICATE);
    let key_file = table.string(KEY);
    let client_ca_file = table.string(CLIENT_CA);
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
) -> Option<TlsConfig> {
    let (at, key_at) = (certificate_file.as_ref().map(|found| found.at), key_file.as_ref().map(|found| found.at));
    let chain = certificate_file.and_then(|found| chain(table, &found));
    let key = key_file.and_then(|found| private_key(table, &found));
    let client_ca = client_ca_file.map(|found| {
        let authorities = read_pem(table, CLIENT_CA, &found, |contents| client_ca::read(&contents.bytes));
        table.findings().end_of(found.at, &table.key(CLIENT_CA), authorities.as_ref().and_then(|read| read.not_after));
        authorities
    });
    let ((chain, not_after), key, at, key_at) = (chain?, key?, at?, key_at?);
    let fault = |message: &str| table.fault(at, CERTIFICATE, message);
    if let Err(stray) = chain.goes_with(&key) {
        fault(&format!("names a file {stray}"));
        return None;
    }
    if let Some(line) = key.unused(&chain) {
        let message = format!(
            "names a file with a certificate, in line {line}, that is not in certificate_file, and so is shown to nobody: put it there, \
             or take it out"
        );
        table.findings().warn(key_at, table.key(KEY), message);
    }
    let certificates: Vec<CertificateDer<'static>> =
        chain.certificates.iter().map(|block| CertificateDer::from(block.der.to_vec())).collect();
    // By reference: what takes the key over copies it, and doesn't wipe that.
    let signing = aws_lc_rs::sign::any_supported_type(&der(&key.key));
    let certified = match signing
        .map(|key| CertifiedKey::new(certificates, key))
        .and_then(|pair| pair.keys_match().map(|()| pair))
    {
        Ok(certified) => certified,
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            fault(
                "names a certificate that key_file's key doesn't belong to: give the two that were made together, the broker's own \
                 certificate first, then those that lead to its CA",
            );
            return None;
        }
        Err(_) => {
            fault("names a certificate or, in key_file, a key of a kind that TLS has no use for: give RSA, ECDSA or Ed25519");
            return None;
        }
    };
    let (client_ca, client_ca_not_after) = match client_ca {
        Some(authorities) => authorities.map(|Authorities { roots, not_after }| (Some(roots), not_after))?,
        None => (None, None),
    };
    table.findings().end_of(at, &table.key(CERTIFICATE), Some(not_after));
    Some(TlsConfig { certificate: Arc::new(certified), not_after, client_ca, client_ca_not_after })
}

/// The key, as rustls takes it.
fn der(key: &pem::Block) -> PrivateKeyDer<'_> {
    match key.kind {
        pem::Kind::Pkcs1 => PrivateKeyDer::from(PrivatePkcs1KeyDer::from(key.der.as_slice())),
        pem::Kind::Sec1 => PrivateKeyDer::from(PrivateSec1KeyDer::from(key.der.as_slice())),
        pem::Kind::Pkcs8 | pem::Kind::Certificate | pem::Kind::Curve => {
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.der.as_slice()))
        }
    }
}

/// Reads a file, and what of its PEM is asked for.
fn read_pem<T>(
    table: &Reader<'_, '_>,
    key: &'static str,
    Found { value, at }: &Found<impl AsRef<str>>,
    read: impl FnOnce(&Contents) -> Result<T, pem::Fault>,
) -> Option<T> {
    let fault = |why: String| table.fault(*at, key, format!("names a file {why}"));
    let contents = table.findings().source().read_beside(value.as_ref(), limits::CA_BYTES);
    let contents = contents.map_err(|why| fault(format!("that {why}: give a PEM file, by a path relative to this one"))).ok()?;
    table.findings().writers_of(*at, &table.key(key), contents.permissions);
    read(&contents).map_err(|why| fault(why.to_string())).ok()
}

/// The certificates, and the end of the broker's own.
fn chain(table: &Reader<'_, '_>, found: &Found<impl AsRef<str>>) -> Option<(pem::Chain, SystemTime)> {
    read_pem(table, CERTIFICATE, found, |contents| {
        let chain = pem::Chain::read(&contents.bytes)?;
        let (own, others) = chain.certificates.split_first().ok_or(pem::unreadable(1))?;
        let not_after = x509::Facts::read(&own.der).map_err(|_unreadable| pem::unreadable(own.line))?.not_after;
        // Of those behind ours nothing is asked but that they are certificates.
        outbound::anchors(others)?;
        Ok((chain, not_after))
    })
}

fn private_key(table: &Reader<'_, '_>, found: &Found<impl AsRef<str>>) -> Option<pem::Key> {
    read_pem(table, KEY, found, |contents| {
        if contents.permissions.open_to_others() {
            let message = "holds the broker's key, and every user of this machine can get at it: take that away (chmod o-rwx)";
            table.findings().warn(found.at, table.key(KEY), message);
        }
        pem::Key::read(&contents.bytes)
    })
}
