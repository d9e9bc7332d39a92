//! What brought a token: which credential, at which upstream.
//!
//! Must never give a password away.

/// Tells one upstream from another, within this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upstream(pub(crate) u64);

/// What a user signs in with and where, together: what is known of one pair says nothing of another. Their maker hashes with a key
/// of its own, so that it gives no password away. That two differ and look the same happens once in 2⁶⁴.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    pub(crate) credential: u64,
    pub(crate) upstream: Upstream,
}
