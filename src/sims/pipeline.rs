//! The whole pipeline from one seed: reads out of order, short, refused, stalled; copies late; consumers that stop.
//!
//! The oracle is the shards' bytes.

mod contents;
mod damage;
mod given_up;
mod in_place;
mod options;
#[cfg(feature = "cuda")]
mod over_cuda;
#[cfg(feature = "nvtx")]
mod ranges;
mod side;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender};

use self::contents::Contents;
use self::damage::Damaged;
use self::in_place::InPlace;
use self::options::Draw;
use self::side::{Found, Side, Simulated};
use super::damaged::DamagedRing;
use super::draw::{Shards, device_fault};
use super::for_seeds;
use crate::assembly::{self, Frame};
use crate::batch::{Batch, FieldView, Tensor};
use crate::config::{Config, PathChoice, RingChoice, Verify};
use crate::device::{Device, RawStream, SimDevice};
use crate::engine::{Engine, Message, Output, Shared};
use crate::error::Error;
use crate::order::{Piece, Progress, Standing};
use crate::plan::nearest;
use crate::selection::Wanted;
use crate::sim::{Clock, Rng};
use crate::source::Supply;
use crate::stats::Fallback;
use crate::storage::{Faults, Ring, SimRing};

/// More turns than any seed needs: beyond, the pipeline hangs.
const TURNS_MAX: u64 = 200_000;

/// One seed's pipeline and its consumer.
struct Run<'a> {
    rng: Rng,
    base: &'a [u8],
    contents: Contents,
    draw: Draw,
    clock: Clock,
    /// The device, where it is not the host.
    side: Option<Box<dyn Side>>,
    /// The consumer's own streams; a batch uses one of them.
    streams: Vec<RawStream>,
    engine: Engine,
    output: Receiver<Output>,
    messages: Sender<Message>,
    shared: Arc<Shared>,
    supply: Supply,
    generation: u64,
    held: Vec<(Batch, usize)>,
    /// What was read on the device, and what it should be.
    reads: Vec<(Vec<u8>, Found)>,
    faults: Faults,
    device_faults: bool,
    damaged: Damaged,
    /// The ring writes into the device's memory.
    in_place: bool,
}

