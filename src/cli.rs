//! The command line: `serve`, `check`, `config`, `get`, `health`, the operator's commands, and what describes all of it to other programs.
//!
//! Must never print a secret that was not asked for: `get` prints the token if it is told to, on standard output, and nothing else does.

mod checking;
mod describing;
mod diagnosis;
mod getting;
mod manual;
mod operating;
mod operating_text;
mod readiness;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{Args, Parser, Subcommand};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tracing::{info, warn};

use crate::{
    app::{App, Listeners, Reloading, StopSignal, descriptors},
    config::{Config, Fault, Files, Loaded},
    telemetry::{
        log::{self, Logs},
        output::{self, complain},
    },
};

/// The command line is at fault (clap's own).
const EXIT_USAGE: u8 = 2;
/// The configuration is at fault (`EX_CONFIG` of sysexits.h).
const EXIT_CONFIG: u8 = 78;
/// Try again later (`EX_TEMPFAIL`).
const EXIT_TEMPORARY: u8 = 75;
/// What is left at the end is dropped within this: it waits for nobody, but a look-up of a name may hold up a thread.
const LAST_DROPS: Duration = Duration::from_millis(250);

/// How much tokio's blocking threads stand back (nice(2), 0 to 19) behind those that serve calls: a tenth of their weight. A reload of
/// 100,000 users or a scrape of them computes for a tenth of a second, and where all processors are busy hits would wait for it.
const NICENESS: i32 = 10;

/// Hands out the vault's OAuth access tokens to internal services.
#[derive(Debug, Parser)]
#[command(name = "token-broker", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker until SIGTERM or Ctrl-C.
    Serve(Configured),
    /// Report every fault of a configuration, with file, line, key and remedy; or explain whether a caller may ask for a user.
    Check(Check),
    /// Print what is in force by a configuration, with all defaults and without secrets.
    Config(Configured),
    /// Print the configuration's JSON schema, for editors.
    Schema(describing::Schema),
    /// Ask a running broker for a token.
    Get(getting::Get),
    /// Ask a running broker whether it is ready; needs no identity.
    Health(readiness::Health),
    /// List a running broker's users and how they are, over its operator's socket.
    Users(operating::Users),
    /// Show one user: its token's end, last sign-in, last failure and hold.
    User(operating::User),
    /// Renew a user's token now, within the rules of time.
    Renew(operating::Act),
    /// Drop a user's token: the next call signs in.
    Drop(operating::Act),
    /// Lift a user's hold, or a merchant's waits, for one more try; mend the cause first.
    LiftHold(operating::LiftHold),
    /// Print what a shell completes these commands by.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff.
    Man,
}

#[derive(Debug, Args)]
struct Configured {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "TOKEN_BROKER_CONFIG")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    configured: Configured,
    /// A caller: its SPIFFE id, system:serviceaccount:NAMESPACE:NAME, or DNS name. Says whether it may ask for the user.
    #[arg(long, value_name = "ID", requires = "merchant_id", requires = "number")]
    caller: Option<String>,
    /// With --caller: the user's merchant.
    #[arg(long, value_name = "ID", requires = "caller")]
    merchant_id: Option<String>,
    /// With --caller: the user's phone number in E.164.
    #[arg(long, requires = "caller")]
    number: Option<String>,
    /// How to tell what was found.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: checking::Format,
}

/// Parses the command line, runs it, and says how it ended.
#[must_use]
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(Configured { config }) => serve(&config),
        Command::Check(asked) => checking::check(asked),
        Command::Config(Configured { config }) => describing::config(&config),
        Command::Schema(asked) => describing::schema(asked),
        Command::Get(asked) => getting::get(asked),
        Command::Health(asked) => readiness::run(asked),
        Command::Users(asked) => operating::users(asked),
        Command::User(asked) => operating::user(asked),
        Command::Renew(asked) => operating::renew(asked),
        Command::Drop(asked) => operating::drop_token(asked),
        Command::LiftHold(asked) => operating::lift_hold(asked),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man => manual::page(),
    }
}

fn serve(path: &std::path::Path) -> ExitCode {
    forbid_core_dumps();
    let (files, Loaded { config, warnings }) = match Files::open(path) {
        Ok(opened) => opened,
        Err(faults) => {
            complain(faults, Some(output::PATIENCE));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let logs = match log::start(&config.log, &config.audit) {
        Ok(logs) => logs,
        Err(error) => return failed(&error),
    };
    for warning in &warnings {
        warn!("{warning}");
    }
    // One thread for all but callers' connections: sign-ins, the admin port, reloads. See `net::workers`.
    let runtime = Builder::new_current_thread().enable_all().on_thread_start(stand_back).build();
    let served = runtime.map_err(Into::into).and_then(|runtime| {
        let served = runtime.block_on(serve_config(config, files, warnings, &logs));
        // What is left are sign-ins that nobody waits for; dropped, each leaves its line in the audit trail.
        runtime.shutdown_timeout(LAST_DROPS);
        served
    });
    // The last lines are written before the process ends.
    logs.end();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&*error),
    }
}

async fn serve_config(
    config: Config,
    files: Files,
    warnings: Vec<Fault>,
    logs: &Logs,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stop = StopSignal::default();
    // Before anything listens, so that no signal finds nobody.
    let signals = Signals::new()?;
    let listeners = Listeners::bind(&config).await?;
    info!(version = env!("CARGO_PKG_VERSION"), "token-broker starts");
    let hup = Arc::new(Notify::new());
    let reloading = Reloading { files, warnings, hup: Arc::clone(&hup), level: Some(logs.level.clone()) };
    let sign_ins = config.vault.max_concurrent_sign_ins;
    let ports = (config.grpc.health_listen.is_some(), config.admin.is_some());
    let app = App::new(config, logs.audit.clone())?.reloading(reloading);
    let app = app.connection_limits(descriptors::take(sign_ins, ports));
    let metrics = app.metrics();
    let told = stop.clone();
    tokio::join!(app.run(listeners, stop.clone()), async {
        tokio::select! {
            () = signals.told(&told, &hup, logs) => {}
            () = logs.tell_of_dropped(&metrics) => {}
            () = stop.ended.cancelled() => {}
        }
    });
    Ok(())
}

/// The signals that end the process.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// SIGTERM begins the end; a second signal, or SIGINT, skips the lame-duck time. SIGHUP asks for the configuration to be
    /// read again, and for the audit trail's file to be looked at, as after its rotation.
    async fn told(mut self, stop: &StopSignal, reload: &Notify, logs: &Logs) {
        loop {
            let interrupted = tokio::select! {
                _ = self.terminate.recv() => false,
                _ = self.interrupt.recv() => true,
                _ = self.hangup.recv() => {
                    logs.look();
                    reload.notify_one();
                    continue;
                }
            };
            if interrupted || stop.begin.is_cancelled() {
                stop.hurry.cancel();
            }
            stop.begin.cancel();
        }
    }
}

/// Has the thread that calls it stand back: on Linux each has a priority of its own (setpriority(2)).
fn stand_back() {
    // Nothing depends on it, and less is always granted.
    rustix::process::setpriority_process(None, NICENESS).ok();
}

fn forbid_core_dumps() {
    if let Err(error) = no_core_dumps() {
        let text = format_args!("warning: core dumps can't be turned off ({error}); they would hold passwords");
        complain(text, Some(output::PATIENCE));
    }
}

/// A core dump would hold every password and token; so would the memory that a debugger reads.
fn no_core_dumps() -> Result<(), rustix::io::Errno> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    complain(format_args!("error: {error}"), Some(output::PATIENCE));
    ExitCode::FAILURE
}
