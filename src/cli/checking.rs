//! `check`: whether a configuration is in order, who may ask for whom by it, and whether the server that replicas share can be
//! used.
//!
//! Must never ask a server for anything but whether it can be used, nor wait for that for long.

use std::{path::PathBuf, process::ExitCode};

use clap::ValueEnum;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::{Check, EXIT_CONFIG, EXIT_TEMPORARY, EXIT_USAGE, forbid_core_dumps};
use crate::{
    caller::{CallerId, CallerName},
    config::{self, Config, Fault, Loaded, SharedServer},
    plain,
    policy::{Denial, Leave, Policy, Trial},
    telemetry::output::{self, complain},
    tier::Tier,
    user::{MerchantId, Number, UserKey},
};

/// How what was found is told.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum Format {
    /// For people: what is at fault on standard error, the rest on standard output.
    #[default]
    Text,
    /// For programs: one object on standard output.
    Json,
}

/// What was found.
struct Found {
    file: PathBuf,
    faults: Vec<(Severity, Fault)>,
    /// How many there are; none where the configuration is at fault.
    users: Option<usize>,
    /// Whether the server that replicas share can be used; none where it was not asked.
    shared: Option<Result<(), String>>,
    asked: Option<Asked>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
}

/// What the policy says of a caller and a user.
struct Asked {
    caller: CallerName,
    key: UserKey,
    /// Why it may, or may not.
    verdict: Result<String, String>,
    /// What is on trial, where it is let in all the same.
    trial: Option<String>,
    is_known: bool,
}

