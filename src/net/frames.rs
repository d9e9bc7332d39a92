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
const SETTINGS: u8 = 4;
/// A setting's length, and the one that says how much of an answer may be sent before its client gives leave for more (RFC 9113, 6.5).
const SETTING_LENGTH: usize = 6;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// The smallest such window, but for none at all: nearly all answers fit into it. What is sent in part only is neither unread nor unsent to
/// us, and would stay for as long as its connection. HTTP/2's default is 65,535, and clients of gRPC have no less.
const WINDOW_MIN: u32 = 4 * 1_024;
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
/// And so many a second, whatever was called: a slow vault and short deadlines make for many.
const RESETS_PER_SECOND: u32 = 256;
/// Without any call so many are taken a second: clients ask every few seconds whether we live.
const PER_SECOND: u32 = 64;

/// A client sends frames that carry nothing, and little else, or takes answers in crumbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flood;

/// The frames of one connection.
pub(super) struct Frames {
    /// Bytes that belong to the preface or to a frame's payload, and are passed over.
    skip: usize,
    /// Whether they are settings, which are looked at.
    settings: bool,
    /// The part of a head, or of a setting, that has come.
    head: [u8; HEAD_LENGTH],
    have: usize,
    /// The newest stream, by its number.
    newest: u32,
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
            settings: false,
            newest: 0,
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
        while !bytes.is_empty() {
            if self.settings && self.skip > 0 {
                bytes = self.setting(bytes)?;
                continue;
            }
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            // Nearly always a head comes in one piece.
            if self.have == 0
                && let Some((head, rest)) = bytes.split_first_chunk()
            {
                self.frame(head)?;
                bytes = rest;
                continue;
            }
            let taken;
            (taken, bytes) = self.gather(bytes, HEAD_LENGTH);
            if taken {
                let head = self.head;
                self.frame(&head)?;
            }
        }
        Ok(())
    }

    /// Takes some of what makes up so many bytes; whether they are together now, and the rest.
    fn gather<'b>(&mut self, bytes: &'b [u8], length: usize) -> (bool, &'b [u8]) {
        let (part, rest) = bytes.split_at((length - self.have).min(bytes.len()));
        self.head.iter_mut().skip(self.have).zip(part).for_each(|(to, from)| *to = *from);
        self.have += part.len();
        let whole = self.have == length;
        if whole {
            self.have = 0;
        }
        (whole, rest)
    }

    /// Takes some of a setting; what is no whole one at the end is h2's to refuse.
    fn setting<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Flood> {
        let length = SETTING_LENGTH.min(self.have + self.skip);
        let (whole, rest) = self.gather(bytes, length);
        self.skip -= bytes.len() - rest.len();
        let [high, low, value @ ..] = self.head;
        let [first, second, third, fourth, ..] = value;
        let window = u32::from_be_bytes([first, second, third, fourth]);
        let crumbs = u16::from_be_bytes([high, low]) == INITIAL_WINDOW_SIZE && (1..WINDOW_MIN).contains(&window);
        if whole && length == SETTING_LENGTH && crumbs { Err(Flood) } else { Ok(rest) }
    }

    fn frame(&mut self, head: &[u8; HEAD_LENGTH]) -> Result<(), Flood> {
        let &[high, middle, low, kind, flags, stream @ ..] = head;
        self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.settings = kind == SETTINGS;
        let stream = u32::from_be_bytes(stream);
        // Trailers are no call.
        if kind == HEADERS && stream > self.newest {
            self.newest = stream;
            self.resets = (self.resets + 1).min(BURST);
        }
        if kind == RST_STREAM {
            if self.resets < OF_RESET {
                self.make_good();
            }
            self.resets = self.resets.checked_sub(OF_RESET).ok_or(Flood)?;
        }
        let carries = kind == HEADERS || kind == DATA && (self.skip > 0 || flags & END_STREAM != 0);
        if carries {
            self.left = (self.left + EARNED).min(BURST);
            return Ok(());
        }
        if self.left == 0 {
            self.make_good();
        }
        self.left = self.left.checked_sub(1).ok_or(Flood)?;
        Ok(())
    }

    /// What the time since then is good for.
    fn make_good(&mut self) {
        let now = self.clock.now().mono;
        let seconds = u32::try_from(now.saturating_duration_since(self.since).as_secs()).unwrap_or(u32::MAX);
        if seconds > 0 {
            self.since = now;
            self.left = self.left.saturating_add(seconds.saturating_mul(PER_SECOND)).min(BURST);
            self.resets = self.resets.saturating_add(seconds.saturating_mul(OF_RESET * RESETS_PER_SECOND)).min(BURST);
        }
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
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;
    const CONTINUATION: u8 = 9;

    fn begun() -> Frames {
        let mut frames = Frames::new(Arc::new(SystemClock));
        frames.feed(&[b'P'; PREFACE_LENGTH]).expect("is the preface");
        frames
    }

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        on_stream(1, kind, flags, length)
    }

    fn on_stream(stream: u32, kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, flags];
        bytes.extend(stream.to_be_bytes());
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

    /// A call on the next stream.
    fn call(stream: &mut u32) -> Vec<u8> {
        *stream += 2;
        [on_stream(*stream, HEADERS, 0, 20), on_stream(*stream, DATA, END_STREAM, 60)].concat()
    }

    #[tokio::test(start_paused = true)]
    async fn all_calls_that_can_be_under_way_may_be_reset_and_half_of_those_that_follow() {
        let (mut stream, reset) = (1, frame(RST_STREAM, 0, 4));
        let mut frames = begun();
        (0..STREAMS_MAX).for_each(|_| frames.feed(&call(&mut stream)).expect("is a call"));
        (0..STREAMS_MAX).for_each(|_| frames.feed(&reset).expect("their caller went away"));
        for _ in 0..BURST {
            (0..2).for_each(|_| frames.feed(&call(&mut stream)).expect("is a call"));
            frames.feed(&reset).expect("half of them went away");
        }
        let mut frames = begun();
        let mut each = |frames: &mut Frames| {
            // Trailers are no further call.
            frames.feed(&[call(&mut stream), on_stream(stream, HEADERS, 1, 5)].concat()).and_then(|()| frames.feed(&reset))
        };
        let taken = (0..BURST).take_while(|_| each(&mut frames).is_ok()).count();
        assert_eq!(taken, RESETS_AT_FIRST as usize, "each is one too many");
        let mut frames = begun();
        (0..RESETS_AT_FIRST).for_each(|_| each(&mut frames).expect("is taken at first"));
        advance(Duration::from_secs(1)).await;
        let taken = (0..BURST).take_while(|_| each(&mut frames).is_ok()).count();
        assert_eq!(taken, 2 * RESETS_PER_SECOND as usize, "time makes good for some");
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_takes_answers_in_crumbs_is_none() {
        let with = |settings: &[(u16, u32)]| {
            let payload: Vec<u8> =
                settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
            let mut bytes = vec![0, 0, u8::try_from(payload.len()).expect("is short"), SETTINGS, 0, 0, 0, 0, 0];
            bytes.extend(payload);
            bytes
        };
        for (settings, expected) in [
            (&[][..], Ok(())),
            (&[(4, 65_535)], Ok(())),
            (&[(4, 0)], Ok(())),
            (&[(4, WINDOW_MIN)], Ok(())),
            (&[(4, WINDOW_MIN - 1)], Err(Flood)),
            (&[(4, 1)], Err(Flood)),
            (&[(3, 1), (1, 1), (0x1_04, 1)], Ok(())),
            (&[(3, 100), (4, 1)], Err(Flood)),
        ] {
            for size in [1, 2, 5, 9, 100] {
                let mut frames = begun();
                let bytes = [with(settings), frame(PING, 0, 8)].concat();
                assert_eq!(bytes.chunks(size).try_for_each(|piece| frames.feed(piece)), expected, "{settings:?}");
            }
        }
        let mut frames = begun();
        assert_eq!(frames.feed(&frame(SETTINGS, 0, 5)), Ok(()), "h2 refuses it");
        assert_eq!((frames.skip, frames.have), (0, 0));
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
