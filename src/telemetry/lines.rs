//! Lines on their way out: a bounded queue, and a thread that writes what has gathered.
//!
//! Must never make whoever says something wait: what finds the queue full is lost, and counted. Must never let out what would be two lines,
//! or steer a terminal.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

use crate::plain;

/// Lines that have gathered are written at once, up to so many bytes: a write each would cost a busy broker more than the lines.
pub(super) const GATHERED_MAX: usize = 64 * 1024;

/// After the first line others may gather for so long: however many there are, they wake the thread a hundred times a second at most.
const GATHER: Duration = Duration::from_millis(10);

/// Where lines end.
pub(super) trait Sink: Send + 'static {
    /// Writes so many lines; how many of them were lost.
    fn put(&mut self, lines: &[u8], count: usize) -> usize;

    /// Looks whether its place is still the right one.
    fn look(&mut self) {}
}

/// A queue of lines; clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    to: SyncSender<Job>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    lost: AtomicUsize,
    /// Those that were neither written nor lost yet.
    waiting: AtomicUsize,
}

#[derive(Debug)]
enum Job {
    Line(Vec<u8>),
    /// All before it was written.
    End(SyncSender<()>),
}

impl Lines {
    /// A queue of `most` lines before `sink`.
    pub(super) fn start(name: &str, most: usize, sink: impl Sink) -> io::Result<Self> {
        let (to, jobs) = sync_channel(most);
        let counts = Arc::new(Counts::default());
        let writer = Writer { sink, jobs, counts: Arc::clone(&counts) };
        thread::Builder::new().name(name.to_owned()).spawn(move || writer.run())?;
        Ok(Self { to, counts })
    }

    /// How many were lost so far, to a full queue or a sink that failed.
    pub(super) fn lost(&self) -> usize {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.counts.waiting.load(Ordering::Relaxed)
    }

    /// Waits until what was said before is written, and its thread has ended. As long as that takes.
    pub(super) fn end(&self) {
        let (ended, end) = sync_channel(1);
        if self.to.send(Job::End(ended)).is_ok() {
            // Either way it is over.
            end.recv().ok();
        }
    }
}

impl io::Write for &Lines {
    /// A whole line each time, and no more than one, whatever is in it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
        let mut shown = plain::on_one_line(&text).into_owned();
        shown.push('\n');
        if self.to.try_send(Job::Line(shown.into_bytes())).is_err() {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// The thread.
struct Writer<S> {
    sink: S,
    jobs: Receiver<Job>,
    counts: Arc<Counts>,
}

impl<S: Sink> Writer<S> {
    /// The next job; what comes after a while without any may gather first.
    fn next(&self) -> Option<Job> {
        if let Ok(job) = self.jobs.try_recv() {
            return Some(job);
        }
        let job = self.jobs.recv().ok()?;
        // Whoever waits for the end waits no longer.
        if matches!(job, Job::Line(_)) {
            thread::sleep(GATHER);
        }
        Some(job)
    }

    fn run(mut self) {
        let mut gathered = Vec::with_capacity(GATHERED_MAX);
        while let Some(first) = self.next() {
            let (mut next, mut count) = (Some(first), 0);
            let mut end = None;
            while let Some(job) = next.take() {
                match job {
                    Job::Line(line) => gathered.extend_from_slice(&line),
                    Job::End(ended) => {
                        end = Some(ended);
                        break;
                    }
                }
                count += 1;
                if gathered.len() < GATHERED_MAX {
                    next = self.jobs.try_recv().ok();
                }
            }
            if count > 0 {
                let lost = self.sink.put(&gathered, count);
                self.counts.lost.fetch_add(lost, Ordering::Relaxed);
                self.counts.waiting.fetch_sub(count, Ordering::Relaxed);
                gathered.clear();
            }
            if let Some(ended) = end {
                // Whoever waited may have gone.
                ended.send(()).ok();
                return;
            }
        }
    }
}
