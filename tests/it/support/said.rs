//! An error as the contract's reader sees it.

use std::{collections::HashMap, time::Duration};

use token_broker::client::ClientError;
use tonic::Code;

/// What an error said, in the contract's terms.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) retry: Option<Duration>,
    pub(crate) pushback: Option<String>,
    pub(crate) error: ClientError,
}

impl Said {
    pub(crate) fn of(error: ClientError) -> Self {
        let status = error.status().expect("the broker answered");
        let pushback = status.metadata().get("grpc-retry-pushback-ms").map(|value| value.to_str().expect("is text").to_owned());
        Self {
            code: status.code(),
            reason: error.reason().unwrap_or_else(|| panic!("no reason in {status:?}")).to_string(),
            metadata: error.metadata(),
            retry: error.retry_after(),
            pushback,
            error,
        }
    }

    /// The contract's rule: every error with `RetryInfo` has the trailer, −1 where the wait is over 5 s.
    pub(crate) fn check(&self, code: Code, reason: &str) -> &Self {
        assert_eq!((self.code, self.reason.as_str()), (code, reason), "{self:?}");
        match (self.retry, self.pushback.as_deref()) {
            (None, None) => {}
            (Some(wait), Some("-1")) => assert!(wait > Duration::from_secs(5), "{self:?}"),
            (Some(wait), Some(millis)) => {
                assert!(
                    wait <= Duration::from_secs(5) && u128::from(millis.parse::<u64>().expect("is a number")) == wait.as_millis(),
                    "{self:?}"
                );
            }
            (retry, pushback) => panic!("RetryInfo {retry:?} and the trailer {pushback:?} belong together"),
        }
        self
    }
}
