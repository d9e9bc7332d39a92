//! What the parts are made with, out of the configuration.
//!
//! Must never choose a value of its own: defaults are `config`'s.

use std::{mem, sync::Arc};

use crate::{
    authn::{Asked, service_accounts::ServiceAccounts},
    clock::Clock,
    config::Config,
    live::{Configuration, Settings},
    policy::Policy,
    users::holds::Rules,
    vault::SignIn,
};

pub(super) fn labels_callers(config: &Config) -> bool {
    config.admin.as_ref().is_some_and(|admin| admin.label_callers)
}

/// What callers are asked for; `former` has keys and reviews in its cache, so it is kept while it is configured the same.
pub(super) fn asked(config: &Config, former: Option<&Asked>, clock: &Arc<dyn Clock>) -> Asked {
    let at_all = config.asks();
    let service_accounts = match (&config.auth.service_accounts, former) {
        (Some(_), Some(former)) => former.service_accounts.clone(),
        (Some(accounts), None) => Some(Arc::new(ServiceAccounts::new(accounts, Arc::clone(clock)))),
        (None, _) => None,
    };
    Asked { at_all, service_accounts }
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
