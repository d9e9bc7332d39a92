//! The gRPC services: `GetToken`, health and reflection, and what surrounds each call.
//!
//! Must never let a call in without a deadline and an identity, nor out without having been counted.

pub mod connection;
pub mod deadline;
pub mod get_token;
pub mod guard;
pub mod health;
pub mod services;
pub mod status;
