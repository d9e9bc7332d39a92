//! What the tests stand on. No test is in here, and no helper that several files use is anywhere else.

pub(crate) mod authority;
pub(crate) mod bare;
pub(crate) mod broker_in_memory;
pub(crate) mod cluster;
pub(crate) mod plain_http;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod said;
pub(crate) mod scripted_vault;
pub(crate) mod secured;
pub(crate) mod stage;

use std::time::Duration;

use token_broker::proto::v1::Token;

pub(crate) use self::{
    bare::Bare,
    plain_http::{http, request},
    said::Said,
    stage::{Running, Setting, Stage, replace},
};

/// The user of the vendor's documentation.
pub(crate) const MERCHANT: &str = "bece038f-2e46-49f4-b25e-89cd38d6dc16";
pub(crate) const NUMBER: &str = "+447871239999";
pub(crate) const PASSWORD: &str = "1234Qwerty";

/// Longer than anything here takes; a test that reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// `[[users]]` of the documented merchant.
pub(crate) fn user(number: &str, password: &str) -> String {
    format!("[[users]]\nmerchant_id = \"{MERCHANT}\"\nnumber = \"{number}\"\npassword = \"{password}\"\n")
}

/// What is left of a token, as its answer says.
pub(crate) fn left(token: &Token) -> Duration {
    Duration::try_from(token.expires_in.expect("is set")).expect("is positive")
}
