//! `users`, `user`, `renew`, `drop`, `lift-hold`: what an operator sees of single users and does to them, over the broker's socket.
//!
//! Must never say that something was done which the broker has not said, nor for more replicas than it has.

use std::{io, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};
use tokio::{runtime::Builder, time::timeout};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::{EXIT_TEMPORARY, EXIT_USAGE, failed, getting::some_time, operating_text as text};
use crate::{
    operator::{DEFAULT_SOCKET, PAGE_MAX, channel, proto},
    telemetry::output::{self, complain},
};

/// Most users that are listed, unless more are wanted.
const LISTED: u32 = 1_000;

/// Where the broker is asked, and how its answer is printed.
#[derive(Debug, Args)]
struct Asked {
    /// The broker's [operator] socket.
    #[arg(long, value_name = "PATH", env = "TOKEN_BROKER_OPERATOR_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Take at most this long.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = some_time)]
    timeout: Duration,
}

/// Which user.
#[derive(Debug, Args)]
struct Meant {
    /// The user's merchant.
    #[arg(long, visible_alias = "merchant", value_name = "ID")]
    merchant_id: String,
    /// The user's phone number in E.164, such as +447871239999.
    #[arg(long)]
    number: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    /// Has a good token.
    Cached,
    /// Was asked for lately, has no good token, and is not held.
    Dry,
    /// The vault said no, or asked to wait.
    Held,
    /// The last sign-in failed, and is tried again.
    Failing,
}

#[derive(Debug, Args)]
pub(super) struct Users {
    #[command(flatten)]
    asked: Asked,
    /// Only this merchant's.
    #[arg(long, visible_alias = "merchant", value_name = "ID")]
    merchant_id: Option<String>,
    /// Only those in this state.
    #[arg(long)]
    state: Option<State>,
    /// List so many at most.
    #[arg(long, value_name = "COUNT", default_value_t = LISTED, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Show numbers in clear; the audit trail says that you did.
    #[arg(long)]
    reveal: bool,
}

#[derive(Debug, Args)]
pub(super) struct User {
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    meant: Meant,
    /// Show the number in clear; the audit trail says that you did.
    #[arg(long)]
    reveal: bool,
}

#[derive(Debug, Args)]
pub(super) struct Act {
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    meant: Meant,
}

#[derive(Debug, Args)]
pub(super) struct LiftHold {
    #[command(flatten)]
    asked: Asked,
    /// The merchant.
    #[arg(long, visible_alias = "merchant", value_name = "ID")]
    merchant_id: String,
    /// One of its users, in E.164; without it, the waits that the vault asked the merchant and its users for are lifted.
    #[arg(long)]
    number: Option<String>,
}

