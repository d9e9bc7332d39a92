//! Records from whoever has one to the sink: in order, none lost without being counted, none waited for.

use std::sync::{
    Mutex,
    mpsc::{Receiver, SyncSender, sync_channel},
};

use serde_json::Value;

use super::{
    queue::{Batch, Orders},
    *,
};
use crate::{
    caller::CallerName,
    clock::Moment,
    config::Hits,
    user::{MerchantId, Number},
};

/// A call of `caller` that was answered from the cache, so many seconds after 1970.
pub(super) fn hit(caller: &str, number: &str, token: &str, second: u64) -> Decision {
    let (merchant, number) = (MerchantId::parse("m".to_owned()), Number::parse(number.to_owned()));
    Decision {
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
        caller: Some(CallerId::Named(CallerName::parse(caller).expect(caller))),
        user: Some(Arc::new(UserKey { merchant: merchant.expect("is valid"), number: number.expect("is valid") })),
        verdict: Verdict::Allowed,
        reason: "",
        outcome: crate::telemetry::HIT,
        would_deny: None,
        token_id: Some(TokenId::of(token)),
        request_id: RequestId::random(),
        trace_id: None,
    }
}

fn of(caller: &str) -> Decision {
    hit(caller, "+447871239999", "1", 0)
}

/// Keeps what it is given; or fails.
#[derive(Clone, Default)]
struct Kept {
    lines: Arc<Mutex<Vec<u8>>>,
    full: bool,
}

impl Sink for Kept {
    fn put(&mut self, lines: &[u8], count: usize) -> usize {
        assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), count);
        if self.full {
            return count;
        }
        self.lines.lock().expect("no panic").extend_from_slice(lines);
        0
    }
}

impl Kept {
    /// Caller, outcome and count of each line so far, which is forgotten.
    fn told(&self) -> Vec<(String, String, Option<u64>)> {
        let lines = std::mem::take(&mut *self.lines.lock().expect("no panic"));
        let lines = String::from_utf8(lines).expect("is text");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let told = |line: Value| (text(&line["caller"]), text(&line["outcome"]), line["count"].as_u64());
        lines.lines().map(|line| told(serde_json::from_str(line).expect("is JSON"))).collect()
    }
}

fn line(caller: &str, outcome: &str, count: Option<u64>) -> (String, String, Option<u64>) {
    (caller.to_owned(), outcome.to_owned(), count)
}

/// A writer whose thread is the test's.
struct Bench {
    queue: Arc<Queue>,
    writer: Writer<Kept>,
    kept: Kept,
    now: Moment,
}

impl Bench {
    fn new(sums: Option<Sums>) -> Self {
        let (queue, kept, clock) = (Arc::new(Queue::new(100_000)), Kept::default(), Arc::new(SystemClock));
        let now = clock.now();
        Self { writer: Writer::new(Arc::clone(&queue), kept.clone(), sums, clock), queue, kept, now }
    }

    fn write(&mut self, calls: impl IntoIterator<Item = Decision>, orders: Orders) {
        calls.into_iter().for_each(|call| self.queue.push(Record::Decision(call)));
        let mut batch = Batch::default();
        self.queue.next(&mut batch, Some(Duration::ZERO));
        self.writer.write(&mut Batch { orders, ..batch }, self.now);
    }
}

#[test]
fn hits_are_told_once_a_minute_where_they_are_summed_and_all_else_at_once() {
    let mut bench = Bench::new(Some(Sums::default()));
    let due = Decision { outcome: "due", ..of("a") };
    let denied = Decision { verdict: Verdict::Denied, outcome: "turned_away", ..of("b") };
    let calls = (0..500).map(|_| of("a")).chain([due, denied]).chain((0..500).map(|_| of("a"))).chain((0..10).map(|_| of("b")));
    bench.write(calls, Orders::default());
    assert_eq!(bench.kept.told(), [line("a", "due", None), line("b", "turned_away", None)]);
    assert_eq!((bench.queue.waiting(), bench.queue.lost()), (2, 0), "a line is still to come for each of the two");
    bench.now.mono += Duration::from_secs(59);
    bench.write([], Orders::default());
    assert_eq!(bench.kept.told(), []);
    bench.now.mono += Duration::from_secs(1);
    bench.write([], Orders::default());
    assert_eq!(bench.kept.told(), [line("a", "hit", Some(1_000)), line("b", "hit", Some(10))]);
    assert_eq!((bench.queue.waiting(), bench.queue.lost()), (0, 0));
    bench.write([of("a")], Orders::default());
    assert_eq!(bench.kept.told(), []);
    bench.write([of("a")], Orders { flush: true, ..Orders::default() });
    assert_eq!(bench.kept.told(), [line("a", "hit", Some(2))], "told to");
    bench.write([of("a")], Orders { end: true, ..Orders::default() });
    assert_eq!(bench.kept.told(), [line("a", "hit", Some(1))], "at the end");
}

