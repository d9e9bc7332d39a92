//! The tier that replicas share: real Redis, several brokers, one vault that counts.

mod faults;
mod ground;
mod interrupted;
mod kills;
mod operators;
mod sharing;
mod stops;
mod strangers_entries;
