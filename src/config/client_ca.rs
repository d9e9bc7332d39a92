//! `grpc.tls.client_ca_file`: who vouches for callers.
//!
//! Must never take one from whom strangers get certificates, nor what was never meant to vouch for anybody.

use rustls::pki_types::TrustAnchor;

use crate::{
    outbound::{self, Authorities},
    pem, x509,
};

const NO_CA: pem::Words = (
    "begins a certificate that is no CA's (it lacks CA:TRUE, or may not sign certificates), and whoever holds its key could vouch for any \
     caller",
    "give that of the CA that signs callers' certificates",
);
const PUBLIC_CA: pem::Words = (
    "begins the certificate of a public CA, from which strangers get certificates",
    "give that of a CA of your own, which signs callers' certificates and nobody else's",
);

/// Reads the file: PEM that holds one certificate at least, each of a CA of one's own.
pub(super) fn read(text: &[u8]) -> Result<Authorities, pem::Fault> {
    let blocks = pem::authorities(text)?;
    for block in &blocks {
        // A verifier takes whatever is put there for a CA, also what says that it is none.
        if !x509::may_vouch(&block.der).map_err(|_unreadable| pem::unreadable(block.line))? {
            return Err(pem::Fault::at(block.line, NO_CA));
        }
    }
    let authorities = outbound::authorities(text)?;
    let public = outbound::public_roots();
    // By its key: a public CA has certificates of several makes.
    let is_public =
        |own: &TrustAnchor<'_>| public.roots.iter().any(|root| root.subject_public_key_info == own.subject_public_key_info);
    match blocks.iter().zip(&authorities.roots.roots).find(|(_, anchor)| is_public(anchor)) {
        Some((block, _)) => Err(pem::Fault::at(block.line, PUBLIC_CA)),
        None => Ok(authorities),
    }
}
