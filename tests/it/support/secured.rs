//! A broker over TLS that asks for certificates of a CA, and its callers.

use std::{fs, path::Path};

use token_broker::client::ClientError;

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, Setting, Stage,
    authority::{Authority, Issued, client},
    user,
};

pub(crate) const CARDS: &str = "spiffe://example.org/ns/cards/sa/cards";

pub(crate) const TLS: &str =
    "lame_duck = \"0s\"\n[grpc.tls]\ncertificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\nclient_ca_file = \"ca.crt\"\n";

pub(crate) fn caller(id: &str, rest: &str) -> String {
    format!("[[callers]]\nid = \"{id}\"\n{rest}\n")
}

/// A broker that asks for certificates of `ca`, and lets `callers` in.
pub(crate) async fn secured(ca: &Authority, callers: &str) -> Stage {
    let (issued, pem) = (ca.server(), ca.pem.clone());
    let prepare = move |directory: &Path| {
        issued.write(directory);
        fs::write(directory.join("ca.crt"), &pem).expect("is written");
    };
    let rest = format!("{callers}{}", user(NUMBER, PASSWORD));
    Setting { grpc: TLS.to_owned(), rest, prepare: Some(Box::new(prepare)), ..Setting::default() }.start().await
}

/// What a caller with this certificate is told.
pub(crate) async fn ask(stage: &Stage, ca: &Authority, issued: Option<&Issued>) -> Result<(), ClientError> {
    client(&stage.secure_endpoint(), ca, issued).token(MERCHANT, NUMBER).await.map(drop)
}
