//! A histogram that is counted in without a lock: each call counts in two, on whichever thread it is.
//!
//! Must never make whoever counts wait for whoever scrapes.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};

/// How many of what was counted lie between one bound and the next. Clones are the same histogram.
#[derive(Clone, Debug)]
pub(super) struct Histogram(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    /// Upper bounds, from the lowest.
    bounds: &'static [f64],
    /// One for each bound, and one for what is above all of them.
    counts: Box<[AtomicU64]>,
    /// The bits of a float.
    sum: AtomicU64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Counted { bounds, counts, sum: AtomicU64::new(0f64.to_bits()) }))
    }

    pub(super) fn observe(&self, value: f64) {
        let Counted { bounds, counts, sum } = &*self.0;
        let above = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
        if let Some(count) = counts.get(above) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let added = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // It can't fail: there is always another value.
        sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added).ok();
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let Counted { bounds, counts, sum } = &*self.0;
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(counts.iter().map(|count| count.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(f64::from_bits(sum.load(Ordering::Relaxed)), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn nothing_is_lost_where_threads_count_at_once() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        thread::scope(|scope| {
            for value in [0.5, 1.0, 1.5, 2.5] {
                let histogram = histogram.clone();
                scope.spawn(move || (0..10_000).for_each(|_| histogram.observe(value)));
            }
        });
        let counts: Vec<_> = histogram.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let sum = f64::from_bits(histogram.0.sum.load(Ordering::Relaxed));
        assert_eq!((counts, sum.to_bits()), (vec![20_000, 10_000, 10_000], 55_000f64.to_bits()), "{sum}");
    }
}
