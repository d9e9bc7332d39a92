//! A tonic server with every default, which answers each `GetToken` with a token of the usual size: what the broker's cost per call
//! is measured against.
//!
//! `echo ADDRESS` serves until it is killed. It must do nothing but answer.

use std::{env, error::Error};

use prost_types::{Duration, Timestamp};
use token_broker_echo::{ACCESS_TOKEN_LENGTH, LIFETIME_SECONDS, SCOPE, proto};
use tonic::{Request, Response, Status, transport::Server};

/// Some instant, as `expires_at`: only its size on the wire matters.
const EXPIRES_AT_SECONDS: i64 = 1_800_000_000;

/// Some part of a second, as long on the wire as most are.
const NANOS: i32 = 987_654_321;

struct Echo {
    access_token: String,
    token_id: String,
}

#[tonic::async_trait]
impl proto::token_broker_service_server::TokenBrokerService for Echo {
    async fn get_token(&self, _: Request<proto::GetTokenRequest>) -> Result<Response<proto::GetTokenResponse>, Status> {
        let token = proto::Token {
            access_token: self.access_token.clone(),
            token_type: "Bearer".to_owned(),
            expires_at: Some(Timestamp { seconds: EXPIRES_AT_SECONDS, nanos: NANOS }),
            scope: SCOPE.to_owned(),
            token_id: self.token_id.clone(),
            expires_in: Some(Duration { seconds: LIFETIME_SECONDS, nanos: NANOS }),
            renew_in: Some(Duration { seconds: LIFETIME_SECONDS, nanos: NANOS }),
        };
        Ok(Response::new(proto::GetTokenResponse { token: Some(token) }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("usage: echo ADDRESS")?.parse()?;
    let echo = Echo { access_token: "e".repeat(ACCESS_TOKEN_LENGTH), token_id: "0".repeat(32) };
    Server::builder().add_service(proto::token_broker_service_server::TokenBrokerServiceServer::new(echo)).serve(address).await?;
    Ok(())
}
