//! What goes between the engine's thread and the consumer's, and what both look at.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::batch::Body;
use crate::dataset::{Dataset, Field};
use crate::device::{Device, Timeline};
use crate::error::Error;
use crate::order::{Cursor, Order, Standing};
use crate::selection::{Dense, Selection};
use crate::source::{Source, Supply};
use crate::stall::Signs;
use crate::stats::Counters;
use crate::storage::Waker;

/// What the consumer tells the engine.
#[allow(clippy::large_enum_variant, reason = "the queue is allocated once; a box would be allocated in every epoch")]
pub(crate) enum Message {
    /// Deliver these batches; what is under way for earlier generations is dropped.
    Epoch { generation: u64, source: Source, standing: Standing },
    /// A batch comes back.
    Release(Body),
    /// The loader is going away.
    Stop,
}

/// What the engine tells the consumer, each for one generation.
#[allow(clippy::large_enum_variant, reason = "nearly all of them are batches")]
pub(crate) enum Output {
    Batch(Body),
    Failed(u64, Error),
    End(u64),
}

/// What engine, loader and batches have in common.
pub(crate) struct Shared {
    pub(crate) device: Device,
    pub(crate) fields: Arc<[Field]>,
    /// Those that come out as arrays.
    pub(crate) dense: Arc<[Dense]>,
    /// Those whose bytes are on the host too.
    pub(crate) on_host: Arc<[usize]>,
    /// The number of samples of each dataset that was joined.
    pub(crate) parts: Arc<[u64]>,
    pub(crate) order: Order,
    /// The cursor of a run that has not begun.
    pub(crate) start: Cursor,
    pub(crate) counters: Arc<Counters>,
    pub(crate) timeline: OnceLock<Arc<dyn Timeline>>,
    pub(crate) deadline: Duration,
    /// Batches with the consumer.
    pub(crate) held: AtomicUsize,
    /// The engine waits for a batch to come back: without one it cannot go on.
    pub(crate) starved: AtomicBool,
    /// Copies, or regions, wait for a stream that batches were released on: so the engine saw it in its last turn.
    pub(crate) held_up: AtomicBool,
    /// How many turns the engine has begun.
    pub(crate) turns: AtomicU64,
    /// Ends the engine's wait for reads, if it waits for real.
    pub(crate) waker: OnceLock<Arc<Waker>>,
    /// Why the engine is gone, if it is.
    pub(crate) stopped: Arc<OnceLock<String>>,
}

impl Shared {
    pub(crate) fn new(
        device: Device,
        dataset: &Dataset,
        selection: &Selection,
        supply: &Supply,
        deadline: Duration,
    ) -> Shared {
        Shared {
            device,
            fields: selection.fields.clone(),
            dense: selection.dense.clone(),
            on_host: selection.on_host.clone(),
            parts: dataset.parts().into(),
            order: supply.order().clone(),
            start: supply.start(dataset),
            counters: Arc::default(),
            timeline: OnceLock::new(),
            deadline,
            held: AtomicUsize::new(0),
            starved: AtomicBool::new(false),
            held_up: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            waker: OnceLock::new(),
            stopped: Arc::default(),
        }
    }

    /// Ends the engine's wait for reads.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    /// What a consumer sees of the engine. Its progress: reads that end, and batches that go out.
    pub(crate) fn signs(&self) -> Signs {
        Signs {
            progress: self.counters.reads_ended.get().wrapping_add(self.counters.batches.get()),
            turns: self.turns.load(Ordering::Relaxed),
            held_up: self.held_up.load(Ordering::Relaxed),
        }
    }
}
