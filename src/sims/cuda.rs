//! The same seeds over the code for CUDA, on a stand-in for the driver: its copies are late, in order and in pieces, on
//! threads of its own. Reads, order and workers are simulated as ever.

use std::cell::{Cell, RefCell};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;

use super::super::draw::Shards;
use super::super::for_seeds;
use super::Run;
use super::side::{Found, Side};
use crate::device::{CudaConsumer, Device, DevicePtr, RawStream};
use crate::error::Result;
use crate::memory::Arena;
use crate::sim::Rng;

#[path = "../../../tests/stand_in/mod.rs"]
mod stand_in;

/// More than what two streams read between two looks at it.
const LANDING_BYTES: usize = 32 << 20;

type Cells = Vec<(Rc<RefCell<Option<Vec<u8>>>>, usize, usize)>;

/// A CUDA device, two consumers' streams on it, and memory that they read into.
struct Cuda {
    fake: stand_in::Fake,
    before: [u64; 6],
    // The streams drop first, and wait for their copies.
    consumers: [CudaConsumer; 2],
    device: Device,
    landing: Arc<Arena>,
    used: Cell<usize>,
    /// What landed where, and was not taken out yet.
    reads: RefCell<Cells>,
}

impl Cuda {
    fn new(fake: stand_in::Fake, rng: &mut Rng, landing: &Arc<Arena>) -> Cuda {
        let device = Device::cuda(0).unwrap();
        // SAFETY: the caller's arena outlives this value, whose drop takes it back.
        unsafe { device.raw().pin(landing.base(), landing.bytes()) }.unwrap();
        let consumers = [(); 2].map(|()| CudaConsumer::new(0).unwrap());
        fake.pace(rng.next_u64(), [0, 50, 300][rng.below(3) as usize], 0);
        for consumer in &consumers {
            fake.late(consumer.raw(), [0, 50, 1000][rng.below(3) as usize]);
        }
        let (used, reads, landing) = (Cell::new(0), RefCell::default(), landing.clone());
        Cuda { before: fake.live(), fake, consumers, device, landing, used, reads }
    }
}

impl Side for Cuda {
    fn device(&self) -> Device {
        self.device.clone()
    }

    fn streams(&self) -> Vec<RawStream> {
        self.consumers.iter().map(CudaConsumer::raw).collect()
    }

    fn read(&self, stream: RawStream, source: DevicePtr, bytes: usize) -> Result<Found> {
        if self.used.get() + bytes > LANDING_BYTES {
            self.settle();
        }
        let at = self.used.replace(self.used.get() + bytes);
        assert!(at + bytes <= LANDING_BYTES);
        let consumer = self.consumers.iter().find(|consumer| consumer.raw() == stream).unwrap();
        // SAFETY: inside the arena, which is there until the streams are gone, and each read has a piece of its own. The source
        // is memory that is not freed before the fence behind this read.
        unsafe { consumer.read(source, self.landing.base().add(at), bytes) }?;
        let cell = Rc::new(RefCell::new(None));
        self.reads.borrow_mut().push((cell.clone(), at, bytes));
        Ok(Box::new(move || cell.borrow().clone()))
    }

    fn violations(&self) -> Vec<String> {
        self.fake.misuse().lines().map(String::from).collect()
    }

    fn settle(&self) {
        self.consumers.iter().for_each(|consumer| consumer.wait().unwrap());
        for (cell, at, bytes) in self.reads.take() {
            // SAFETY: inside the arena, and the streams have done with it.
            let found = unsafe { std::slice::from_raw_parts(self.landing.base().add(at).as_ptr(), bytes) };
            cell.replace(Some(found.to_vec()));
        }
        self.used.set(0);
    }

    fn left(&self) -> usize {
        let [live @ .., _] = self.fake.live(); // modules stay with the device
        live.iter().zip(&self.before).map(|(now, before)| now.abs_diff(*before) as usize).sum()
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        let _ = self.consumers.iter().try_for_each(CudaConsumer::wait);
        // SAFETY: pinned in `new`; the streams have done with it.
        unsafe { self.device.raw().unpin(self.landing.base()) }.unwrap();
    }
}

/// In a process of its own: where other tests ask for CUDA, they see the machine as it is.
///
/// Mutants that this catches: a batch that does not wait for the fence of its region; a mark that is reached before its copies
/// have ended; a region that is filled anew without waiting for its own fence.
#[test]
fn every_seed_delivers_exact_bytes_or_says_why_not() {
    const CHILD: &str = "STRAIT_SIM_OVER_CUDA";
    if std::env::var_os(CHILD).is_none() {
        let name = concat!(module_path!(), "::every_seed_delivers_exact_bytes_or_says_why_not");
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name.split_once("::").unwrap().1]).env(CHILD, "1");
        // Copies take their time here: a tenth of the seeds that others run.
        if let Some(seeds) = std::env::var("STRAIT_SIM_SEEDS").ok().and_then(|text| text.parse::<u64>().ok()) {
            child.env("STRAIT_SIM_SEEDS", seeds.div_ceil(10).to_string());
        }
        let child = child.output().unwrap();
        let text = [child.stdout, child.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(child.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let (shards, landing) = (Shards::new(), Arc::new(Arena::map(LANDING_BYTES).unwrap()));
    for_seeds(50, |seed, rng| {
        let (fake, _alone) = stand_in::take();
        let mut run = Run::over(seed, &shards, Some(Box::new(Cuda::new(fake, rng, &landing))));
        run.epochs();
        run.finish();
    });
}