#[test]
fn sums_beyond_their_bound_are_told_early_and_none_is_lost() {
    let mut bench = Bench::new(Some(Sums::default()));
    bench.write((0..40_000).map(|n| of(&n.to_string())), Orders::default());
    let early = bench.kept.told();
    assert!((1..40_000).contains(&early.len()), "{}", early.len());
    bench.write([], Orders { end: true, ..Orders::default() });
    let all: Vec<_> = early.into_iter().chain(bench.kept.told()).collect();
    assert!(all.into_iter().eq((0..40_000).map(|n| line(&n.to_string(), "hit", Some(1)))), "each once, in order");
    assert_eq!((bench.queue.waiting(), bench.queue.lost()), (0, 0));
}

#[test]
fn every_hit_has_a_line_of_its_own_where_they_are_not_summed() {
    let mut bench = Bench::new(None);
    bench.write((0..1_000).map(|n| of(&n.to_string())), Orders::default());
    assert!(bench.kept.told().into_iter().eq((0..1_000).map(|n| line(&n.to_string(), "hit", None))), "in their order");
}

#[test]
fn a_queue_takes_no_more_than_its_bound_and_counts_the_rest() {
    let queue = Queue::new(600);
    (0..603).for_each(|n| queue.push(Record::Decision(of(&n.to_string()))));
    assert_eq!((queue.waiting(), queue.lost()), (600, 3));
    let mut batch = Batch::default();
    queue.next(&mut batch, None);
    queue.push(Record::Decision(of("late")));
    assert_eq!(queue.lost(), 4, "what is taken and not yet written fills it too");
    let callers = batch.parts.iter_mut().flat_map(|part| part.drain(..)).map(|record| match record {
        Record::Decision(call) => call.caller.expect("has one").to_string(),
        Record::Rare(rare) => panic!("{rare:?}"),
    });
    assert!(callers.eq((0..600).map(|n| n.to_string())), "oldest first");
    queue.done(600, 0);
    queue.push(Record::Decision(of("there-is-room-again")));
    assert_eq!((queue.waiting(), queue.lost()), (1, 4));
}

#[test]
fn the_end_writes_everything_and_what_comes_later_is_counted_as_lost() {
    for (hits, expected) in [(Hits::Each, vec![None; 1_000]), (Hits::Summed, vec![Some(1_000)])] {
        let kept = Kept::default();
        let audit = Audit::to(kept.clone(), hits, Arc::new(SystemClock)).expect("starts");
        (0..1_000).for_each(|_| audit.decision(of("a")));
        audit.end();
        let counts: Vec<_> = kept.told().into_iter().map(|(_, _, count)| count).collect();
        assert_eq!(counts, expected);
        assert_eq!((audit.waiting(), audit.lost()), (0, 0));
        audit.decision(of("late"));
        assert_eq!((audit.waiting(), audit.lost()), (0, 1));
        // A second time there is nobody to wait for.
        audit.end();
    }
}

#[test]
fn lines_that_the_sink_does_not_take_are_counted_as_lost() {
    let audit = Audit::to(Kept { full: true, ..Kept::default() }, Hits::Each, Arc::new(SystemClock)).expect("starts");
    (0..1_000).for_each(|_| audit.decision(of("a")));
    audit.configuration_refused(SystemTime::UNIX_EPOCH, 1);
    audit.end();
    assert_eq!((audit.waiting(), audit.lost()), (0, 1_001));
}

/// Begins to write, and goes on when it is let.
struct Stuck {
    begun: SyncSender<()>,
    let_go: Receiver<()>,
    kept: Kept,
}

impl Sink for Stuck {
    fn put(&mut self, lines: &[u8], count: usize) -> usize {
        self.begun.send(()).ok();
        // Once the test has let go, for good.
        self.let_go.recv().ok();
        self.kept.put(lines, count)
    }
}

#[test]
fn nobody_waits_for_a_sink_that_is_stuck() {
    let ((begun, begins), (go, let_go), kept) = (sync_channel(1), sync_channel(0), Kept::default());
    let audit = Audit::to(Stuck { begun, let_go, kept: kept.clone() }, Hits::Each, Arc::new(SystemClock)).expect("starts");
    audit.decision(of("a"));
    begins.recv().expect("it writes");
    (0..RECORDS_MAX + 9).for_each(|_| audit.decision(of("a")));
    assert_eq!((audit.waiting(), audit.lost()), (RECORDS_MAX, 10), "with the one that is being written");
    drop((go, begins));
    audit.end();
    assert_eq!(kept.told().len(), RECORDS_MAX);
    assert_eq!((audit.waiting(), audit.lost()), (0, 10));
}

#[test]
fn by_default_nothing_is_recorded() {
    let audit = Audit::default();
    audit.decision(of("a"));
    audit.end();
    assert_eq!((audit.waiting(), audit.lost()), (0, 0));
}
