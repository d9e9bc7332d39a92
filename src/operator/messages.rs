//! What the broker knows, as messages; and what was asked, checked.
//!
//! Must never show a number in clear that was not asked for in clear, nor a token.

use std::time::SystemTime;

use prost_types::Timestamp;
use tokio::time::Instant;

use super::{PAGE_DEFAULT, PAGE_MAX, generated as proto};
use crate::{
    broker::{
        BrokerError, FieldFault, UserStates,
        single_users::{Filter, Order, Position, UserView},
    },
    clock::Moment,
    user::{MerchantId, Number, UserKey},
    users::holds::Stop,
};

/// Turns what is known at a moment into messages.
pub(super) struct Shown<'a> {
    pub(super) now: Moment,
    /// What callers are told of a stop.
    pub(super) told: &'a dyn Fn(&Stop) -> BrokerError,
    pub(super) reveal: bool,
}

impl Shown<'_> {
    pub(super) fn user(&self, view: &UserView) -> proto::User {
        let number = if self.reveal { view.key.number.expose().to_owned() } else { view.key.number.to_string() };
        let token = view.token.as_ref().map(|(cached, counts)| proto::HeldToken {
            token_id: cached.id().as_str().to_owned(),
            expires_at: timestamp(cached.token.expires.wall),
            outdated: !counts,
        });
        proto::User {
            merchant_id: view.key.merchant.as_str().to_owned(),
            number,
            states: states(&view.states),
            token,
            asked_at: view.asked_ago.and_then(|ago| timestamp(self.now.wall.checked_sub(ago)?)),
            signed_in_at: view.signed_in.and_then(|at| self.instant(at)),
            floor_ends_at: view.floor_ends.and_then(|at| self.instant(at)),
            renews_at: view.renews.and_then(|at| self.instant(at)),
            signing_in: view.signing_in,
            failure: view.failure.as_ref().map(|stop| self.failure(stop)),
            merchant_wait: view.merchant_wait.as_ref().map(|stop| self.failure(stop)),
        }
    }

    pub(super) fn failure(&self, stop: &Stop) -> proto::Failure {
        proto::Failure {
            reason: (self.told)(stop).reason().as_str().to_owned(),
            what: stop.failure.to_string(),
            until: Some(stop.until).filter(|until| *until > self.now.mono).and_then(|until| self.instant(until)),
        }
    }

    /// An instant of the monotonic clock, by the wall clock as it is now.
    fn instant(&self, at: Instant) -> Option<Timestamp> {
        let (ahead, ago) = (at.saturating_duration_since(self.now.mono), self.now.mono.saturating_duration_since(at));
        timestamp((self.now.wall + ahead).checked_sub(ago)?)
    }
}

fn timestamp(at: SystemTime) -> Option<Timestamp> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp { seconds: i64::try_from(since.as_secs()).ok()?, nanos: i32::try_from(since.subsec_nanos()).ok()? })
}

fn states(UserStates { cached, dry, held, failing }: &UserStates) -> Vec<i32> {
    use proto::UserState::{Cached, Dry, Failing, Held};
    let all = [(Cached, *cached), (Dry, *dry), (Held, held.is_some()), (Failing, failing.is_some())];
    all.into_iter().filter(|(_, is_in)| *is_in).map(|(state, _)| state.into()).collect()
}

/// What a list is asked for.
pub(super) struct Listing {
    pub(super) filter: Filter,
    pub(super) after: Option<Position>,
    pub(super) most: usize,
}

/// Faults of a request, all at once.
#[derive(Default)]
struct Faults(Vec<FieldFault>);

impl Faults {
    fn or<T>(&mut self, field: &'static str, result: Result<T, &'static str>) -> Option<T> {
        result.map_err(|fault| self.0.push(FieldFault { field: field.into(), fault: fault.to_owned() })).ok()
    }
}

/// Which user is meant.
pub(super) fn key(merchant: String, number: String) -> Result<UserKey, BrokerError> {
    let mut faults = Faults::default();
    let merchant = faults.or("merchant_id", MerchantId::parse(merchant));
    match (merchant, faults.or("number", Number::parse(number))) {
        (Some(merchant), Some(number)) => Ok(UserKey { merchant, number }),
        _ => Err(BrokerError::InvalidRequest(faults.0)),
    }
}

