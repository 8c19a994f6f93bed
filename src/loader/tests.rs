use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::storage::{Completion, Pread, RawRead, Ring};

const RECORD: u64 = 4096;
const DEADLINE: Duration = Duration::from_millis(20);

fn builder() -> (tempfile::NamedTempFile, Builder) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(100 * RECORD).unwrap();
    let dataset = Dataset::records(&[file.path()], RECORD).unwrap();
    // Into the host's own memory: without a copy stream the engine leaves `held_up` as it is.
    let builder = Loader::builder(dataset).device(Device::host()).batch_size(1).deadline(DEADLINE);
    (file, builder)
}

/// Mutants that this catches: the consumer's streams are not named; they have one deadline; the engine's turns are not counted.
#[test]
fn a_consumer_whose_streams_hold_regions_up_is_told_so_after_sixty_deadlines() {
    let (_file, builder) = builder();
    let mut loader = builder.build().unwrap();
    loader.shared.held_up.store(true, Ordering::Relaxed);
    let mut held = Vec::new();
    let error = loader.epoch(0).find_map(|batch| batch.map(|batch| held.push(batch)).err()).unwrap();
    assert!(error.to_string().contains(HELD_UP), "{error}");
    assert!(matches!(error, Error::Timeout { waited, .. } if waited >= 60 * DEADLINE), "{error}");
}

/// Says that it is asked for what has ended, and does not answer until the test lets go.
struct Hanging {
    inner: Pread,
    hangs: Sender<()>,
    let_go: Receiver<()>,
}

// SAFETY: every read goes to the inner ring, whose promise this is.
unsafe impl Ring for Hanging {
    fn name(&self) -> &'static str {
        "hanging"
    }

    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    unsafe fn submit(&mut self, read: RawRead) -> Result<()> {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.submit(read) }
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        let _ = self.hangs.send(());
        let _ = self.let_go.recv();
        self.inner.poll(want, timeout, out)
    }

    fn wake_by(&mut self, fd: std::os::fd::RawFd) {
        self.inner.wake_by(fd);
    }
}

/// Mutant that this catches: a stream that held copies up when the engine last looked has sixty deadlines, and the blame.
#[test]
fn an_engine_that_hangs_is_not_taken_for_one_that_streams_hold_up() {
    let (_file, builder) = builder();
    let ((hangs, seen), (go, let_go)) = (channel(), channel());
    let make = move |depth| Ok(Box::new(Hanging { inner: Pread::new(depth)?, hangs, let_go }) as Box<dyn Ring>);
    let mut loader = builder.custom_ring(make).build().unwrap();
    loader.begin(0);
    seen.recv().unwrap();
    loader.shared.held_up.store(true, Ordering::Relaxed);
    let error = loader.next_within(Duration::MAX).unwrap_err();
    drop(go);
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(error.to_string().contains("the engine makes no progress"), "{error}");
}
