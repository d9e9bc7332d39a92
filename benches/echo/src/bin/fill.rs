//! Calls `GetToken` once for each of many users, so that a broker has all their tokens in its cache.
//!
//! `fill ENDPOINT MERCHANT COUNT`, for example `fill http://127.0.0.1:50051 bench 100000`, ends when all were answered, and fails
//! if one was not. It must never ask for a user twice: what it fills is counted.

use std::{
    env,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use token_broker_echo::{number, proto};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// Callers at a time, each with a connection of its own: enough to keep two cores busy, and no more sign-ins than the broker's default
/// admits at once, so that none has to be turned away.
const CALLERS: usize = 32;

type Client = proto::token_broker_service_client::TokenBrokerServiceClient<Channel>;

async fn call_until_done(mut client: Client, merchant: String, next: Arc<AtomicUsize>, count: usize) -> Result<(), String> {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= count {
            return Ok(());
        }
        let request =
            proto::GetTokenRequest { merchant_id: merchant.clone(), number: number(index), ..proto::GetTokenRequest::default() };
        let reply = client.get_token(request).await.map_err(|status| format!("user {index}: {status}"))?;
        if reply.into_inner().token.is_none_or(|token| token.access_token.is_empty()) {
            return Err(format!("user {index}: no token in the reply"));
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [endpoint, merchant, count] = &env::args().skip(1).collect::<Vec<_>>()[..] else {
        return Err("usage: fill ENDPOINT MERCHANT COUNT".into());
    };
    let count = count.parse()?;
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS.min(count) {
        let client = Client::new(Endpoint::from_shared(endpoint.clone())?.connect().await?);
        callers.spawn(call_until_done(client, merchant.clone(), Arc::clone(&next), count));
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    println!("{count} users answered");
    Ok(())
}
