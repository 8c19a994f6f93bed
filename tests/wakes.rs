//! An engine that waits for reads sees at once what others have done meanwhile: its workers, a consumer who gives back the
//! batch that it lacks, one who leaves. Its ring waits for an hour here where the engine allows it 20 ms.

mod checkpoints;
mod common;

use std::io::{PipeReader, PipeWriter, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use checkpoints::{Made, write};
use common::{disk_directory, write_shard};
use strait::dataset::{Format, Indexing};
use strait::sim::Rng;
use strait::storage::{Completion, Pread, RawRead, Ring, Uring};
use strait::weights::{Algorithm, Checkpoint, Hash, Per};
use strait::{DType, Dataset, Device, Loader, PathChoice, Result, Verify};

const RECORD: u64 = 1 << 20;
/// The longest wait of an engine without news.
const SLICE: Duration = Duration::from_millis(20);
const HOUR: Duration = Duration::from_secs(3600);
/// What takes longer has not been woken.
const DEADLINE: Duration = Duration::from_secs(10);
/// The ring's own read, of a pipe.
const OWN: u64 = 1 << 40;

/// Lets the first reads through, and keeps the others back until a byte comes through a pipe, or its queue drains.
struct Stalled {
    inner: Box<dyn Ring>,
    _pipe: PipeReader,
    byte: Box<u8>,
    first: usize,
    held: Option<Vec<RawRead>>,
    /// Told of each read.
    asked: Sender<()>,
    drains: Arc<AtomicBool>,
}

/// The test's side of it.
struct Hands {
    pipe: PipeWriter,
    asked: Receiver<()>,
    drains: Arc<AtomicBool>,
}

impl Hands {
    fn go_on(&self) {
        (&self.pipe).write_all(b"x").unwrap();
    }

    fn wait_for_reads(&self, count: usize) {
        (0..count).for_each(|n| self.asked.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("read {n} never came")));
    }
}

type Inner = fn(usize) -> Result<Box<dyn Ring>>;

const INNER: [Inner; 2] = [|depth| Ok(Box::new(Pread::new(depth)?)), |depth| Ok(Box::new(Uring::new(depth, 1)?))];

/// The rings that there are here.
fn inner() -> impl Iterator<Item = Inner> {
    INNER.into_iter().filter(|make| match make(1) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED for a ring: {error}");
            false
        }
    })
}

fn stalled(inner: Inner, first: usize) -> (Hands, impl FnOnce(usize) -> Result<Box<dyn Ring>> + Send + 'static) {
    let (out, pipe) = std::io::pipe().unwrap();
    let (asked, seen) = channel();
    let drains = Arc::new(AtomicBool::new(false));
    let hands = Hands { pipe, asked: seen, drains: drains.clone() };
    let make = move |depth| {
        let mut inner = inner(depth + 1)?;
        let mut byte = Box::new(0);
        let read = RawRead {
            fd: out.as_raw_fd(),
            file_slot: None,
            offset: u64::MAX, // wherever it is: a pipe has no other
            len: 1,
            target: NonNull::from(&mut *byte),
            rw_flags: 0,
            token: OWN,
        };
        // SAFETY: the ring keeps the pipe, and the byte for ever, in case that this read does not end.
        unsafe { inner.submit(read) }?;
        let held = Some(Vec::new());
        Ok(Box::new(Stalled { inner, _pipe: out, byte, first, held, asked, drains }) as Box<dyn Ring>)
    };
    (hands, make)
}

impl Stalled {
    fn release(&mut self) {
        for read in self.held.take().into_iter().flatten() {
            // SAFETY: the promise of whoever submitted it.
            unsafe { self.inner.submit(read) }.unwrap();
        }
    }
}

// SAFETY: every read goes to the inner ring, whose promise this is, sooner or later.
unsafe impl Ring for Stalled {
    fn name(&self) -> &'static str {
        "stalled"
    }

    fn capacity(&self) -> usize {
        self.inner.capacity() - 1
    }

    unsafe fn submit(&mut self, read: RawRead) -> Result<()> {
        let _ = self.asked.send(());
        let read = RawRead { file_slot: None, ..read }; // the inner ring has no files registered
        match &mut self.held {
            Some(held) if self.first == 0 => held.push(read),
            _ => {
                self.first = self.first.saturating_sub(1);
                // SAFETY: the caller's promise is passed on.
                unsafe { self.inner.submit(read) }?;
            }
        }
        Ok(())
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        if want > 0 && timeout > SLICE {
            self.drains.store(true, Ordering::Relaxed);
            self.release();
        }
        let timeout = if timeout == SLICE { HOUR } else { timeout };
        self.inner.poll(want.min(1), timeout, out)?;
        if out.iter().any(|ended| ended.token == OWN) {
            out.retain(|ended| ended.token != OWN);
            self.release();
        }
        Ok(())
    }

    fn wake_by(&mut self, fd: RawFd) {
        self.inner.wake_by(fd);
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        // The read of the pipe may end at any time from now on.
        std::mem::forget(std::mem::replace(&mut self.byte, Box::new(0)));
    }
}

fn checkpoint(directory: &std::path::Path) -> (Checkpoint, Vec<Made>) {
    let made = |name: &str| Made::new(&mut Rng::new(1), name, DType::U8, &[4 << 20]);
    let made = vec![made("a"), made("b")];
    let paths: Vec<_> = made
        .iter()
        .map(|one| write(directory, &format!("{}.safetensors", one.name), std::slice::from_ref(one), 0))
        .collect();
    (Checkpoint::open_files(&paths).unwrap(), made)
}

