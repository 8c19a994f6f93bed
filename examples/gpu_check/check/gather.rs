//! Arrays whose rows lie at odd places: what the gather kernel moves. Small enough to be watched by compute-sanitizer.

use std::path::Path;

use strait::order::Shuffle;
use strait::sim::Rng;
use strait::{DType, Device, Loader};

use super::Outcome;
use super::shards::{Shards, Source};

/// Lengths around the words of 16 bytes and the rows of 16 KiB that the kernel works in.
const RECORDS: [usize; 9] = [1, 3, 15, 17, 100, 4099, 16_383, 16_385, 40_001];

/// Rows that are so long that their copies put them into the array, many copies in one call.
const PLACED: [usize; 2] = [64 << 10, 100_003];

/// Compares arrays of records of many lengths, in shuffled order, row by row.
pub(crate) fn check(device: &Device, source: &Source, directory: &Path) -> Outcome<String> {
    let (mut gathered, mut kept, mut alone) = (0, Vec::new(), String::new());
    for (seed, record) in RECORDS.into_iter().chain(PLACED).enumerate() {
        let directory = tempfile::tempdir_in(directory)?;
        let mut rng = Rng::new(seed as u64);
        let shards = Shards::records(source, directory.path(), &mut rng, record, 4 << 20)?;
        let mut loader = Loader::builder(shards.dataset.clone())
            .device(device.clone())
            .batch_size(24)
            .shuffle(Shuffle::Full)
            .array("record", DType::U8, &[record as u64])
            .build()?;
        for batch in loader.epoch(0) {
            let batch = batch?;
            let array = batch.tensor("record").ok_or("records came as no array")?;
            array.read_back(&mut kept)?;
            let rows = batch.samples().iter().flat_map(|&sample| shards.field(sample, "record").unwrap_or(&[]));
            if !rows.eq(&kept) {
                return Err(format!("records of {record} bytes: an array has wrong bytes").into());
            }
        }
        let stats = loader.stats();
        gathered += stats.bytes_gathered;
        // On the direct path nothing is copied, so rows are gathered whatever their length.
        if PLACED.contains(&record) && stats.path == "staged" && stats.bytes_gathered > 0 {
            return Err(format!("rows of {record} bytes were gathered, and not placed by their copies").into());
        }
        if let Some(fallback) = stats.fallbacks.iter().find(|fallback| fallback.instead.contains("gather")) {
            return Err(format!("the kernel does not run: {}", fallback.reason).into());
        }
        if let Some(fallback) = stats.fallbacks.iter().find(|fallback| fallback.instead.contains("one by one")) {
            alone = format!("; copies are started one by one: {}", fallback.reason);
        }
    }
    match gathered {
        0 => Err("nothing was gathered: the check checks nothing".into()),
        bytes => {
            let (lengths, placed) = (RECORDS.len() + PLACED.len(), PLACED.len());
            Ok(format!(
                "{lengths} lengths of records, {placed} placed by copies, {bytes} bytes gathered by the kernel{alone}"
            ))
        }
    }
}