impl Run<'_> {
    fn new(seed: u64, shards: &Shards) -> Run<'_> {
        Run::over(seed, shards, None)
    }

    /// Over a device that takes its own time, or one that the seed draws.
    fn over(seed: u64, shards: &Shards, side: Option<Box<dyn Side>>) -> Run<'_> {
        let mut rng = Rng::new(seed);
        // Shards of a dataset, or as many datasets; sample ids are the same.
        let mixed = rng.one_in(3);
        let contents = match rng.one_in(2) {
            true => Contents::records(shards, &mut rng, mixed),
            false => Contents::tars(shards, &mut rng, mixed),
        };
        let mut draw = Draw::new(&mut rng, &contents, seed);
        let damaged = match rng.one_in(4) {
            true => Damaged::draw(&mut rng, &contents, &mut draw),
            false => Damaged::default(),
        };
        let clock = Clock::simulated();
        let in_real_time = side.is_some();
        let in_place = draw.config.verify == Verify::Off && rng.one_in(4) && !in_real_time;
        let sim = (in_place || rng.one_in(2)).then(|| SimDevice::new(rng.next_u64(), clock.clone()));
        let sim = sim.map(|sim| Simulated::new(if in_place { sim.direct() } else { sim }));
        let reads = &mut draw.config.reads;
        if in_real_time {
            // Simulated time runs ahead of its copies. A ring that is named has no better way looked for.
            (reads.deadline, reads.ring) = (Duration::from_secs(1 << 30), RingChoice::Uring);
        }
        if !in_place && (in_real_time || sim.is_some() || reads.path == PathChoice::Staged) && rng.one_in(3) {
            reads.pinned_bytes_max = reads.block_bytes * (2 + rng.below(6));
        }
        let device_faults = sim.is_some() && rng.one_in(4) && !in_real_time;
        if let (Some(sim), true) = (&sim, device_faults) {
            sim.device.set_faults(device_fault(&mut rng));
        }
        let side = side.or(sim.map(|sim| Box::new(sim) as _));
        let streams = side.iter().flat_map(|side| side.streams()).collect();
        let device = side.as_ref().map_or_else(Device::host, |side| side.device());
        let depth = draw.config.reads.reads_in_flight;
        let rare = |rng: &mut Rng, n: u64| if rng.one_in(2) { n } else { 0 };
        let faults = Faults {
            short: rare(&mut rng, 5),
            again: rare(&mut rng, 10),
            io_error: if rng.one_in(4) { 50 } else { 0 },
            stall: if rng.one_in(10) && !in_real_time { 100 } else { 0 },
            write_fails: None,
            flip: 0,
        };
        // What nobody checks must not be wrong.
        let flip = if draw.config.verify == Verify::Checksums && rng.one_in(2) { 30 + rng.below(300) } else { 0 };
        let mut faults = Faults { flip, ..faults };
        let mut frame = frame(&mut rng, &contents, &mut draw, device, &clock);
        if in_place {
            frame.engine = frame.engine.in_place();
        }
        let mut ring: Box<dyn Ring> = match damaged.blocks.is_empty() {
            true => Box::new(SimRing::new(rng.next_u64(), clock.clone(), depth, faults)),
            false => {
                // What is bad would not be known.
                faults = Faults::default();
                let paths = contents.dataset.shards().iter().map(|shard| shard.path.to_path_buf());
                let paths: Vec<PathBuf> = paths.collect();
                Box::new(DamagedRing::new(&mut rng, &clock, depth, &paths, &damaged.blocks))
            }
        };
        if in_place {
            ring = Box::new(InPlace(ring));
        }
        let engine = frame.engine.assemble(Some(Box::new(move |_| Ok(ring)))).unwrap();
        let (output, messages, shared) = (frame.output, frame.messages, frame.shared);
        Run {
            rng,
            base: &shards.base,
            contents,
            draw,
            clock,
            side,
            streams,
            engine,
            output,
            messages,
            shared,
            supply: frame.supply,
            generation: 0,
            held: Vec::new(),
            reads: Vec::new(),
            faults,
            device_faults,
            damaged,
            in_place,
        }
    }

    /// What the field of a sample should be.
    fn want(&self, sample: u64, field: &str) -> Option<&[u8]> {
        self.contents.of(sample, field).map(|range| &self.base[range])
    }

    /// What a piece of a document should be. That it is the right piece, `tests/windows.rs` shows.
    fn want_piece(&self, piece: &Piece) -> &[u8] {
        let item = self.draw.item_bytes.unwrap() as usize;
        let Range { start, .. } = self.contents.document(piece.document, self.draw.fields[0]);
        let start = start + piece.start as usize * item;
        &self.base[start..start + piece.tokens as usize * item]
    }

    /// Runs a few epochs, some only in part.
    fn epochs(&mut self) {
        for epoch in 0..1 + self.rng.below(3) {
            self.generation += 1;
            while let Ok(stale) = self.output.try_recv() {
                if let Output::Batch(body) = stale {
                    self.messages.send(Message::Release(body)).unwrap();
                }
            }
            let consumed = if self.rng.one_in(3) { self.rng.below(self.supply.order().len() + 1) } else { 0 };
            let from = Progress { epoch, consumed };
            let (steps, source) = (self.steps(from), self.supply.source(from, None).unwrap());
            self.messages
                .send(Message::Epoch { generation: self.generation, source, standing: Standing::at(from) })
                .unwrap();
            let leave_at = if self.rng.one_in(3) { self.rng.below(10) } else { u64::MAX };
            if !self.epoch(epoch, &steps, leave_at) {
                return;
            }
        }
    }

    /// What the order says: the samples of each step and how many are padding, straight from the schedules.
    fn steps(&self, from: Progress) -> Vec<(Vec<u64>, u64)> {
        let mut all = Vec::new();
        let mut samples = Vec::new();
        match &self.supply {
            Supply::Samples(schedule) | Supply::Windows(schedule, ..) | Supply::Packed(schedule, ..) => {
                let steps = schedule.steps(from).unwrap();
                for step in 0..steps.len() {
                    let padded = steps.batch(step, &mut samples);
                    all.push(self.come_to(from.epoch, (samples.clone(), padded), steps.position(step, 0)));
                }
            }
            Supply::Budget(schedule, _) => {
                let mut steps = schedule.steps(from).unwrap();
                while let Some(padded) =
                    steps.next(|sample| self.draw.length(&self.contents, sample), &mut samples).unwrap()
                {
                    all.push(self.come_to(from.epoch, (samples.clone(), padded), 0));
                }
            }
        }
        all
    }

    /// The batch without those of its samples that are bad, or with others in their places.
    fn come_to(&self, epoch: u64, step: (Vec<u64>, u64), position: u64) -> (Vec<u64>, u64) {
        let policy = self.draw.config.bad_samples;
        self.damaged.leave_out(self.supply.order(), epoch, &step, position, policy)
    }

    /// Consumes one epoch; false once the pipeline has reported that it is broken.
    fn epoch(&mut self, epoch: u64, steps: &[(Vec<u64>, u64)], leave_at: u64) -> bool {
        let mut step = 0;
        let mut since = (self.clock.now(), self.shared.progress());
        for _ in 0..TURNS_MAX {
            assert!(self.engine.turn());
            if since.1 != self.shared.progress() {
                since = (self.clock.now(), self.shared.progress());
            }
            // A loader says so itself where nothing moves: here, where a stream never ends with what was released.
            if self.clock.now() - since.0 > 2 * self.shared.deadline {
                assert!(self.in_place && self.device_faults, "no error at step {step}");
                return false;
            }
            self.consume_some();
            if self.rng.one_in(2) {
                continue; // a slow consumer
            }
            match self.output.try_recv() {
                Ok(Output::Batch(body)) if body.generation == self.generation => {
                    let batch = Batch::new(body, self.messages.clone(), self.shared.clone());
                    assert_eq!((batch.epoch(), batch.step()), (epoch, step), "out of order");
                    let stream = self.rng.below(2) as usize;
                    self.check(&batch, &steps[step as usize], stream);
                    self.held.push((batch, stream));
                    step += 1;
                    if step >= leave_at {
                        return true;
                    }
                }
                Ok(Output::Batch(body)) => self.messages.send(Message::Release(body)).unwrap(),
                Ok(Output::Failed(generation, error)) if generation == self.generation => {
                    return self.check_error(&error);
                }
                Ok(Output::End(generation)) if generation == self.generation => {
                    assert_eq!(step, steps.len() as u64, "the end came early");
                    return true;
                }
                Ok(_) | Err(_) => {}
            }
        }
        panic!("no end after {TURNS_MAX} turns, at step {step}");
    }

    fn check(&mut self, batch: &Batch, (want, padded): &(Vec<u64>, u64), stream: usize) {
        assert_eq!((batch.samples(), batch.padded()), (want.as_slice(), *padded));
        let names: Vec<&str> = batch.fields().iter().map(|field| &*field.name).collect();
        assert_eq!(names, self.draw.fields);
        let mut views: Vec<(FieldView, usize, Vec<u8>)> = Vec::new();
        match self.draw.item_bytes {
            None => {
                for (&field, (i, &sample)) in
                    names.iter().flat_map(|field| want.iter().enumerate().map(move |s| (field, s)))
                {
                    let (view, want) = (batch.field(field).unwrap(), self.want(sample, field));
                    assert_eq!(view.lengths()[i], want.map_or(FieldView::ABSENT, |want| want.len() as u64));
                    views.extend(want.map(|want| (view, i, want.to_vec())));
                }
            }
            Some(_) => {
                for window in (0..want.len()).map(|i| batch.window(i).unwrap()) {
                    let piece = |(i, piece)| (window.bytes, i, self.want_piece(piece).to_vec());
                    views.extend(window.pieces.iter().enumerate().map(piece));
                }
            }
        }
        let tensors =
            self.draw.tensors.iter().map(|&name| (batch.tensor(name).unwrap(), self.want_tensor(batch, name)));
        let tensors: Vec<(Tensor, Vec<u8>)> = tensors.collect();
        assert!(names.iter().all(|name| self.draw.tensors.contains(name) || batch.tensor(name).is_none()));
        for (tensor, want) in &tensors {
            assert_eq!((tensor.bytes(), tensor.shape()[0]), (want.len() as u64, batch.len() as u64));
            assert_eq!(tensor.dtype().array_bytes(tensor.shape()), Some(tensor.bytes()));
            assert!(tensor.device_ptr().is_multiple_of(tensor.dtype().bytes().unwrap()));
        }
        let Some(side) = &self.side else {
            for (view, i, want) in views {
                assert!(view.host_bytes(i).unwrap().unwrap() == want, "wrong bytes in view {i}");
            }
            tensors.iter().for_each(|(tensor, want)| assert!(tensor.host_bytes().unwrap() == want, "wrong array"));
            return;
        };
        if !self.in_place {
            self.check_on_host(batch, want);
        }
        // The consumer reads on its own stream, some time later.
        let stream = self.streams[stream];
        // SAFETY: a live stream of this device.
        if unsafe { batch.wait_on(stream) }.is_err() {
            return assert!(self.device_faults);
        }
        let views = views.into_iter().map(|(view, i, want)| (view.device_ptr() + view.offsets()[i], want));
        let tensors = tensors.into_iter().map(|(tensor, want)| (tensor.device_ptr(), want));
        // What has no bytes has no place.
        for (source, want) in views.chain(tensors).filter(|(_, want)| !want.is_empty()) {
            if let Ok(read) = side.read(stream, source, want.len()) {
                self.reads.push((want, read));
            }
        }
    }

    /// Small fields are on the host before a copy has ended.
    fn check_on_host(&self, batch: &Batch, want: &[u64]) {
        for &name in self.draw.fields.iter().filter(|_| self.draw.item_bytes.is_none()) {
            let view = batch.field(name).unwrap();
            let on_host = self.draw.on_host.contains(&name);
            for (i, want) in want.iter().map(|&sample| self.want(sample, name)).enumerate() {
                match view.host_bytes(i) {
                    Ok(bytes) => assert!(bytes == want && (on_host || want.is_none() || batch.device_ptr() == 0)),
                    Err(error) if on_host => assert!(error.to_string().contains("no room") && batch.bytes() > 64 << 10),
                    Err(error) => assert!(error.to_string().contains("is not the host's"), "{error}"),
                }
            }
        }
    }

    /// A batch's samples, or the pieces of its windows, one after the other.
    fn want_tensor(&self, batch: &Batch, name: &str) -> Vec<u8> {
        let row = |i: usize| match batch.window(i) {
            Some(window) => window.pieces.iter().flat_map(|piece| self.want_piece(piece)).copied().collect::<Vec<u8>>(),
            None => self.want(batch.samples()[i], name).unwrap().to_vec(),
        };
        let stored: Vec<u8> = (0..batch.len()).flat_map(row).collect();
        match self.draw.casts.iter().find(|(field, ..)| *field == name) {
            Some((_, from, Wanted { dtype, scale, .. })) => nearest::cast(*from, *dtype, *scale, &stored),
            None => stored,
        }
    }

    /// Gives back some of the batches that are held; never holds more than it said.
    fn consume_some(&mut self) {
        while self.held.len() >= self.draw.config.hold || (!self.held.is_empty() && self.rng.one_in(3)) {
            let index = self.rng.below(self.held.len() as u64) as usize;
            let (batch, stream) = self.held.swap_remove(index);
            self.release(batch, stream);
        }
    }

    fn release(&self, batch: Batch, stream: usize) {
        let Some(&stream) = self.streams.get(stream) else { return drop(batch) };
        // SAFETY: a live stream of this device; all reads of the batch are on it.
        if unsafe { batch.release_on(stream) }.is_err() {
            assert!(self.device_faults);
        }
    }

    fn check_error(&self, error: &Error) -> bool {
        let text = error.to_string();
        match error {
            Error::Io { errno: libc::EIO, .. } => {
                assert!(self.faults.io_error > 0 && (text.contains(".bin") || text.contains(".tar")), "{text}")
            }
            Error::Io { errno: libc::EAGAIN | libc::EINTR, .. } => assert!(self.faults.again > 0, "{text}"),
            Error::Timeout { .. } => assert!(self.faults.stall > 0 || self.device_faults, "{text}"),
            Error::BadSample { cause: Some(cause), .. } => {
                assert!(self.faults.flip > 0 && matches!(**cause, Error::Corrupt { .. }), "{text}");
                assert!(text.contains("of sample") && text.contains("CRC32C") && text.contains("at byte"), "{text}");
            }
            Error::Device { .. } => assert!(self.device_faults, "{text}"),
            _ => panic!("unexpected: {text}"),
        }
        !matches!(error, Error::Device { .. }) && !self.device_faults
    }

    /// Lets everything go, in either order, and looks at what is left.
    fn finish(mut self) {
        let stats = self.shared.counters.snapshot();
        // Sizes may differ so much that the small ones of a batch find no room on the host.
        let crowded = |fallback: &Fallback| !self.draw.on_host.is_empty() && fallback.remedy.contains("`on_host`");
        assert!(stats.fallbacks.iter().all(crowded), "{:?}", stats.fallbacks);
        let late = std::mem::take(&mut self.held);
        let engine_first = self.rng.one_in(2);
        let (side, reads) = (self.side.take(), std::mem::take(&mut self.reads));
        let Run { engine, output, messages, shared, streams, faults, device_faults, .. } = self;
        let release = |(batch, stream): (Batch, usize)| match streams.get(stream) {
            // SAFETY: a live stream of this device; all reads of the batch are on it.
            Some(&stream) => assert!(unsafe { batch.release_on(stream) }.is_ok() || device_faults),
            None => drop(batch),
        };
        // Consumers' streams still have reads to do: the memory must outlast them.
        if engine_first {
            drop((engine, output, messages, shared));
            late.into_iter().for_each(release);
        } else {
            late.into_iter().for_each(release);
            drop((engine, output, messages, shared));
        }
        let Some(side) = side else { return };
        let too_early = |text: &&String| text.contains("freed while") || text.contains("unpinned while");
        let violations = side.violations();
        assert_eq!(violations.iter().find(too_early), None, "memory went before its last user");
        assert!(device_faults || violations.is_empty(), "{violations:?}");
        side.settle();
        for (want, read) in reads {
            match read() {
                Some(bytes) => assert!(bytes == want, "the consumer read wrong bytes"),
                None => assert!(device_faults, "a consumer's read never happened"),
            }
        }
        if faults.stall == 0 && !device_faults {
            assert_eq!(side.left(), 0, "not everything was given back");
        }
    }
}

