//! `check`: whether a configuration is in order, who may ask for whom by it, and whether the server that replicas share can be
//! used.
//!
//! Must never ask a server for anything but whether it can be used, nor wait for that for long.

use std::process::ExitCode;

use tokio::runtime::Builder;

use super::{Check, EXIT_CONFIG, EXIT_TEMPORARY, EXIT_USAGE, forbid_core_dumps};
use crate::{
    caller::{CallerId, CallerName},
    config::{self, Config, Loaded, SharedServer},
    plain,
    policy::{Denial, Leave, Policy, Trial},
    telemetry::output::{self, complain},
    tier::Tier,
    user::{MerchantId, Number, UserKey},
};

/// Says what was asked. The exit code says it too, so that nothing hangs on its being read.
fn tell(line: impl std::fmt::Display) {
    output::print(plain::in_lines(&line.to_string())).ok();
}

pub(super) fn check(Check { configured, caller, merchant_id, number }: Check) -> ExitCode {
    forbid_core_dumps();
    let path = configured.config;
    match config::load(&path) {
        Ok(Loaded { config, warnings }) => {
            for warning in &warnings {
                complain(format_args!("warning: {warning}"), None);
            }
            if let (Some(caller), Some(merchant_id), Some(number)) = (caller, merchant_id, number) {
                return explain(&config, &caller, merchant_id, number);
            }
            let is_shared = match &config.shared {
                Some(shared) => match try_out(&shared.server) {
                    Ok(()) => true,
                    Err(why) => {
                        complain(
                            format_args!("error: [shared] is in order, but its server can't be used from here: {why}"),
                            None,
                        );
                        return ExitCode::from(EXIT_TEMPORARY);
                    }
                },
                None => false,
            };
            let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
            let (users, warned) = (count(config.users.len(), "user"), count(warnings.len(), "warning"));
            tell(format_args!("{}: in order, {users}, {warned}", path.display()));
            if is_shared {
                tell("the server of [shared] can be reached and used");
            }
            ExitCode::SUCCESS
        }
        Err(faults) => {
            complain(faults, None);
            ExitCode::from(EXIT_CONFIG)
        }
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
fn explain(config: &Config, caller: &str, merchant_id: String, number: String) -> ExitCode {
    let parse = || {
        let caller = CallerName::parse(caller).map_err(|why| format!("--caller {why}"))?;
        let merchant = MerchantId::parse(merchant_id).map_err(|why| format!("--merchant-id {why}"))?;
        Ok::<_, String>((caller, merchant, Number::parse(number).map_err(|why| format!("--number {why}"))?))
    };
    let (caller, merchant, number) = match parse() {
        Ok(parsed) => parsed,
        Err(fault) => {
            complain(format_args!("error: {fault}"), None);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let key = UserKey { merchant, number };
    let policy = Policy::of(config);
    let entry = |id: &str, line: usize| format!("[[callers]] {id} in line {line}");
    let verdict = match policy.decide(&CallerId::Named(caller.clone()), &key) {
        Ok(Leave::Everyone) => Ok("callers are not asked who they are, and everybody may ask for everybody".to_owned()),
        Ok(Leave::Entry { id, line }) => Ok(entry(id, line)),
        Err(Denial::Unlisted) => Err("no [[callers]] has this id".to_owned()),
        Err(Denial::Merchant { id, line }) => Err(format!("{} has not this merchant", entry(id, line))),
        Err(Denial::Number { id, line }) => Err(format!("{} has the merchant, but not this number", entry(id, line))),
    };
    let known = config.users.iter().any(|user| user.key == key);
    match verdict {
        Ok(why) => {
            tell(format_args!("allowed: {caller} may ask for {key}: {why}"));
            if !known {
                tell("but that user is not configured: the answer would be NOT_FOUND");
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            tell(format_args!("denied: {caller} may not ask for {key}: {why}"));
            let trial = match policy.lets_in(&CallerId::Named(caller)) {
                None => return ExitCode::FAILURE,
                Some(Trial::All) => "the policy is (auth.enforce = false)".to_owned(),
                Some(Trial::Entry { id, line }) => format!("{} is (trial = true)", entry(id, line)),
            };
            tell(format_args!("but it is let in, and counted, since that is on trial: {trial}"));
            if !known {
                tell("and that user is not configured: the answer would be NOT_FOUND");
            }
            ExitCode::FAILURE
        }
    }
}
