//! The whole loader over a stand-in for the CUDA driver, whose copies are late, in order, and in pieces. A test binary
//! of its own: where others ask for CUDA, they see the machine as it is.
#![cfg(feature = "cuda")]

#[path = "../../examples/gpu_check/check/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the program uses the rest")]
mod check;
#[path = "../common/mod.rs"]
mod common;
#[path = "../stand_in/mod.rs"]
mod stand_in;

mod budget;
mod captures;
mod casts;
mod faults;
mod lifetimes;
mod near;
mod sound;

use std::path::Path;

use check::shards::{Shards, Source};
use stand_in::Fake;
use strait::sim::Rng;
use strait::{Builder, Device, Loader};

/// A loader's dataset on disk, its device, and the stand-in as it was before.
struct Bed {
    before: [u64; 6],
    source: Source,
    directory: tempfile::TempDir,
}

/// Long enough for several batches, short enough for seconds.
const RECORD: usize = 8192;

impl Bed {
    fn new(fake: &Fake) -> Bed {
        Bed { before: fake.live_at_rest(), source: Source::new(1 << 20), directory: common::disk_directory() }
    }

    fn shards(&self) -> Shards<'_> {
        // This seed makes 95 records in 4 shards: more batches than a loader has.
        Shards::records(&self.source, self.directory.path(), &mut Rng::new(12), RECORD, self.source.len()).unwrap()
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Batches of 8 records through slabs of 16 KiB.
    fn builder(&self, device: &Device) -> Builder {
        Loader::builder(self.shards().dataset.clone())
            .device(device.clone())
            .batch_size(8)
            .block_bytes(16 << 10)
            .bytes_in_flight(64 << 10)
            .prefetch(2)
            .hold(2)
    }

    /// Nothing was done that a driver does not allow, and everything was given back.
    fn nothing_is_left(&self, fake: &Fake) {
        assert_eq!(fake.live_at_rest(), self.before, "memory, registrations, streams, events, contexts, modules");
        assert_eq!(fake.misuse(), "");
    }
}
