//! Pure but for whom this process is: who beside its owner may get at a file, or put something else into it.
//!
//! Must never refuse what Kubernetes mounts: of a Secret or a ConfigMap the group may read (`fsGroup`), all may where `defaultMode` says
//! so, and nobody may write; what a pod writes itself its group may write, which is the broker's own.

use std::{fs, os::unix::fs::MetadataExt as _};

use rustix::process::{getegid, getgroups};

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
    /// Of a file that is its owner's alone.
    pub(super) const OWNER_ALONE: Self = Self { mode: 0o600, strange_group: false };

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
