//! A consumer's stream still reads a batch whose memory the next has already got, and nothing comes of that one.

use std::sync::Arc;

use super::Shards;
use crate::assembly;
use crate::batch::Batch;
use crate::config::Config;
use crate::dataset::Dataset;
use crate::device::{Device, SimDevice};
use crate::engine::{Message, Output};
use crate::order::{Progress, Shuffle, Standing};
use crate::sim::{Clock, Rng};
use crate::storage::{Faults, SimRing};

/// The copy stream has been told to wait for the reader, but there is no copy to wait for: the memory has to know.
///
/// Mutant that this catches: a fence that nobody knows any more once the copy stream waits for it.
#[test]
fn memory_outlasts_its_reader_where_no_copy_came_after() {
    let shards = Shards::new();
    let (paths, _) = shards.write(&mut Rng::new(1), 512);
    for seed in 0..40 {
        let clock = Clock::simulated();
        let sim = Arc::new(SimDevice::new(seed, clock.clone()));
        let config =
            Config { batch_size: 8, prefetch: Some(1), hold: 1, shuffle: Shuffle::Sequential, ..Config::default() };
        let dataset = Dataset::records(&paths, 512).unwrap();
        let frame = assembly::frame(dataset, Device::new(sim.clone()), config, clock.clone()).unwrap();
        let make = move |depth| Ok(Box::new(SimRing::new(seed, clock, depth, Faults::default())) as _);
        let mut engine = frame.engine.assemble(Some(Box::new(make))).unwrap();
        let from = Progress::default();
        let source = frame.supply.source(from, None).unwrap();
        frame.messages.send(Message::Epoch { generation: 1, source, standing: Standing::at(from) }).unwrap();
        let mut batches = Vec::new();
        while batches.len() < 2 || engine.stage.as_ref().unwrap().copies.in_flight() > 0 {
            engine.turn();
            if let Ok(Output::Batch(body)) = frame.output.try_recv() {
                batches.push(Batch::new(body, frame.messages.clone(), frame.shared.clone()));
            }
        }
        let (stream, first) = (sim.consumer_stream(), batches.remove(0));
        for _ in 0..20 {
            sim.consumer_read(stream, first.device_ptr(), 512).unwrap();
        }
        // SAFETY: a live stream of this device; all reads of the batch are on it.
        unsafe { first.release_on(stream) }.unwrap();
        engine.turn();
        assert!(engine.queue.in_flight() > 0 || engine.queue.has_ended(), "the next batch is not being read");
        assert_eq!(engine.stage.as_ref().unwrap().copies.in_flight(), 0);
        drop((engine, batches, frame.output, frame.messages, frame.shared));
        assert_eq!(sim.violations(), [""; 0], "seed {seed}");
        sim.settle();
        assert_eq!((sim.allocated_bytes(), sim.live_fences()), (0, 0));
    }
}