/// Everything but ring and memory; once in a while with regions that hardly hold the largest batch.
fn frame(rng: &mut Rng, contents: &Contents, draw: &mut Draw, device: Device, clock: &Clock) -> Frame {
    let make =
        |config: &Config| assembly::frame(contents.dataset.clone(), device.clone(), config.clone(), clock.clone());
    if draw.item_bytes.is_none() && rng.one_in(3) {
        let largest = (0..contents.samples.len() as u64).map(|sample| draw.length(contents, sample)).max().unwrap();
        let (align, fields) = (draw.config.reads.align_bytes, draw.fields.len() as u64);
        // Each field in blocks of its own, and once more as an array, eight times as wide at most.
        let sample = 9 * largest + fields * (2 * align + draw.config.reads.gap_bytes);
        let batch = draw.config.samples_max() as u64 * sample + fields * align;
        let tight = Config { region_bytes: Some(batch + rng.below(batch)), ..draw.config.clone() };
        if let Ok(frame) = make(&tight) {
            draw.config = tight;
            return frame;
        }
    }
    make(&draw.config).unwrap()
}

#[test]
fn every_seed_delivers_exact_bytes_or_says_why_not() {
    let shards = Shards::new();
    for_seeds(300, |seed, _| {
        let mut run = Run::new(seed, &shards);
        run.epochs();
        run.finish();
    });
}

#[test]
fn a_dropped_engine_drains_in_bounded_time() {
    let shards = Shards::new();
    for seed in 0..50 {
        let mut run = Run::new(seed, &shards);
        let source = run.supply.source(Progress::default(), None).unwrap();
        run.messages
            .send(Message::Epoch { generation: 1, source, standing: Standing::at(Progress::default()) })
            .unwrap();
        for _ in 0..run.rng.below(5) {
            run.engine.turn();
        }
        let (clock, before) = (run.clock.clone(), run.clock.now());
        drop(run.engine);
        assert!(clock.now() - before < Duration::from_secs(70), "seed {seed}: {:?}", clock.now() - before);
    }
}
