//! Devices of the code for CUDA, on a stand-in for the driver: its copies are late, in order and in pieces, on threads of
//! its own. Order and workers are simulated as ever, and so are reads, or they are cuFile's, on a stand-in for that.

mod alone;
mod blow;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use self::alone::{over_cuda, over_cufile};
use self::blow::{Blow, calls};
use super::machine::{Machine, Over};
use super::side::{Found, Side};
use crate::config::{PathChoice, ReadOptions, RingChoice};
use crate::device::{CudaConsumer, Device, DevicePtr, RawStream};
use crate::error::{Error, Result};
use crate::memory::Arena;
use crate::sim::{Clock, Rng};
use crate::storage::Faults;

#[path = "../../tests/stand_in/cufile.rs"]
mod cufile;
#[path = "../../tests/stand_in/mod.rs"]
mod stand_in;

const DEVICES: usize = 2;
/// More than what a device's consumers read between two looks at it.
const LANDING_BYTES: usize = 32 << 20;
/// Nothing takes as long. Where the ring is simulated, its time runs ahead of the copies'.
const NEVER: Duration = Duration::from_secs(600);
const NEVER_REALLY: Duration = Duration::from_secs(30);
/// Where something goes wrong, so much real time passes until somebody gives up.
const SOON: Duration = Duration::from_millis(300);

/// The stand-ins, and pinned memory that consumers read into.
pub(crate) struct Cuda {
    /// Whether reads into a device's memory are cuFile's.
    by_cufile: bool,
    device: Device,
    landing: Arc<Arena>,
}

impl Cuda {
    fn new(by_cufile: bool) -> Cuda {
        let (device, landing) = (Device::cuda(0).unwrap(), Arc::new(Arena::map(DEVICES * LANDING_BYTES).unwrap()));
        // SAFETY: the arena stays until `drop` has taken it back.
        unsafe { device.raw().pin(landing.base(), landing.bytes()) }.unwrap();
        Cuda { by_cufile, device, landing }
    }

    /// Devices on a driver of some age and pace.
    fn draw(&self, rng: &mut Rng, clock: &Clock, count: usize, in_place: bool) -> Vec<CudaSide> {
        let fake = stand_in::Fake;
        if rng.one_in(8) {
            self.device.raw().make_current().unwrap(); // as on an engine's thread: from then on it stays
        }
        // The oldest starts copies one by one, others several with either signature.
        fake.version([12_000, 12_080, 13_000][rng.below(3) as usize]);
        fake.pace(rng.next_u64(), [0, 50, 300, 300, 1500][rng.below(5) as usize], 0);
        let mut sides: Vec<CudaSide> =
            (0..count).map(|place| CudaSide::new(rng, clock, place, &self.landing)).collect();
        sides.iter_mut().for_each(|side| side.in_place = in_place);
        let before = sides[0].live();
        sides.iter_mut().for_each(|side| side.before = before.clone());
        sides
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // SAFETY: pinned in `new`; the streams of every side are done.
        unsafe { self.device.raw().unpin(self.landing.base()) }.unwrap();
    }
}

impl Over for Cuda {
    fn sides(&self, rng: &mut Rng, clock: &Clock, most: u64) -> Vec<Box<dyn Side>> {
        let count = 1 + rng.below(most.min(DEVICES as u64)) as usize;
        self.draw(rng, clock, count, false).into_iter().map(|side| Box::new(side) as _).collect()
    }

    fn in_place(&self, rng: &mut Rng, clock: &Clock) -> Option<Box<dyn Side>> {
        self.by_cufile.then(|| Box::new(self.draw(rng, clock, 1, true).remove(0)) as _)
    }

    fn adapt(&self, reads: &mut ReadOptions, machine: &Machine) {
        // A ring that is named has no better way looked for.
        (reads.ring, reads.path) = match machine.in_place {
            true => (RingChoice::Cufile, PathChoice::Auto),
            false => (RingChoice::Uring, reads.path),
        };
        reads.deadline = match (machine.struck, machine.in_place) {
            (true, _) => SOON,
            (false, true) => NEVER_REALLY,
            (false, false) => NEVER,
        };
    }

    fn ring(&self, rng: &mut Rng, faults: &Faults) -> bool {
        if !self.by_cufile {
            return false;
        }
        for (knob, value) in [
            ("chance", rng.next_u64() >> 1),
            ("short_once_in", faults.short),
            ("again_once_in", faults.again),
            ("error_once_in", faults.io_error),
            ("late_us_max", [0, 50, 1000][rng.below(3) as usize]),
            ("slow_us_max", [0, 0, 500][rng.below(3) as usize]),
        ] {
            cufile::FakeCufile.set(knob, value as i64);
        }
        true
    }
}

type Cells = Vec<(Rc<RefCell<Option<Vec<u8>>>>, usize, usize)>;

