//! `grpc.tls.client_ca_file`: who vouches for callers.
//!
//! Must never take one from whom strangers get certificates, nor what was never meant to vouch for anybody.

use rustls::pki_types::TrustAnchor;

use crate::{
    outbound::{self, Authorities},
    pem, x509,
};

/// Reads the file: PEM that holds one certificate at least, each of a CA of one's own.
pub(super) fn read(text: &[u8]) -> Result<Authorities, pem::Fault> {
    let blocks = pem::authorities(text)?;
    for block in &blocks {
        // A verifier takes whatever is put there for a CA, also what says that it is none.
        if !x509::may_vouch(&block.der).map_err(|_unreadable| pem::unreadable(block.line))? {
            return Err(pem::NO_CA.at(block.line));
        }
    }
    let authorities = outbound::authorities(text)?;
    let public = outbound::public_roots();
    // By its key: a public CA has certificates of several makes.
    let is_public =
        |own: &TrustAnchor<'_>| public.roots.iter().any(|root| root.subject_public_key_info == own.subject_public_key_info);
    match blocks.iter().zip(&authorities.roots.roots).find(|(_, anchor)| is_public(anchor)) {
        Some((block, _)) => Err(pem::PUBLIC_CA.at(block.line)),
        None => Ok(authorities),
    }
}
