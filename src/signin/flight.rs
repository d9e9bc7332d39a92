//! One flight: obtain, settle, report, and then wake whoever waits.
//!
//! Must never end without freeing its user and its waiters, nor tell anybody before what it brought is stored.

use std::sync::atomic::Ordering;

use super::{
    obtain::obtain,
    report::{report, report_broken, report_end},
    settle::{settle, settle_broken, settle_without},
    shared::{FlightContext, FlightPlaces},
};
use crate::{single_flight::Leader, users::waiters::FlightOutcome};

/// One flight. Dropped before it has ended (a panic), it frees the user and the waiters.
pub(super) struct Flight {
    context: FlightContext,
    /// A password went on its way, and what became of it is not reported yet.
    sent: bool,
    places: Option<FlightPlaces>,
    /// Dropped last: whoever is woken finds the user free.
    leader: Leader<FlightOutcome>,
}

impl Flight {
    pub(super) fn new(context: FlightContext, places: FlightPlaces, leader: Leader<FlightOutcome>) -> Self {
        Self { context, sent: false, places: Some(places), leader }
    }

    pub(super) async fn run(mut self) {
        // The end of the process waits for this, until the other replicas have heard.
        let mut _unfinished = None;
        let (outcome, telling, is_news) = match obtain(&self.context, &mut self.sent).await {
            Ok(mut obtained) => {
                let settled = settle(&self.context, &mut obtained);
                report(&self.context, &obtained, &settled);
                self.sent = false;
                _unfinished = obtained.unfinished.take();
                let telling = obtained.telling(&self.context, settled.at);
                (settled.outcome, telling, obtained.is_against_credential())
            }
            Err(outcome) => {
                settle_without(&self.context, &outcome);
                (outcome, None, false)
            }
        };
        report_end(&self.context, &outcome);
        self.leader.finish(outcome);
        // Nobody here waits for the other replicas to hear of it.
        drop(self.places.take());
        let told = match telling {
            Some(telling) => telling.await.map_err(Some),
            None => Err(None),
        };
        let FlightContext { shared, user, was_told, .. } = &self.context;
        if let (true, Err(lock)) = (is_news && shared.parts.tier.condition().is_some(), told) {
            shared.untold.add(user, lock);
        }
        // It may have been told of a newer token after it had looked, whatever it ended with.
        if was_told.load(Ordering::Relaxed) {
            shared.adopt(user).await;
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.leader.is_over() {
            settle_broken(&self.context, &self.leader);
            report_broken(&self.context, self.sent);
        }
    }
}
