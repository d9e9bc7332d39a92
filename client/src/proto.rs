//! The generated messages and services of `proto/`.
//!
//! Must never show an access token: the one message that holds it has a `Debug` of its own.

/// Package `tokenbroker.v1`.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, missing_debug_implementations, reason = "generated")]
    #![allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::missing_errors_doc,
        clippy::wildcard_enum_match_arm,
        clippy::unwrap_used,
        reason = "generated"
    )]

    tonic::include_proto!("tokenbroker.v1");

    impl std::fmt::Debug for Token {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Token")
                .field("access_token", &"[redacted]")
                .field("token_type", &self.token_type)
                .field("expires_at", &self.expires_at)
                .field("scope", &self.scope)
                .field("token_id", &self.token_id)
                .field("expires_in", &self.expires_in)
                .field("renew_in", &self.renew_in)
                .finish()
        }
    }
}

/// The server's side, for brokers of tests.
#[cfg(test)]
pub(crate) mod server {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    #![allow(clippy::all, clippy::allow_attributes_without_reason, clippy::missing_errors_doc, reason = "generated")]

    include!(concat!(env!("OUT_DIR"), "/server/tokenbroker.v1.rs"));
}

#[cfg(test)]
mod tests {
    use super::v1::{GetTokenResponse, Token};

    #[test]
    fn no_message_shows_the_token() {
        let token = Token { access_token: "the secret".to_owned(), token_id: "its id".to_owned(), ..Token::default() };
        for shown in [format!("{token:?}"), format!("{:#?}", GetTokenResponse { token: Some(token.clone()) })] {
            assert!(!shown.contains("the secret") && shown.contains("its id"), "{shown}");
        }
    }
}