/// Mutants that this catches: a worker that does not wake; a ring that is not told what wakes it.
#[test]
fn a_tensor_is_handed_over_when_its_sum_is_there() {
    for (inner, way) in inner().flat_map(|inner| [(inner, PathChoice::Auto), (inner, PathChoice::Staged)]) {
        let directory = disk_directory();
        let (checkpoint, made) = checkpoint(directory.path());
        let paths: Vec<_> = checkpoint.files().iter().map(|file| file.path.clone()).collect();
        let manifest = Hash::new().manifest(&paths, Algorithm::Sha256, Per::Tensor).unwrap();
        let (hands, make) = stalled(inner, 1);
        let builder = checkpoint.load().device(Device::host()).path(way).block_bytes(8 << 20).deadline(DEADLINE);
        let mut load = builder.verify(manifest).custom_ring(make).start().unwrap();
        let first = load.next().unwrap().unwrap();
        assert!(first.read_back().unwrap() == made[0].bytes, "{way:?}");
        hands.go_on();
        assert_eq!(load.next().unwrap().unwrap().name(), "b");
        assert!(!hands.drains.load(Ordering::Relaxed));
    }
}

fn records(directory: &std::path::Path) -> Dataset {
    let path = write_shard(directory, 7, 8 * RECORD);
    let options = Dataset::options().format(Format::Records).record_bytes(RECORD);
    options.index(&[&path], &Indexing { checksums: true, threads: 1, ..Indexing::default() }, &|_| true).unwrap();
    options.open(&[&path]).unwrap()
}

/// Mutant that this catches: a worker that does not wake.
#[test]
fn a_batch_is_handed_over_when_its_sums_are_there() {
    for (inner, way) in inner().flat_map(|inner| [(inner, PathChoice::Auto), (inner, PathChoice::Staged)]) {
        let directory = disk_directory();
        let (hands, make) = stalled(inner, 1);
        let builder = Loader::builder(records(directory.path())).device(Device::host()).path(way).batch_size(1);
        let builder = builder.verify(Verify::Checksums).prefetch(2).deadline(DEADLINE).custom_ring(make);
        let mut loader = builder.build().unwrap();
        let mut epoch = loader.epoch(0);
        drop(epoch.next().unwrap().unwrap());
        hands.go_on();
        assert_eq!(epoch.map(|batch| batch.unwrap().len()).sum::<usize>(), 7, "{way:?}");
    }
}

/// Mutant that this catches: a batch that comes back and wakes nobody.
#[test]
fn a_batch_that_comes_back_is_filled_at_once() {
    for inner in inner() {
        let directory = disk_directory();
        let (hands, make) = stalled(inner, 2);
        let builder = Loader::builder(records(directory.path())).device(Device::host()).batch_size(1);
        let builder = builder.prefetch(2).hold(1).deadline(DEADLINE).custom_ring(make);
        let mut loader = builder.build().unwrap();
        let mut epoch = loader.epoch(0);
        let [first, second] = [(); 2].map(|()| epoch.next().unwrap().unwrap());
        hands.wait_for_reads(3);
        assert!(hands.asked.try_recv().is_err(), "a fourth batch, and there are three");
        drop(first);
        hands.wait_for_reads(1);
        drop(second);
        hands.go_on();
        assert_eq!(epoch.map(|batch| batch.unwrap().len()).sum::<usize>(), 6);
    }
}

/// Mutants that this catches: a loader, or a load, that goes and wakes nobody.
#[test]
fn who_leaves_is_not_kept_waiting() {
    for inner in inner() {
        let directory = disk_directory();
        let (hands, make) = stalled(inner, 0);
        let builder = Loader::builder(records(directory.path())).device(Device::host()).batch_size(1);
        let mut loader = builder.deadline(DEADLINE).custom_ring(make).build().unwrap();
        loader.begin(0);
        hands.wait_for_reads(1);
        drop(loader);
        assert!(hands.drains.load(Ordering::Relaxed), "the engine waits on");

        let (checkpoint, _) = checkpoint(directory.path());
        let (hands, make) = stalled(inner, 0);
        let load = checkpoint.load().device(Device::host()).deadline(DEADLINE).custom_ring(make).start().unwrap();
        hands.wait_for_reads(1);
        drop(load);
        assert!(hands.drains.load(Ordering::Relaxed), "the engine waits on");
    }
}

/// Mutant that this catches: an epoch that is begun and wakes nobody.
#[test]
fn an_epoch_is_given_up_for_the_next_at_once() {
    for inner in inner() {
        let directory = disk_directory();
        let (hands, make) = stalled(inner, 0);
        let builder = Loader::builder(records(directory.path())).device(Device::host()).batch_size(1);
        let mut loader = builder.prefetch(1).hold(2).deadline(DEADLINE).custom_ring(make).build().unwrap();
        loader.begin(0);
        hands.wait_for_reads(1);
        loader.begin(1);
        hands.wait_for_reads(1);
        hands.go_on();
        loader.begin_rest();
        assert_eq!(loader.rest_of_epoch().map(|batch| batch.unwrap().len()).sum::<usize>(), 8);
    }
}
