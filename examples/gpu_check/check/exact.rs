//! Loaders of many shapes, each from one seed: every byte of every batch is the shard's.

use std::path::Path;
use std::rc::Rc;

use strait::order::Shuffle;
use strait::sim::Rng;
use strait::storage::Uring;
use strait::{Batch, Builder, DType, Device, Loader, RingChoice};

use super::Outcome;
use super::casts::Change;
use super::cuda::Gpu;
use super::reader::{Reader, Release};
use super::shards::{Shards, Source};

/// What one seed checked.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Checked {
    pub(crate) samples: u64,
    pub(crate) bytes: u64,
}

/// Where a seed's loader runs.
pub(crate) struct Bed<'a> {
    pub(crate) device: &'a Device,
    pub(crate) gpu: &'a Rc<Gpu>,
    pub(crate) source: &'a Source,
    /// Shards are written to a directory of their own in here.
    pub(crate) directory: &'a Path,
    /// In place of those that the seeds choose.
    pub(crate) ring: Option<RingChoice>,
}

/// Builds the loader of `seed`, runs two epochs, and compares every byte.
pub(crate) fn check(bed: &Bed<'_>, seed: u64) -> Outcome<Checked> {
    let mut rng = Rng::new(seed);
    let directory = tempfile::tempdir_in(bed.directory)?;
    let shards = shards(bed, &mut rng, directory.path())?;
    let mut builder = shape(&mut rng, Loader::builder(shards.dataset.clone())).device(bed.device.clone());
    if let Some(ring) = bed.ring {
        builder = builder.ring(ring);
    }
    // Records are bytes; every other time they are to be an array of them, or of what they become.
    let mut change = None;
    if let ([record], true) = (shards.dataset.fields(), rng.one_in(2))
        && let Some(bytes) = record.fixed_bytes
    {
        // Of long records wide arrays are hundreds of MiB.
        change = (bytes <= 20_000 && rng.one_in(2)).then(|| Change::any(&mut rng, bytes));
        let stored = change.as_ref().map_or(DType::U8, |change| change.from);
        builder = builder.array(&record.name, stored, &[bytes / stored.bytes().unwrap_or(1)]);
        builder = change.iter().fold(builder, |builder, change| change.ask(builder, &record.name));
    }
    let mut loader = builder.build()?;
    // A landing as long as a few batches: some are looked at while others are on the stream.
    let mut reader = Reader::new(bed.gpu, 4 * loader.stats().region_bytes as usize, 0)?;
    let mut checked = Checked::default();
    for epoch in 0..2 {
        let mut samples = 0;
        for batch in loader.epoch(epoch) {
            let batch = batch?;
            samples += batch.len();
            checked.bytes += batch.bytes();
            if rng.one_in(2) {
                read_back(&batch, &shards, change.as_ref())?;
                continue;
            }
            if !reader.has_room(&batch) {
                expect_none_wrong(reader.check(&shards)?, seed)?;
            }
            reader.take(batch, Release::Fenced)?;
        }
        expect_none_wrong(reader.check(&shards)?, seed)?;
        if samples != shards.samples() {
            return Err(format!("seed {seed}: {samples} of {} samples came", shards.samples()).into());
        }
        checked.samples += samples as u64;
    }
    let stats = loader.stats();
    let direct = stats.ring == "cufile"; // which is chosen where it works
    let path = if direct { "direct" } else { "staged" };
    let asked = bed.ring == Some(RingChoice::Cufile);
    if change.is_some() != (stats.bytes_cast > 0) {
        return Err(format!("seed {seed}: {} bytes were changed on the way", stats.bytes_cast).into());
    }
    if stats.path != path || (asked && !direct) || stats.pinned_bytes_max > 256 << 20 {
        return Err(format!("seed {seed}: path {:?}, {} bytes pinned", stats.path, stats.pinned_bytes_max).into());
    }
    Ok(checked)
}

fn shards<'a>(bed: &Bed<'a>, rng: &mut Rng, directory: &Path) -> Outcome<Shards<'a>> {
    let bytes = bed.source.len() / 2;
    let records = [1, 7, 511, 512, 513, 4095, 4096, 4097, 65_536, 100_000, 1 + rng.below(20_000) as usize];
    match rng.below(4) {
        0 => Shards::webdataset(bed.source, directory, rng),
        _ => {
            let record = records[rng.below(records.len() as u64) as usize];
            Shards::records(bed.source, directory, rng, record, bytes)
        }
    }
}

fn shape(rng: &mut Rng, builder: Builder) -> Builder {
    let block = Shuffle::Block { block_samples: 1 + rng.below(9), window: 1 + rng.below(5) };
    let block_bytes = 4096 << rng.below(9);
    // Containers forbid it often.
    let uring = if Uring::new(1, 1).is_ok() { RingChoice::Uring } else { RingChoice::Auto };
    builder
        .batch_size(1 + rng.below(80) as usize)
        .block_bytes(block_bytes)
        .gap_bytes([0, 4096, 16 << 10][rng.below(3) as usize])
        .shuffle([Shuffle::Sequential, Shuffle::Full, block][rng.below(3) as usize])
        .seed(rng.next_u64())
        .prefetch(1 + rng.below(4) as usize)
        .hold(1 + rng.below(2) as usize)
        .reads_in_flight(1 + rng.below(32) as usize)
        .bytes_in_flight(block_bytes * (1 + rng.below(16)))
        .ring([RingChoice::Auto, uring, RingChoice::Pread][rng.below(3) as usize])
}

/// Compares a batch while it is held.
fn read_back(batch: &Batch, shards: &Shards<'_>, change: Option<&Change>) -> Outcome {
    let mut bytes = Vec::new();
    for field in batch.fields() {
        let view = batch.field(&field.name).ok_or("a field of the batch has no view")?;
        for (i, &sample) in batch.samples().iter().enumerate() {
            let found = view.read_back(i, &mut bytes)?.then_some(&bytes[..]);
            if found != shards.field(sample, &field.name) {
                return Err(format!("sample {sample}: `{}` has wrong bytes", field.name).into());
            }
        }
        if let Some(tensor) = batch.tensor(&field.name) {
            tensor.read_back(&mut bytes)?;
            let rows = batch.samples().iter().flat_map(|&sample| shards.field(sample, &field.name).unwrap_or(&[]));
            let rows: Vec<u8> = rows.copied().collect();
            let wanted = match change {
                Some(change) => change.of(&rows),
                None => rows,
            };
            if wanted != bytes {
                return Err(format!("`{}` as an array has wrong bytes", field.name).into());
            }
        }
    }
    Ok(())
}

fn expect_none_wrong(wrong: usize, seed: u64) -> Outcome {
    match wrong {
        0 => Ok(()),
        _ => Err(format!("seed {seed}: {wrong} samples had wrong bytes on a consumer's stream").into()),
    }
}
