//! What the child of a fork has of a load: nothing as long as storage may write to it, then all that was handed over.

mod checkpoints;
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use checkpoints::{Made, write};
use common::disk_directory;
use strait::sim::Rng;
use strait::storage::{Completion, Pread, RawRead, Ring};
use strait::weights::{Checkpoint, Tensor};
use strait::{DType, Device, PathChoice, Result, RingChoice};

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

/// Reads behind `from` start only once `open` says so.
struct Gate {
    ring: Pread,
    from: u64,
    open: Arc<AtomicBool>,
    held: Vec<RawRead>,
    /// Reads whose memory a child did not have, and others.
    hidden: Arc<AtomicU64>,
    seen: Arc<AtomicU64>,
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
        let page = (read.target.as_ptr() as usize & !4095) as *mut libc::c_void;
        let gone = in_child(|| {
            let mut resident = 0;
            // SAFETY: it asks about a page, of whatever address, and writes one byte.
            unsafe { libc::mincore(page, 4096, &raw mut resident) == -1 }
        });
        (if gone == Some(true) { &self.hidden } else { &self.seen }).fetch_add(1, Ordering::Relaxed);
        if read.offset < self.from {
            // SAFETY: the caller's promise is the same.
            return unsafe { self.ring.submit(read) };
        }
        self.held.push(read);
        Ok(())
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        if self.open.load(Ordering::Relaxed) {
            for read in self.held.drain(..) {
                // SAFETY: the promise that was made for it at `submit` holds until its completion.
                unsafe { self.ring.submit(read) }?;
            }
        }
        self.ring.poll(want, timeout.min(Duration::from_millis(1)), out)
    }
}

/// A load that is left with reads under way. Mutants that this catches: memory that children have from the start, or from the first tensor on; that they
/// do not have where a load was left before its end.
#[test]
fn children_have_nothing_of_a_load_under_way_and_what_was_handed_over_behind_its_end() {
    let (directory, mut rng) = (disk_directory(), Rng::new(2));
    let all = [made(&mut rng, "first", 16 << 10), made(&mut rng, "second", 4 << 20)];
    let checkpoint = Checkpoint::open(write(directory.path(), "m.safetensors", &all, 0)).unwrap();
    let (open, hidden, seen) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
    let gate = (open.clone(), Arc::clone(&hidden), Arc::clone(&seen));
    let builder = checkpoint.load().device(Device::host()).block_bytes(16 << 10).reads_in_flight(8);
    let mut load = builder
        .custom_ring(move |depth| {
            let (ring, (open, hidden, seen)) = (Pread::new(depth)?, gate);
            Ok(Box::new(Gate { ring, from: 64 << 10, open, held: Vec::new(), hidden, seen }))
        })
        .start()
        .unwrap();
    let first = load.next().unwrap().unwrap();
    assert_eq!((first.name(), load.remaining()), ("first", 1));
    let opens = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50)); // the drop below is waiting for reads by then, or soon
        open.store(true, Ordering::Relaxed);
    });
    drop(load);
    opens.join().unwrap();
    assert!(child_has(&first, &all[0]), "a tensor that was handed over");
    let (hidden, seen) = (hidden.load(Ordering::Relaxed), seen.load(Ordering::Relaxed));
    assert!(hidden >= 5 && seen == 0, "{hidden} reads with their memory hidden from children, {seen} with it in sight");
}
