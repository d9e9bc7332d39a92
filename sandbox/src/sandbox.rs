//! The handle that a test holds: settings, script, counters, and waiting for them.
//!
//! Must never sleep to find something out: whoever waits is woken by the counter that changed.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};

use crate::{
    clock,
    core::Core,
    fault::Fault,
    options::{Mode, Options, User},
    seen::{Seen, Stats},
    server,
};

/// Connections that may wait to be accepted: a test may open thousands at once (the system's own limit is often 4,096).
const BACKLOG: u32 = 4_096;

/// A running vault. Dropped, it stops.
pub struct Sandbox {
    addr: SocketAddr,
    core: Arc<Core>,
    /// Aborted when dropped.
    _server: JoinSet<()>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("addr", &self.addr).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// A sandbox on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// Where no port can be opened.
    pub async fn start(options: Options) -> io::Result<Self> {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), options).await
    }

    /// A sandbox on this address.
    ///
    /// # Errors
    /// Where it can't be opened.
    pub async fn listen(addr: SocketAddr, options: Options) -> io::Result<Self> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A test may come back to the port at once.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        Self::serve(socket.listen(BACKLOG)?, options).await
    }

    /// A sandbox on a listener that is bound already.
    ///
    /// # Errors
    /// Where the listener doesn't know its address.
    #[allow(clippy::unused_async, reason = "being async makes sure that there is a runtime to spawn on")]
    pub async fn serve(listener: TcpListener, options: Options) -> io::Result<Self> {
        let (addr, core) = (listener.local_addr()?, Arc::new(Core::new(options)));
        let mut server = JoinSet::new();
        server.spawn(server::run(listener, Arc::clone(&core)));
        Ok(Self { addr, core, _server: server })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT`, without a slash at its end; `https://` where it has a certificate.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.core.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    /// Adds a user, or puts a new one in its place (unlocked, and its tokens stay as they are).
    pub fn add_user(&self, user: User) {
        let mut state = self.core.state();
        state.know(&user.number);
        state.vault.add_user(user);
    }

    /// Removes a user; its tokens stay as they are.
    ///
    /// # Panics
    /// Where there is none: the test would go on under a wrong assumption. So do the next three.
    pub fn remove_user(&self, merchant_id: &str, number: &str) {
        let done = self.core.state().vault.remove_user(merchant_id, number);
        assert!(done, "the sandbox has no user {number} of {merchant_id} to remove");
    }

    /// Changes a password. A lock stays; wrong passwords are counted anew.
    ///
    /// # Panics
    /// Where there is no such user.
    pub fn set_password(&self, merchant_id: &str, number: &str, password: impl Into<String>) {
        let done = self.core.state().vault.set_password(merchant_id, number, password.into());
        assert!(done, "the sandbox has no user {number} of {merchant_id} to change");
    }

    /// Locks a user: `CUSTOMER_STATUS_INCORRECT`, whatever the password.
    ///
    /// # Panics
    /// Where there is no such user.
    pub fn lock_user(&self, merchant_id: &str, number: &str) {
        let done = self.core.state().vault.set_locked(merchant_id, number, true);
        assert!(done, "the sandbox has no user {number} of {merchant_id} to lock");
    }

    /// Unlocks a user.
    ///
    /// # Panics
    /// Where there is no such user.
    pub fn unlock_user(&self, merchant_id: &str, number: &str) {
        let done = self.core.state().vault.set_locked(merchant_id, number, false);
        assert!(done, "the sandbox has no user {number} of {merchant_id} to unlock");
    }

    /// How long tokens live that are minted from now on; see [`Options::lifetime`] for what shows in `expires_in`.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.core.state().vault.lifetime = lifetime;
    }

    /// What the next sign-ins do to former tokens.
    pub fn set_mode(&self, mode: Mode) {
        self.core.state().vault.mode = mode;
    }

    /// How long each sign-in takes that comes from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.core.state().delay = delay;
    }

    /// What happens to the next sign-in that has no fault yet, whoever's it is.
    ///
    /// # Panics
    /// Beyond [`crate::MAX_SCRIPT`] faults.
    pub fn script(&self, fault: Fault) {
        self.add(None, fault);
    }

    /// What happens to this number's next sign-in that has no fault of its own yet; goes before [`Sandbox::script`].
    ///
    /// # Panics
    /// Beyond [`crate::MAX_SCRIPT`] faults.
    pub fn script_for(&self, number: &str, fault: Fault) {
        self.add(Some(number.to_owned()), fault);
    }

    fn add(&self, number: Option<String>, fault: Fault) {
        let added = self.core.state().script.add(vec![(number, fault)]);
        assert!(added.is_ok(), "{added:?}");
    }

    /// What happens to every sign-in for which nothing is scripted, until it is unset: an outage.
    pub fn set_always(&self, fault: Option<Fault>) {
        self.core.state().script.always = fault;
    }

    /// Drops all that is scripted and the outage; how many faults were left.
    pub fn clear_script(&self) -> usize {
        self.core.state().script.clear()
    }

    /// How many scripted faults were not dealt yet.
    #[must_use]
    pub fn unused_faults(&self) -> usize {
        self.core.state().script.left()
    }

    /// Checks that everything scripted has happened.
    ///
    /// # Panics
    /// Listing what hasn't.
    #[track_caller]
    pub fn assert_script_used_up(&self) {
        let left = self.core.state().script.list();
        assert!(left.is_empty(), "{} scripted fault(s) never happened:\n{}", left.len(), left.join("\n"));
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        *self.core.stats.borrow()
    }

    /// Sign-ins that were read to their end.
    #[must_use]
    pub fn sign_ins(&self) -> u64 {
        self.stats().sign_ins
    }

    /// The same of one number, under whatever merchant.
    #[must_use]
    pub fn sign_ins_of(&self, number: &str) -> u64 {
        self.core.state().sign_ins_of(number)
    }

    /// Sign-ins that got all that was meant for them.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.stats().answered
    }

    /// The last [`crate::MAX_SEEN`] sign-ins, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.core.state().seen()
    }

    /// Waits until at least `n` sign-ins have come.
    ///
    /// # Panics
    /// Where they haven't after `timeout`.
    pub async fn wait_for_sign_ins(&self, n: u64, timeout: Duration) {
        self.wait_for(&format!("{n} sign-ins"), timeout, |stats| stats.sign_ins >= n).await;
    }

    /// Waits until at least `n` sign-ins of this number have come.
    ///
    /// # Panics
    /// Where they haven't after `timeout`.
    pub async fn wait_for_sign_ins_of(&self, number: &str, n: u64, timeout: Duration) {
        self.wait_for(&format!("{n} sign-ins of {number}"), timeout, |_| self.sign_ins_of(number) >= n).await;
    }

    /// Waits until at least `n` sign-ins got all that was meant for them.
    ///
    /// # Panics
    /// Where they haven't after `timeout`.
    pub async fn wait_for_answers(&self, n: u64, timeout: Duration) {
        self.wait_for(&format!("{n} answers"), timeout, |stats| stats.answered >= n).await;
    }

    /// Waits until the counters are as wanted; `what` names that in the message. They are looked at after each change.
    ///
    /// # Panics
    /// Where they aren't after `timeout`.
    #[allow(clippy::panic, reason = "for tests: what didn't happen in time is a failure, and says itself what it waited for")]
    pub async fn wait_for(&self, what: &str, timeout: Duration, wanted: impl Fn(&Stats) -> bool) {
        let mut stats = self.core.stats.subscribe();
        let there = async {
            loop {
                // Copied, so that the counters aren't locked while `wanted` looks at other things.
                let now = *stats.borrow_and_update();
                if wanted(&now) || stats.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(timeout, there).await.is_err() {
            panic!("waited {timeout:?} for {what} in vain; the sandbox counted {:#?}", self.stats());
        }
    }

    /// Kills a token, as another session's sign-out would; whether it was one that could have worked.
    pub fn revoke(&self, access_token: &str) -> bool {
        self.core.state().vault.revoke(access_token)
    }

    /// Kills every token; how many there were.
    pub fn revoke_all(&self) -> usize {
        self.core.state().vault.revoke_all()
    }

    /// Whether the resource endpoint would take this token now.
    #[must_use]
    pub fn is_live(&self, access_token: &str) -> bool {
        self.core.state().vault.is_live(access_token, clock::wall())
    }

    /// Closes all connections, whatever is under way on them; new ones are welcome. Doesn't wait: `connections_now` tells.
    pub fn restart_connections(&self) {
        self.core.hang_up.send_modify(|times| *times += 1);
    }

    /// Closes the port and all connections; when it returns, connecting is refused. A second call does nothing.
    pub async fn stop(&self) {
        self.core.stop.send_replace(true);
        // Fails only once `core` is gone, which this handle holds.
        self.core.stopped.subscribe().wait_for(|stopped| *stopped).await.ok();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The tasks are aborted after this; where the runtime lives on, they end in either way.
        self.core.stop.send_replace(true);
    }
}
