//! Entries of `[[callers]]` that don't do what they seem to: what one of them allows, no other takes away.
//!
//! Must never change what is allowed: it only says so.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use super::{
    findings::Findings,
    values::{CallerConfig, Merchants},
};
use crate::{
    caller::{CallerName, NameKind},
    user::{MerchantId, Number},
};

/// By what callers can prove who they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proofs {
    pub(super) certificates: bool,
    pub(super) accounts: bool,
}

/// What an entry allows; none is all.
struct Allowed<'c> {
    /// Which of the entries it is.
    index: usize,
    caller: &'c CallerConfig,
    merchants: Option<HashSet<&'c MerchantId>>,
    numbers: Option<HashSet<&'c Number>>,
}

impl<'c> Allowed<'c> {
    fn of((index, caller): (usize, &'c CallerConfig)) -> Self {
        let merchants = match &caller.merchants {
            Merchants::All => None,
            Merchants::Only(merchants) => Some(merchants.iter().collect()),
        };
        Self { index, caller, merchants, numbers: caller.numbers.as_ref().map(|numbers| numbers.iter().collect()) }
    }

    /// Whether it allows all that the other does, to the same callers; one that is on trial lets them have all the rest too.
    fn covers(&self, other: &Self) -> bool {
        self.means_all_of(other)
            && self.caller.trial >= other.caller.trial
            && has_all(self.merchants.as_ref(), other.merchants.as_ref())
            && has_all(self.numbers.as_ref(), other.numbers.as_ref())
    }

    /// Whether it means all whom the other does.
    fn means_all_of(&self, other: &Self) -> bool {
        self.caller.id == other.caller.id || other.caller.id.exact().is_some_and(|name| self.caller.id.matches(name))
    }
}

fn has_all<T: Eq + Hash>(whole: Option<&HashSet<&T>>, part: Option<&HashSet<&T>>) -> bool {
    whole.is_none_or(|whole| part.is_some_and(|part| part.is_subset(whole)))
}

/// Says what of the entries has no effect.
pub(super) fn check(findings: &Findings<'_>, callers: &[CallerConfig], proofs: Proofs) {
    unproven(findings, callers, proofs);
    let all: Vec<Allowed<'_>> = callers.iter().enumerate().map(Allowed::of).collect();
    let wild: Vec<&Allowed<'_>> = all.iter().filter(|entry| entry.caller.id.exact().is_none()).collect();
    let mut by_name: HashMap<&CallerName, Vec<&Allowed<'_>>> = HashMap::new();
    for entry in &all {
        if let Some(name) = entry.caller.id.exact() {
            by_name.entry(name).or_default().push(entry);
        }
    }
    for entry in &all {
        let same = entry.caller.id.exact().and_then(|name| by_name.get(name)).into_iter().flatten();
        let mut others = same.chain(&wild);
        // Of two that are the same, the later is told.
        let covering = others.clone().find(|other| {
            other.index != entry.index && other.covers(entry) && (other.index < entry.index || !entry.covers(other))
        });
        if let Some(Allowed { caller: other, .. }) = covering {
            let line = other.line;
            let message = format!(
                "has no effect: the entry in line {line} allows all of that already, and no entry takes away what another allows: remove \
                 this one, or to limit this caller, take it out of that one"
            );
            findings.warn_in_line(entry.caller.line, "callers", message);
        } else if !entry.caller.trial
            && let Some(Allowed { caller: other, .. }) = others.find(|other| other.caller.trial && other.means_all_of(entry))
        {
            let line = other.line;
            let message = format!(
                "denies nothing: the entry in line {line} means the same callers and is on trial, and who is meant by one that is, is let \
                 in: take `trial` out of that one, or narrow its id"
            );
            findings.warn_in_line(entry.caller.line, "callers", message);
        }
    }
}

/// Says whose names nobody can prove.
fn unproven(findings: &Findings<'_>, callers: &[CallerConfig], Proofs { certificates, accounts }: Proofs) {
    if !certificates && !accounts {
        return;
    }
    for caller in callers {
        let (provable, missing) = match caller.id.kind() {
            NameKind::Spiffe | NameKind::Dns => (certificates, "a client certificate: set grpc.tls.client_ca_file"),
            NameKind::ServiceAccount => (accounts, "a service account's token: set [auth.service_accounts]"),
        };
        if !provable {
            let message = format!("has no effect: this caller can prove who it is by nothing but {missing}, or remove the entry");
            findings.warn_in_line(caller.line, "callers", message);
        }
    }
}
