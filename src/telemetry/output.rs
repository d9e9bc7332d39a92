//! Bytes to standard output and standard error, whatever those are: non-blocking, slow, full, closed.
//!
//! Must never panic, as `println!` does where nobody reads; give up in the middle of a line because an output is not ready yet; nor
//! wait without end for one while the process is to end.

use std::{
    fmt, io,
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::lines::Sink;
use crate::plain;

/// What the process says on standard error while it runs is gone, if whoever reads that takes nothing for this long.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Written at once where nothing may block: a pipe that is ready takes so much (`PIPE_BUF`).
const BITE: usize = 4_096;
/// Pause where an output says that it is ready, and then is not.
const NOT_YET: Duration = Duration::from_millis(10);

/// Says a line, or several, on standard error. Whether anybody reads it is not our affair.
pub fn complain(lines: impl fmt::Display, patience: Option<Duration>) {
    let lines = lines.to_string();
    // There is nobody left to tell.
    write(io::stderr().as_fd(), format!("{}\n", plain::in_lines(&lines)).as_bytes(), patience).ok();
}

/// Prints a line on standard output.
///
/// # Errors
/// Where it can't be written whole.
pub fn print(line: impl fmt::Display) -> io::Result<()> {
    write(io::stdout().as_fd(), format!("{line}\n").as_bytes(), None).map_err(|Broken { why, .. }| why)
}

/// What could not be written whole.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) written: usize,
    why: io::Error,
}

/// Writes all of it, or fails. Without `patience` it waits for as long as it takes; with it, for so long between two bites, also
/// where the output would block.
pub(super) fn write(to: BorrowedFd<'_>, bytes: &[u8], patience: Option<Duration>) -> Result<(), Broken> {
    let mut written = 0;
    let mut waited = false;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        let tried = if let Some(patience) = patience {
            let bite = rest.get(..BITE).unwrap_or(rest);
            ready(to, Some(patience)).and_then(|()| rustix::io::write(to, bite))
        } else {
            rustix::io::write(to, rest)
        };
        let failed = match tried {
            Ok(0) => Errno::IO,
            Ok(n) => {
                written += n;
                waited = false;
                continue;
            }
            Err(Errno::INTR) => continue,
            // `EWOULDBLOCK` is the same.
            Err(Errno::AGAIN) => {
                if waited {
                    thread::sleep(NOT_YET);
                }
                waited = true;
                match ready(to, patience) {
                    Ok(()) | Err(Errno::INTR) => continue,
                    Err(errno) => errno,
                }
            }
            Err(errno) => errno,
        };
        return Err(Broken { written, why: failed.into() });
    }
    Ok(())
}

/// Waits until something can be written, or until that would fail.
fn ready(to: BorrowedFd<'_>, patience: Option<Duration>) -> Result<(), Errno> {
    let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
    match poll(&mut [PollFd::new(&to, PollFlags::OUT)], timeout.as_ref()) {
        Ok(0) => Err(Errno::TIMEDOUT),
        Ok(_) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Lines on standard output: those of all clones one after the other, whole. Where one broke off, the next begins on its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Stdout {
    /// Whether the last line broke off.
    torn: Arc<Mutex<bool>>,
}

impl Sink for Stdout {
    fn put(&mut self, lines: &[u8], count: usize) -> usize {
        let mut torn = self.torn.lock().unwrap_or_else(PoisonError::into_inner);
        put(io::stdout().as_fd(), lines, count, &mut torn)
    }
}

/// Writes `count` lines; how many of them were lost.
pub(super) fn put(to: BorrowedFd<'_>, lines: &[u8], count: usize, torn: &mut bool) -> usize {
    if *torn && write(to, b"\n", None).is_err() {
        return count;
    }
    *torn = false;
    let Err(Broken { written, .. }) = write(to, lines, None) else { return 0 };
    let got = lines.get(..written).unwrap_or_default();
    *torn = got.last().is_some_and(|last| *last != b'\n');
    count.saturating_sub(got.iter().filter(|byte| **byte == b'\n').count())
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::net::UnixStream, sync::mpsc::sync_channel};

    use super::*;

    #[test]
    fn an_output_that_is_not_ready_is_waited_for() {
        let (mut reader, writer) = UnixStream::pair().expect("a pair");
        writer.set_nonblocking(true).expect("it can be set");
        let line = [&[b'x'; 9_999][..], b"\n"].concat();
        let lines = line.repeat(300);
        let (begin, begun) = sync_channel::<()>(0);
        let reading = thread::spawn(move || {
            begun.recv().expect("it is full");
            let mut all = Vec::new();
            reader.read_to_end(&mut all).expect("it is written");
            all
        });
        // Full, and nobody reads: whoever has patience for a while only is told so.
        let mut torn = false;
        let first = write(writer.as_fd(), &lines, Some(Duration::from_millis(10))).expect_err("nobody reads").written;
        assert!(first > 0 && first < lines.len());
        begin.send(()).expect("it waits");
        assert_eq!(put(writer.as_fd(), &lines[first..], 300, &mut torn), 0);
        drop(writer);
        assert!(reading.join().expect("no panic") == lines);
    }

    #[test]
    fn what_is_lost_is_counted_and_the_next_line_begins_on_its_own() {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("there is one");
        let mut torn = false;
        assert_eq!(put(full.as_fd(), b"a\nb\n", 2, &mut torn), 2);
        assert!(!torn);
        let (mut reader, writer) = UnixStream::pair().expect("a pair");
        torn = true;
        assert_eq!(put(writer.as_fd(), b"a\nb\n", 2, &mut torn), 0);
        let mut read = [0; 5];
        reader.read_exact(&mut read).expect("it is written");
        assert_eq!((&read, torn), (b"\na\nb\n", false));
        drop(reader);
        assert_eq!(put(writer.as_fd(), b"a\nb\n", 2, &mut torn), 2);
    }
}
