//! Work that may block for ever, on threads that nobody waits for.
//!
//! Must never run it on tokio's own threads: a runtime that ends waits for those, and one look-up or one file that hangs would
//! hold the whole process.

use std::{io, sync::Arc, thread};

use tokio::sync::{Semaphore, oneshot};

/// Most threads of one kind at once. Each of them may hang; what comes next waits for a place, or gives up.
const THREADS_MAX: usize = 4;

/// A few threads for one kind of work.
#[derive(Clone, Debug)]
pub struct BlockingPool {
    places: Arc<Semaphore>,
}

impl Default for BlockingPool {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(THREADS_MAX)) }
    }
}

impl BlockingPool {
    /// Runs `work` on a thread of its own. Whoever stops waiting for it leaves it to its end, and its place with it.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        let (done, waiting) = oneshot::channel();
        let thread = thread::Builder::new().name("token-broker-wait".to_owned());
        thread.spawn(move || {
            // Nobody may be left to hear it.
            drop(done.send(work()));
            drop(place);
        })?;
        waiting.await.map_err(io::Error::other)?
    }
}
