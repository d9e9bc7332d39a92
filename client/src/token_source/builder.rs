//! What a source is told: its brokers, and how each side knows the other.
//!
//! Must never read a file: each is read when it is needed, and again as it is replaced.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{TokenSource, brokers::Brokers};
use crate::client::{Client, ClientError, DEFAULT_TIMEOUT, PLAINTEXT, TIMEOUT_MAX};

/// A source waits this much longer than its calls take, so that it is the call that says what took so long.
const AHEAD: Duration = Duration::from_millis(100);

/// How the broker knows us.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Identity {
    /// By a certificate: that with those that lead to its CA, and its key, both in PEM; one file with all of it may stand for both.
    Certificate {
        /// Where the certificate is.
        certificate_file: PathBuf,
        /// Where its key is.
        key_file: PathBuf,
    },
    /// By a service account's token, as Kubernetes projects it.
    TokenFile(PathBuf),
}

impl Identity {
    /// By a certificate and its key, both in PEM. They are read again as they are replaced.
    pub fn certificate(certificate_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        Self::Certificate { certificate_file: certificate_file.into(), key_file: key_file.into() }
    }

    /// By a service account's token in a file, which is read for each call.
    pub fn token_file(file: impl Into<PathBuf>) -> Self {
        Self::TokenFile(file.into())
    }
}

/// Makes a [`TokenSource`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct TokenSourceBuilder {
    endpoints: Vec<String>,
    ca_file: Option<PathBuf>,
    identity: Option<Identity>,
    timeout: Option<Duration>,
}

impl TokenSourceBuilder {
    /// Adds a broker, such as `http://127.0.0.1:50051`, or a name of several, which is looked up again and again, such as
    /// `https://token-broker-headless.cards.svc:50051`. At least one; all over TLS, or none.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// The CA of the brokers' certificates, in PEM: needed for `https://`. It is read again as it is replaced.
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(file.into());
        self
    }

    /// How the broker knows us, where it asks.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// How long [`TokenSource::token`] waits at most, from the look-up of the broker's name to the answer, repeats included: up to
    /// 10 min, by default 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout.min(TIMEOUT_MAX));
        self
    }

    /// The source, with a thread of its own. Nothing is read and nobody is asked before the first token is: [`TokenSource::warm`] shows
    /// whether all is well.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`], where one is no URL, there is none, or `https://` and a CA do not come together;
    /// [`ClientError::Security`], where an identity would be shown in plaintext; [`ClientError::NoThread`].
    pub fn build(self) -> Result<TokenSource, ClientError> {
        let none = self.endpoints.is_empty().then(String::new);
        let unfit = |endpoint: &&String| !Client::is_endpoint(endpoint, self.ca_file.is_some());
        if let Some(unfit) = none.or_else(|| self.endpoints.iter().find(unfit).cloned()) {
            return Err(ClientError::Endpoint(unfit));
        }
        if self.identity.is_some() && self.ca_file.is_none() {
            return Err(ClientError::Security(PLAINTEXT.to_owned()));
        }
        let timeout = self.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let call_time = timeout.saturating_sub(AHEAD.min(timeout / 10));
        let brokers = Brokers::new(self.endpoints, self.ca_file, self.identity, call_time);
        TokenSource::apart(Box::new(brokers), timeout).map_err(|error| ClientError::NoThread(Arc::new(error)))
    }
}
