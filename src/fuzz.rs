//! Everything that is read of what others write, given any bytes: `fuzz/` makes fuzzers of these, and a test plays what is kept in
//! `fuzz/corpus`.
//!
//! A target must never be content with "it doesn't panic": each says what has to hold whatever it is given.

/// The client crate's reader: this crate's tests play it with all the others.
mod pem;

use crate::{authn, caller, config, jwks, policy, rpc, telemetry::traces, tier, vault};

/// What reads some input, and panics where the result is not what it has to be.
pub type Target = fn(&[u8]);

/// Each target, by the name of its fuzzer and of its directory in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 17] = [
    ("caller_pattern", caller::fuzz::pattern_and_name),
    ("certificate", authn::certificate::fuzz::certificate),
    ("certificate_names", authn::certificate::fuzz::names),
    ("config_credentials", config::fuzz::credentials),
    ("config_main", config::fuzz::main),
    ("grpc_timeout", rpc::fuzz::timeout),
    ("jwks", jwks::fuzz::key_set),
    ("jwt", authn::service_accounts::fuzz::token),
    ("pem", pem::text),
    ("policy", policy::fuzz::decision),
    ("reply_encoding", rpc::fuzz::reply),
    ("request", rpc::fuzz::request),
    ("shared_entry", tier::fuzz::entry),
    ("traceparent", traces::fuzz::header),
    ("vault_reply", vault::fuzz::reply),
    ("vault_retry_after", vault::fuzz::retry_after),
    ("vault_wait", vault::fuzz::worded_wait),
];

/// Plays one input.
///
/// # Panics
/// Where something is at fault; or if there is no target of this name.
pub fn run(target: &str, input: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    assert!(found.is_some(), "there is no target {target}");
    if let Some((_, play)) = found {
        play(input);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// What once was a fault, and what the fuzzers begin with.
    #[test]
    fn what_is_kept_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let directories: BTreeSet<_> =
            fs::read_dir(&corpus).expect("is there").map(|entry| entry.expect("can be read").file_name()).collect();
        assert_eq!(directories, TARGETS.iter().map(|(name, _)| (*name).into()).collect(), "a directory for each target");
        for (name, _) in TARGETS {
            let mut played = 0;
            for entry in fs::read_dir(corpus.join(name)).expect("is there") {
                let path = entry.expect("can be read").path();
                let input = fs::read(&path).expect("can be read");
                let played_well = std::panic::catch_unwind(|| run(name, &input)).is_ok();
                assert!(played_well, "{}", path.display());
                played += 1;
            }
            assert!(played > 0, "{name} has something to begin with");
        }
    }
}
