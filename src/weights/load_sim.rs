//! Loads from one seed: reads out of order, short, refused, stalled; copies late; damaged files; consumers that leave.
//!
//! The oracle is what was written.

mod made;
#[cfg(feature = "nvtx")]
mod ranges;

use std::collections::HashSet;
use std::sync::Arc;

use crossbeam::channel::Receiver;

use self::made::Wanted;
use super::Tensor;
use super::engine::Engine;
use super::load::{Output, Shared};
use crate::device::RawStream;
use crate::error::Error;
use crate::sim::Rng;
#[cfg(feature = "cuda")]
use crate::sims::over_cuda;
use crate::sims::{Drawn, Machine, for_seeds};
use crate::storage::Faults;

/// More turns than any seed needs: beyond, the load hangs.
const TURNS_MAX: u64 = 200_000;

struct Run {
    rng: Rng,
    wanted: Wanted,
    machine: Machine,
    engine: Engine,
    output: Receiver<Output>,
    shared: Arc<Shared>,
    got: HashSet<(Arc<str>, usize)>,
    /// Tensors, and the consumers' streams that read them.
    held: Vec<(Tensor, RawStream)>,
    faults: Faults,
}

impl Run {
    /// Turns until the load is over; false if it failed, or if its consumer left.
    fn turns(&mut self) -> bool {
        let leave_at = if self.rng.one_in(4) { self.rng.below(40) } else { u64::MAX };
        for turn in 0..TURNS_MAX {
            if turn == leave_at {
                return false;
            }
            let over = !self.engine.turn();
            self.machine.turn();
            while over || self.rng.one_in(2) {
                match self.output.try_recv() {
                    Ok(Output::Ready(target, seq)) => {
                        let tensor = self.shared.tensor(target, seq);
                        self.take(tensor);
                    }
                    Ok(Output::Failed(error)) => {
                        self.check_error(&error);
                        return false;
                    }
                    Err(_) => break,
                }
            }
            if over {
                return true;
            }
        }
        panic!("no end after {TURNS_MAX} turns");
    }

    fn take(&mut self, tensor: Tensor) {
        let (name, device) = (tensor.info().name.clone(), tensor.device_index());
        assert!(self.got.insert((name.clone(), device)), "{name} comes twice");
        let damaged = self.wanted.damaged.as_ref() == Some(&name);
        assert!(!damaged || tensor.bytes() == 0, "{name} is damaged, and was handed over");
        let want = self.wanted.oracle(&name, device);
        assert_eq!(tensor.bytes(), want.len() as u64);
        let align = tensor.dtype().bytes().unwrap_or(1);
        assert!(want.is_empty() || tensor.device_ptr().is_multiple_of(align), "{name} is not aligned");
        let Some(side) = self.machine.sides.get(device) else {
            return assert!(tensor.host_bytes().unwrap() == want, "wrong bytes in {name}");
        };
        if want.is_empty() {
            return;
        }
        // The consumer reads on its own stream, some time later.
        let stream = side.streams()[self.rng.below(2) as usize];
        // SAFETY: a live stream of this device.
        if let Err(error) = unsafe { tensor.wait_on(stream) } {
            return assert!(self.machine.broke(&error), "{error}");
        }
        self.machine.read(device, stream, tensor.device_ptr(), (name.to_string(), want));
        self.held.push((tensor, stream));
    }

    fn check_error(&self, error: &Error) {
        let text = error.to_string();
        match error {
            Error::Tensor { cause, .. } => {
                let Error::Io { errno, .. } = **cause else { panic!("{text}") };
                assert!(text.contains(".safetensors") && text.contains("tensor `"), "{text}");
                match errno {
                    libc::EIO => assert!(self.faults.io_error > 0, "{text}"),
                    libc::EAGAIN | libc::EINTR => assert!(self.faults.again > 0, "{text}"),
                    _ => panic!("{text}"),
                }
            }
            // A stretch of a file that is read for its check only.
            Error::Io { .. } => {
                assert!(self.wanted.by_file && (self.faults.io_error > 0 || self.faults.again > 0), "{text}")
            }
            Error::Corrupt { .. } => assert!(self.wanted.damaged.is_some(), "{text}"),
            Error::Timeout { .. } => assert!(self.faults.stall > 0 || self.machine.struck, "{text}"),
            error if self.machine.broke(error) => {}
            _ => panic!("unexpected: {text}"),
        }
    }

    fn finish(mut self) {
        let over = self.turns();
        if over {
            assert_eq!(self.got.len(), self.wanted.list.len(), "not all came");
            assert!(!self.wanted.damage_is_read(), "damage went unseen");
        }
        let stats = self.shared.counters.snapshot();
        let refused = |reason: &str| self.machine.struck && reason.contains("cuMemcpyBatchAsync");
        assert!(stats.fallbacks.iter().all(|fallback| refused(&fallback.reason)), "{:?}", stats.fallbacks);
        let Run { mut rng, machine, engine, output, shared, held, faults, .. } = self;
        // Tensors are given up behind their consumers' streams, or outlive the load: all of them, some, or none.
        let (mut kept, keep) = (Vec::new(), [0, 1, 2][rng.below(3) as usize]);
        for (tensor, stream) in held {
            if rng.below(2) < keep {
                kept.push(tensor);
            // SAFETY: a live stream of this device, with the read of the tensor on it.
            } else if let Err(error) = unsafe { tensor.release_on(stream) } {
                assert!(machine.broke(&error), "{error}");
            }
        }
        drop((engine, output, shared));
        machine.settle();
        drop(kept);
        machine.close(faults.stall > 0);
    }
}

#[test]
fn loads_from_many_seeds() {
    for_seeds(250, |seed, _| {
        let directory = tempfile::tempdir().unwrap();
        Run::new(seed, directory.path(), &Drawn).finish();
    });
}

/// Mutants that this catches: rows at a wrong distance; a wait for the mark before; a consumer that does not wait; a fence on
/// another stream; copies on another device's stream; memory pinned for one context, or freed by its aligned address.
#[cfg(feature = "cuda")]
#[test]
fn loads_over_cuda() {
    over_cuda(30, |seed, _, over| {
        let directory = tempfile::tempdir().unwrap();
        Run::new(seed, directory.path(), over).finish();
    });
}
