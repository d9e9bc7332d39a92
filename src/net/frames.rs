//! Counts the frames of HTTP/2 that a client sends, as their bytes come by: those that carry nothing have a budget.
//!
//! Must never judge what a frame says, which is h2's to do, nor cost a call more than some dozens of instructions.

use std::sync::Arc;

use tokio::time::Instant;

use super::memory_budget::STREAMS_MAX;
use crate::clock::Clock;

/// The length of the preface with which a client begins (RFC 9113, 3.4).
pub(super) const PREFACE_LENGTH: usize = 24;
/// The length of each frame's head (RFC 9113, 4.1).
const HEAD_LENGTH: usize = 9;
/// `DATA` and `HEADERS` (RFC 9113, 6.1 and 6.2): what calls are made of.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
/// A call that is begun and reset at once costs as much as one that is answered (CVE-2023-44487).
const RST_STREAM: u8 = 3;
/// `END_STREAM` of a `DATA` frame: an empty one that ends a request says something.
const END_STREAM: u8 = 1;
/// So many frames that carry nothing are taken from a new connection: it costs its client as much to open one as it costs us to read these.
const AT_FIRST: u32 = 1_024;
/// And so many at once from one on which calls have made good for them: some clients give the window of each answer back by itself, and a caller that
/// goes away resets all its streams.
const BURST: u32 = 16 * 1_024;
/// Each frame of a call makes good for so many: its WINDOW_UPDATEs, a PING that measures the way.
const EARNED: u32 = 8;
/// Of the calls of a connection as many may be reset as can be under way at once, since a caller that goes away resets them all …
const RESETS_AT_FIRST: u32 = OF_RESET * STREAMS_MAX;
/// … and one of so many that come after: who goes away is answered before its deadline, as a rule, and resets little.
const OF_RESET: u32 = 2;
/// Without any call so many are taken a second: clients ask every few seconds whether we live.
const PER_SECOND: u64 = 64;

/// A client sends frames that carry nothing, and little else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flood;

/// The frames of one connection.
pub(super) struct Frames {
    /// Bytes that belong to the preface or to a frame's payload, and are passed over.
    skip: usize,
    /// The part of a head that has come.
    head: [u8; HEAD_LENGTH],
    have: usize,
    /// How many frames that carry nothing are taken from now on.
    left: u32,
    /// How many calls may be reset, in parts of `OF_RESET`.
    resets: u32,
    /// Since when time has made nothing good.
    since: Instant,
    clock: Arc<dyn Clock>,
}

