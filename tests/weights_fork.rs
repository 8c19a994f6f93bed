//! What the child of a fork has of a load: nothing as long as storage may write to it, then all that was handed over.

mod checkpoints;
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use checkpoints::{Made, write};
use common::disk_directory;
use strait::sim::Rng;
use strait::storage::{Completion, Pread, RawRead, Ring};
use strait::weights::{Checkpoint, Load, Tensor};
use strait::{DType, Device, Error, PathChoice, Result, RingChoice};

/// What a child says of `question`, which asks the kernel or looks at memory, and does nothing else; `None` if it is killed.
fn in_child(question: impl Fn() -> bool) -> Option<bool> {
    // SAFETY: the child neither allocates nor takes a lock, and ends by _exit.
    let status = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(i32::from(question()));
        }
        assert!(child > 0, "{}", std::io::Error::last_os_error());
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        status
    };
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status) == 1)
}

fn child_has(tensor: &Tensor, made: &Made) -> bool {
    let bytes = tensor.host_bytes().unwrap();
    in_child(|| bytes == made.bytes) == Some(true)
}

/// Of bytes, which are read to where they belong from any offset.
fn made(rng: &mut Rng, name: &str, bytes: u64) -> Made {
    Made::new(rng, name, DType::U8, &[bytes])
}

/// Mutants that this catches: memory that children never have; that they have only once the engine's thread is over.
#[test]
fn children_have_what_was_loaded() {
    let (directory, mut rng) = (disk_directory(), Rng::new(1));
    for (name, bytes) in [("small", 400), ("large", 4 << 20)] {
        let all = [made(&mut rng, "a", bytes), made(&mut rng, "b", 3), made(&mut rng, "c", bytes + 1)];
        let checkpoint = Checkpoint::open(write(directory.path(), &format!("{name}.safetensors"), &all, 0)).unwrap();
        for path in [PathChoice::Auto, PathChoice::Staged] {
            for ring in [RingChoice::Auto, RingChoice::Pread] {
                for round in 0..5 {
                    let load = checkpoint.load().device(Device::host()).path(path).ring(ring);
                    let tensors = load.load_all().unwrap();
                    let last = tensors.get("c").unwrap();
                    assert!(child_has(last, &all[2]), "{name} {path:?} {ring:?}, load {round}");
                    assert!(all.iter().all(|made| child_has(tensors.get(&made.name).unwrap(), made)));
                }
            }
        }
    }
}

/// Whether a child lacks the page at an address.
fn hidden(address: *const u8) -> bool {
    let page = (address as usize & !4095) as *mut libc::c_void;
    let gone = in_child(|| {
        let mut resident = 0;
        // SAFETY: it asks about a page, of whatever address, and writes one byte.
        unsafe { libc::mincore(page, 4096, &raw mut resident) == -1 }
    });
    gone == Some(true)
}

/// What is said to a gate, and what its children said.
#[derive(Default)]
struct Said {
    /// Reads that are held may start.
    open: AtomicBool,
    /// The load is dropped, or about to be.
    left: AtomicBool,
    /// Questions about a read's memory that a child did not have, and others.
    hidden: AtomicU64,
    seen: AtomicU64,
    /// Those of them that were asked after the load was left.
    late: AtomicU64,
}

/// Reads behind `from` start only once it is open.
struct Gate {
    ring: Pread,
    from: u64,
    held: Vec<RawRead>,
    said: Arc<Said>,
}

impl Gate {
    /// Asks a child about the memory of a read under way.
    fn ask(&self, read: &RawRead) {
        let count = if hidden(read.target.as_ptr()) { &self.said.hidden } else { &self.said.seen };
        count.fetch_add(1, Ordering::Relaxed);
        self.said.late.fetch_add(self.said.left.load(Ordering::Relaxed).into(), Ordering::Relaxed);
    }
}