/// A CUDA device, two consumers' streams on it, and memory that they read into.
struct CudaSide {
    // The streams drop first, and wait for their copies.
    consumers: [CudaConsumer; 2],
    device: Device,
    landing: Arc<Arena>,
    /// Its part of the landing, and how much of that is used.
    from: usize,
    used: Cell<usize>,
    /// What landed where, and was not taken out yet.
    reads: RefCell<Cells>,
    before: Vec<u64>,
    /// cuFile writes into its memory.
    in_place: bool,
    /// What is to go wrong, and after how many turns.
    blow: Cell<Option<(u64, Blow)>>,
    struck: Cell<bool>,
    /// How often calls had been made before.
    calls: Vec<u64>,
    clock: Clock,
    /// When the last turn was.
    turned: Cell<Instant>,
}

impl CudaSide {
    fn new(rng: &mut Rng, clock: &Clock, ordinal: usize, landing: &Arc<Arena>) -> CudaSide {
        let consumers = [(); 2].map(|()| CudaConsumer::new(ordinal as u32).unwrap());
        for consumer in &consumers {
            stand_in::Fake.late(consumer.raw(), [0, 50, 1000][rng.below(3) as usize]);
        }
        CudaSide {
            consumers,
            device: Device::cuda(ordinal as u32).unwrap(),
            landing: landing.clone(),
            from: ordinal * LANDING_BYTES,
            used: Cell::new(0),
            reads: RefCell::default(),
            before: Vec::new(),
            in_place: false,
            blow: Cell::new(None),
            struck: Cell::new(false),
            calls: calls(),
            clock: clock.clone(),
            turned: Cell::new(Instant::now()),
        }
    }

    fn heal(&self) {
        stand_in::Fake.heal();
        if self.in_place {
            cufile::FakeCufile.heal();
        }
    }

    /// What there is, but for modules, which stay with the device.
    fn live(&self) -> Vec<u64> {
        let ([driver @ .., _], mut live) = (stand_in::Fake.live(), Vec::new());
        live.extend(driver);
        if self.in_place {
            live.extend(&cufile::FakeCufile.live()[..3]);
        }
        live
    }

    /// Takes out what has landed, once the streams are done.
    fn take_out(&self) -> Result<()> {
        self.consumers.iter().try_for_each(CudaConsumer::wait)?;
        for (cell, at, bytes) in self.reads.take() {
            // SAFETY: inside the arena, and the streams have done with it.
            let found = unsafe { std::slice::from_raw_parts(self.landing.base().add(at).as_ptr(), bytes) };
            cell.replace(Some(found.to_vec()));
        }
        self.used.set(0);
        Ok(())
    }
}

impl Side for CudaSide {
    fn device(&self) -> Device {
        self.device.clone()
    }

    fn streams(&self) -> [RawStream; 2] {
        [self.consumers[0].raw(), self.consumers[1].raw()]
    }

    fn read(&self, stream: RawStream, source: DevicePtr, bytes: usize) -> Result<Found> {
        if self.used.get() + bytes > LANDING_BYTES {
            if self.struck.get() {
                // Perhaps for ever.
                return Err(Error::Timeout { what: "room to read into".into(), waited: Duration::ZERO });
            }
            self.take_out()?;
        }
        let at = self.from + self.used.replace(self.used.get() + bytes);
        assert!(self.used.get() <= LANDING_BYTES);
        let consumer = self.consumers.iter().find(|consumer| consumer.raw() == stream).unwrap();
        // SAFETY: inside the arena, which is there until the streams are gone, and each read has a piece of its own. The source
        // is memory that is not freed before the fence behind this read.
        unsafe { consumer.read(source, self.landing.base().add(at), bytes) }?;
        let cell = Rc::new(RefCell::new(None));
        self.reads.borrow_mut().push((cell.clone(), at, bytes));
        Ok(Box::new(move || cell.borrow().clone()))
    }

    fn strike(&self, rng: &mut Rng, reads_back: bool) {
        let most = 1 << rng.below(7);
        let turns = rng.below(most);
        self.blow.set(Some((turns, Blow::draw(rng, self.in_place, reads_back))));
    }

    fn turn(&self) {
        self.clock.advance(self.turned.replace(Instant::now()).elapsed());
        match self.blow.take() {
            Some((0, blow)) => {
                self.struck.set(true);
                blow.fall(&self.calls);
            }
            Some((turns, blow)) => self.blow.set(Some((turns - 1, blow))),
            None => {}
        }
    }

    fn violations(&self) -> Vec<String> {
        let storage = if self.in_place { cufile::FakeCufile.misuse() } else { String::new() };
        let found = stand_in::Fake.misuse();
        found.lines().chain(storage.lines()).map(String::from).collect()
    }

    fn settle(&self) {
        self.heal();
        self.take_out().unwrap();
    }

    fn left(&self) -> Vec<u64> {
        self.live().iter().zip(&self.before).map(|(now, before)| now.abs_diff(*before)).collect()
    }
}

impl Drop for CudaSide {
    fn drop(&mut self) {
        self.heal(); // else nothing ends
    }
}
