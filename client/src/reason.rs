//! Why there is no token, for programs: the reasons of the wire contract, the same for the broker and its callers.
//!
//! Must never lose or rename one: callers' programs branch on them.

use std::fmt;

use tonic::Code;

/// A reason of `google.rpc.ErrorInfo`, in the domain [`DOMAIN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// The request is malformed.
    InvalidRequest,
    /// Who is calling is unknown.
    CallerUnauthenticated,
    /// Who is calling can't be found out now.
    IdentityUnavailable,
    /// The caller may not have this user's tokens.
    CallerNotAllowed,
    /// The configuration knows no such user.
    UserNotConfigured,
    /// The vault refuses the credentials or the account.
    CredentialsRejected,
    /// The vault wants a second factor.
    SecondFactorRequired,
    /// The vault refuses the broker's request.
    VaultRequestRejected,
    /// The vault asks to wait.
    VaultThrottled,
    /// The vault is out of reach, slow or failing.
    VaultUnavailable,
    /// The vault's answer makes no sense.
    VaultResponseInvalid,
    /// The floor between two sign-ins ends after the deadline.
    SignInTooSoon,
    /// No token lives as long as asked.
    MinRemainingUnattainable,
    /// The deadline passed.
    DeadlineExceeded,
    /// Too many calls wait.
    BrokerOverloaded,
    /// The broker is shutting down.
    BrokerShuttingDown,
    /// The broker is at fault.
    Internal,
}

/// `google.rpc.ErrorInfo.domain` of every error of the broker.
pub const DOMAIN: &str = "token-broker";

impl Reason {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::InvalidRequest,
        Self::CallerUnauthenticated,
        Self::IdentityUnavailable,
        Self::CallerNotAllowed,
        Self::UserNotConfigured,
        Self::CredentialsRejected,
        Self::SecondFactorRequired,
        Self::VaultRequestRejected,
        Self::VaultThrottled,
        Self::VaultUnavailable,
        Self::VaultResponseInvalid,
        Self::SignInTooSoon,
        Self::MinRemainingUnattainable,
        Self::DeadlineExceeded,
        Self::BrokerOverloaded,
        Self::BrokerShuttingDown,
        Self::Internal,
    ];

    /// Its name on the wire, in logs and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::CallerUnauthenticated => "CALLER_UNAUTHENTICATED",
            Self::IdentityUnavailable => "IDENTITY_UNAVAILABLE",
            Self::CallerNotAllowed => "CALLER_NOT_ALLOWED",
            Self::UserNotConfigured => "USER_NOT_CONFIGURED",
            Self::CredentialsRejected => "CREDENTIALS_REJECTED",
            Self::SecondFactorRequired => "SECOND_FACTOR_REQUIRED",
            Self::VaultRequestRejected => "VAULT_REQUEST_REJECTED",
            Self::VaultThrottled => "VAULT_THROTTLED",
            Self::VaultUnavailable => "VAULT_UNAVAILABLE",
            Self::VaultResponseInvalid => "VAULT_RESPONSE_INVALID",
            Self::SignInTooSoon => "SIGN_IN_TOO_SOON",
            Self::MinRemainingUnattainable => "MIN_REMAINING_UNATTAINABLE",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::BrokerOverloaded => "BROKER_OVERLOADED",
            Self::BrokerShuttingDown => "BROKER_SHUTTING_DOWN",
            Self::Internal => "INTERNAL",
        }
    }

    /// The reason of this name; none where a newer broker has more of them.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// The gRPC code that goes with it. (Metadata that is too large is `InvalidRequest` with RESOURCE_EXHAUSTED, as gRPC's own
    /// libraries say it.)
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::InvalidRequest => Code::InvalidArgument,
            Self::CallerUnauthenticated => Code::Unauthenticated,
            Self::CallerNotAllowed => Code::PermissionDenied,
            Self::UserNotConfigured => Code::NotFound,
            Self::CredentialsRejected
            | Self::SecondFactorRequired
            | Self::VaultRequestRejected
            | Self::MinRemainingUnattainable => Code::FailedPrecondition,
            Self::IdentityUnavailable
            | Self::VaultThrottled
            | Self::VaultUnavailable
            | Self::VaultResponseInvalid
            | Self::SignInTooSoon
            | Self::BrokerShuttingDown => Code::Unavailable,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::BrokerOverloaded => Code::ResourceExhausted,
            Self::Internal => Code::Internal,
        }
    }

    /// Whether the same call may fare better later without anybody's help.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        matches!(self.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_found_by_its_name_and_by_no_other() {
        for reason in Reason::ALL {
            assert_eq!(Reason::named(reason.as_str()), Some(reason));
            assert_eq!(Reason::named(&reason.as_str().to_lowercase()), None);
        }
        assert_eq!(Reason::named("OF_A_NEWER_BROKER"), None);
    }

    #[test]
    fn what_may_be_repeated_is_what_grpc_calls_so() {
        let temporary: Vec<_> = Reason::ALL.into_iter().filter(|reason| reason.is_temporary()).map(Reason::as_str).collect();
        let expected = [
            "IDENTITY_UNAVAILABLE",
            "VAULT_THROTTLED",
            "VAULT_UNAVAILABLE",
            "VAULT_RESPONSE_INVALID",
            "SIGN_IN_TOO_SOON",
            "DEADLINE_EXCEEDED",
            "BROKER_OVERLOADED",
            "BROKER_SHUTTING_DOWN",
        ];
        assert_eq!(temporary, expected);
    }
}
