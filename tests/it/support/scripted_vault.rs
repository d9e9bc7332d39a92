//! A vault that does as a closure says.

use std::{pin::Pin, sync::Arc, time::Duration};

use token_broker::{
    live::Settings,
    secret::Secret,
    telemetry::traces::Span,
    tokens::token::TokenId,
    user::UserKey,
    vault::{Failure, Grant, Refusal, SignIn, SigningIn},
};

use crate::support::broker_in_memory::settings;

pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Grant, Failure>> + Send>>;

/// The closure gets the number and the password.
struct Scripted<F>(F);

impl<F: Fn(String, String) -> Answering + Send + Sync + 'static> SignIn for Scripted<F> {
    fn sign_in<'a>(&'a self, user: &'a UserKey, password: &'a Secret, _: &'a Span) -> SigningIn<'a> {
        (self.0)(user.number.expose().to_owned(), password.expose().to_owned())
    }
}

/// Sign-ins at the vault of this name.
pub(crate) fn at(upstream: &str, vault: impl Fn(String, String) -> Answering + Send + Sync + 'static) -> Settings {
    settings(upstream, Arc::new(Scripted(vault)))
}

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) fn grant(text: &str, lifetime: Duration) -> Result<Grant, Failure> {
    Ok(Grant { access_token: Secret::from(text), scope: String::new(), lifetime, lifetime_is_bounded: false })
}

pub(crate) fn refused() -> Failure {
    Failure::Refused { why: Refusal::Credentials, vault_error: String::new() }
}

pub(crate) fn down() -> Failure {
    Failure::Unavailable { cause: "down", wait: None, vault_error: String::new() }
}

/// A token's id, as callers name it.
pub(crate) fn id(text: &str) -> String {
    TokenId::of(text).to_string()
}
