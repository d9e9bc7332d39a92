//! An answer with a token, written to the wire straight from the token that is held.
//!
//! Must never differ by a byte from what prost makes of the same `GetTokenResponse`, nor copy the secret anywhere but into the frame.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::{fmt, sync::Arc, time::Duration};

use bytes::BufMut;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len, message};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder};

use crate::{
    broker::Answer,
    proto::v1::{GetTokenRequest, GetTokenResponse},
    tokens::cached_token::CachedToken,
};

/// How every token is presented (RFC 6750), whatever case the vault writes it in.
const TOKEN_TYPE: &str = "Bearer";
/// The one field of `GetTokenResponse`.
const TOKEN: u32 = 1;
/// Bytes that are allocated for a message before its length is known: a request takes about 60, an answer about 300, and what is longer
/// makes its buffer grow. tonic's 8 KiB, twice for each call, would be most of the memory that a call needs.
const BUFFER: usize = 512;
/// So much is encoded before anything is sent: as tonic has it, and of no effect on a single message.
const YIELD_AT: usize = 32 * 1024;

/// A `GetTokenResponse` that is not made.
pub(super) struct Reply {
    cached: Arc<CachedToken>,
    expires_at: prost_types::Timestamp,
    /// None where it is too long for the wire, which no token's life is.
    expires_in: Option<prost_types::Duration>,
    /// None where the former is.
    renew_in: Option<prost_types::Duration>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("token_id", &self.cached.id()).finish_non_exhaustive()
    }
}

impl Reply {
    /// The reply that gives this answer, whose token has so much of its life left.
    pub(super) fn new(answer: Answer, left: Duration) -> Self {
        let Answer { cached, at, renew_in, .. } = answer;
        // By what is left: a wall clock that was set back since the sign-in must not make it look longer than it is.
        let expires_at = at.wall.checked_add(left).unwrap_or(cached.token.expires.wall);
        Self { cached, expires_at: expires_at.into(), expires_in: left.try_into().ok(), renew_in: renew_in.try_into().ok() }
    }

    /// Writes it (<https://protobuf.dev/programming-guides/encoding/>): fields in the order of their tags, none that is empty.
    fn encode(&self, to: &mut impl BufMut) {
        let token = &self.cached.token;
        let access_token = Text { tag: 1, text: token.access_token.expose() };
        let token_type = Text { tag: 2, text: TOKEN_TYPE };
        let scope = Text { tag: 4, text: &token.scope };
        let token_id = Text { tag: 5, text: token.id.as_str() };
        let texts = [&access_token, &token_type, &scope, &token_id].into_iter().map(Text::length).sum::<usize>();
        let durations = [(6, &self.expires_in), (7, &self.renew_in)];
        let durations = durations.map(|(tag, duration)| duration.as_ref().map_or(0, |left| message::encoded_len(tag, left)));
        encode_key(TOKEN, WireType::LengthDelimited, to);
        encode_varint(length(texts + message::encoded_len(3, &self.expires_at) + durations.iter().sum::<usize>()), to);
        access_token.encode(to);
        token_type.encode(to);
        message::encode(3, &self.expires_at, to);
        scope.encode(to);
        token_id.encode(to);
        if let Some(left) = &self.expires_in {
            message::encode(6, left, to);
        }
        if let Some(wait) = &self.renew_in {
            message::encode(7, wait, to);
        }
    }
}

/// A field of text.
struct Text<'t> {
    tag: u32,
    text: &'t str,
}

impl Text<'_> {
    /// With its key and its own length; nothing where it is empty.
    fn length(&self) -> usize {
        let Self { tag, text } = self;
        if text.is_empty() { 0 } else { key_len(*tag) + encoded_len_varint(length(text.len())) + text.len() }
    }

    fn encode(&self, to: &mut impl BufMut) {
        let Self { tag, text } = self;
        if !text.is_empty() {
            encode_key(*tag, WireType::LengthDelimited, to);
            encode_varint(length(text.len()), to);
            to.put_slice(text.as_bytes());
        }
    }
}

fn length(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Decodes requests, and encodes replies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReplyCodec;

impl Codec for ReplyCodec {
    type Encode = Reply;
    type Decode = GetTokenRequest;
    type Encoder = Self;
    type Decoder = ProstDecoder<GetTokenRequest>;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<GetTokenResponse, GetTokenRequest>::raw_decoder(self.buffer_settings())
    }
}

impl Encoder for ReplyCodec {
    type Item = Reply;
    type Error = Status;

    fn encode(&mut self, reply: Reply, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let secret = reply.cached.token.access_token.expose().len();
        // A buffer that grew in the middle would leave a part of the secret behind.
        if secret > BUFFER / 2 {
            to.reserve(secret + BUFFER);
        }
        reply.encode(to);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD_AT)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;
    use prost::Message as _;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        broker::Outcome,
        clock::Moment,
        proto::v1::Token,
        secret::Secret,
        tokens::{token, version::Version},
        user::{MerchantId, Number, UserKey},
    };

    #[allow(clippy::disallowed_methods, reason = "any instant will do")]
    fn answer(access_token: &str, scope: &str, wall: Duration, lifetime: Duration) -> Answer {
        let at = Moment { mono: Instant::now(), wall: SystemTime::UNIX_EPOCH + wall };
        let merchant = MerchantId::parse("m".to_owned()).expect("is valid");
        let user = Arc::new(UserKey { merchant, number: Number::parse("+447871239999".to_owned()).expect("is valid") });
        let token = token::Token {
            access_token: Secret::from(access_token),
            id: token::TokenId::of(access_token),
            scope: Arc::new(scope.to_owned()),
            expires: at.plus(lifetime),
            lifetime,
        };
        let cached = Arc::new(CachedToken::new(token, Version::default(), false, None, Duration::ZERO, at));
        Answer { user, cached, outcome: Outcome::Hit, at, renew_in: lifetime / 2 }
    }

    proptest! {
        #[test]
        fn it_is_what_prost_makes_of_the_message(
            access_token in "[!-~]{0,600}", scope in ".{0,200}",
            wall in 0..4_000_000_000u64, lifetime in 0..700_000u64, nanos in 0..1_000_000_000u32,
        ) {
            let lifetime = Duration::new(lifetime, nanos);
            let answer = answer(&access_token, &scope, Duration::from_secs(wall), lifetime);
            let message = GetTokenResponse {
                token: Some(Token {
                    access_token,
                    token_type: "Bearer".to_owned(),
                    expires_at: Some((answer.at.wall + lifetime).into()),
                    scope,
                    token_id: answer.cached.id().to_string(),
                    expires_in: prost_types::Duration::try_from(lifetime).ok(),
                    renew_in: prost_types::Duration::try_from(lifetime / 2).ok(),
                }),
            };
            let mut written = Vec::new();
            Reply::new(answer, lifetime).encode(&mut written);
            prop_assert_eq!(written, message.encode_to_vec());
        }
    }

    #[test]
    fn a_wall_clock_that_was_set_back_does_not_make_it_look_longer_than_it_is() {
        let (wall, lifetime) = (Duration::from_secs(1_800_000_000), Duration::from_secs(300));
        let mut answer = answer("a", "", wall, lifetime);
        answer.at.wall -= Duration::from_secs(100);
        assert_eq!(Reply::new(answer, lifetime).expires_at.seconds, 1_800_000_200);
    }

    #[test]
    fn the_secret_is_not_shown() {
        let answer = answer("the secret", "", Duration::ZERO, Duration::ZERO);
        assert!(!format!("{:?}", Reply::new(answer, Duration::ZERO)).contains("the secret"));
    }
}
