//! Any answer of ours.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost::Message as _;
use tokio::time::Instant;

use super::{Reply, TOKEN_TYPE};
use crate::{
    broker::{Answer, Outcome},
    clock::Moment,
    proto::v1::{GetTokenResponse, Token},
    secret::Secret,
    tokens::{cached_token::CachedToken, token, version::Version},
    user::{MerchantId, Number, UserKey},
};

/// Four bytes with the seconds since 1970, four with the seconds left, four with their nanoseconds; a token, a line break, and a scope.
#[allow(clippy::disallowed_methods, reason = "any instant will do")]
pub(crate) fn reply(input: &[u8]) {
    let Some((numbers, texts)) = input.split_first_chunk::<12>() else { return };
    let mut numbers = numbers.chunks_exact(4).map(|bytes| bytes.iter().fold(0_u32, |all, byte| all << 8 | u32::from(*byte)));
    let [wall, left, nanos] = std::array::from_fn(|_| numbers.next().unwrap_or_default());
    let texts = String::from_utf8_lossy(texts);
    let (access_token, scope) = texts.split_once('\n').unwrap_or((&texts, ""));
    let left = Duration::new(left.into(), nanos % 1_000_000_000);
    let at = Moment { mono: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(wall.into()) };
    let (Ok(merchant), Ok(number)) = (MerchantId::parse("m".to_owned()), Number::parse("+447871239999".to_owned())) else {
        return;
    };
    let token = token::Token {
        access_token: Secret::from(access_token),
        id: token::TokenId::of(access_token),
        scope: Arc::new(scope.to_owned()),
        expires: at.plus(left),
        lifetime: left,
    };
    let expected = Token {
        access_token: access_token.to_owned(),
        token_type: TOKEN_TYPE.to_owned(),
        expires_at: Some((at.wall + left).into()),
        scope: scope.to_owned(),
        token_id: token.id.to_string(),
        expires_in: prost_types::Duration::try_from(left).ok(),
        renew_in: prost_types::Duration::try_from(left / 3).ok(),
    };
    let cached = Arc::new(CachedToken::new(token, Version::default(), false, None, Duration::ZERO, at));
    let answer = Answer { user: Arc::new(UserKey { merchant, number }), cached, outcome: Outcome::Hit, at, renew_in: left / 3 };
    let mut written = Vec::new();
    Reply::new(answer, left).encode(&mut written);
    let expected = GetTokenResponse { token: Some(expected) };
    assert!(written == expected.encode_to_vec(), "other bytes than prost's");
    assert!(GetTokenResponse::decode(&*written).is_ok_and(|read| read == expected), "it is not read as it was meant");
}
