//! Elements that change on the way, by kernels: whatever is late, in use or refused.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use strait::order::Shuffle;
use strait::{Builder, DType, Dataset, Device, Error, Loader};

use super::Bed;
use crate::check::{casts, nearest};
use crate::stand_in::take;

/// Every `u16`, in an order that is not theirs.
fn words() -> Vec<u8> {
    (0..1u32 << 16).flat_map(|i| ((i * 40_503) as u16).to_le_bytes()).collect()
}

fn file(bed: &Bed, name: &str, words: &[u8]) -> PathBuf {
    let path = bed.path().join(name);
    std::fs::write(&path, words).unwrap();
    path
}

fn builder(dataset: &Dataset, device: &Device) -> Builder {
    Loader::builder(dataset.clone()).device(device.clone()).block_bytes(16 << 10).bytes_in_flight(64 << 10)
}

/// Compares the arrays of an epoch with what rows of `row` bytes, each `stride` bytes behind the last, become.
fn check(builder: Builder, words: &[u8], (row, stride): (usize, usize), from: DType, scale: Option<(f32, f32)>) -> u64 {
    let mut loader = builder.shuffle(Shuffle::Full).build().unwrap();
    let mut bytes = Vec::new();
    for batch in loader.epoch(0) {
        let batch = batch.unwrap();
        let array = batch.tensor("record").unwrap();
        array.read_back(&mut bytes).unwrap();
        let rows = batch.samples().iter().flat_map(|&sample| &words[sample as usize * stride..][..row]);
        let stored: Vec<u8> = rows.copied().collect();
        assert!(bytes == nearest::cast(from, array.dtype(), scale, &stored), "{from} {} {scale:?}", array.dtype());
    }
    loader.stats().bytes_cast
}

#[test]
fn every_value_is_that_of_the_host() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    for (seed, latency_us_max) in [(1, 0), (2, 300)] {
        fake.pace(seed, latency_us_max, 0);
        let found = casts::check(&Device::cuda(0).unwrap(), bed.path()).unwrap();
        assert!(found.starts_with("18 kinds"), "{found}");
    }
    bed.nothing_is_left(&fake);
}

/// Far more casts on their way than there are tables, or with more pieces than one table has rows: they wait for tables.
///
/// Mutants that this catches: a table that is filled while its kernel is still to run; casts that are left out, or started
/// twice, where there was no room.
#[test]
fn casts_beyond_the_tables_come_later_and_are_whole() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    {
        let (device, words) = (Device::cuda(0).unwrap(), words());
        let path = file(&bed, "words.bin", &words);
        fake.pace(3, 2000, 0);
        let rows = Dataset::records(&[&path], 1024).unwrap();
        let typed = |dataset, shape: &[u64]| builder(dataset, &device).array("record", DType::U16, shape);
        let many = typed(&rows, &[512]).widen("record", DType::I64).batch_size(2).prefetch(40);
        let many = many.bytes_in_flight(1 << 20); // and as many slabs
        check(many, &words, (1024, 1024), DType::U16, None);
        // Hardly two samples are neighbours: each is a row, and a batch has more than fit all tables.
        let twice = words.repeat(2);
        let numbers = Dataset::records(&[file(&bed, "twice.bin", &twice)], 2).unwrap();
        let large = typed(&numbers, &[]).widen("record", DType::I64).batch_size(90_000).region_bytes(16 << 20);
        assert_eq!(check(large, &twice, (2, 2), DType::U16, None), 8 * 131_072);
    }
    bed.nothing_is_left(&fake);
}

/// While no table comes free the engine goes on with other batches, and then waits: it does not try again and again.
///
/// Mutants that this catches: a cast of no moves that takes a place on the stream; an engine that stays with a cast until
/// there is room.
#[test]
fn casts_without_a_table_hold_nothing_else_up() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    {
        let (device, words) = (Device::cuda(0).unwrap(), words());
        let rows = Dataset::records(&[file(&bed, "words.bin", &words)], 1024).unwrap();
        let typed = builder(&rows, &device).array("record", DType::U16, &[512]).widen("record", DType::I64);
        let (batch, ahead) = (2, 40); // and 16 tables
        let typed = typed.bytes_in_flight(1 << 20).reads_in_flight(2); // slabs for all, of which few land in one turn
        let mut loader = typed.batch_size(batch).prefetch(ahead).hold(1).build().unwrap();
        let (stats, before) = (loader.stats_reader(), fake.calls("cuLaunchKernel"));
        fake.stall();
        let mut epoch = loader.epoch(0);
        let end = Instant::now() + Duration::from_secs(10);
        let wanted = (ahead * batch * 1024) as u64;
        while stats.stats().bytes_copied < wanted && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let copied = stats.stats().bytes_copied;
        let launched = fake.calls("cuLaunchKernel") - before;
        assert!(0 < launched && launched < ahead as u64, "{launched} kernels without an end");
        // What was on its way may still start; then nothing does.
        let more = || {
            let records = fake.calls("cuEventRecord");
            std::thread::sleep(Duration::from_millis(100));
            fake.calls("cuEventRecord") - records
        };
        let more = (0..20).map(|_| more()).min().expect("twenty");
        fake.heal();
        assert!(copied >= wanted, "{copied} bytes of {wanted} copied");
        assert_eq!(more, 0, "nothing ends, and something is started");
        assert!(epoch.all(|batch| batch.unwrap().wait().is_ok()));
    }
    bed.nothing_is_left(&fake);
}

/// Mutant that this catches: a loader whose arrays stay as they are stored.
#[test]
fn a_driver_that_takes_no_kernel_is_an_error_of_build() {
    let (fake, _alone) = take();
    let bed = Bed::new(&fake);
    let words = words();
    let dataset = Dataset::records(&[file(&bed, "words.bin", &words)], 512).unwrap();
    for (symbol, code) in [("cuModuleLoadData", 222), ("cuModuleGetFunction", 500)] {
        let device = Device::cuda(0).unwrap();
        let typed = builder(&dataset, &device).array("record", DType::U16, &[256]);
        fake.fail(symbol, 1, code, false);
        let error = typed.widen("record", DType::I64).build().err().unwrap();
        let text = error.to_string();
        assert!(matches!(error, Error::Config { .. }) && text.contains(symbol), "{text}");
        assert!(
            text.contains("widen")
                && text.contains("update the NVIDIA driver")
                && text.contains("leave this option out"),
            "{text}"
        );
        drop(device);
        bed.nothing_is_left(&fake);
    }
}
