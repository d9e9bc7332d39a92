use token_broker_client::{ClientError, Reason, TokenSource, User};

/// The brokers are at `endpoint`, such as `http://127.0.0.1:50051`.
pub async fn ask(endpoint: &str) -> Result<(), ClientError> {
    // Make one for the process and clone it: clones share everything.
    let source = TokenSource::builder().endpoint(endpoint).build()?;
    let user = User::new("bece038f-2e46-49f4-b25e-89cd38d6dc16", "+447871239999");
    match source.token(&user).await {
        Ok(token) => println!("good for {:?}: {}", token.expires_in(), token.id()), // for the API: token.authorization()
        Err(error) if error.reason() == Some(Reason::CredentialsRejected) => println!("have the password mended: {error}"),
        Err(error) if error.is_permanent() => println!("{}", error.in_words()),
        Err(error) => println!("try again in {:?}: {error}", error.retry_after()),
    }
    Ok(())
}
