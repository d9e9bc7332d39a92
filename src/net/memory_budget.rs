//! How much memory all connections together may take, as one number, and the limits that follow from it.
//!
//! Must never be exceeded by anything that clients send, ask for or leave unread; `tests/attacks` measures what the parts are taken for.

/// The most that connections and the calls on them take together, in bytes, whoever connects and whatever they send: of the 512 MiB
/// that the chart gives the broker. Users and their tokens come on top: 2 to 3 KiB each. What the kernel keeps for sockets is its
/// own; `app::listeners` bounds it.
pub const CONNECTIONS_MEMORY_MAX: usize = 384 * MIB;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Most connections of callers: a thousand pods with a few channels each.
pub const CALLERS_MAX: usize = 3_072;
/// Most connections to the health port: the kubelet's, and a few people's.
pub const HEALTH_MAX: usize = 128;
/// What one takes that is idle, with TLS: buffers of h2 (24 KiB) and rustls, and its task; 34 KiB in plaintext, and 42 with TLS.
const IDLE_BYTES: usize = 44 * KIB;
/// The certificates that its client shows, which rustls keeps for as long as the connection lasts, are so many at most …
pub(super) const CHAIN_MAX: usize = 5;
/// … and so long, all together: five of the usual size, with RSA keys of 2,048 bits, have some 6 KiB.
pub(super) const CHAIN_BYTES_MAX: usize = 8 * KIB;

/// Most calls that wait at once, all together: for the vault, for their message, or to be read. Beyond what `signin` lets wait for
/// sign-ins, so that those are refused with words.
pub const WAITING_MAX: usize = 26_624;
/// What one takes: its request's metadata, its records in h2 and hyper, its task, and its answer.
const WAITING_BYTES: usize = 6 * KIB;
/// Most of them before it is known who calls, all together, and as many probes and streams without an end …
pub const STRANGERS_WAITING_MAX: usize = 640;
/// … and on one connection: many calls may begin with the one that is to prove who calls.
pub const STRANGERS_WAITING_OF_CONNECTION: usize = 128;
/// What one of those takes at most beyond that: its metadata as far as it is taken, and its part of the connection's window.
const STRANGER_BYTES: usize = 16 * KIB + STREAM_WINDOW as usize;

/// Most connections whose client leaves something unsent at once: beyond it the one that has for the longest is closed.
pub const UNSENT_MAX: usize = 32;
/// Most calls at once on a connection, as HTTP/2 tells its client: with a certificate of a client CA, or where nobody is asked. Generous,
/// since hits would queue in the client behind calls that wait for the vault.
pub const STREAMS_MAX: u32 = 512;
/// On one without a certificate: probes have few calls at once, and so have callers with a service account's token.
pub const STREAMS_OF_STRANGER_MAX: u32 = 128;
/// On one of the health port.
pub const STREAMS_OF_PROBE_MAX: u32 = 8;
/// Streams without an end of their own (watches of health, reflection) on a connection: a client needs one of each.
pub const ENDLESS_STREAMS_MAX: usize = 4;
/// What an answer takes in h2 that was made and not sent.
const UNSENT_BYTES: usize = 3 * KIB / 2;

/// Unread bytes of a stream: the longest message has 8 KiB (`rpc::layer`).
pub const STREAM_WINDOW: u32 = 16 * 1024;

const _: () = assert!(
    (CALLERS_MAX + HEALTH_MAX) * (IDLE_BYTES + CHAIN_BYTES_MAX)
        + WAITING_MAX * WAITING_BYTES
        + 2 * STRANGERS_WAITING_MAX * STRANGER_BYTES
        + UNSENT_MAX * STREAMS_MAX as usize * UNSENT_BYTES
        <= CONNECTIONS_MEMORY_MAX,
    "the parts are more than the whole"
);

/// What one port takes.
#[derive(Clone, Copy, Debug)]
pub struct PortLimits {
    /// Connections, at least one.
    pub connections: usize,
    /// Whether even a connection that waits for an answer is closed for another, if no other can be: where answers take no time.
    pub evict_busy: bool,
    /// What waits at once, all together, where it is known who asks.
    pub waiting: usize,
    /// And where it isn't: calls, and probes with streams that have no end.
    pub strangers_waiting: [usize; 2],
}

impl PortLimits {
    /// Of callers' port.
    #[must_use]
    pub fn callers(connections: usize) -> Self {
        Self { connections, evict_busy: false, waiting: WAITING_MAX, strangers_waiting: [STRANGERS_WAITING_MAX; 2] }
    }

    /// Of a port for probes, who prove nothing.
    #[must_use]
    pub fn probes(connections: usize) -> Self {
        // All that they may have at once, twice, since one address has half: none is turned away.
        let waiting = connections.saturating_mul(2 * STREAMS_OF_PROBE_MAX as usize);
        Self { connections, evict_busy: true, waiting, strangers_waiting: [waiting; 2] }
    }
}
