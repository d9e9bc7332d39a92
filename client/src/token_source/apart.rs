//! The thread that a source's work runs on: calls, renewals, connections, and the timer of whoever waits.
//!
//! Must never depend on a runtime of the caller's, which may end or stand still between two `block_on`; nor outlast the source; nor
//! be waited for, since whoever drops the source last may not be held up, and may be this thread itself.

use std::{convert::Infallible, io, thread};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// Its name: systems show no more than 15 letters.
const NAME: &str = "token-source";

/// Has the thread end once it is dropped.
pub(super) struct Running {
    _end: oneshot::Sender<Infallible>,
}

/// Starts one.
pub(super) fn start() -> io::Result<(Handle, Running)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (end, ended) = oneshot::channel();
    thread::Builder::new().name(NAME.to_owned()).spawn(move || {
        // Nothing is ever said: it returns once nobody can say anything any more.
        drop(runtime.block_on(ended));
        runtime.shutdown_background();
    })?;
    Ok((handle, Running { _end: end }))
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
        time::Duration,
    };

    use super::*;

    /// Far more than it takes, however busy the machine is.
    const PATIENCE: Duration = Duration::from_secs(30);

    thread_local! {
        /// Dropped as the thread ends.
        static ENDED: RefCell<Option<SyncSender<()>>> = const { RefCell::new(None) };
    }

    /// Tells as the thread ends.
    fn watched(runtime: &Handle) -> Receiver<()> {
        let (told, ended) = sync_channel(1);
        let (noted, is_noted) = sync_channel(1);
        drop(runtime.spawn(async move {
            ENDED.set(Some(told));
            noted.send(()).expect("the test waits");
            // A task that never ends is no reason to stay.
            std::future::pending::<()>().await;
        }));
        is_noted.recv_timeout(PATIENCE).expect("it runs");
        ended
    }

    #[test]
    fn the_thread_runs_until_it_is_told_to_end() {
        let (runtime, running) = start().expect("there is one");
        let ended = watched(&runtime);
        assert_eq!(ended.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout), "it runs on");
        drop(running);
        assert_eq!(ended.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected), "it ended");
    }

    #[test]
    fn it_may_be_the_thread_itself_that_has_it_end() {
        let (runtime, running) = start().expect("there is one");
        let ended = watched(&runtime);
        drop(runtime.spawn(async move { drop(running) }));
        assert_eq!(ended.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected), "it ended");
    }
}
