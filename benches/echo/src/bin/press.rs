//! Makes a number of calls for one user's token as fast as they are answered, over plaintext, TLS or mTLS, with a token or without.
//!
//! `press ENDPOINT MERCHANT CALLS [CA [CERTIFICATE KEY]]`, all files in PEM; `TOKEN_FILE` in the environment names a service
//! account's token. It must never count a call that got no token: the first that doesn't ends it.

use std::{
    env,
    error::Error,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use token_broker_echo::{number, proto};
use tokio::task::JoinSet;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// As many as h2load is told to use for plaintext: `calls.py`.
const CONNECTIONS: usize = 4;
/// Calls at once on each.
const STREAMS: usize = 8;

type Client = proto::token_broker_service_client::TokenBrokerServiceClient<Channel>;
type Failure = Box<dyn Error + Send + Sync>;

fn endpoint(endpoint: &str, files: &[String]) -> Result<Endpoint, Failure> {
    let parsed = Endpoint::from_shared(endpoint.to_owned())?;
    let Some(ca) = files.first() else { return Ok(parsed) };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(fs::read(ca)?));
    if let [_, certificate, key] = files {
        tls = tls.identity(Identity::from_pem(fs::read(certificate)?, fs::read(key)?));
    }
    Ok(parsed.tls_config(tls)?)
}

async fn call(
    mut client: Client,
    merchant: Arc<str>,
    bearer: Option<MetadataValue<Ascii>>,
    left: Arc<AtomicU64>,
) -> Result<(), Failure> {
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let message =
            proto::GetTokenRequest { merchant_id: merchant.to_string(), number: number(0), ..proto::GetTokenRequest::default() };
        let mut request = Request::new(message);
        if let Some(bearer) = &bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        client.get_token(request).await?.into_inner().token.ok_or("no token in the reply")?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [url, merchant, calls, files @ ..] = &arguments[..] else {
        return Err("usage: press ENDPOINT MERCHANT CALLS [CA [CERTIFICATE KEY]]".into());
    };
    let merchant: Arc<str> = Arc::from(merchant.as_str());
    let left = Arc::new(AtomicU64::new(calls.parse()?));
    let bearer = match env::var("TOKEN_FILE") {
        Ok(path) => Some(format!("Bearer {}", fs::read_to_string(path)?.trim()).parse()?),
        Err(_) => None,
    };
    let mut calling = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let client = Client::new(endpoint(url, files)?.connect().await?);
        for _ in 0..STREAMS {
            calling.spawn(call(client.clone(), Arc::clone(&merchant), bearer.clone(), Arc::clone(&left)));
        }
    }
    while let Some(ended) = calling.join_next().await {
        ended??;
    }
    Ok(())
}
