//! `[operator]`: where an operator acts on single users, and who that may be.
//!
//! Must never let the socket be anything that others could reach: it is a path, not an address.

use super::{reader::Reader, values::OperatorConfig};

/// Longest path of a Unix socket, in bytes, less the longest end that it has while it is made (unix(7): 108 with a zero).
const PATH_MAX: usize = 107 - ".4194304/s".len();
/// Root may read the broker's memory anyhow.
const UIDS: [u32; 1] = [0];

/// Reads the table. None where it is at fault.
pub(super) fn read(mut table: Reader<'_, '_>) -> Option<OperatorConfig> {
    const KEY: &str = "socket";
    let at = table.at();
    let socket = table.string(KEY);
    let uids = table.uids("uids", &UIDS).unwrap_or_else(|| UIDS.to_vec());
    if socket.is_none() && table.lacks(KEY) {
        table.fault(at, KEY, "is missing: name the socket, such as \"/run/token-broker/operator.sock\", or remove [operator]");
    }
    let socket = socket.map(|found| {
        let path = table.findings().source().beside(&found.value);
        if found.value.is_empty() {
            table.fault(found.at, KEY, "is empty: name the socket, such as \"/run/token-broker/operator.sock\"");
        } else if path.as_os_str().len() > PATH_MAX {
            table.fault(found.at, KEY, format!("is too long for a socket: {PATH_MAX} bytes at most"));
        }
        path
    });
    table.finish();
    Some(OperatorConfig { socket: socket?, uids })
}
