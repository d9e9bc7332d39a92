//! The running configuration: what of a reload takes effect at once, and what takes a restart.
//!
//! Must never apply a half: what can't be built leaves everything as it was.

use std::{mem, sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{flight_settings, vault_settings};
use crate::{
    broker::Broker,
    clock::Clock,
    config::{self, Config},
    grpc::deadline::CallTimeout,
    telemetry::Level,
    vault::Vault,
};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndTimes {
    pub(super) lame_duck: Duration,
    pub(super) drain: Duration,
}

impl From<&config::Grpc> for EndTimes {
    fn from(grpc: &config::Grpc) -> Self {
        Self { lame_duck: grpc.lame_duck, drain: grpc.drain }
    }
}

/// Everything that a reload reaches.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) broker: Arc<Broker>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) call_timeout: CallTimeout,
    pub(super) end_times: watch::Sender<EndTimes>,
    pub(super) level: Option<Level>,
    /// What the process began with, without the users, whose passwords have their own place: what only a start takes over is
    /// in force as it is here.
    pub(super) started: Config,
}

impl Live {
    /// Puts another configuration in force.
    pub(super) fn apply(&mut self, mut next: Config) {
        let sign_in = match Vault::new(vault_settings(&next.vault), Arc::clone(&self.clock)) {
            Ok(vault) => Arc::new(vault),
            Err(fault) => {
                error!(%fault, "the vault's client can't be built: the configuration stays as it was");
                return;
            }
        };
        self.say_what_takes_a_restart(&next);
        let users = mem::take(&mut next.users);
        let total = users.len();
        let changes = self.broker.reconfigure(users, flight_settings(&next.vault, sign_in), next.vault.idle_after);
        self.call_timeout.set(next.grpc.call_timeout);
        self.end_times.send_replace(EndTimes::from(&next.grpc));
        if let Some(level) = &self.level {
            level.set(next.log.level);
        }
        info!(
            users = total,
            added = changes.added,
            changed = changes.changed,
            removed = changes.removed,
            "the configuration is in force"
        );
    }

    fn say_what_takes_a_restart(&self, next: &Config) {
        let (now, then) = (&self.started, next);
        let admin = |config: &Config| config.admin.as_ref().map(|admin| admin.listen);
        for (key, differs) in [
            ("grpc.listen", now.grpc.listen != then.grpc.listen),
            ("grpc.health_listen", now.grpc.health_listen != then.grpc.health_listen),
            ("admin.listen", admin(now) != admin(then)),
            ("log.format", now.log.format != then.log.format),
        ] {
            if differs {
                warn!(key, "this key takes effect with the next start");
            }
        }
    }
}
