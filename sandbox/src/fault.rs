//! What a test can make the vault do instead of the truth.
//!
//! Only descriptions: `oauth` and `body` carry them out. Must never be reachable without being asked for.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    HeaderMap, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE},
};
use serde_json::Value;

use crate::shapes::{self, Answer, JSON, Refusal};

/// What happens to one sign-in (or to each, see [`crate::Sandbox::set_always`]).
///
/// ```
/// # use std::time::Duration;
/// # use token_broker_sandbox::Fault;
/// let busy = Fault::reply(503, "busy").header("retry-after", "3").after(Duration::from_millis(50));
/// let late = Fault::truth().after(Duration::from_secs(2));
/// ```
#[derive(Debug, Clone)]
pub enum Fault {
    /// A reply that differs from the truth, made by [`Fault::reply`] and the others below it.
    Reply(Reply),
    /// A TCP reset before the first byte of a reply; the request has been read, but not judged.
    Reset,
    /// The truth is done and half of its body sent; then a TCP reset.
    ResetMidBody,
    /// The connection is closed in good order before the first byte of a reply; the request has been read, but not judged.
    Close,
    /// The truth is done and half of its body sent; then the connection is closed.
    CloseMidBody,
    /// The truth, its body in pieces of `bytes` (1 at least) with a pause of `every` between them.
    Drip {
        /// Bytes of each piece.
        bytes: usize,
        /// The pause between two.
        every: Duration,
    },
    /// A 200 whose JSON body (chunked) never ends.
    Endless,
    /// The request is read and never answered.
    Hang,
    /// First a delay, beside the one of every sign-in; then the fault.
    After {
        /// How long.
        delay: Duration,
        /// What then.
        then: Box<Fault>,
    },
}

/// A reply that differs from the truth; what isn't set is as in the truth.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    status: Option<StatusCode>,
    headers: HeaderMap,
    body: Option<Bytes>,
    drip: Option<(usize, Duration)>,
}

impl Fault {
    /// The truth; of use with [`Fault::after`], [`Fault::header`] and to fill a place in the script.
    #[must_use]
    pub fn truth() -> Self {
        Self::Reply(Reply::default())
    }

    /// This status and body, as `application/json` unless [`Fault::header`] says otherwise. The sign-in is not judged.
    ///
    /// # Panics
    /// Where `status` is not within 200 to 999.
    #[must_use]
    pub fn reply(status: u16, body: impl Into<Bytes>) -> Self {
        let status = status_of(status);
        assert!(status.is_ok(), "{status:?}");
        Self::Reply(Reply { status: status.ok(), body: Some(body.into()), ..Reply::default() })
    }

    /// The vendor's shape with HTTP 400.
    #[must_use]
    pub fn refusal(error_id: i64, error: &str, message: &str) -> Self {
        Self::json(StatusCode::BAD_REQUEST, &shapes::vendor(Some(error_id), Some(error), message))
    }

    /// One of the refusals of [`crate::DOCUMENTED`] in its documented shape.
    #[must_use]
    pub fn documented(refusal: &Refusal) -> Self {
        match refusal.error_id {
            Some(424) => Self::second_factor(),
            Some(422) => Self::json(StatusCode::BAD_REQUEST, &shapes::not_valid("number")),
            error_id => Self::json(StatusCode::BAD_REQUEST, &shapes::vendor(error_id, refusal.error, refusal.message)),
        }
    }

    /// The demand for a second factor: `errorId` 424, no `error`, HTTP 400.
    #[must_use]
    pub fn second_factor() -> Self {
        Self::json(StatusCode::BAD_REQUEST, &shapes::second_factor())
    }

    /// Spring's shape; a 401 comes with its `WWW-Authenticate`.
    ///
    /// # Panics
    /// As [`Fault::reply`].
    #[must_use]
    pub fn spring(status: u16, error: &str, description: &str) -> Self {
        let fault = Self::reply(status, shapes::spring(error, description).to_string());
        if status != 401 {
            return fault;
        }
        fault.header(WWW_AUTHENTICATE, format!("Bearer realm=\"oauth2\", error=\"{error}\""))
    }

    /// The shape of the vendor's v2; `status` is its word, as `UNAUTHORIZED`.
    ///
    /// # Panics
    /// As [`Fault::reply`], for `http`.
    #[must_use]
    pub fn v2(http: u16, status: &str, message: &str) -> Self {
        Self::reply(http, shapes::v2(status, message).to_string())
    }