/// Which merchant is meant.
pub(super) fn merchant(merchant: String) -> Result<MerchantId, BrokerError> {
    let mut faults = Faults::default();
    faults.or("merchant_id", MerchantId::parse(merchant)).ok_or(BrokerError::InvalidRequest(faults.0))
}

/// Which list is meant.
pub(super) fn listing(request: proto::ListUsersRequest, order: &Order) -> Result<Listing, BrokerError> {
    let proto::ListUsersRequest { merchant_id, state, page_size, page_token, reveal: _ } = request;
    let mut faults = Faults::default();
    let merchant = match merchant_id.is_empty() {
        true => None,
        false => faults.or("merchant_id", MerchantId::parse(merchant_id)),
    };
    let state = match proto::UserState::try_from(state) {
        Ok(proto::UserState::Unspecified) => Ok(None),
        Ok(proto::UserState::Cached) => Ok(Some((|states| states.cached) as fn(&UserStates) -> bool)),
        Ok(proto::UserState::Dry) => Ok(Some((|states| states.dry) as fn(&UserStates) -> bool)),
        Ok(proto::UserState::Held) => Ok(Some((|states| states.held.is_some()) as fn(&UserStates) -> bool)),
        Ok(proto::UserState::Failing) => Ok(Some((|states| states.failing.is_some()) as fn(&UserStates) -> bool)),
        Err(_unknown) => Err("is none that this broker knows: give cached, dry, held or failing"),
    };
    let state = faults.or("state", state).flatten();
    let size = match page_size {
        0 => Ok(PAGE_DEFAULT),
        1..=PAGE_MAX => Ok(page_size),
        _ => Err("is out of range: give 1 to 1000, or 0 for 100"),
    };
    let size = faults.or("page_size", size).unwrap_or_default();
    let after = match page_token.is_empty() {
        true => None,
        false => faults.or("page_token", read_token(&page_token, order)),
    };
    if !faults.0.is_empty() {
        return Err(BrokerError::InvalidRequest(faults.0));
    }
    let most = usize::try_from(size).unwrap_or(usize::MAX);
    Ok(Listing { filter: Filter { merchant, state }, after, most })
}

/// A place in the list, as text: which order, the hash, the merchant.
pub(super) fn page_token(position: &Position, order: &Order) -> String {
    format!("{:016x}{:016x}{}", order.id(), position.hash, position.merchant)
}

fn read_token(text: &str, order: &Order) -> Result<Position, &'static str> {
    const FOREIGN: &str = "is none of this process: begin with the first page";
    let digits = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        u64::from_str_radix(digits, 16).ok()
    };
    if digits(0..16) != Some(order.id()) {
        return Err(FOREIGN);
    }
    let merchant = text.get(32..).ok_or(FOREIGN)?;
    let merchant = MerchantId::parse(merchant.to_owned()).map_err(|_fault| FOREIGN)?;
    Ok(Position { merchant, hash: digits(16..32).ok_or(FOREIGN)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tokens_are_read_as_they_were_written_and_no_others_are() {
        let order = Order::default();
        let user = key("m-1".to_owned(), "+447871239999".to_owned()).expect("is one");
        let position = order.position(&user);
        let token = page_token(&position, &order);
        assert_eq!(read_token(&token, &order), Ok(position));
        assert!(!token.contains("9999"), "{token}");
        for foreign in
            ["", "x", &token[..32], &token[1..], &page_token(&order.position(&user), &Order::default()), "ä".repeat(20).as_str()]
        {
            assert!(read_token(foreign, &order).is_err(), "{foreign}");
        }
    }

    #[test]
    fn every_fault_of_a_list_is_told_at_once() {
        let request = proto::ListUsersRequest {
            merchant_id: "a b".to_owned(),
            state: 9,
            page_size: 1_001,
            page_token: "x".to_owned(),
            reveal: false,
        };
        let Err(BrokerError::InvalidRequest(faults)) = listing(request, &Order::default()) else { panic!("it is faulty") };
        let fields: Vec<_> = faults.iter().map(|fault| &*fault.field).collect();
        assert_eq!(fields, ["merchant_id", "state", "page_size", "page_token"]);
    }
}
