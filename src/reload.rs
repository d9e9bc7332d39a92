//! Watches the configuration's files, and hands on what of them is in order.
//!
//! Must never take a half-written file, do file work on a worker of the runtime, or let a fault displace what is in force.

use std::time::Duration;

use tokio::{sync::mpsc, task::spawn_blocking, time::sleep};
use tracing::{error, info, warn};

use crate::config::{Config, Faults, Files, Kept, Reloaded};

/// How often the files are looked at: a change is to be seen within five seconds, and the reading takes some of them.
const POLL_EVERY: Duration = Duration::from_secs(2);

/// Looks at the files until dropped, and at once when `hup` tells so; gives every good configuration to `publish`.
pub async fn watch(mut files: Files, mut hup: mpsc::Receiver<()>, mut publish: impl FnMut(Config)) {
    let mut told = String::new();
    loop {
        let asked = tokio::select! {
            biased;
            Some(()) = hup.recv() => true,
            () = sleep(POLL_EVERY) => false,
        };
        // Stat calls and parsing are no work for the threads that answer calls.
        let looked = spawn_blocking(move || {
            let outcome = if asked { Some(files.reload_all()) } else { files.changed().then(|| files.reload()) };
            (files, outcome)
        });
        let Ok((back, outcome)) = looked.await else {
            error!("looking at the configuration broke off: it is not reloaded any more; restart the broker");
            return;
        };
        files = back;
        match outcome {
            None => {}
            Some(Ok(reloaded)) => take(reloaded, asked, &mut told, &mut publish),
            Some(Err(faults)) => refuse(&faults, asked, &mut told),
        }
    }
}

fn take(
    Reloaded { config, warnings, kept, changed }: Reloaded,
    asked: bool,
    told: &mut String,
    publish: &mut impl FnMut(Config),
) {
    for warning in &warnings {
        warn!("{warning}");
    }
    let faults: String = kept.iter().map(|kept| format!("{}\n", kept.faults)).collect();
    if asked || faults != *told {
        for Kept { file, users, faults } in &kept {
            let in_force = users.unwrap_or_default();
            error!(file = %file.display(), users_in_force = in_force, "a credentials file is at fault; its last good version stays in force");
            faults.to_string().lines().for_each(|fault| error!("{fault}"));
        }
    }
    *told = faults;
    if changed {
        publish(config);
    } else if asked {
        info!("nothing has changed in the configuration");
    }
}

/// Tells each set of faults once, however often it is met.
fn refuse(faults: &Faults, asked: bool, told: &mut String) {
    let text = faults.to_string();
    if asked || text != *told {
        error!("the configuration is at fault: what is in force stays as it is");
        text.lines().for_each(|fault| error!("{fault}"));
    }
    *told = text;
}
