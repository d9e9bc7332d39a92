//! The gRPC services: `GetToken`, health and reflection, and what surrounds each call.
//!
//! Must never let a call in without a deadline and an identity, nor out without having been told of once.

pub mod deadline;
mod get_token;
pub mod guard;
pub mod health;
mod layer;
pub mod services;
pub mod status;
mod streams;
