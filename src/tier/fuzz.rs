//! What a server of others may hold.

use super::{
    entry::{DroppedEntry, StopEntry, TokenEntry},
    seal::{Kind, Namer, Sealer},
};
use crate::{
    config::SealingKey,
    keyed_hash::SecretKey,
    tokens::version::Version,
    user::{MerchantId, Number, UserKey},
};

/// Whatever stands in an entry's place is none; and what was sealed is read as it was written, or not at all.
pub(crate) fn entry(input: &[u8]) {
    let (Ok(merchant), Ok(number)) = (MerchantId::parse("m".to_owned()), Number::parse("+447871239999".to_owned())) else {
        return;
    };
    let subject = Namer::new(&SecretKey::of(&[1; 32])).subject(&UserKey { merchant, number }, Version::default());
    let sealer = Sealer::new(&[SealingKey { id: 1, key: SecretKey::of(&[2; 32]) }]);
    for kind in [Kind::Token, Kind::Stop, Kind::Merchant, Kind::Lifted] {
        assert!(sealer.open(&subject, kind, input).is_err(), "nobody forges an entry");
    }
    if let Some(token) = TokenEntry::read(input) {
        assert_eq!(token.write().as_slice(), input);
    }
    if let Some(dropped) = DroppedEntry::read(input) {
        assert!(TokenEntry::read(input).is_none(), "it is one or the other");
        let written = dropped.write().and_then(|bytes| DroppedEntry::read(&bytes));
        assert_eq!(written, Some(dropped));
    }
    if let Some(stop) = StopEntry::read(input) {
        let written = stop.write().and_then(|bytes| StopEntry::read(&bytes));
        assert_eq!(written, Some(stop));
    }
}
