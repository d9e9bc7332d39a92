//! What a caller gives to find the broker and to be known by: a host, PEM and a token, as people and kubelet write them.
//!
//! Must never hand on PEM that the library behind would read a part of, nor a token that is not in its file as it is.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, ClientTlsConfig, Identity, Uri},
};
use zeroize::Zeroizing;

use super::ClientError;
use crate::{host, pem, text};

/// How a broker is known, and how it knows us.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// The CA of the broker's certificate, in PEM; needed for `https://`.
    pub ca_pem: Option<Vec<u8>>,
    /// Our certificate, with those that lead to its CA, and its key, both in PEM; one text with all of it may stand for both.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// A projected service-account token, read anew for each call since it is replaced from time to time.
    pub token_file: Option<PathBuf>,
}

/// Without the key.
impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security")
            .field("ca_pem", &self.ca_pem.is_some())
            .field("identity_pem", &self.identity_pem.is_some())
            .field("token_file", &self.token_file)
            .finish()
    }
}

/// Why a token or a certificate is not taken where there is no TLS: whoever is on the way would have the token, or answer in the broker's
/// place.
pub(crate) const PLAINTEXT: &str = "a token or a certificate is for https:// alone, and the endpoint is http://";

/// TLS with this CA, and our certificate if there is one.
pub(super) fn tls(security: &Security, ca_pem: &[u8]) -> Result<ClientTlsConfig, ClientError> {
    let fault = |what: &str, fault: pem::Fault| ClientError::Security(format!("the {what} is a file {fault}"));
    let authorities = pem::authorities(ca_pem).map_err(|why| fault("CA", why))?;
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&*pem::write(&authorities)));
    if let Some((certificate, key)) = &security.identity_pem {
        let chain = pem::Chain::read(certificate).map_err(|why| fault("certificate", why))?;
        let key = pem::Key::read(key).map_err(|why| fault("key", why))?;
        chain.goes_with(&key).map_err(|why| fault("certificate", why))?;
        tls = tls.identity(Identity::from_pem(&*pem::write(&chain.certificates), &*pem::write([&key.key])));
    }
    Ok(tls)
}

/// What a server is told to be where its host is written with a dot at the end; `None` where it isn't.
pub(super) fn without_dot(endpoint: &str) -> Option<Uri> {
    host::without_dot(endpoint).and_then(|(url, _)| url.parse().ok())
}

/// The token in a file, as `authorization` has it.
pub(super) fn bearer(path: &Path) -> io::Result<MetadataValue<Ascii>> {
    let bytes = Zeroizing::new(fs::read(path)?);
    let unfit = |why: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, format!("the file {why}"));
    let token = text::token(&bytes).map_err(|flaw| unfit(&flaw))?;
    let mut value = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_never| unfit(&text::Flaw::NoToken))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, TokenSource, client::Client};

    /// What becomes of these files, in words.
    fn said(ca: &str, identity: Option<(&str, &str)>) -> String {
        let identity_pem = identity.map(|(certificate, key)| (certificate.as_bytes().to_vec(), key.as_bytes().to_vec()));
        let security = Security { ca_pem: Some(ca.as_bytes().to_vec()), identity_pem, token_file: None };
        Client::with_security("https://127.0.0.1:1", security).map_or_else(|error| error.to_string(), |_client| "good".to_owned())
    }

    #[tokio::test]
    async fn pem_is_taken_whole_or_its_line_is_named() {
        let made = |name: &str| {
            let key = rcgen::KeyPair::generate().expect("keys can be made");
            let params = rcgen::CertificateParams::new([name.to_owned()]).expect("is a name");
            (params.self_signed(&key).expect("is good").pem(), key.serialize_pem())
        };
        let ((ca, _), (certificate, key), (other, other_key)) = (made("ca"), made("client"), made("other"));
        let both = format!("{key}{certificate}");
        for ca in [&ca, &format!("\u{feff}{}{other}", ca.trim_end()), &format!("{ca}{other}").replace('\n', "\r")] {
            assert_eq!(said(ca, None), "good");
            assert_eq!(said(ca, Some((&certificate, &key))), "good");
            assert_eq!(said(ca, Some((&format!("{}{other}", certificate.trim_end()), &both))), "good");
            assert_eq!(said(ca, Some((&both, &both))), "good");
        }
        let second = format!("line {}", ca.lines().count() + 1);
        for (ca, identity, words) in [
            (format!("{ca}{other_key}"), None, ["the CA is", &second, "private key"]),
            (
                format!("{ca}{other}").replace("\r", "").replacen("-----END", "----END", 2),
                None,
                ["the CA is", "line", "END line"],
            ),
            (format!("{ca}# {other}"), None, ["the CA is", &second, "nothing before"]),
            (String::new(), None, ["the CA is", "without", "certificate"]),
            (ca.clone(), Some(("", &*key)), ["the certificate is", "without", "certificate"]),
            (ca.clone(), Some((&*both, &*other_key)), ["the certificate is", "line 1", "other than"]),
            (ca.clone(), Some((&*certificate, &*certificate)), ["the key is", "without", "not encrypted"]),
        ] {
            let said = said(&ca, identity);
            assert!(words.iter().all(|word| said.contains(word)), "{said}\nlacks one of {words:?}");
        }
    }

    #[tokio::test]
    async fn an_identity_is_shown_over_tls_alone_but_on_this_machine() {
        let token = || Security { token_file: Some("token".into()), ..Security::default() };
        let certificate = || Security { identity_pem: Some((Vec::new(), Vec::new())), ..Security::default() };
        for security in [token, certificate] {
            for url in ["http://10.0.0.1:50051", "http://token-broker-headless.cards.svc"] {
                for make in [Client::with_security, Client::balanced] {
                    let error = make(url, security()).expect_err("is refused");
                    assert!(error.to_string().contains("https:// alone") && error.is_permanent(), "{error}");
                }
            }
            Client::with_security("http://127.0.0.1:50051", security()).expect("does not leave this machine");
        }
        for identity in [Identity::token_file("token"), Identity::certificate("tls.crt", "tls.key")] {
            let source = TokenSource::builder().endpoint("http://127.0.0.1:50051").identity(identity).build();
            let error = source.expect_err("is refused");
            assert!(error.to_string().contains("https:// alone"), "{error}");
        }
    }

    #[test]
    fn a_token_is_sent_as_it_is_or_not_at_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        let bearer = |bytes: &[u8]| {
            fs::write(&path, bytes).expect("a file");
            bearer(&path).map(|value| value.to_str().expect("is ASCII").to_owned()).map_err(|error| error.to_string())
        };
        assert_eq!(bearer(b"a.b.c\n"), Ok("Bearer a.b.c".to_owned()));
        for (bytes, word) in [
            (&b"\xef\xbb\xbfa.b.c"[..], "byte-order mark"),
            (b"\xff\xfea\0.\0", "UTF-16"),
            (b"a.b.c\nd.e.f\n", "one token"),
            (b"a.b\0c", "NUL"),
            (b"a.b\xff", "UTF-8"),
            (b"\n", "empty"),
        ] {
            let fault = bearer(bytes).expect_err(word);
            assert!(fault.contains(word) && !fault.contains("a.b"), "{fault}");
        }
    }
}
