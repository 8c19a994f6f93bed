//! Handing over: whole batches, oldest first, then the end of the epoch; or what failed.

use crossbeam::channel::TrySendError;

use super::ranges::range;
use super::{Engine, Output};
use crate::order::Counts;
use crate::source::Source;

impl Engine {
    /// Hands over what is whole, as far as the consumer has room for it.
    pub(super) fn hand_over(&mut self) {
        let _range = range(c"strait: hand over");
        self.say();
        while let Some(filling) = self.state.filling.front_mut() {
            if let Some(error) = filling.failure.as_ref().filter(|error| !self.bad.forgives(error)) {
                let error = error.clone();
                return self.fail(error);
            }
            if self.state.recalling || !filling.finished || self.output.is_full() {
                return;
            }
            match self.bad.settle(filling) {
                Ok(true) => {}
                Ok(false) => return self.recall(),
                Err(error) => return self.fail(error),
            }
            let filling = self.state.filling.pop_front().expect("looked at above");
            self.over(); // whoever holds an epoch's last batch finds its end counted
            let counters = &self.shared.counters;
            counters.batches.add(1);
            counters.samples.add(filling.body.samples.len() as u64);
            counters.bytes_wanted.add(filling.body.plan.wanted_bytes());
            let _ = self.output.try_send(Output::Batch(filling.body));
        }
        if self.state.running && self.over() && self.output.try_send(Output::End(self.state.generation)).is_ok() {
            self.state.running = false;
        }
    }

    /// Whether every batch of this generation has been handed over; then what the policy did to its end is counted.
    fn over(&mut self) -> bool {
        let state = &mut self.state;
        let all = state.source.as_ref().is_none_or(Source::is_over);
        let over = all && state.planned.is_empty() && state.filling.is_empty();
        if let Some(source) = state.source.as_mut().filter(|_| over) {
            let Counts { dropped, padded, wrapped } = source.take_counts();
            let counters = &self.shared.counters;
            counters.samples_dropped.add(dropped);
            counters.samples_padded.add(padded);
            counters.samples_wrapped.add(wrapped);
        }
        over
    }

    /// Tells the consumer of a failure. Only a queue full of stale outputs refuses it, and then it is told later.
    pub(super) fn say(&mut self) {
        if let Some(error) = self.state.unsaid.take() {
            let failed = Output::Failed(self.state.generation, error);
            if let Err(TrySendError::Full(Output::Failed(_, error))) = self.output.try_send(failed) {
                self.state.unsaid = Some(error);
            }
        }
    }
}
