//! Sums up bytes while others are read, in the order of the file.
//!
//! A window moves in with its bytes and comes out when they have been added to their sums. One worker has all windows of
//! a shard, so they are added in order; several shards are summed up side by side.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{self, Receiver, Sender};

use super::memory::Hold;
use super::window::Window;
use super::{Digest, Hasher};
use crate::error::{Error, Result};

/// A window that has landed, and what in it is to be summed up.
pub(super) struct Job {
    pub(super) window: Window,
    pub(super) hold: Hold,
    pub(super) pieces: Vec<Piece>,
}

/// Bytes that belong to a check.
pub(super) struct Piece {
    pub(super) check: usize,
    /// Where they are in the hold.
    pub(super) at: usize,
    pub(super) bytes: usize,
    /// No more bytes of this check follow.
    pub(super) last: bool,
}

/// A window whose bytes are in their sums.
pub(super) struct Checked {
    pub(super) window: Window,
    pub(super) hold: Hold,
    /// The checks that ended in this window, and what their bytes sum up to.
    pub(super) ended: Vec<(usize, Digest)>,
}

/// The sums of some shards.
struct Sums {
    expected: Arc<[Digest]>,
    open: HashMap<usize, Hasher>,
}

impl Sums {
    fn add(&mut self, Job { window, hold, pieces }: Job) -> Checked {
        let mut ended = Vec::new();
        for piece in pieces {
            #[cfg(test)]
            assert_ne!(self.expected[piece.check], tests::panics(), "a test asked for this");
            let algorithm = self.expected[piece.check].algorithm();
            let hasher = self.open.entry(piece.check).or_insert_with(|| Hasher::new(algorithm));
            // SAFETY: the window's reads have all ended, and the hold is ours; the pieces lie in what was asked to arrive.
            hasher.update(unsafe { hold.landed(piece.at, piece.bytes) });
            if piece.last
                && let Some(hasher) = self.open.remove(&piece.check)
            {
                ended.push((piece.check, hasher.finish()));
            }
        }
        Checked { window, hold, ended }
    }
}

/// Where windows are checked.
pub(super) struct Checker {
    workers: Workers,
    out: Receiver<Checked>,
    /// Windows inside.
    pub(super) inside: usize,
    /// What is left needs no sums any more.
    stop: Arc<AtomicBool>,
}

enum Workers {
    /// Nothing to check.
    None,
    /// On the engine's own thread, where everything is to happen in one order.
    Here(Sums, Sender<Checked>),
    Threads(Vec<(Sender<Job>, JoinHandle<()>)>),
}

impl Checker {
    /// With so many threads; with none, on the caller's.
    pub(super) fn new(expected: Arc<[Digest]>, threads: usize) -> Result<Checker> {
        // As many as windows are inside, which is bounded by the slabs, and on the direct path by the plan.
        let (done, out) = channel::unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let sums = || Sums { expected: expected.clone(), open: HashMap::new() };
        let workers = match threads {
            _ if expected.is_empty() => Workers::None,
            0 => Workers::Here(sums(), done),
            threads => Workers::Threads(
                (0..threads).map(|_| start(sums(), done.clone(), stop.clone())).collect::<Result<_>>()?,
            ),
        };
        Ok(Checker { workers, out, inside: 0, stop })
    }

    pub(super) fn put(&mut self, job: Job) {
        self.inside += 1;
        match &mut self.workers {
            Workers::None => unreachable!("nothing to check"),
            Workers::Here(sums, done) => drop(done.send(sums.add(job))),
            Workers::Threads(threads) => {
                let worker = job.window.shard % threads.len();
                // A worker ends only when its sender is dropped. Should it have panicked, the window never comes out, and
                // the engine says so.
                let _ = threads[worker].0.send(job);
            }
        }
    }

    /// A window that is done, or the next one to be done within `timeout`.
    pub(super) fn take(&mut self, timeout: Duration) -> Option<Checked> {
        let checked = match timeout {
            Duration::ZERO => self.out.try_recv().ok(),
            timeout => self.out.recv_timeout(timeout).ok(),
        }?;
        self.inside -= 1;
        Some(checked)
    }

    /// Whether a worker is gone that should be there.
    pub(super) fn is_broken(&self) -> bool {
        matches!(&self.workers, Workers::Threads(threads) if threads.iter().any(|(_, thread)| thread.is_finished()))
    }
}

impl Drop for Checker {
    /// Waits for the workers: they hold slabs. Each finishes at most one window.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Workers::Threads(threads) = std::mem::replace(&mut self.workers, Workers::None) {
            let (senders, threads): (Vec<_>, Vec<_>) = threads.into_iter().unzip();
            drop(senders);
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }
}

fn start(mut sums: Sums, done: Sender<Checked>, stop: Arc<AtomicBool>) -> Result<(Sender<Job>, JoinHandle<()>)> {
    let (jobs, inbox) = channel::unbounded::<Job>();
    let body = move || {
        for job in inbox {
            if stop.load(Ordering::Relaxed) || done.send(sums.add(job)).is_err() {
                return;
            }
        }
    };
    Ok((
        jobs,
        thread::Builder::new()
            .name("strait-check".into())
            .spawn(body)
            .map_err(|e| Error::thread("a thread for checksums", &e))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PathChoice;
    use crate::device::Device;
    use crate::sim::Rng;
    use crate::weights::checkpoints::{Made, write};
    use crate::weights::{Algorithm, Checkpoint, FileDigests, Manifest, TensorDigest};

    /// Who is to compare with this panics.
    pub(super) fn panics() -> Digest {
        Digest::new(Algorithm::Crc32c, b"boom").unwrap()
    }

    /// Mutant that this catches: a lost thread that nobody looks for; the load then waits for ever.
    #[test]
    fn a_lost_thread_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let made = [Made::new(&mut Rng::new(1), "w", crate::DType::U8, &[300_000])];
        let path = write(directory.path(), "m.safetensors", &made, 0);
        let checkpoint = Checkpoint::open(&path).unwrap();
        let info = &checkpoint.tensors()[0];
        let (name, offset, bytes) = (info.name.to_string(), info.offset, info.bytes);
        let tensor = TensorDigest { name, dtype: None, shape: None, offset, bytes, digest: panics() };
        let file = FileDigests { name: None, bytes: None, digest: None, tensors: vec![tensor] };
        let manifest = Manifest::new(vec![file]).unwrap();
        for way in [PathChoice::Auto, PathChoice::Staged] {
            let builder = checkpoint.load().device(Device::host()).path(way).block_bytes(16 << 10);
            let error = builder.verify(manifest.clone()).load_all().unwrap_err();
            assert!(error.to_string().contains("a thread that sums up bytes is gone"), "{error}");
        }
    }
}
