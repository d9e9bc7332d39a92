//! A certificate for the port, so that a broker in a cluster can be pointed at the sandbox: it speaks plaintext to loopback alone.
//!
//! Must never fall back to plaintext where a certificate was given.

use std::{fmt, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_rustls::TlsAcceptor;

/// What the port shows to those who connect.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// From a certificate, with those that lead to its CA, and its key, both in PEM; one file may hold both.
    ///
    /// # Errors
    /// Says what is wrong with which of the two.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|why| format!("the certificate can't be read: {why}"))?;
        if chain.is_empty() {
            return Err("the certificate's file has none in it: give it in PEM".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|why| format!("the key can't be read: {why}"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|why| format!("the certificate and the key can't be used: {why}"))?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(crate) fn acceptor(&self) -> &TlsAcceptor {
        &self.0
    }
}
