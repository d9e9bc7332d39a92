//! Asks the broker for a user's token, and uses it: `caller MERCHANT NUMBER`
//!
//! The environment says where the broker is (`TOKEN_BROKER_URL`), how it is known (`TOKEN_BROKER_CA`), who we are
//! (`TOKEN_BROKER_TOKEN_FILE`, or `TOKEN_BROKER_CERTIFICATE` and `TOKEN_BROKER_KEY`), and where the vault's API is (`VAULT_URL`).

use std::{env, error::Error, fs, path::PathBuf, process::ExitCode, time::Duration};

use token_broker_client::{Client, ClientError, Security, proto::v1::Token};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A call's whole time, repeats included: a sign-in takes up to ten seconds.
const CALL_TIME: Duration = Duration::from_secs(15);
/// Most tokens of a user that are complained of in a row: more than there are replicas, and what one call can name.
const REJECTED_MAX: usize = 16;

/// One client for the whole process: clones share its connections, one to each replica.
fn connect() -> Result<Client, Box<dyn Error>> {
    let path = |name| env::var_os(name).map(PathBuf::from);
    let read = |name| path(name).map(fs::read).transpose();
    let security = Security {
        ca_pem: read("TOKEN_BROKER_CA")?,
        identity_pem: read("TOKEN_BROKER_CERTIFICATE")?.zip(read("TOKEN_BROKER_KEY")?),
        // Read for each call: kubelet replaces it.
        token_file: path("TOKEN_BROKER_TOKEN_FILE"),
    };
    Ok(Client::balanced(&env::var("TOKEN_BROKER_URL")?, security)?.timeout(CALL_TIME))
}

/// The status of a call of the vault's API. By hand and in plaintext, for a vault on this machine: yours is an HTTPS client.
async fn call_vault(token: &Token) -> Result<u16, Box<dyn Error>> {
    let url = env::var("VAULT_URL")?;
    let address = url.strip_prefix("http://").ok_or("not http://")?;
    let bearer = &token.access_token;
    let request =
        format!("GET /v1/customer HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {bearer}\r\nconnection: close\r\n\r\n");
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    Ok(reply.split(' ').nth(1).ok_or("no status")?.parse()?)
}

async fn run(merchant: &str, number: &str) -> Result<(), Box<dyn Error>> {
    let broker = connect()?;
    let mut token = broker.token(merchant, number).await?;
    let mut status = call_vault(&token).await?;
    // The vault knows this token no more, and maybe none of those that other replicas hold. The client remembers which were
    // rejected, and names them with each call for this user. A token that comes back all the same is the vault's last word.
    let mut rejected = Vec::new();
    while status == 401 && rejected.len() < REJECTED_MAX && !rejected.contains(&token.token_id) {
        broker.rejected(merchant, number, &token);
        rejected.push(token.token_id);
        token = broker.token(merchant, number).await?;
        status = call_vault(&token).await?;
    }
    println!("{status} with token {}", token.token_id);
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [merchant, number] = arguments.as_slice() else { return ExitCode::from(2) };
    let Err(error) = run(merchant, number).await else { return ExitCode::SUCCESS };
    match error.downcast_ref::<ClientError>() {
        // The reason (`error.reason()`), the wait (`error.retry_after()`) and the rest.
        Some(error) => eprintln!("{}", error.in_words()),
        None => eprintln!("{error}"),
    }
    ExitCode::FAILURE
}
