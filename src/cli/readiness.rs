//! `health`: whether a broker is ready, asked over the callers' port as a probe asks.
//!
//! Must never need a secret: health asks nobody who they are.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use tokio::{
    runtime::Builder,
    time::{Instant, timeout_at},
};
use tonic::Status;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{
    EXIT_TEMPORARY, failed,
    getting::{NoAnswer, explained, read_security, some_time, tell},
};
use crate::{
    client::{Client, ClientError, DEFAULT_ENDPOINT, blocking::BlockingPool},
    clock::{Clock as _, SystemClock},
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
    let end = SystemClock.now().mono + within;
    let said = runtime.block_on(async { timeout_at(end, ask(asked, end)).await });
    // Whatever is still under way: nobody waits for it any more.
    runtime.shutdown_background();
    match said.unwrap_or_else(|_elapsed| Err((late(within), None))) {
        Ok(ServingStatus::Serving) => {
            // The exit code says it too, so that nothing hangs on its being read.
            output::print("ready").ok();
            ExitCode::SUCCESS
        }
        Ok(_) => {
            complain("the broker answers, and is not ready: it starts, or it is told to end", None);
            ExitCode::from(EXIT_TEMPORARY)
        }
        Err(none) => tell(none),
    }
}

async fn ask(asked: Health, end: Instant) -> Result<ServingStatus, NoAnswer> {
    let bare = |error| (error, None);
    let files = (asked.ca_file, None, None);
    // It may be a pipe with nobody at its other end.
    let reading = BlockingPool::default();
    let read = reading.run(move || Ok(read_security(files, None))).await;
    let security = read.map_err(|error| bare(ClientError::Security(error.to_string())))?.map_err(bare)?;
    let ca = security.ca_pem.clone();
    let client = Client::with_security(&asked.endpoint, security).map_err(bare)?;
    let asking = async {
        let request = HealthCheckRequest { service: SERVICE.to_owned() };
        let answer = HealthClient::new(client.channel().await?).check(request).await;
        answer.map_err(|status| ClientError::Status(Box::new(status)))
    };
    match asking.await {
        Ok(answer) => Ok(answer.into_inner().status()),
        Err(error) => Err(explained(error, &asked.endpoint, ca.as_deref(), end).await),
    }
}

fn late(within: Duration) -> ClientError {
    ClientError::Status(Box::new(Status::deadline_exceeded(format!("no answer within {}", humantime::format_duration(within)))))
}
