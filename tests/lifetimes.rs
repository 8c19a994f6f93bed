//! Loaders and batches that go away at bad moments: nothing hangs, nothing lands late, everything comes back.

mod common;

use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{bytes_of, disk_directory, write_shard};
use strait::order::Shuffle;
use strait::storage::{Completion, Pread, RawRead, Ring};
use strait::{Batch, Builder, Dataset, Device, Error, Loader, PathChoice, RingChoice};

const RECORD: u64 = 64 << 10;
const RECORDS: u64 = 512;

struct Bed {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Bed {
    fn new() -> Bed {
        let directory = disk_directory();
        Bed { path: write_shard(directory.path(), 9, RECORD * RECORDS), _directory: directory }
    }

    fn builder(&self) -> Builder {
        let dataset = Dataset::records(&[&self.path], RECORD).unwrap();
        Loader::builder(dataset).device(Device::host()).batch_size(8).shuffle(Shuffle::Full)
    }
}

fn check(batch: &Batch) {
    let view = batch.field("record").unwrap();
    for (i, &sample) in batch.samples().iter().enumerate() {
        let bytes = view.host_bytes(i).unwrap().unwrap();
        assert!(bytes == bytes_of(9, sample * RECORD, RECORD), "sample {sample}");
    }
}

#[test]
fn dropping_a_loader_in_mid_epoch_is_quick() {
    let bed = Bed::new();
    for ring in [RingChoice::Auto, RingChoice::Pread] {
        for path in [PathChoice::Auto, PathChoice::Staged] {
            for batches in [0, 1, 5] {
                let builder = bed.builder().ring(ring).path(path).deadline(Duration::from_secs(600));
                let mut loader = builder.build().unwrap();
                for batch in loader.epoch(0).take(batches) {
                    check(&batch.unwrap());
                }
                // It waits for the reads in flight, as long as a busy disk takes for them, and for no deadline.
                let start = Instant::now();
                drop(loader);
                assert!(start.elapsed() < Duration::from_secs(60), "{ring:?} {path:?}: {:?}", start.elapsed());
            }
        }
    }
}

#[test]
fn an_epoch_given_up_does_not_disturb_the_next() {
    let bed = Bed::new();
    let mut loader = bed.builder().build().unwrap();
    for round in 0..20 {
        for batch in loader.epoch(round).take(round as usize % 4) {
            check(&batch.unwrap());
        }
    }
    assert_eq!(loader.epoch(0).map(|batch| batch.unwrap().len() as u64).sum::<u64>(), RECORDS);
}

#[test]
fn a_panic_in_the_consumer_gives_everything_back() {
    let bed = Bed::new();
    let mut loader = bed.builder().build().unwrap();
    let consumer = AssertUnwindSafe(|| {
        let _held: Vec<Batch> = loader.epoch(0).take(2).map(Result::unwrap).collect();
        panic!("the consumer's own");
    });
    assert!(catch_unwind(consumer).is_err());
    let all: u64 = loader.epoch(1).map(|batch| batch.unwrap().len() as u64).sum();
    assert_eq!(all, RECORDS);
}

#[test]
fn a_batch_outlives_its_loader() {
    let bed = Bed::new();
    for path in [PathChoice::Auto, PathChoice::Staged] {
        let mut loader = bed.builder().path(path).build().unwrap();
        let batch = loader.epoch(0).nth(3).unwrap().unwrap();
        drop(loader);
        check(&batch);
    }
}

/// Mutant that this catches: `ReadQueue` closes its ring without counting its reads to zero first.
#[test]
fn nothing_lands_after_a_loader_is_gone() {
    let bed = Bed::new();
    for _ in 0..10 {
        let mut loader = bed.builder().batch_size(64).reads_in_flight(64).build().unwrap();
        let batch = loader.epoch(0).next().unwrap().unwrap();
        let pool_bytes = loader.stats().region_bytes as usize;
        let (from, to) = (batch.device_ptr() as usize, (batch.device_ptr() + batch.region_bytes()) as usize);
        drop(loader);
        // The first region is the start of the pool, and the batch keeps the whole pool mapped.
        let pool = from..from + pool_bytes;
        let free = (to..pool.end).map(|address| address as *mut u8);
        for byte in free.clone() {
            // SAFETY: inside the pool, outside the only batch; the engine is gone, so nobody else uses it.
            unsafe { byte.write_volatile(0xA5) };
        }
        std::thread::sleep(Duration::from_millis(30));
        for byte in free {
            // SAFETY: as above.
            assert_eq!(unsafe { byte.read_volatile() }, 0xA5, "a read landed in memory that was given back");
        }
        check(&batch);
    }
}

#[test]
fn holding_every_batch_is_an_error_that_says_so() {
    let bed = Bed::new();
    // Reads through the page cache, which wait for no disk: nothing but the consumer is late.
    let builder = bed.builder().prefetch(1).hold(2).deadline(Duration::from_secs(2));
    let mut loader = builder.custom_ring(|depth| Ok(Box::new(Pread::new(depth)?))).build().unwrap();
    let mut held = Vec::new();
    let error = loader.epoch(0).find_map(|batch| batch.map(|batch| held.push(batch)).err()).unwrap();
    let text = error.to_string();
    assert!(matches!(error, Error::Timeout { .. }) && text.contains("holds 3 of 3 batches"), "{text}");
    held.iter().for_each(check);
    held.clear();
    assert_eq!(loader.epoch(0).filter(|batch| batch.is_ok()).count() as u64, RECORDS / 8);
}

/// A storage that accepts reads and never answers.
struct Stuck(Arc<Mutex<Vec<RawRead>>>);

// SAFETY: no completion is ever reported, so nothing may be reused; the test writes to the targets to prove that.
unsafe impl Ring for Stuck {
    fn name(&self) -> &'static str {
        "stuck"
    }