// SAFETY: what is submitted is submitted to the other ring, or held.
unsafe impl Ring for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    unsafe fn submit(&mut self, read: RawRead) -> Result<()> {
        self.ask(&read);
        if read.offset < self.from {
            // SAFETY: the caller's promise is the same.
            return unsafe { self.ring.submit(read) };
        }
        self.held.push(read);
        Ok(())
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        if !self.said.open.load(Ordering::Relaxed) {
            self.held.first().into_iter().for_each(|read| self.ask(read));
        } else {
            for read in self.held.drain(..) {
                // SAFETY: the promise that was made for it at `submit` holds until its completion.
                unsafe { self.ring.submit(read) }?;
            }
        }
        self.ring.poll(want, timeout.min(Duration::from_millis(1)), out)
    }
}

/// A load whose first tensor is there, and whose reads for the second are held.
fn held(checkpoint: &Checkpoint, deadline: Duration) -> (Load, Tensor, Arc<Said>) {
    let said = Arc::<Said>::default();
    let of_gate = said.clone();
    let builder = checkpoint.load().device(Device::host()).block_bytes(16 << 10).reads_in_flight(8).deadline(deadline);
    let ring = move |depth| -> Result<Box<dyn Ring>> {
        Ok(Box::new(Gate { ring: Pread::new(depth)?, from: 64 << 10, held: Vec::new(), said: of_gate }))
    };
    let mut load = builder.custom_ring(ring).start().unwrap();
    let first = load.next().unwrap().unwrap();
    assert_eq!((first.name(), load.remaining()), ("first", 1));
    (load, first, said)
}

fn two_tensors(directory: &std::path::Path) -> (Checkpoint, [Made; 2]) {
    let mut rng = Rng::new(2);
    let all = [made(&mut rng, "first", 16 << 10), made(&mut rng, "second", 4 << 20)];
    (Checkpoint::open(write(directory, "m.safetensors", &all, 0)).unwrap(), all)
}

/// A load that is left with reads under way. Mutants that this catches: memory that children have from the start, or from the
/// first tensor on, or from the drop on, before its reads have ended; that they do not have where a load was left before its
/// end.
#[test]
fn children_have_nothing_of_a_load_under_way_and_what_was_handed_over_behind_its_end() {
    let directory = disk_directory();
    let (checkpoint, all) = two_tensors(directory.path());
    let (load, first, said) = held(&checkpoint, Duration::from_secs(60));
    let opens = thread::spawn({
        let said = said.clone();
        move || {
            thread::sleep(Duration::from_millis(50)); // the drop below is waiting for reads by then, or soon
            let end = Instant::now() + Duration::from_secs(20);
            let asked = || said.late.load(Ordering::Relaxed) >= 20;
            while !asked() && Instant::now() < end {
                thread::sleep(Duration::from_millis(1));
            }
            said.open.store(true, Ordering::Relaxed);
            asked()
        }
    });
    said.left.store(true, Ordering::Relaxed);
    drop(load);
    assert!(opens.join().unwrap(), "nobody waited for the reads");
    assert!(child_has(&first, &all[0]), "a tensor that was handed over");
    let (hidden, seen) = (said.hidden.load(Ordering::Relaxed), said.seen.load(Ordering::Relaxed));
    assert!(seen == 0, "{hidden} times hidden from a child, and {seen} times in its sight, under reads");
}

/// Storage that does not answer. Mutants that this catches: memory that children have once the load is dropped, or has waited
/// for its reads in vain.
#[test]
fn children_never_have_what_a_read_that_does_not_end_may_still_write_to() {
    let directory = disk_directory();
    let (checkpoint, all) = two_tensors(directory.path());
    for fails in [false, true] {
        let (mut load, first, said) = held(&checkpoint, Duration::from_secs(2));
        if fails {
            let error = load.next().unwrap().unwrap_err();
            assert!(matches!(error, Error::Timeout { .. }), "{error}");
        }
        drop(load);
        assert!(hidden(first.host_bytes().unwrap().as_ptr()), "in sight behind a drop");
        assert!(first.host_bytes().unwrap() == all[0].bytes, "the parent has it");
        assert_eq!(said.seen.load(Ordering::Relaxed), 0, "in sight under reads");
    }
}
