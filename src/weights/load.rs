//! A load under way, as its consumer sees it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::tensor::Home;
use super::{Tensor, TensorInfo};
use crate::device::Seq;
use crate::error::{Error, Result};
use crate::outlet::Outlet;
use crate::stall::Signs;
use crate::stats::{Counters, Stats};
use crate::storage::Waker;

/// The tensors of a checkpoint, in the order in which they finish.
///
/// After an error it ends; tensors that were handed over before are whole and stay so. Dropping it in the middle is fine:
/// that returns once what is in flight has ended.
pub struct Load {
    pub(super) outlet: Outlet<Output>,
    pub(super) shared: Arc<Shared>,
    pub(super) left: usize,
}

/// What the engine tells the consumer.
pub(super) enum Output {
    /// The target of that number is whole at this seq.
    Ready(u32, Seq),
    Failed(Error),
}

/// What engine and consumer have in common.
pub(super) struct Shared {
    pub(super) tensors: Arc<[TensorInfo]>,
    pub(super) targets: Vec<Handed>,
    /// Of each shard.
    pub(super) paths: Vec<Arc<Path>>,
    pub(super) homes: OnceLock<Vec<Arc<Home>>>,
    pub(super) counters: Arc<Counters>,
    pub(super) deadline: Duration,
    /// The consumer is gone.
    pub(super) stop: AtomicBool,
    /// Ends the engine's wait for reads, if it waits for real.
    pub(super) waker: OnceLock<Arc<Waker>>,
    /// Why the engine is gone, if it did not say so itself.
    pub(super) stopped: Arc<OnceLock<String>>,
}

/// What is handed over for one target.
pub(super) struct Handed {
    pub(super) place: usize,
    pub(super) device: usize,
    pub(super) shape: Vec<u64>,
    pub(super) bytes: u64,
    pub(super) memory: super::memory::Spot,
}

impl Load {
    /// How many tensors are still to come; a tensor counts once for each device that gets a part of it.
    pub fn remaining(&self) -> usize {
        self.left
    }

    /// What the load has done so far, and which way its bytes took.
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    /// Waits for all tensors that are still to come, and for their copies.
    pub fn load_all(mut self) -> Result<Tensors> {
        let mut tensors = Vec::with_capacity(self.left);
        for tensor in &mut self {
            tensors.push(tensor?);
        }
        tensors.iter().try_for_each(Tensor::wait)?;
        tensors.sort_by_key(|tensor| (tensor.place, tensor.device_index));
        let by_name = tensors.iter().enumerate().rev().map(|(i, tensor)| (tensor.info().name.clone(), i)).collect();
        Ok(Tensors { tensors, by_name, stats: self.stats() })
    }

    /// The next tensor that finishes, if one does within `patience`; `None` if not, and then it may be asked for again, or
    /// if none is [left](Self::remaining). So a caller can look after other things, such as signals, while it waits.
    ///
    /// # Errors
    /// Those of the load, which then is over. No tensor within the load's deadline is one, however short the patience; between
    /// two calls no more than a second is counted.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<Tensor>> {
        if self.left == 0 {
            return Ok(None);
        }
        // No stream of a consumer's holds a load up.
        let signs = || Signs { progress: self.shared.progress(), ..Signs::default() };
        let what =
            |_| "the next tensor: the engine makes no progress (it may be opening a file that does not answer)".into();
        let next = match self.outlet.within(patience, signs, what) {
            Ok(Some(Output::Ready(target, seq))) => Ok(Some(self.shared.tensor(target, seq))),
            Ok(Some(Output::Failed(error))) | Err(error) => Err(error),
            Ok(None) => Ok(None),
        };
        match &next {
            Ok(Some(_)) => self.left -= 1,
            Ok(None) => {}
            Err(_) => self.left = 0,
        }
        next
    }
}

impl Iterator for Load {
    type Item = Result<Tensor>;

    fn next(&mut self) -> Option<Result<Tensor>> {
        while self.left > 0 {
            match self.next_within(Duration::MAX) {
                Ok(Some(tensor)) => return Some(Ok(tensor)),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(waker) = self.shared.waker.get() {
            waker.wake();
        }
    }
}

impl Shared {
    /// A number that changes as long as bytes arrive or are checked.
    fn progress(&self) -> u64 {
        self.counters.reads_ended.get().wrapping_add(self.counters.bytes_wanted.get())
    }

    pub(super) fn tensor(&self, target: u32, seq: Seq) -> Tensor {
        let handed = &self.targets[target as usize];
        Tensor {
            tensors: self.tensors.clone(),
            place: handed.place,
            device_index: handed.device,
            shape: handed.shape.clone(),
            ptr: handed.memory.ptr,
            host: handed.memory.host,
            bytes: handed.bytes,
            seq,
            home: self.homes.get().expect("set before the first tensor")[handed.device].clone(),
            owner: handed.memory.owner.clone(),
        }
    }
}

/// A loaded checkpoint: all its tensors, in the checkpoint's order.
#[derive(Debug)]
pub struct Tensors {
    tensors: Vec<Tensor>,
    by_name: HashMap<Arc<str>, usize>,
    stats: Stats,
}

impl Tensors {
    /// The tensor of that name; with several devices, the first device's that has a part of it.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name).map(|&place| &self.tensors[place])
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Tensor> {
        self.tensors.iter()
    }

    /// What the load did, and which way its bytes took.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

impl IntoIterator for Tensors {
    type Item = Tensor;
    type IntoIter = std::vec::IntoIter<Tensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.tensors.into_iter()
    }
}
