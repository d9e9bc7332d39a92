//! The audit trail's thread: takes records, makes lines of them, and writes those.
//!
//! Must never end without having written, or counted as lost, what it took.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Decision, Record, line,
    queue::{Batch, Queue},
    sums::Sums,
};
use crate::{
    clock::{Clock, Moment},
    telemetry::lines::{GATHERED_MAX, Sink},
};

/// The thread.
pub(super) struct Writer<S> {
    queue: Arc<Queue>,
    sink: S,
    /// None: each hit has its own line.
    sums: Option<Sums>,
    clock: Arc<dyn Clock>,
    /// Lines that are not written yet, and how many they are.
    lines: line::Text,
    count: usize,
}

impl<S: Sink> Writer<S> {
    pub(super) fn new(queue: Arc<Queue>, sink: S, sums: Option<Sums>, clock: Arc<dyn Clock>) -> Self {
        Self { queue, sink, sums, clock, lines: line::Text::default(), count: 0 }
    }

    pub(super) fn run(mut self) {
        let mut batch = Batch::default();
        while !batch.orders.end {
            let due = self.due_in(self.clock.now());
            self.queue.next(&mut batch, due);
            let now = self.clock.now();
            self.write(&mut batch, now);
        }
    }

    fn due_in(&self, now: Moment) -> Option<Duration> {
        self.sums.as_ref().and_then(|sums| sums.due_in(now.mono))
    }

    /// Writes what there is, and does what is asked.
    pub(super) fn write(&mut self, batch: &mut Batch, now: Moment) {
        for record in batch.parts.iter_mut().flat_map(|part| part.drain(..)) {
            match record {
                Record::Decision(call) if self.sums.is_some() && call.is_hit() => self.sum(call, now),
                Record::Decision(_) | Record::Rare(_) => self.tell(|lines| line::write(&record, lines)),
            }
        }
        if batch.orders.flush || batch.orders.end || self.due_in(now).is_some_and(|due| due.is_zero()) {
            self.tell_sums(now.wall);
        }
        self.put();
        if batch.orders.look {
            self.sink.look();
        }
    }

    fn sum(&mut self, hit: Decision, now: Moment) {
        let Some(sums) = &mut self.sums else { return };
        // The first waits until its sum is told; no others do.
        if !sums.add(hit, now.mono) {
            self.queue.done(1, 0);
        } else if sums.is_full() {
            self.tell_sums(now.wall);
        }
    }

    fn tell_sums(&mut self, at: SystemTime) {
        for sum in self.sums.as_mut().map(Sums::close).unwrap_or_default() {
            self.tell(|lines| line::sum(&sum, at, lines));
        }
    }

    /// Adds a line.
    fn tell(&mut self, line: impl FnOnce(&mut line::Text)) {
        line(&mut self.lines);
        self.count += 1;
        if self.lines.bytes.len() >= GATHERED_MAX {
            self.put();
        }
    }

    /// Hands over the lines.
    fn put(&mut self) {
        if self.count > 0 {
            let lost = self.sink.put(&self.lines.bytes, self.count);
            self.queue.done(self.count, lost);
            self.lines.bytes.clear();
            self.count = 0;
        }
    }
}

impl<S> Drop for Writer<S> {
    fn drop(&mut self) {
        self.queue.ended();
    }
}
