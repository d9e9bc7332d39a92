//! `health`: whether a broker is ready, asked over the callers' port as a probe asks.
//!
//! Must never need a secret: health asks nobody who they are.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use tokio::{runtime::Builder, time::timeout};
use tonic::Status;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{
    EXIT_TEMPORARY, failed,
    getting::{exit_code, read_security, some_time},
};
use crate::{
    client::{Client, ClientError, DEFAULT_ENDPOINT, blocking::BlockingPool},
    rpc::services::SERVICE,
    telemetry::output::{self, complain},
};

#[derive(Debug, Args)]
pub(super) struct Health {
    /// Where the broker listens.
    #[arg(long, value_name = "URL", env = "TOKEN_BROKER_ENDPOINT", default_value = DEFAULT_ENDPOINT)]
    endpoint: String,
    /// The CA of the broker's certificate, in PEM, for https://.
    #[arg(long, value_name = "FILE", env = "TOKEN_BROKER_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Take at most this long, from the look-up of the broker's name to the answer.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time)]
    timeout: Duration,
}

pub(super) fn run(asked: Health) -> ExitCode {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let within = asked.timeout;
    let said = runtime.block_on(async { timeout(within, ask(asked)).await });
    // Whatever is still under way: nobody waits for it any more.
    runtime.shutdown_background();
    match said.unwrap_or_else(|_elapsed| Err(late(within))) {
        Ok(ServingStatus::Serving) => {
            // The exit code says it too, so that nothing hangs on its being read.
            output::print("ready").ok();
            ExitCode::SUCCESS
        }
        Ok(_) => {
            complain("the broker answers, and is not ready: it starts, or it is told to end", None);
            ExitCode::from(EXIT_TEMPORARY)
        }
        Err(error) => {
            complain(error.in_words(), None);
            exit_code(&error, true)
        }
    }
}

async fn ask(asked: Health) -> Result<ServingStatus, ClientError> {
    let files = (asked.ca_file, None, None);
    // It may be a pipe with nobody at its other end.
    let reading = BlockingPool::default();
    let read = reading.run(move || Ok(read_security(files, None))).await;
    let security = read.map_err(|error| ClientError::Security(error.to_string()))??;
    let channel = Client::with_security(&asked.endpoint, security)?.channel().await?;
    let request = HealthCheckRequest { service: SERVICE.to_owned() };
    let answer = HealthClient::new(channel).check(request).await.map_err(|status| ClientError::Status(Box::new(status)))?;
    Ok(answer.into_inner().status())
}

fn late(within: Duration) -> ClientError {
    ClientError::Status(Box::new(Status::deadline_exceeded(format!("no answer within {}", humantime::format_duration(within)))))
}