impl Frames {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            skip: PREFACE_LENGTH,
            head: [0; HEAD_LENGTH],
            have: 0,
            left: AT_FIRST,
            resets: RESETS_AT_FIRST,
            since: clock.now().mono,
            clock,
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// Where the budget is used up.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
            // Nearly always a head comes in one piece.
            if self.have == 0
                && let Some((head, rest)) = bytes.split_first_chunk()
            {
                self.frame(head)?;
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at((HEAD_LENGTH - self.have).min(bytes.len()));
            self.head.iter_mut().skip(self.have).zip(part).for_each(|(to, from)| *to = *from);
            self.have += part.len();
            bytes = rest;
            if self.have == HEAD_LENGTH {
                self.have = 0;
                let head = self.head;
                self.frame(&head)?;
            }
        }
    }

    fn frame(&mut self, head: &[u8; HEAD_LENGTH]) -> Result<(), Flood> {
        let &[high, middle, low, kind, flags, ..] = head;
        self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
        if kind == HEADERS {
            self.resets = (self.resets + 1).min(BURST);
        }
        if kind == RST_STREAM {
            self.resets = self.resets.checked_sub(OF_RESET).ok_or(Flood)?;
        }
        let carries = kind == HEADERS || kind == DATA && (self.skip > 0 || flags & END_STREAM != 0);
        if carries {
            self.left = (self.left + EARNED).min(BURST);
            return Ok(());
        }
        if self.left == 0 {
            self.make_good()?;
        }
        self.left -= 1;
        Ok(())
    }

    /// What the time since then is good for.
    fn make_good(&mut self) -> Result<(), Flood> {
        let now = self.clock.now().mono;
        let seconds = now.saturating_duration_since(self.since).as_secs();
        self.since = now;
        self.left = u32::try_from(seconds.saturating_mul(PER_SECOND)).unwrap_or(BURST).min(BURST);
        if self.left == 0 { Err(Flood) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, prelude::*};
    use tokio::time::advance;

    use super::*;
    use crate::clock::SystemClock;

    const PRIORITY: u8 = 2;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;
    const CONTINUATION: u8 = 9;

    fn begun() -> Frames {
        let mut frames = Frames::new(Arc::new(SystemClock));
        frames.feed(&[b'P'; PREFACE_LENGTH]).expect("is the preface");
        frames
    }

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        bytes.resize(HEAD_LENGTH + usize::from(length), 0xff);
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn what_carries_nothing_is_taken_in_a_burst_and_then_as_time_goes_by() {
        for empty in [
            frame(PRIORITY, 0, 5),
            frame(SETTINGS, 0, 0),
            frame(PING, 0, 8),
            frame(WINDOW_UPDATE, 0, 4),
            frame(CONTINUATION, 0, 0),
            frame(DATA, 0, 0),
            frame(200, 0, 200),
        ] {
            let mut frames = begun();
            (0..AT_FIRST).for_each(|_| frames.feed(&empty).expect("is taken at first"));
            assert_eq!(frames.feed(&empty), Err(Flood), "{empty:?}");
            let mut frames = begun();
            (0..AT_FIRST).for_each(|_| frames.feed(&empty).expect("is taken at first"));
            advance(Duration::from_secs(2)).await;
            (0..2 * PER_SECOND).for_each(|_| frames.feed(&empty).expect("time made it good"));
            assert_eq!(frames.feed(&empty), Err(Flood));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_calls_that_can_be_under_way_may_be_reset_and_half_of_those_that_follow() {
        let (head, message, reset) = (frame(HEADERS, 0, 20), frame(DATA, END_STREAM, 60), frame(RST_STREAM, 0, 4));
        let all = |frames: &mut Frames, of: &[&Vec<u8>]| of.iter().try_for_each(|frame| frames.feed(frame));
        let mut frames = begun();
        (0..STREAMS_MAX).for_each(|_| all(&mut frames, &[&head, &message]).expect("are calls"));
        (0..STREAMS_MAX).for_each(|_| frames.feed(&reset).expect("their caller went away"));
        (0..BURST).for_each(|_| all(&mut frames, &[&head, &message, &head, &message, &reset]).expect("half of them went away"));
        let mut frames = begun();
        let taken = (0..BURST).take_while(|_| all(&mut frames, &[&head, &message, &reset]).is_ok()).count();
        assert_eq!(taken, RESETS_AT_FIRST as usize, "each is one too many");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_make_good_for_what_belongs_to_them() {
        for carries in [frame(HEADERS, 0, 20), frame(HEADERS, 0, 0), frame(DATA, 0, 1), frame(DATA, END_STREAM, 0)] {
            let mut frames = begun();
            for _ in 0..2 * BURST {
                frames.feed(&carries).expect("a call is no flood");
                (0..EARNED).for_each(|_| frames.feed(&frame(WINDOW_UPDATE, 0, 4)).expect("belongs to it"));
            }
            assert_eq!(frames.left, AT_FIRST);
            (0..BURST).for_each(|_| frames.feed(&carries).expect("a call is no flood"));
            assert_eq!(frames.left, BURST, "more is not kept");
        }
    }

    proptest! {
        /// However the bytes are cut, they say the same.
        #[test]
        fn the_pieces_in_which_bytes_come_make_no_difference(
            kinds in vec((0_u8..10, 0_u8..2, 0_u8..40), 0..50),
            cuts in vec(1_usize..60, 1..100),
        ) {
            let mut bytes = vec![b'P'; PREFACE_LENGTH];
            kinds.iter().for_each(|&(kind, flags, length)| bytes.extend(frame(kind, flags, length)));
            let (mut whole, mut cut) = (Frames::new(Arc::new(SystemClock)), Frames::new(Arc::new(SystemClock)));
            prop_assert_eq!(whole.feed(&bytes), Ok(()));
            let mut rest = bytes.as_slice();
            for length in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, later) = rest.split_at((*length).min(rest.len()));
                prop_assert_eq!(cut.feed(piece), Ok(()));
                rest = later;
            }
            prop_assert_eq!((whole.left, whole.resets, whole.skip, whole.have), (cut.left, cut.resets, cut.skip, cut.have));
            let empty = kinds.iter().filter(|&&(kind, flags, length)| {
                !(kind == HEADERS || kind == DATA && (length > 0 || flags == END_STREAM))
            });
            prop_assert!(AT_FIRST.saturating_sub(whole.left) <= u32::try_from(empty.count()).expect("are few"));
        }
    }
}
