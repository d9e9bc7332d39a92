//! Pure: is this token fresh, due or expired; margins and jitter.

pub mod lifetime;
