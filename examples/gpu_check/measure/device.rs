//! What strait's own way of moving small pieces is worth on this device: gathers, copies started together, rows of a matrix.

use std::ptr::NonNull;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use strait::Device;
use strait::device::{CopyQueue, RawCopy, RawRows};
use strait::plan::Move;
use strait::sim::Rng;

use crate::check::Outcome;
use crate::check::cuda::{Gpu, Pinned, Scratch, is_stand_in};

/// Longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// As many of the gather's tables as there are: beyond them plain copies would be measured.
const TABLES: u64 = 16;
/// What the rows of one table move.
const TABLE_ROWS: u64 = 4096;
const ROW_BYTES_MAX: u64 = 16 << 10;

/// Half of it is what is moved, half of it where to.
struct Ground {
    queue: CopyQueue<()>,
    host: Pinned,
    memory: Scratch,
    half: u64,
}

/// Rows for the report; and an error where bytes are wrong.
pub(super) fn rows(device: &Device, gpu: &Rc<Gpu>) -> Outcome<Vec<Value>> {
    let half = if is_stand_in() { 1 << 20 } else { 64 << 20 };
    let (host, memory) = (Pinned::new(gpu, half as usize)?, Scratch::new(gpu, 2 * half as usize)?);
    let mut ground = Ground { queue: CopyQueue::new(device.raw().stream()?, 1024), host, memory, half };
    if let Some(fallback) = ground.queue.ready_to_gather() {
        return Err(format!("no kernel that gathers: {}", fallback.reason).into());
    }
    let mut rows = Vec::new();
    let mut say = |what: String, rate: f64| rows.push(json!({ "what": what, "GB_per_s": rate }));
    for piece in [128, 4 << 10, 64 << 10] {
        say(format!("gathers, {piece} bytes each"), ground.gathers(device, piece)?);
    }
    for piece in [4 << 10, 16 << 10, 64 << 10] {
        say(format!("host to device, copies of {} KiB started together", piece >> 10), ground.together(piece)?);
    }
    for width in [256, 2 << 10, 16 << 10] {
        say(format!("host to device, rows of {width} bytes, every fourth"), ground.every_fourth(width)?);
    }
    Ok(rows)
}

impl Ground {
    /// Without a pause between looks: what is measured takes less than one.
    fn wait(&mut self, since: Instant) -> Outcome<f64> {
        while self.queue.in_flight() > 0 {
            self.queue.reap(drop)?;
            if since.elapsed() > PATIENCE {
                return Err(format!("it does not end within {PATIENCE:?}").into());
            }
        }
        Ok(since.elapsed().as_secs_f64())
    }

    /// Pieces of the first half in any order to the second, from a place that is no multiple of anything.
    fn gathers(&mut self, device: &Device, piece: u64) -> Outcome<f64> {
        let (count, base) = ((self.half - 16) / piece, self.memory.base);
        // As long as one table takes, so that none is used twice.
        let count = count.min(TABLE_ROWS * ROW_BYTES_MAX.div_ceil(piece).min(TABLES));
        let mut order: Vec<u64> = (0..count).collect();
        let mut rng = Rng::new(piece);
        (1..order.len()).rev().for_each(|at| order.swap(at, rng.below(at as u64 + 1) as usize));
        let to = |place: usize| self.half + place as u64 * piece;
        let moves: Vec<Move> = order
            .iter()
            .enumerate()
            .map(|(place, &from)| Move { source: 5 + from * piece, target: to(place), bytes: piece })
            .collect();
        let tables = (count * piece.div_ceil(ROW_BYTES_MAX)).div_ceil(TABLE_ROWS);
        let times = (TABLES / tables).max(1);
        let mut seconds = 0.0;
        for times in [1, times] {
            let start = Instant::now();
            for _ in 0..times {
                // SAFETY: the moves lie within the memory, from its first half to its second; it is there until they have ended.
                unsafe { self.queue.gather((), base, &moves) }?;
            }
            seconds = self.wait(start)?;
        }
        self.compare(device, &moves)?;
        Ok((times * count * piece) as f64 / seconds / 1e9)
    }

    /// Some of the pieces are what they were.
    fn compare(&self, device: &Device, moves: &[Move]) -> Outcome {
        for one in moves.iter().step_by(moves.len().div_ceil(8)) {
            let [mut was, mut is] = [(); 2].map(|()| vec![0; one.bytes as usize]);
            for (at, bytes) in [(one.source, &mut was), (one.target, &mut is)] {
                // SAFETY: within the memory, and nothing writes to it.
                unsafe { device.raw().read_back(self.memory.base + at, bytes) }?;
            }
            if was != is {
                return Err(format!("{} bytes at {} were gathered wrong", one.bytes, one.source).into());
            }
        }
        Ok(())
    }

    fn source(&self, at: u64) -> NonNull<u8> {
        NonNull::from(&self.host.bytes(at as usize, 1)[0])
    }

    fn timed<C>(&mut self, bytes: u64, copies: impl Fn(&Ground) -> Vec<C>) -> Outcome<f64>
    where
        C: Into<RawRows> + Clone,
    {
        let copies = copies(self);
        let mut seconds = 0.0;
        for _ in 0..2 {
            let start = Instant::now();
            // SAFETY: sources are pinned and nobody writes to them; targets are memory of ours, apart from each other; both are
            // there until all has ended.
            unsafe { self.queue.copy_all((), copies.iter().cloned()) }?;
            seconds = self.wait(start)?;
        }
        Ok(bytes as f64 / seconds / 1e9)
    }

    fn together(&mut self, piece: u64) -> Outcome<f64> {
        let half = self.half;
        // Not neighbours: each to the other end.
        self.timed(half, |ground| {
            let target = |at: u64| ground.memory.base + half - piece - at;
            let copy = |at| RawCopy { source: ground.source(at), target: target(at), bytes: piece as usize };
            (0..half).step_by(piece as usize).map(copy).collect()
        })
    }

    fn every_fourth(&mut self, width: u64) -> Outcome<f64> {
        let (half, stride) = (self.half, 4 * width);
        // A slab of 4 MiB at a time, as loads of parts have it.
        let slab = half.min(4 << 20);
        self.timed(half / 4, |ground| {
            let rows = |at: u64| RawRows {
                source: ground.source(at),
                source_stride: stride as usize,
                target: ground.memory.base + at / 4,
                row_bytes: width as usize,
                rows: (slab / stride) as usize,
            };
            (0..half).step_by(slab as usize).map(rows).collect()
        })
    }
}
