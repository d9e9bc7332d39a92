//! `get`: a token for a person or a script, and why there is none.
//!
//! Must never print a token that was not asked for, nor say "try again later" of what no later try can mend.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use tokio::{
    runtime::Builder,
    time::{Instant, timeout_at},
};
use tonic::Status;

use super::{
    EXIT_TEMPORARY, EXIT_USAGE,
    diagnosis::{Diagnosis, diagnose, millis},
    failed,
};
use crate::{
    client::{Client, ClientError, DEFAULT_ENDPOINT, Query, Reason, Security, TIMEOUT_MAX, blocking::BlockingPool},
    clock::{Clock as _, SystemClock},
    pem,
    proto::v1::Token,
    telemetry::output::{self, complain},
    timestamp, x509,
};

/// Where a call got no answer, so long is looked for the cause at most.
const DIAGNOSIS: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct Get {
    /// Where the broker listens.
    #[arg(long, value_name = "URL", env = "TOKEN_BROKER_ENDPOINT", default_value = DEFAULT_ENDPOINT)]
    endpoint: String,
    /// The merchant, as the vault's X-Merchant-ID.
    #[arg(long, value_name = "ID")]
    merchant_id: String,
    /// The user's phone number in E.164, such as +447871239999.
    #[arg(long)]
    number: String,
    /// The token must live at least this long, such as 90s.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    min_remaining: Option<Duration>,
    /// The token_id of a token that the vault's API answered with 401; may be given up to 16 times.
    #[arg(long = "rejected-token-id", value_name = "TOKEN_ID")]
    rejected_token_ids: Vec<String>,
    /// Take at most this long, from the look-up of the broker's name to the answer.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = some_time)]
    timeout: Duration,
    /// Print the token alone.
    #[arg(long, conflicts_with = "show")]
    raw: bool,
    /// Print the token too, among what is said of it.
    #[arg(long)]
    show: bool,
    /// Tell on standard error where the broker was found, whose certificate it has, what it said, and how long that took.
    #[arg(long)]
    verbose: bool,
    /// The CA of the broker's certificate, in PEM, for https://.
    #[arg(long, value_name = "FILE", env = "TOKEN_BROKER_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Our certificate, in PEM.
    #[arg(long, value_name = "FILE", requires = "key_file", requires = "ca_file")]
    certificate_file: Option<PathBuf>,
    /// Its key, in PEM.
    #[arg(long, value_name = "FILE", requires = "certificate_file")]
    key_file: Option<PathBuf>,
    /// A projected service-account token.
    #[arg(long, value_name = "FILE", env = "TOKEN_BROKER_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// A duration that is one.
pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() { Err("is no time at all: give some, such as 30s".to_owned()) } else { Ok(time) }
}

/// Why there is no answer, and where that comes from.
pub(super) type NoAnswer = (ClientError, Option<Diagnosis>);

pub(super) fn get(get: Get) -> ExitCode {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let (raw, show) = (get.raw, get.show);
    let asked = runtime.block_on(ask(get));
    // Whatever is still under way: nobody waits for it any more.
    runtime.shutdown_background();
    match asked {
        Ok(token) => print(&token, raw, show),
        Err(none) => tell(none),
    }
}

/// Says why there is no answer; what to end with.
pub(super) fn tell((error, diagnosis): NoAnswer) -> ExitCode {
    let cause = diagnosis.and_then(|diagnosis| diagnosis.cause);
    complain(error.in_words(), None);
    if let Some(cause) = &cause {
        complain(format_args!("  {}", cause.text), None);
    }
    exit_code(&error, cause.is_none_or(|cause| cause.temporary))
}

/// An error, with what stands where a broker should, if nobody answered and it can be found out in time.
pub(super) async fn explained(error: ClientError, endpoint: &str, ca: Option<&[u8]>, end: Instant) -> NoAnswer {
    if !is_unanswered(&error) {
        return (error, None);
    }
    let until = end.min(SystemClock.now().mono + DIAGNOSIS);
    (error, timeout_at(until, diagnose(endpoint, ca)).await.ok())
}

/// 75 only for what may pass; `cause`: whether what was found where the broker should be may.
fn exit_code(error: &ClientError, cause: bool) -> ExitCode {
    if matches!(error, ClientError::Endpoint(_)) || error.reason() == Some(Reason::InvalidRequest) {
        ExitCode::from(EXIT_USAGE)
    } else if error.is_temporary() && cause {
        ExitCode::from(EXIT_TEMPORARY)
    } else {
        ExitCode::FAILURE
    }
}