pub(super) fn check(Check { configured, caller, merchant_id, number, format }: Check) -> ExitCode {
    forbid_core_dumps();
    let who = match (caller, merchant_id, number) {
        (Some(caller), Some(merchant), Some(number)) => Some((caller, merchant, number)),
        _ => None,
    };
    let found = match look(configured.config, who) {
        Ok(found) => found,
        Err(usage) => {
            complain(format_args!("error: {usage}"), None);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match format {
        Format::Text => found.tell(),
        // The exit code says it too, so that nothing hangs on its being read.
        Format::Json => drop(output::print(plain::in_lines(&format!("{:#}", found.json())))),
    }
    found.exit_code()
}

/// Looks at the configuration, and at what else was asked.
///
/// # Errors
/// Where what was asked makes no sense.
fn look(file: PathBuf, who: Option<(String, String, String)>) -> Result<Found, String> {
    let (config, warnings) = match config::load(&file) {
        Ok(Loaded { config, warnings }) => (config, warnings),
        Err(faults) => {
            let faults = faults.iter().map(|fault| (Severity::Error, fault.clone())).collect();
            return Ok(Found { file, faults, users: None, shared: None, asked: None });
        }
    };
    let faults = warnings.into_iter().map(|warning| (Severity::Warning, warning)).collect();
    let (asked, shared) = match who {
        Some((caller, merchant, number)) => (Some(explain(&config, &caller, merchant, number)?), None),
        None => (None, config.shared.as_ref().map(|shared| try_out(&shared.server))),
    };
    Ok(Found { file, faults, users: Some(config.users.len()), shared, asked })
}

impl Found {
    fn exit_code(&self) -> ExitCode {
        if self.users.is_none() {
            ExitCode::from(EXIT_CONFIG)
        } else if matches!(self.shared, Some(Err(_))) {
            ExitCode::from(EXIT_TEMPORARY)
        } else if self.asked.as_ref().is_some_and(|asked| asked.verdict.is_err()) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }

    fn tell(&self) {
        let tell = |line: String| drop(output::print(plain::in_lines(&line)));
        for (severity, fault) in &self.faults {
            match severity {
                Severity::Error => complain(fault, None),
                Severity::Warning => complain(format_args!("warning: {fault}"), None),
            }
        }
        let Some(users) = self.users else { return };
        if let Some(asked) = &self.asked {
            return asked.lines().into_iter().for_each(tell);
        }
        if let Some(Err(why)) = &self.shared {
            return complain(format_args!("error: [shared] is in order, but its server can't be used from here: {why}"), None);
        }
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let (users, warned) = (count(users, "user"), count(self.faults.len(), "warning"));
        tell(format!("{}: in order, {users}, {warned}", self.file.display()));
        if self.shared.is_some() {
            tell("the server of [shared] can be reached and used".to_owned());
        }
    }

    fn json(&self) -> Value {
        let fault = |(severity, Fault { file, line, key, message }): &(Severity, Fault)| {
            let severity = if *severity == Severity::Error { "error" } else { "warning" };
            let key = Some(key).filter(|key| !key.is_empty());
            json!({ "severity": severity, "file": file.to_string_lossy(), "line": line, "key": key, "message": message })
        };
        let shared = self.shared.as_ref().map(|tried| match tried {
            Ok(()) => json!({ "usable": true }),
            Err(why) => json!({ "usable": false, "why": why }),
        });
        json!({
            "file": self.file.to_string_lossy(),
            "in_order": self.users.is_some(),
            "faults": self.faults.iter().map(fault).collect::<Vec<_>>(),
            "users": self.users,
            "shared": shared,
            "caller": self.asked.as_ref().map(Asked::json),
        })
    }
}

impl Asked {
    fn lines(&self) -> Vec<String> {
        let Self { caller, key, verdict, trial, is_known } = self;
        let mut lines = vec![match verdict {
            Ok(why) => format!("allowed: {caller} may ask for {key}: {why}"),
            Err(why) => format!("denied: {caller} may not ask for {key}: {why}"),
        }];
        if let Some(trial) = trial {
            lines.push(format!("but it is let in, and counted, since that is on trial: {trial}"));
        }
        if !is_known && (verdict.is_ok() || trial.is_some()) {
            let word = if verdict.is_ok() { "but" } else { "and" };
            lines.push(format!("{word} that user is not configured: the answer would be NOT_FOUND"));
        }
        lines
    }

    fn json(&self) -> Value {
        let (Ok(why) | Err(why)) = &self.verdict;
        json!({
            "caller": self.caller.to_string(),
            "merchant_id": self.key.merchant.as_str(),
            "number": self.key.number.to_string(),
            "allowed": self.verdict.is_ok(),
            "why": why,
            "on_trial": self.trial,
            "user_configured": self.is_known,
        })
    }
}

/// Whether the server that replicas share can be used, as one try says that ends by itself.
fn try_out(server: &SharedServer) -> Result<(), String> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let tried = runtime.block_on(Tier::try_out(server)).map_err(|why| why.to_string());
    // A look-up of its name may still be under way.
    runtime.shutdown_background();
    tried
}

/// Whether a caller may ask for a user, and which entry says so.
///
/// # Errors
/// What is wrong with the question.
fn explain(config: &Config, caller: &str, merchant_id: String, number: String) -> Result<Asked, String> {
    let caller = CallerName::parse(caller).map_err(|why| format!("--caller {why}"))?;
    let merchant = MerchantId::parse(merchant_id).map_err(|why| format!("--merchant-id {why}"))?;
    let key = UserKey { merchant, number: Number::parse(number).map_err(|why| format!("--number {why}"))? };
    let policy = Policy::of(config);
    let entry = |id: &str, line: usize| format!("[[callers]] {id} in line {line}");
    let id = CallerId::Named(caller.clone());
    let verdict = match policy.decide(&id, &key) {
        Ok(Leave::Everyone) => Ok("callers are not asked who they are, and everybody may ask for everybody".to_owned()),
        Ok(Leave::Entry { id, line }) => Ok(entry(id, line)),
        Err(Denial::Unlisted) => Err("no [[callers]] has this id".to_owned()),
        Err(Denial::Merchant { id, line }) => Err(format!("{} has not this merchant", entry(id, line))),
        Err(Denial::Number { id, line }) => Err(format!("{} has the merchant, but not this number", entry(id, line))),
    };
    let trial = policy.lets_in(&id).filter(|_| verdict.is_err()).map(|trial| match trial {
        Trial::All => "the policy is (auth.enforce = false)".to_owned(),
        Trial::Entry { id, line } => format!("{} is (trial = true)", entry(id, line)),
    });
    let is_known = config.users.iter().any(|user| user.key == key);
    Ok(Asked { caller, key, verdict, trial, is_known })
}