    fn capacity(&self) -> usize {
        16
    }

    unsafe fn submit(&mut self, read: RawRead) -> strait::Result<()> {
        self.0.lock().unwrap().push(read);
        Ok(())
    }

    fn poll(&mut self, want: usize, timeout: Duration, _out: &mut Vec<Completion>) -> strait::Result<()> {
        if want > 0 {
            std::thread::sleep(timeout);
        }
        Ok(())
    }
}

/// Mutant that this catches: memory freed, not leaked, when reads do not end.
#[test]
fn a_storage_that_does_not_answer_is_named_and_its_memory_is_kept() {
    let bed = Bed::new();
    for path in [PathChoice::Auto, PathChoice::Staged] {
        let reads = Arc::new(Mutex::new(Vec::new()));
        let ring = Stuck(reads.clone());
        let deadline = Duration::from_millis(300);
        let builder = bed.builder().path(path).deadline(deadline).custom_ring(move |_| Ok(Box::new(ring)));
        let mut loader = builder.build().unwrap();
        let start = Instant::now();
        let error = loader.epoch(0).next().unwrap().unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Timeout { .. }), "{text}");
        assert!(text.contains("shard-9.bin") && text.contains("at byte"), "{text}");
        drop(loader);
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
        for read in reads.lock().unwrap().iter() {
            // SAFETY: this is what a late DMA would do. The memory was leaked for it, or this faults.
            unsafe { read.target.as_ptr().write_bytes(0xEE, read.len as usize) };
        }
    }
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

/// A process killed without warning leaves no process, shared memory, lock or temporary file.
#[test]
fn kill_leaves_nothing_behind() {
    const ROLE: &str = "STRAIT_TEST_LOOP_OVER";
    if let Some(path) = std::env::var_os(ROLE) {
        let dataset = Dataset::records(&[PathBuf::from(path)], RECORD).unwrap();
        let mut loader = Loader::builder(dataset).device(Device::host()).batch_size(8).build().unwrap();
        for epoch in 0.. {
            loader.epoch(epoch).for_each(|batch| drop(batch.unwrap()));
            println!("an epoch is through");
        }
    }
    let bed = Bed::new();
    let files = || count(bed._directory.path().to_str().unwrap());
    let before = files();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill_leaves_nothing_behind", "--nocapture"])
        .env(ROLE, &bed.path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains("an epoch is through")), "the child never read anything");
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    assert_eq!(std::fs::read_to_string(children).unwrap_or_default(), "", "a loader started a process");
    // What it has of /dev/shm: what lies there besides is other processes'.
    let (mapped, opened) = (format!("/proc/{}/maps", child.id()), format!("/proc/{}/fd", child.id()));
    let mapped = std::fs::read_to_string(mapped).unwrap();
    let opened = std::fs::read_dir(opened).unwrap().flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let opened: Vec<String> = opened.map(|path| path.display().to_string()).collect();
    assert!(mapped.contains("lifetimes-"), "another process's: {mapped}");
    let all = mapped.lines().chain(opened.iter().map(String::as_str));
    let shared: Vec<&str> = all.filter(|one| one.contains("/dev/shm") && !one.ends_with("shard-9.bin")).collect();
    assert!(shared.is_empty(), "shared memory by name: {shared:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(files(), before);
}