    /// A 200 with this JSON in place of the token's.
    #[must_use]
    pub fn token_json(body: &Value) -> Self {
        Self::json(StatusCode::OK, body)
    }

    /// A redirect to `location`, with an empty body.
    ///
    /// # Panics
    /// As [`Fault::reply`] and [`Fault::header`].
    #[must_use]
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::reply(status, Bytes::new()).header(LOCATION, location)
    }

    /// A page as a proxy in between would send it.
    ///
    /// # Panics
    /// As [`Fault::reply`].
    #[must_use]
    pub fn html(status: u16) -> Self {
        let page =
            format!("<html>\n<head><title>{status}</title></head>\n<body><center><h1>{status}</h1></center></body>\n</html>\n");
        Self::reply(status, page).header(CONTENT_TYPE, "text/html")
    }

    /// The truth under a `Content-Encoding` that it doesn't have and nobody asked for.
    ///
    /// # Panics
    /// As [`Fault::header`].
    #[must_use]
    pub fn content_encoding(coding: &str) -> Self {
        Self::truth().header(CONTENT_ENCODING, coding)
    }

    /// Adds a header to the reply; `content-type` takes the place of the one before.
    ///
    /// # Panics
    /// Where the name or value can't stand in a header, or the fault has no reply of its own (`Reset`, `Hang` …).
    #[must_use]
    #[allow(clippy::panic, reason = "a test that scripts nonsense must end at once, where it does so")]
    pub fn header(self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        match self.try_header(name.as_ref(), value.as_ref()) {
            Ok(fault) => fault,
            Err(why) => panic!("{why}"),
        }
    }

    /// Waits this long first; more than one add up.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self::After { delay, then: Box::new(self) }
    }

    fn json(status: StatusCode, body: &Value) -> Self {
        Self::Reply(Reply { status: Some(status), body: Some(body.to_string().into()), ..Reply::default() })
    }

    pub(crate) fn try_header(self, name: &[u8], value: &[u8]) -> Result<Self, String> {
        let header = HeaderName::from_bytes(name).ok().zip(HeaderValue::from_bytes(value).ok());
        let Some((name, value)) = header else {
            return Err(format!("`{}: {}` is no header", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        };
        match self {
            Self::Reply(mut reply) => {
                if name == CONTENT_TYPE {
                    reply.headers.insert(name, value);
                } else {
                    reply.headers.append(name, value);
                }
                Ok(Self::Reply(reply))
            }
            Self::Drip { bytes, every } => {
                Self::Reply(Reply { drip: Some((bytes, every)), ..Reply::default() }).try_header(name.as_ref(), value.as_ref())
            }
            Self::After { delay, then } => Ok(then.try_header(name.as_ref(), value.as_ref())?.after(delay)),
            Self::Reset | Self::ResetMidBody | Self::Close | Self::CloseMidBody | Self::Endless | Self::Hang => {
                Err(format!("{self:?} has no reply of its own, so no header"))
            }
        }
    }

    /// The delays summed up, and what comes after them.
    pub(crate) fn unfold(self) -> (Duration, Self) {
        let (mut total, mut fault) = (Duration::ZERO, self);
        while let Self::After { delay, then } = fault {
            (total, fault) = (total.saturating_add(delay), *then);
        }
        (total, fault)
    }
}

impl Reply {
    /// Whether the vault has to judge the sign-in for this reply.
    pub(crate) fn needs_the_truth(&self) -> bool {
        self.body.is_none()
    }

    pub(crate) fn drip(&self) -> Option<(usize, Duration)> {
        self.drip
    }

    /// This reply, with what it leaves open taken from the truth.
    pub(crate) fn over(self, truth: Option<Answer>) -> Answer {
        let empty =
            || Answer { status: StatusCode::OK, headers: HeaderMap::from_iter([(CONTENT_TYPE, JSON)]), body: Bytes::new() };
        let mut answer = truth.unwrap_or_else(empty);
        answer.status = self.status.unwrap_or(answer.status);
        answer.body = self.body.unwrap_or(answer.body);
        // `extend` puts the first of each name in place of the former, and adds the others to it.
        answer.headers.extend(self.headers);
        answer
    }
}

/// A status that can end a request: one below 200 could not.
pub(crate) fn status_of(status: u16) -> Result<StatusCode, String> {
    let status_code = StatusCode::from_u16(status).ok().filter(|status| !status.is_informational());
    status_code.ok_or_else(|| format!("{status} is not the status of a reply: it must be within 200 to 999"))
}
