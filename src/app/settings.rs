//! What the parts are made with, out of the configuration.
//!
//! Must never choose a value of its own: defaults are `config`'s.

use std::{mem, sync::Arc};

use super::BuildError;
use crate::{
    authn::{
        Asked,
        service_accounts::{self, KeySource, ServiceAccounts},
    },
    clock::Clock,
    config::{self, Config},
    live::{Configuration, Settings},
    policy::Policy,
    users::holds::Rules,
    vault::{self, SignIn},
};

pub(super) fn labels_callers(config: &Config) -> bool {
    config.admin.as_ref().is_some_and(|admin| admin.label_callers)
}

/// What callers are asked for; `former` has keys and reviews in its cache, so it is kept while it is configured the same.
pub(super) fn asked(config: &Config, former: Option<&Asked>, clock: &Arc<dyn Clock>) -> Result<Asked, BuildError> {
    let at_all = config.asks();
    let service_accounts = match (&config.auth.service_accounts, former) {
        (Some(_), Some(former)) => former.service_accounts.clone(),
        (Some(accounts), None) => Some(Arc::new(ServiceAccounts::new(account_settings(accounts), Arc::clone(clock))?)),
        (None, _) => None,
    };
    Ok(Asked { at_all, service_accounts })
}

fn account_settings(accounts: &config::ServiceAccounts) -> service_accounts::Settings {
    service_accounts::Settings {
        issuers: accounts.issuers.iter().map(issuer).collect(),
        audience: accounts.audience.clone(),
        review: accounts.review.clone(),
        ca_file: accounts.ca_file.clone(),
        token_file: accounts.token_file.clone(),
    }
}

fn issuer(config::Issuer { name, keys, with_token }: &config::Issuer) -> service_accounts::Issuer {
    let keys = match keys {
        config::Keys::Url(url) => KeySource::Url(url.clone()),
        config::Keys::File(path) => KeySource::File(path.clone()),
    };
    service_accounts::Issuer { name: name.clone(), keys, with_token: *with_token }
}

/// All that calls and sign-ins obey; takes the users out.
pub(super) fn configuration(config: &mut Config, sign_in: Arc<dyn SignIn>) -> Configuration {
    let users = mem::take(&mut config.users);
    let vault = &config.vault;
    let settings = Settings {
        upstream: Arc::from(vault.base_url.as_str()),
        sign_in,
        rules: Rules { min_sign_in_interval: vault.min_sign_in_interval, refusal_hold: vault.refusal_hold },
        renewal: vault.renewal,
        max_concurrent_sign_ins: vault.max_concurrent_sign_ins,
        idle_after: vault.idle_after,
    };
    Configuration { users, policy: Policy::of(config), settings }
}

pub(super) fn vault_settings(config: &config::Vault) -> vault::Settings {
    vault::Settings {
        base_url: config.base_url.clone(),
        ca_pem: config.ca_file.as_ref().map(|file| file.pem.clone()),
        headers: config.headers.clone(),
        timeout: config.timeout,
        max_connections: config.max_concurrent_sign_ins,
        assumed_lifetime: config.assumed_lifetime,
    }
}
