//! Tokens that are to be ended at the vault: a bounded queue, and what works it off.
//!
//! Must never make anybody wait, try one twice, end without a line in the trail, nor go on once the process ends: the tokens of a restart are
//! good.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    clock::Clock,
    secret::Secret,
    telemetry::audit::{Audit, SignOutResult},
    tokens::token::TokenId,
    user::UserKey,
    vault::SignIn,
};

/// Most tokens that wait to be ended: of ten thousand users who are removed at once. What is more is told of, and ends by itself.
const WAITING_MAX: usize = 10_000;
/// At the vault at once: nobody waits for them, and sign-ins are to have its attention.
const AT_ONCE_MAX: usize = 4;

/// One token, and who ends it. Dropped before that is known, it is told of as not ended.
struct SignOut {
    vault: Arc<dyn SignIn>,
    user: Arc<UserKey>,
    token: Secret,
    token_id: TokenId,
    /// Where it is told what becomes of it, until it is.
    told: Option<Told>,
}

/// The queue.
pub(super) struct SignOuts {
    sender: Sender<SignOut>,
    /// Until the one task that works it off takes it.
    receiver: Mutex<Option<Receiver<SignOut>>>,
    told: Told,
}

/// Where it is told what became of them.
#[derive(Clone)]
struct Told {
    audit: Audit,
    clock: Arc<dyn Clock>,
}

impl SignOuts {
    /// An empty queue.
    pub(super) fn new(audit: Audit, clock: Arc<dyn Clock>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        Self { sender, receiver: Mutex::new(Some(receiver)), told: Told { audit, clock } }
    }

    /// Has a token ended at the vault that gave it.
    pub(super) fn put(&self, vault: &Arc<dyn SignIn>, user: &Arc<UserKey>, token: &Secret) {
        let (token, token_id) = (token.clone(), TokenId::of(token.expose()));
        let told = Some(self.told.clone());
        let sign_out = SignOut { vault: Arc::clone(vault), user: Arc::clone(user), token, token_id, told };
        if let Err(full) = self.sender.try_send(sign_out) {
            full.into_inner().tell(Err("too many wait to be ended, or the process ends"));
        }
    }

    /// Ends tokens until `closing`. To be spawned once.
    pub(super) async fn work_off(&self, closing: CancellationToken) {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut receiver) = receiver else { return };
        let mut under_way = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = closing.cancelled() => return,
                Some(_ended) = under_way.join_next() => {}
                Some(mut sign_out) = receiver.recv(), if under_way.len() < AT_ONCE_MAX => {
                    under_way.spawn(async move {
                        let result = sign_out.vault.sign_out(&sign_out.user, &sign_out.token).await;
                        sign_out.tell(result);
                    });
                }
            }
        }
    }
}

impl SignOut {
    /// Tells what became of it, once.
    fn tell(&mut self, result: Result<(), &'static str>) {
        let Some(Told { audit, clock }) = self.told.take() else { return };
        let (merchant_id, number, token_id) = (&self.user.merchant, &self.user.number, self.token_id);
        match result {
            Ok(()) => info!(%merchant_id, %number, %token_id, "signed out"),
            Err(cause) => warn!(%merchant_id, %number, %token_id, cause, "a token may not have been ended at the vault"),
        }
        let (at, user) = (clock.now().wall, Arc::clone(&self.user));
        audit.sign_out(SignOutResult { at, user, token_id, result });
    }
}

impl Drop for SignOut {
    fn drop(&mut self) {
        self.tell(Err("the process ended before it was known"));
    }
}
