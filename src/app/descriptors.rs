//! How many files and sockets the system lets the process open, and what of them is for whom.
//!
//! Must never let connections take the descriptors that sign-ins, probes and files need.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::{admin, net::memory_budget};

/// Kept beside those for sign-ins: the configuration's files, the trail's, the API server, a collector of traces, name servers, the tier that replicas share, and
/// sockets of connections that are being accepted or closed.
const OTHERS: usize = 32;
/// Where the descriptors in use can't be counted: the outputs, the runtime's own, listeners.
const IN_USE: usize = 24;
/// Health and admin port get this part each of what is left, up to their most: a probe takes one for a moment.
const PART_OF_PROBES: usize = 8;

/// How many connections each port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// `grpc.listen`.
    pub grpc: usize,
    /// `grpc.health_listen`.
    pub health: usize,
    /// `admin.listen`.
    pub admin: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { grpc: memory_budget::CALLERS_MAX, health: memory_budget::HEALTH_MAX, admin: admin::CONNECTIONS_MAX }
    }
}

impl ConnectionLimits {
    /// Shares out what a limit leaves: first what sign-ins and files need, half of it at most, then the probes' ports.
    fn of(limit: usize, in_use: usize, sign_ins: usize, ports: (bool, bool)) -> Self {
        let kept = (sign_ins.saturating_add(OTHERS)).min(limit / 2);
        let left = limit.saturating_sub(in_use).saturating_sub(kept);
        let part = |there: bool, most: usize| if there { (left / PART_OF_PROBES).clamp(1, most) } else { 0 };
        let most = Self::default();
        let (health, admin) = (part(ports.0, most.health), part(ports.1, most.admin));
        Self { grpc: left.saturating_sub(health + admin).clamp(1, most.grpc), health, admin }
    }
}

/// Takes as many descriptors as the process may have, and says what that makes with so many sign-ins at once, and with these ports beside
/// the one for callers: health and admin. To be called once all ports are bound and the app is made, whose threads take some too.
#[must_use]
pub fn take(sign_ins: usize, ports: (bool, bool)) -> ConnectionLimits {
    let before = getrlimit(Resource::Nofile);
    if let (Some(soft), maximum) = (before.current, before.maximum)
        && maximum.is_none_or(|hard| soft < hard)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        warn!(error = %io::Error::from(error), soft, "the soft limit of descriptors can't be raised");
    }
    let now = getrlimit(Resource::Nofile).current;
    let limit = now.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let in_use = fs::read_dir("/proc/self/fd").map_or(IN_USE, Iterator::count);
    let connection_limits = ConnectionLimits::of(limit, in_use, sign_ins, ports);
    let ConnectionLimits { grpc, health, admin } = connection_limits;
    info!(soft_before = before.current, limit = now, in_use, grpc, health, admin, "descriptors: connections that are taken");
    if grpc < memory_budget::CALLERS_MAX {
        warn!(
            grpc,
            most = memory_budget::CALLERS_MAX,
            "few descriptors: fewer connections are taken than could be; raise the hard limit (ulimit -Hn, LimitNOFILE=) to 16384"
        );
    }
    connection_limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sign_ins_and_probes_have_theirs_and_nothing_goes_beyond_the_limit() {
        assert_eq!(ConnectionLimits::of(1 << 20, 20, 64, (true, true)), ConnectionLimits::default());
        assert_eq!(ConnectionLimits::of(usize::MAX, 20, 64, (true, true)), ConnectionLimits::default());
        assert_eq!(
            ConnectionLimits::of(1 << 20, 20, 64, (false, false)),
            ConnectionLimits { health: 0, admin: 0, ..ConnectionLimits::default() }
        );
        assert_eq!(ConnectionLimits::of(300, 20, 64, (true, true)), ConnectionLimits { grpc: 138, health: 23, admin: 23 });
        for limit in [64, 100, 256, 300, 1_024, 4_096, 20_000] {
            for sign_ins in [1, 64, 10_000] {
                let in_use = 20;
                let ConnectionLimits { grpc, health, admin } = ConnectionLimits::of(limit, in_use, sign_ins, (true, true));
                let left = limit - in_use - grpc - health - admin;
                assert!(left >= (sign_ins + OTHERS).min(limit / 2), "{limit} {sign_ins}");
                assert!(grpc >= health && health >= 1 && admin >= 1);
            }
        }
        assert_eq!(ConnectionLimits::of(10, 20, 64, (true, true)), ConnectionLimits { grpc: 1, health: 1, admin: 1 });
    }
}
