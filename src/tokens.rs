//! Tokens: what one is, how good it is at a moment, and the cache of those that are good.
//!
//! Must never hand out a token that has ended.

pub mod cache;
pub mod cached_token;
pub mod lifetime;
pub mod token;
pub mod version;