/// Why nothing was done.
enum Failed {
    /// There is nobody to ask.
    Socket(PathBuf, io::Error),
    /// The broker said no, or nothing.
    Status(Box<Status>),
    /// Not in the time that there was.
    Late,
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

type Client = proto::operator_service_client::OperatorServiceClient<channel::Wire>;

pub(super) fn users(Users { asked, merchant_id, state, limit, reveal }: Users) -> ExitCode {
    let state = state.map_or(proto::UserState::Unspecified, |state| match state {
        State::Cached => proto::UserState::Cached,
        State::Dry => proto::UserState::Dry,
        State::Held => proto::UserState::Held,
        State::Failing => proto::UserState::Failing,
    });
    let merchant_id = merchant_id.unwrap_or_default();
    run(&asked, async |client, _| {
        let mut users = Vec::new();
        let mut page_token = String::new();
        loop {
            let page_size = limit.saturating_sub(u32::try_from(users.len()).unwrap_or(u32::MAX)).min(PAGE_MAX);
            let (merchant_id, state) = (merchant_id.clone(), state.into());
            let request = proto::ListUsersRequest { merchant_id, state, page_size, page_token, reveal };
            let page = client.list_users(request).await?.into_inner();
            users.extend(page.users);
            let is_last = page.next_page_token.is_empty() || users.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
            if is_last {
                return Ok(text::users(&users, page.total_size));
            }
            page_token = page.next_page_token;
        }
    })
}

pub(super) fn user(User { asked, meant: Meant { merchant_id, number }, reveal }: User) -> ExitCode {
    run(&asked, async |client, _| {
        let answer = client.get_user(proto::GetUserRequest { merchant_id, number, reveal }).await?.into_inner();
        Ok(text::user(&answer.user.unwrap_or_default()))
    })
}

pub(super) fn renew(Act { asked, meant: Meant { merchant_id, number } }: Act) -> ExitCode {
    run(&asked, async |client, timeout| {
        let mut request = Request::new(proto::RenewTokenRequest { merchant_id, number });
        request.set_timeout(timeout);
        Ok(text::renewed(&client.renew_token(request).await?.into_inner()))
    })
}

pub(super) fn drop_token(Act { asked, meant: Meant { merchant_id, number } }: Act) -> ExitCode {
    run(&asked, async |client, _| {
        Ok(text::dropped(&client.drop_token(proto::DropTokenRequest { merchant_id, number }).await?.into_inner()))
    })
}

pub(super) fn lift_hold(LiftHold { asked, merchant_id, number }: LiftHold) -> ExitCode {
    run(&asked, async |client, _| match number {
        Some(number) => Ok(text::lifted(&client.lift_hold(proto::LiftHoldRequest { merchant_id, number }).await?.into_inner())),
        None => Ok(text::lifted_waits(&client.lift_waits(proto::LiftWaitsRequest { merchant_id }).await?.into_inner())),
    })
}

/// Asks, and prints what came of it.
fn run(asked: &Asked, ask: impl AsyncFnOnce(&mut Client, Duration) -> Result<text::Said, Failed>) -> ExitCode {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let asking = async {
        let connected = channel::connect(&asked.socket).await;
        let mut connected = connected.map_err(|error| Failed::Socket(asked.socket.clone(), error))?;
        ask(&mut connected.client, asked.timeout).await
    };
    let answer = runtime.block_on(async { timeout(asked.timeout, asking).await.unwrap_or(Err(Failed::Late)) });
    match answer {
        Ok(said) => match output::print(if asked.json { format!("{:#}", said.json) } else { said.text }) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        },
        Err(why) => complained(why),
    }
}

/// Says why nothing was done, and ends so.
fn complained(why: Failed) -> ExitCode {
    match why {
        Failed::Socket(path, error) => {
            let path = path.display();
            let kind = error.kind();
            let (remedy, code) = if kind == io::ErrorKind::NotFound {
                ("no broker has made it: name the path in its [operator] socket", ExitCode::FAILURE)
            } else if kind == io::ErrorKind::ConnectionRefused {
                ("its broker has ended: start it, or name another's", ExitCode::from(EXIT_TEMPORARY))
            } else if matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionReset) {
                ("its broker is busy with others, or ends: try again", ExitCode::from(EXIT_TEMPORARY))
            } else if kind == io::ErrorKind::PermissionDenied {
                ("run this as the broker's own user, or as root", ExitCode::FAILURE)
            } else {
                ("name the path in the broker's [operator] socket", ExitCode::FAILURE)
            };
            complain(format_args!("error: {path} can't be used ({error}): {remedy}"), None);
            code
        }
        Failed::Late => {
            complain("error: no answer in time: give more by --timeout; what was begun goes on", None);
            ExitCode::from(EXIT_TEMPORARY)
        }
        // No code of the broker's own.
        Failed::Status(status) if matches!(status.code(), Code::Unknown | Code::Cancelled) => {
            complain("error: the connection broke before the answer: try again; what was begun goes on", None);
            ExitCode::from(EXIT_TEMPORARY)
        }
        Failed::Status(status) => {
            let details = status.get_error_details();
            let reason = details.error_info().map(|info| format!("{}: ", info.reason)).unwrap_or_default();
            complain(format_args!("error: {reason}{}", status.message()), None);
            if let Some(wait) = details.retry_info().and_then(|retry| retry.retry_delay) {
                complain(format_args!("  try again in {}", text::span(wait)), None);
            }
            if status.code() == Code::InvalidArgument {
                ExitCode::from(EXIT_USAGE)
            } else if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted) {
                ExitCode::from(EXIT_TEMPORARY)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
