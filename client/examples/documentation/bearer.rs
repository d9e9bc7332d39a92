use token_broker_client::{ClientError, TokenSource, User, middleware::Bearer};

/// The brokers are at `endpoint`, such as `http://127.0.0.1:50051`.
pub fn bearer(endpoint: &str) -> Result<Bearer, ClientError> {
    let source = TokenSource::builder().endpoint(endpoint).build()?;
    let user = User::new("bece038f-2e46-49f4-b25e-89cd38d6dc16", "+447871239999");
    Bearer::new(source).user(user).origin("https://api.vault.sandbox.testessential.net")
}
