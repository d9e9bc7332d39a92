//! With a certificate: TLS alone, with the same vault and the same faults behind it.

use std::{io, sync::Arc};

use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use token_broker_sandbox::{Fault, Options, Sandbox, Tls};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::raw::{FORM, MERCHANT};

/// A sandbox with a certificate for `vault.test`, and a client that trusts it alone.
async fn stage() -> (Sandbox, TlsConnector) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["vault.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    // One file with both, as some issuers write it.
    let both = [certificate.pem(), key.serialize_pem()].concat();
    let tls = Some(Tls::from_pem(both.as_bytes(), both.as_bytes()).unwrap());
    let sandbox = Sandbox::start(Options { tls, ..Options::default() }).await.unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    (sandbox, TlsConnector::from(Arc::new(client)))
}

async fn connect(sandbox: &Sandbox, client: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(sandbox.addr()).await?;
    client.connect(ServerName::try_from("vault.test").unwrap(), stream).await
}

async fn sign_in(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> io::Result<String> {
    let head = format!("POST /oauth/token HTTP/1.1\r\nHost: vault.test\r\nConnection: close\r\nX-Merchant-ID: {MERCHANT}\r\n");
    let rest = format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{FORM}", FORM.len());
    stream.write_all(format!("{head}{rest}").as_bytes()).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.map(|_| reply)
}

#[tokio::test]
async fn it_signs_in_over_tls_and_fails_on_demand_there_too() {
    let (sandbox, client) = stage().await;
    assert_eq!(sandbox.url(), format!("https://{}", sandbox.addr()));
    let reply = sign_in(connect(&sandbox, &client).await.unwrap()).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    sandbox.script(Fault::Reset);
    let failed = sign_in(connect(&sandbox, &client).await.unwrap()).await.unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!((sandbox.stats().sign_ins, sandbox.stats().granted), (2, 1));
}

#[tokio::test]
async fn plaintext_gets_nothing_there() {
    let (sandbox, _) = stage().await;
    let reply = sign_in(TcpStream::connect(sandbox.addr()).await.unwrap()).await;
    assert!(!reply.unwrap_or_default().contains("HTTP/"));
    assert_eq!(sandbox.stats().sign_ins, 0);
}

#[test]
fn what_is_no_certificate_is_explained() {
    let key = KeyPair::generate().unwrap();
    let other = CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&KeyPair::generate().unwrap()).unwrap();
    for (certificate, key, why) in [
        (String::new(), key.serialize_pem(), "has none in it"),
        (other.pem(), String::new(), "the key can't be read"),
        (other.pem(), key.serialize_pem(), "can't be used"),
    ] {
        let fault = Tls::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap_err();
        assert!(fault.contains(why), "{fault}");
    }
}
