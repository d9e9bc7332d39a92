use token_broker_client::{Client, ClientError};

/// The broker is at `endpoint`, such as `http://127.0.0.1:50051`; this is for `Authorization`.
pub async fn header(endpoint: &str) -> Result<String, ClientError> {
    let broker = Client::new(endpoint)?;
    let token = broker.token("bece038f-2e46-49f4-b25e-89cd38d6dc16", "+447871239999").await?;
    Ok(format!("Bearer {}", token.access_token))
}
