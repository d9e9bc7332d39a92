//! The gRPC services: `GetToken`, health and reflection, and what surrounds each call.
//!
//! Must never let a call in without a deadline and an identity, nor out without having been told of once.

pub mod deadline;
mod encode;
mod get_token;
pub mod guard;
pub mod health;
mod layer;
pub mod services;
pub mod status;
pub mod strangers;
mod streams;
pub mod trial;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    //! What is fuzzed of them.
    pub(crate) use super::{deadline::fuzz::header as timeout, encode::fuzz::reply, get_token::fuzz::request};
}

mod generated {
    //! The service, over [`Call`](super::get_token::Call) and [`Reply`](super::encode::Reply).
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    #![allow(clippy::all, clippy::allow_attributes_without_reason, clippy::missing_errors_doc, reason = "generated")]

    include!(concat!(env!("OUT_DIR"), "/tokenbroker.v1.rs"));
}
