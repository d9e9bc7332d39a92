//! Who beside its owner may get at a file, or put something else into it.
//!
//! Must never refuse what Kubernetes mounts: of a Secret or a ConfigMap the group may read (`fsGroup`), all may where `defaultMode` says
//! so, and nobody may write; what a pod writes itself its group may write, which is the broker's own.

use std::{fs, os::unix::fs::MetadataExt as _};

use rustix::process::{getegid, getgroups};

use super::findings::{At, Findings};

/// The permission bits of "others". The group's are left alone: a Kubernetes volume with `fsGroup` is mounted 0440, and then
/// its group is the broker's own.
const OTHERS: u32 = 0o007;
/// Others may write.
const OTHERS_WRITE: u32 = 0o002;
/// The group may.
const GROUP_WRITES: u32 = 0o020;
/// The group of root, which is made for no program.
const ROOT: u32 = 0;

/// What a file's mode says of others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permissions {
    mode: u32,
    /// Whether its group is none of the broker's own.
    strange_group: bool,
}

/// Who may write beside the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Writers {
    /// A group that is not the broker's own: worth a word.
    Group,
    /// Every user of the machine: whoever gets to run anything there decides what the broker trusts, or what it sends.
    Everyone,
}

impl Permissions {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        let strange = |gid| {
            let is_own = getegid().as_raw() == gid || getgroups().is_ok_and(|own| own.iter().any(|own| own.as_raw() == gid));
            gid == ROOT || !is_own
        };
        Self { mode: metadata.mode(), strange_group: metadata.mode() & GROUP_WRITES != 0 && strange(metadata.gid()) }
    }

    /// Whether others than the owner and the group may get at the file.
    pub(super) fn open_to_others(self) -> bool {
        self.mode & OTHERS != 0
    }

    /// Who may write to it, if anybody but its owner.
    pub(super) fn writers(self) -> Option<Writers> {
        if self.mode & OTHERS_WRITE != 0 {
            Some(Writers::Everyone)
        } else if self.mode & GROUP_WRITES != 0 && self.strange_group {
            Some(Writers::Group)
        } else {
            None
        }
    }

    /// Says who else may write to a file that is named here.
    pub(super) fn tell(self, findings: &Findings<'_>, at: At, key: &str) {
        if let Some(writers) = self.writers() {
            writers.tell(findings, at, key, "names a file to which", "");
        }
    }

    /// Says who else may write to the very file that is being read.
    pub(super) fn tell_own(self, findings: &Findings<'_>) {
        if let Some(writers) = self.writers() {
            writers.tell(findings, At::NOWHERE, "", "is a file to which", "");
        }
    }
}

impl Writers {
    /// `file` leads to who it is, and `more` says of how many other files the same is true.
    pub(super) fn tell(self, findings: &Findings<'_>, at: At, key: &str, file: &str, more: &str) {
        match self {
            Self::Everyone => findings.fault(
                at,
                key,
                format!(
                    "{file} every user of this machine may write{more}, and whoever does decides what the broker sends or whom it \
                     trusts: take that away (chmod o-w), and look whether what it says is still yours"
                ),
            ),
            Self::Group => findings.warn(
                at,
                key,
                format!(
                    "{file} its group, which is not made for the broker, may write{more}, and whoever does decides what the broker sends or \
                     whom it trusts: take that away (chmod g-w)"
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_mounts_is_nobodys_to_write() {
        for (mode, strange_group, open, writers) in [
            (0o400, true, false, None),
            (0o440, false, false, None),
            (0o440, true, false, None),
            (0o600, true, false, None),
            (0o644, true, true, None),
            (0o444, true, true, None),
            (0o100_640, true, false, None),
            (0o660, false, false, None),
            (0o660, true, false, Some(Writers::Group)),
            (0o664, true, true, Some(Writers::Group)),
            (0o666, false, true, Some(Writers::Everyone)),
            (0o602, false, true, Some(Writers::Everyone)),
            (0o777, true, true, Some(Writers::Everyone)),
        ] {
            let found = Permissions { mode, strange_group };
            assert_eq!((found.open_to_others(), found.writers()), (open, writers), "{mode:o} {strange_group}");
        }
    }
}
