//! The API server's own word on a token (TokenReview): it knows the pods and accounts that are gone.
//!
//! Must never take a review for longer than it is remembered, nor take one for another audience or account than ours.

mod memory;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::warn;
use zeroize::Zeroizing;

use self::memory::{Known, Memory, Outcome, Verdict};
use super::{
    Tasks, Timeouts, Unverified,
    api::{Api, Failed},
    lock,
    token_digest::TokenDigest,
};
use crate::{
    caller::CallerName,
    clock::{Clock, Moment},
    json::Object,
    single_flight::{Follower, Leader},
};

/// Reviews asked for at once: what a broker that starts up may ask of an API server that serves the whole cluster.
const AT_ONCE: usize = 64;
/// Between two lines of the log about failing reviews: each call may bring one about.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);

const AWAY: &str = "the cluster can't be asked about the token now: try again";
const BUSY: &str = "too many tokens wait for the cluster's review: try again";

/// Asks for reviews, and remembers them for a moment.
pub(super) struct Reviews {
    shared: Arc<Shared>,
    tasks: Tasks,
}

struct Shared {
    api: Arc<Api>,
    url: Url,
    audience: String,
    clock: Arc<dyn Clock>,
    timeouts: Timeouts,
    places: Semaphore,
    memory: Mutex<Memory>,
    complained: Mutex<Option<Instant>>,
}

impl Reviews {
    /// Asks on `runtime`, whatever runtime has a token.
    pub(super) fn new(
        api: Arc<Api>,
        url: Url,
        audience: String,
        clock: Arc<dyn Clock>,
        timeouts: Timeouts,
        runtime: Handle,
    ) -> Self {
        let (places, memory) = (Semaphore::new(AT_ONCE), Mutex::default());
        let shared = Shared { api, url, audience, clock, timeouts, places, memory, complained: Mutex::default() };
        Self { shared: Arc::new(shared), tasks: Tasks::on(runtime) }
    }

    /// Whether the cluster takes the token, which has this digest and was found to be this account's, for that.
    pub(super) async fn review(&self, token: &str, digest: TokenDigest, account: &CallerName) -> Outcome {
        let review = {
            let mut memory = lock(&self.shared.memory);
            let now = self.shared.clock.now();
            match memory.look(&digest, now) {
                Known::Reviewed(verdict) => return verdict.map_err(Unverified::Refused),
                Known::UnderReview(review) => review,
                Known::Full => return Err(Unverified::Unavailable(BUSY)),
                Known::Not => self.begin(&mut memory, digest, token, account),
            }
        };
        match timeout(self.shared.timeouts.request, review.result()).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(Unverified::Unavailable(AWAY)),
        }
    }

    fn begin(&self, memory: &mut Memory, digest: TokenDigest, token: &str, account: &CallerName) -> Follower<Outcome> {
        let leader = Leader::new();
        let review = leader.follower();
        memory.begin(digest, review.clone());
        let (shared, token, account) = (Arc::clone(&self.shared), Zeroizing::new(token.to_owned()), account.clone());
        self.tasks.spawn(async move { leader.finish(shared.review(digest, &token, &account).await) });
        review
    }
}

impl Shared {
    async fn review(&self, digest: TokenDigest, token: &str, account: &CallerName) -> Outcome {
        let result = match timeout(self.timeouts.request, self.ask(token, account)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(Failed::Away("its answer took too long")),
        };
        lock(&self.memory).finish(digest, result.ok());
        match result {
            Ok((verdict, _asked)) => verdict.map_err(Unverified::Refused),
            Err(failed) => {
                self.complain(failed);
                Err(Unverified::Unavailable(AWAY))
            }
        }
    }

    /// The verdict, and when it was asked for.
    async fn ask(&self, token: &str, account: &CallerName) -> Result<(Verdict, Moment), Failed> {
        let _place = self.places.acquire().await.ok().ok_or(Failed::Away("the broker ends"))?;
        let asked = self.clock.now();
        let answer = self.api.create(&self.url, question(token, &self.audience)?).await?;
        Ok((judge(&answer, &self.audience, account)?, asked))
    }

    fn complain(&self, failed: Failed) {
        let now = self.clock.now().mono;
        let mut last = lock(&self.complained);
        if last.is_some_and(|last| now.saturating_duration_since(last) < COMPLAINT_PAUSE) {
            return;
        }
        *last = Some(now);
        drop(last);
        match failed {
            Failed::Denied => warn!(
                "the API server does not let the broker review tokens: give its service account a ClusterRole that may \
                 create tokenreviews in authentication.k8s.io (as system:auth-delegator may), and see that the file of \
                 its own token is current"
            ),
            Failed::Away(cause) => warn!(cause, "tokens can't be reviewed"),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    api_version: &'static str,
    kind: &'static str,
    spec: Spec<'a>,
}

#[derive(Serialize)]
struct Spec<'a> {
    token: &'a str,
    audiences: [&'a str; 1],
}

/// The request's body, in memory that is wiped.
fn question(token: &str, audience: &str) -> Result<Bytes, Failed> {
    let spec = Spec { token, audiences: [audience] };
    let question = Question { api_version: "authentication.k8s.io/v1", kind: "TokenReview", spec };
    // A character takes six at most (`\u0000`), so that the text never moves and leaves a copy behind.
    let mut body = Zeroizing::new(Vec::with_capacity(128 + 6 * (token.len() + audience.len())));
    serde_json::to_writer(&mut *body, &question).ok().ok_or(Failed::Away("the question can't be put into JSON"))?;
    Ok(Bytes::from_owner(body))
}

#[derive(Deserialize)]
struct Answer {
    status: Object<Status>,
}

/// Go leaves out what is empty.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    user: Object<User>,
    #[serde(default)]
    audiences: Vec<String>,
}

#[derive(Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

/// An authenticator that knows no audiences leaves them out of its answer and has not looked at the token's: that the
/// question named ours proves nothing.
fn judge(answer: &[u8], audience: &str, account: &CallerName) -> Result<Verdict, Failed> {
    let Object(Answer { status: Object(status) }) =
        serde_json::from_slice(answer).ok().ok_or(Failed::Away("its answer is not a TokenReview"))?;
    Ok(if !status.authenticated {
        Err("the cluster no longer takes the token: its pod or service account may be gone; read the token's file anew")
    } else if !status.audiences.iter().any(|confirmed| confirmed == audience) {
        Err("the cluster does not confirm the token's audience: mount a projected token with the broker's audience")
    } else if status.user.0.username != **account {
        Err("the cluster knows the token as another account's: send the pod's projected token as it is in its file")
    } else {
        Ok(())
    })
}
