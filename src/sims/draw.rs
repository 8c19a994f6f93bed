//! What seeds draw in every simulation.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::config::{PathChoice, ReadOptions};
use crate::dtype::DType;
use crate::selection::Wanted;
use crate::sim::Rng;
use crate::storage::Faults;

/// Where shards are written, and the chance that they are slices of.
pub(crate) struct Shards {
    pub(crate) directory: TempDir,
    pub(crate) base: Vec<u8>,
}

impl Shards {
    pub(crate) fn new() -> Shards {
        let mut rng = Rng::new(7);
        let base = (0..1 << 17).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        // Beside the program: what is built lies on a disk, and temporary files may lie in memory, from where no ring reads
        // directly.
        let program = std::env::current_exe().unwrap();
        Shards { directory: tempfile::tempdir_in(program.parent().unwrap()).unwrap(), base }
    }

    /// Writes shards whose contents are slices of `base`; gives their paths and where in `base` each starts.
    pub(crate) fn write(&self, rng: &mut Rng, record: u64) -> (Vec<PathBuf>, Vec<(usize, u64)>) {
        let shard = |i: u64| {
            let records = rng.below((100_000 / record).max(3)) + 1;
            let start = rng.below(64) as usize * 8;
            let path = self.directory.path().join(format!("{i}.bin"));
            std::fs::write(&path, &self.base[start..start + (records * record) as usize]).unwrap();
            (path, (start, records))
        };
        (0..4).map(shard).unzip()
    }
}

/// How bytes are read.
pub(crate) fn draw_reads(rng: &mut Rng) -> ReadOptions {
    let block_bytes = 4096 << rng.below(5);
    ReadOptions {
        block_bytes,
        reads_in_flight: 1 + rng.below(32) as usize,
        bytes_in_flight: block_bytes * (1 + rng.below(16)),
        open_files_max: 1 + rng.below(4) as usize,
        path: [PathChoice::Auto, PathChoice::Staged][rng.below(2) as usize],
        ..ReadOptions::with_gap([0, 4096, 16 << 10][rng.below(3) as usize])
    }
}

/// One that elements of some type can become; of those without one, `None`.
pub(crate) fn draw_cast(rng: &mut Rng, field: &str, from: DType) -> Option<Wanted> {
    let floats = [DType::F16, DType::BF16, DType::F32];
    let (dtype, scale) = match from {
        DType::U8 if rng.one_in(2) => (floats[rng.below(3) as usize], Some((1.0 / 255.0, -(rng.below(3) as f32)))),
        DType::U8 => (floats[rng.below(3) as usize], None),
        DType::U16 => ([DType::I32, DType::I64][rng.below(2) as usize], None),
        DType::U32 | DType::I32 => (DType::I64, None),
        _ => return None,
    };
    Some(Wanted { field: field.into(), dtype, scale })
}

/// How often reads go wrong.
pub(crate) fn draw_faults(rng: &mut Rng) -> Faults {
    let rare = |rng: &mut Rng, n: u64| if rng.one_in(2) { n } else { 0 };
    Faults {
        short: rare(rng, 5),
        again: rare(rng, 10),
        io_error: if rng.one_in(4) { 50 } else { 0 },
        stall: if rng.one_in(10) { 100 } else { 0 },
        ..Faults::default()
    }
}
