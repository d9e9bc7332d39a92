//! A caller in Rust: `cargo run --release --example get -- http://127.0.0.1:50051 MERCHANT NUMBER`.

use std::process::ExitCode;

use token_broker_client::Client;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [endpoint, merchant_id, number] = arguments.as_slice() else {
        eprintln!("give the endpoint, the merchant's id and the number");
        return ExitCode::from(2);
    };
    let asked = match Client::new(endpoint) {
        Ok(broker) => broker.token(merchant_id, number).await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(token) => {
            println!("Authorization: {} {}", token.token_type, token.access_token);
            ExitCode::SUCCESS
        }
        Err(error) => {
            // The reason, what to do, and how long to wait.
            eprintln!("{}", error.in_words());
            ExitCode::FAILURE
        }
    }
}
