//! Histories of the core that nobody had thought of, in paused time: what is in force now judges what was before.
//!
//! Each was once a fault. The simulation draws such histories by the thousand; here they are told one by one.

mod forgotten;
mod outage;
mod replicas;
mod rules;
mod threads;
mod upstream;
