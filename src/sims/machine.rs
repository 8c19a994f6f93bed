//! What a run stands on: its time, the devices that its bytes go to, and the reads of consumers there.

use std::cell::{Cell, RefCell};

use super::side::{Found, Side, Simulated};
use crate::config::ReadOptions;
use crate::device::{Device, DevicePtr, RawStream};
use crate::error::Error;
use crate::sim::{Clock, Rng};
use crate::storage::Faults;

/// Where seeds get their devices from. One generator serves all that there are.
pub(crate) trait Over {
    /// So many devices at most; with none bytes go to the host.
    fn sides(&self, rng: &mut Rng, clock: &Clock, most: u64) -> Vec<Box<dyn Side>>;

    /// A device whose memory a ring writes into by itself, if the seed has it so.
    fn in_place(&self, rng: &mut Rng, clock: &Clock) -> Option<Box<dyn Side>>;

    /// What reads have to be for it.
    fn adapt(&self, _reads: &mut ReadOptions, _machine: &Machine) {}

    /// Whether the ring that writes in place comes with it, then with these faults.
    fn ring(&self, _rng: &mut Rng, _faults: &Faults) -> bool {
        false
    }
}

/// The host and simulated devices, as the seed has it.
pub(crate) struct Drawn;

impl Over for Drawn {
    fn sides(&self, rng: &mut Rng, clock: &Clock, most: u64) -> Vec<Box<dyn Side>> {
        (0..rng.below(most + 1)).map(|_| Simulated::side(Simulated::draw(rng, clock))).collect()
    }

    fn in_place(&self, rng: &mut Rng, clock: &Clock) -> Option<Box<dyn Side>> {
        rng.one_in(4).then(|| Simulated::side(Simulated::draw(rng, clock).direct()))
    }
}

/// A run's time and devices.
pub(crate) struct Machine {
    pub(crate) clock: Clock,
    pub(crate) sides: Vec<Box<dyn Side>>,
    /// The ring writes into the device's memory.
    pub(crate) in_place: bool,
    /// Something on the first device goes wrong.
    pub(crate) struck: bool,
    /// Who runs here has heard of that.
    told: Cell<bool>,
    /// What consumers read: of what, what it should be, and what it was.
    reads: RefCell<Vec<(String, Vec<u8>, Found)>>,
}

impl Machine {
    /// With so many devices at most.
    pub(crate) fn draw(rng: &mut Rng, over: &dyn Over, most: u64) -> Machine {
        let clock = Clock::simulated();
        let sides = over.sides(rng, &clock, most);
        Machine::of(rng, clock, sides, false)
    }

    /// With a device that a ring writes into, where the seed has it so.
    pub(crate) fn draw_in_place(rng: &mut Rng, over: &dyn Over) -> Machine {
        let clock = Clock::simulated();
        match over.in_place(rng, &clock) {
            Some(side) => Machine::of(rng, clock, vec![side], true),
            None => Machine::draw(rng, over, 1),
        }
    }

    fn of(rng: &mut Rng, clock: Clock, sides: Vec<Box<dyn Side>>, in_place: bool) -> Machine {
        let struck = !sides.is_empty() && rng.one_in(3);
        Machine { clock, sides, in_place, struck, told: Cell::new(false), reads: RefCell::default() }
    }

    /// The devices; the host, where there are none.
    pub(crate) fn devices(&self) -> Vec<Device> {
        match &self.sides[..] {
            [] => vec![Device::host()],
            sides => sides.iter().map(|side| side.device()).collect(),
        }
    }

    /// The misfortune may come from now on, if there is one; see [`Side::strike`].
    pub(crate) fn strike(&self, rng: &mut Rng, reads_back: bool) {
        if self.struck {
            self.sides[0].strike(rng, reads_back);
        }
    }

    pub(crate) fn turn(&self) {
        self.sides.iter().for_each(|side| side.turn());
    }

    /// Puts a consumer's read on a stream of its own, whose bytes are looked at in the end.
    pub(crate) fn read(&self, device: usize, stream: RawStream, source: DevicePtr, (what, want): (String, Vec<u8>)) {
        match self.sides[device].read(stream, source, want.len()) {
            Ok(found) => self.reads.borrow_mut().push((what, want, found)),
            Err(error) => assert!(self.broke(&error), "{error}"),
        }
    }

    /// Whether it is the misfortune's doing.
    pub(crate) fn broke(&self, error: &Error) -> bool {
        let broke = self.struck && matches!(error, Error::Device { .. } | Error::Timeout { .. } | Error::Ring { .. });
        self.told.set(self.told.get() || broke);
        broke
    }

    /// Whether nothing need move for a while: batches that no stream can be asked about are not used again, and those that a
    /// stream never passes hold others up. A loader says so itself, in the end.
    pub(crate) fn may_stand(&self, held_up: bool) -> bool {
        self.struck && (self.in_place || self.told.get() || held_up)
    }

    pub(crate) fn settle(&self) {
        self.sides.iter().for_each(|side| side.settle());
    }

    /// All that the run had is gone. What is left, where hardware has kept it, `leaks`.
    pub(crate) fn close(self, leaks: bool) {
        self.settle();
        for (what, want, found) in self.reads.take() {
            match found() {
                Some(bytes) => assert!(bytes == want, "the consumer read wrong bytes of {what}"),
                None => assert!(self.struck, "the consumer's read of {what} never happened"),
            }
        }
        for side in &self.sides {
            let violations = side.violations();
            assert!(violations.is_empty(), "{violations:?}");
            let left = side.left();
            assert!(leaks || self.struck || left.iter().all(|&left| left == 0), "not given back: {left:?}");
        }
    }
}