async fn ask(get: Get) -> Result<Token, NoAnswer> {
    let began = SystemClock.now().mono;
    let end = began + get.timeout.min(TIMEOUT_MAX);
    let bare = |error| (error, None);
    let files = (get.ca_file, get.certificate_file, get.key_file);
    let security = read_in_time(files, get.token_file, end).await.map_err(bare)?;
    let ca = security.ca_pem.clone();
    if let Some(warning) = security.identity_pem.as_ref().and_then(|(certificate, _)| has_ended(certificate)) {
        complain(format_args!("warning: {warning}"), None);
    }
    let left = |now: Instant| end.saturating_duration_since(now);
    if get.verbose {
        let found = timeout_at(end, diagnose(&get.endpoint, ca.as_deref())).await.unwrap_or_default();
        found.steps.iter().for_each(|step| complain(step, None));
    }
    let asked = SystemClock.now().mono;
    let client = Client::with_security(&get.endpoint, security).map_err(bare)?.timeout(left(asked));
    let query = Query { min_remaining: get.min_remaining, rejected_token_ids: get.rejected_token_ids };
    let answer = client.token_with(&get.merchant_id, &get.number, query).await;
    let now = SystemClock.now().mono;
    if get.verbose {
        let outcome = match &answer {
            Ok(token) => format!("a token, {}", token.token_id),
            Err(error) => error.reason().map_or("no answer of the broker", Reason::as_str).to_owned(),
        };
        complain(format_args!("{outcome}, after {}", millis(now.saturating_duration_since(asked))), None);
    }
    match answer {
        Ok(token) => Ok(token),
        Err(error) => Err(explained(error, &get.endpoint, ca.as_deref(), end).await),
    }
}

/// Whether nobody answered, for a cause that can be looked for.
fn is_unanswered(error: &ClientError) -> bool {
    let unavailable = error.status().is_some_and(|status| status.code() == tonic::Code::Unavailable);
    unavailable && error.reason().is_none()
}

type Files = (Option<PathBuf>, Option<PathBuf>, Option<PathBuf>);

/// Reads the files; any of them may be a pipe with nobody at its other end.
async fn read_in_time(files: Files, token_file: Option<PathBuf>, end: Instant) -> Result<Security, ClientError> {
    let reading = BlockingPool::default();
    let reading = reading.run(move || Ok(read_security(files, token_file)));
    match timeout_at(end, reading).await {
        Ok(Ok(security)) => security,
        Ok(Err(error)) => Err(ClientError::Security(error.to_string())),
        Err(_elapsed) => {
            let text = "the CA, the certificate or the key could not be read in time";
            Err(ClientError::Status(Box::new(Status::deadline_exceeded(text))))
        }
    }
}

/// Reads CA, certificate and key, each of them fit to be used.
pub(super) fn read_security((ca, certificate, key): Files, token_file: Option<PathBuf>) -> Result<Security, ClientError> {
    let read = |path: PathBuf, fault: fn(&[u8]) -> Option<pem::Fault>| {
        let unfit = |why: &dyn std::fmt::Display| ClientError::Security(format!("{}: {why}", path.display()));
        let bytes = fs::read(&path).map_err(|error| unfit(&error))?;
        fault(&bytes).map_or(Ok(bytes), |fault| Err(unfit(&format_args!("it is a file {fault}"))))
    };
    let identity_pem = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let certificate = read(certificate, |bytes| pem::Chain::read(bytes).err())?;
            Some((certificate, read(key, |bytes| pem::Key::read(bytes).err())?))
        }
        _ => None,
    };
    let ca_pem = ca.map(|ca| read(ca, |bytes| pem::authorities(bytes).err())).transpose()?;
    Ok(Security { ca_pem, identity_pem, token_file })
}

/// What is to be said of our own certificate, where it has ended.
fn has_ended(certificate: &[u8]) -> Option<String> {
    let chain = pem::Chain::read(certificate).ok()?;
    let end = x509::Facts::read(&chain.certificates.first()?.der).ok()?.not_after;
    let past = SystemClock.now().wall > end;
    past.then(|| format!("your certificate ended on {}: give the next one", timestamp::rfc3339(end).unwrap_or_default()))
}

fn print(token: &Token, raw: bool, show: bool) -> ExitCode {
    let text = if raw {
        token.access_token.clone()
    } else {
        let expires_at = token.expires_at.and_then(|at| std::time::SystemTime::try_from(at).ok());
        let mut json = serde_json::json!({
            "token_type": token.token_type,
            "expires_at": expires_at.and_then(timestamp::rfc3339),
            "expires_in": token.expires_in.map(|left| left.seconds),
            "renew_in": token.renew_in.map(|wait| wait.seconds),
            "scope": token.scope,
            "token_id": token.token_id,
        });
        if show && let Some(fields) = json.as_object_mut() {
            fields.insert("access_token".to_owned(), token.access_token.clone().into());
        }
        format!("{json:#}")
    };
    match output::print(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}
