//! Sandbox vault and broker on one machine: asks for the documented user twice, over real gRPC, and serves until Ctrl-C.
//!
//! `cargo run --release --example demo`, or with `-- --once` to end after the two answers.

use std::{error::Error, io::Write as _, time::Instant};

use token_broker::{
    app::{App, Listeners, StopSignal},
    client::Client,
    config,
    proto::v1::Token,
    telemetry::audit::Audit,
};
use token_broker_sandbox::{Options, Sandbox};
use tokio::net::TcpListener;

/// The user of the vendor's documentation, whom the sandbox knows.
const MERCHANT: &str = "bece038f-2e46-49f4-b25e-89cd38d6dc16";
const NUMBER: &str = "+447871239999";
/// Where the broker listens, if nobody else does.
const PREFERRED: &str = "127.0.0.1:50051";

#[tokio::main]
#[allow(clippy::disallowed_methods, reason = "an example: it times its calls, and waits for its one task")]
async fn main() -> Result<(), Box<dyn Error>> {
    let once = std::env::args().any(|argument| argument == "--once");

    let sandbox = Sandbox::start(Options::default()).await?;
    println!("The sandbox vault listens on {}", sandbox.url());

    let grpc = match TcpListener::bind(PREFERRED).await {
        Ok(listener) => listener,
        Err(_taken) => TcpListener::bind("127.0.0.1:0").await?,
    };
    let address = grpc.local_addr()?;
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(configuration(&sandbox.url()).as_bytes())?;
    let loaded = config::load(file.path())?;
    let stop = StopSignal::default();
    let app = App::new(loaded.config, Audit::default())?;
    let broker = tokio::spawn(app.run(Listeners { grpc: vec![grpc], ..Listeners::default() }, stop.clone()));
    println!("The broker listens on      {address}\n");

    let client = Client::new(&format!("http://{address}"))?;
    ask(&client, "first answer: a sign-in at the vault").await?;
    ask(&client, "second answer: from the cache").await?;
    println!("Sign-ins that the vault saw: {}\n", sandbox.sign_ins());

    if !once {
        println!("Call it yourself:\n");
        println!("  cargo run --release --example get -- http://{address} {MERCHANT} {NUMBER}\n");
        println!("  grpcurl -plaintext -d '{{\"merchant_id\":\"{MERCHANT}\",\"number\":\"{NUMBER}\"}}' \\");
        println!("    {address} tokenbroker.v1.TokenBrokerService/GetToken\n");
        println!("Ctrl-C ends it.");
        tokio::signal::ctrl_c().await?;
    }
    stop.hurry.cancel();
    stop.begin.cancel();
    broker.await?;
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "as above")]
async fn ask(client: &Client, what: &str) -> Result<(), Box<dyn Error>> {
    let before = Instant::now();
    let token = client.token(MERCHANT, NUMBER).await.map_err(|error| error.in_words())?;
    println!("{what}, in {:.1} ms", before.elapsed().as_secs_f64() * 1_000.0);
    show(&token);
    Ok(())
}

/// Shows the answer. The token is the sandbox's, worth nothing; even so no more than its head is shown.
fn show(token: &Token) {
    let head: String = token.access_token.chars().take(16).collect();
    println!("  access_token  {head}… ({} characters)", token.access_token.len());
    println!("  token_type    {}", token.token_type);
    println!("  scope         {}", token.scope);
    println!("  token_id      {}", token.token_id);
    println!("  expires_in    {} s\n", token.expires_in.map_or(0, |left| left.seconds));
}

fn configuration(vault: &str) -> String {
    format!(
        "[vault]\nbase_url = \"{vault}\"\n\n[grpc]\nlame_duck = \"0s\"\ndrain = \"2s\"\n\n[[users]]\nmerchant_id = \"{MERCHANT}\"\n\
         number = \"{NUMBER}\"\npassword = \"1234Qwerty\"\n"
    )
}
