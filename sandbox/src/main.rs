//! The sandbox as a program, for teams that test against a fake vault.
//!
//! Only reads the command line: everything it serves is the library's.

mod with_broker;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::Parser;
use token_broker_sandbox::{DEFAULT_WRONG_PASSWORDS, Mode, Options, Sandbox, Tls, User, parse_duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use self::with_broker::WithBroker;

/// A development vault: the documented sign-in API with made-up users, and faults on demand.
#[derive(Parser)]
#[command(name = "token-broker-sandbox", version)]
struct Args {
    /// Where to listen. Anybody who reaches this port controls the sandbox
    #[arg(long, default_value = "127.0.0.1:8081", env = "SANDBOX_LISTEN")]
    listen: SocketAddr,
    /// How long a token lives, like "90s", "5m" or "24h"
    #[arg(long, default_value = "24h", value_parser = parse_duration)]
    lifetime: Duration,
    /// What a second sign-in does to the token of the first
    #[arg(long, value_enum, default_value_t = Mode::Fresh)]
    mode: Mode,
    /// How long each sign-in takes, like "250ms"
    #[arg(long, default_value = "0ms", value_parser = parse_duration)]
    delay: Duration,
    /// A user beside the documented one; may be repeated. The password is whatever comes after the second colon
    #[arg(long = "user", value_name = "MERCHANT:NUMBER:PASSWORD", value_parser = user)]
    users: Vec<User>,
    /// Wrong passwords in a row that lock an account; 0 for never
    #[arg(long, default_value_t = DEFAULT_WRONG_PASSWORDS, value_name = "COUNT")]
    lock_after: u32,
    /// Mint tokens of `sub`, `exp` and `iat` alone, as documented: two of one second are then the same
    #[arg(long)]
    plain_tokens: bool,
    /// A certificate in PEM, with those that lead to its CA: the port then speaks TLS alone. Read once, at the start
    #[arg(long, value_name = "FILE", requires = "key_file", env = "SANDBOX_CERTIFICATE_FILE")]
    certificate_file: Option<PathBuf>,
    /// Its key, in PEM
    #[arg(long, value_name = "FILE", requires = "certificate_file", env = "SANDBOX_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// Starts this broker as well, for a suite of tests: with a thousand users of its own, and no floor between sign-ins. Prints where both are
    /// as one line of JSON, and ends with its standard input
    #[arg(long, value_name = "FILE", conflicts_with = "certificate_file")]
    broker: Option<PathBuf>,
    /// Where that broker's log goes; by default it is dropped
    #[arg(long, value_name = "FILE", requires = "broker")]
    broker_log: Option<PathBuf>,
}

fn user(text: &str) -> Result<User, String> {
    let mut parts = text.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(merchant), Some(number), Some(password))
            if !merchant.is_empty() && !password.is_empty() && number.starts_with('+') =>
        {
            Ok(User::new(merchant, number, password))
        }
        _ => Err("write MERCHANT:NUMBER:PASSWORD, the number with its +".to_owned()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("token-broker-sandbox: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), String> {
    let mut users = vec![User::documented()];
    users.extend(args.users);
    users.extend(args.broker.iter().flat_map(|_| with_broker::users()));
    let options = Options {
        users: users.clone(),
        lifetime: args.lifetime,
        mode: args.mode,
        delay: args.delay,
        unique_tokens: !args.plain_tokens,
        wrong_passwords_to_lock: args.lock_after,
        tls: args.certificate_file.zip(args.key_file).map(tls).transpose()?,
    };
    let mut terminated = signal(SignalKind::terminate()).map_err(|error| format!("can't listen for SIGTERM: {error}"))?;
    let sandbox = Sandbox::listen(args.listen, options).await;
    let sandbox = sandbox.map_err(|error| format!("can't listen on {}: {error}", args.listen))?;
    let url = sandbox.url();
    let ended = async {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        }
    };
    if let Some(program) = args.broker {
        let mut broker = WithBroker::start(&program, &url, args.broker_log).await?;
        println!("{}", broker.describe(&url));
        tokio::select! {
            () = ended => {}
            () = input_ends() => {}
            () = broker.ended() => return Err("the broker has ended".to_owned()),
        }
        broker.end().await;
        sandbox.stop().await;
        return Ok(());
    }
    print(&url, args.mode, args.lifetime, &users);
    ended.await;
    let stats = sandbox.stats();
    sandbox.stop().await;
    println!("\n{} sign-ins: {} granted, {} refused, {} faults", stats.sign_ins, stats.granted, stats.refused, stats.faults);
    Ok(())
}

/// Whoever started this has ended, or wants it to end.
async fn input_ends() {
    let (ended, end) = oneshot::channel::<()>();
    // A thread of its own, which the process' end does not wait for.
    thread::spawn(move || {
        // An error is an end.
        drop(io::copy(&mut io::stdin(), &mut io::sink()));
        drop(ended);
    });
    drop(end.await);
}

fn tls((certificate, key): (PathBuf, PathBuf)) -> Result<Tls, String> {
    let read = |path: &Path| fs::read(path).map_err(|why| format!("{} can't be read: {why}", path.display()));
    Tls::from_pem(&read(&certificate)?, &read(&key)?)
}

fn print(url: &str, mode: Mode, lifetime: Duration, users: &[User]) {
    println!("A vault for development on {url} ({mode:?} tokens of {} s). Ctrl-C ends it.", lifetime.as_secs());
    for User { merchant_id, number, .. } in users {
        println!("  user {number} of merchant {merchant_id}");
    }
    let User { merchant_id, number, password } = User::documented();
    println!(
        "
Sign in as the documented user:

  curl -sS {url}/oauth/token -H 'X-Merchant-ID: {merchant_id}' \\
    -d grant_type=mobile_phone --data-urlencode 'number={number}' -d password={password}

Let the next sign-in fail, and see what was counted:

  curl -sS {url}/_sandbox/faults -d '[{{\"kind\": \"reply\", \"status\": 503, \"body\": \"busy\"}}]'
  curl -sS {url}/_sandbox/stats"
    );
}
