//! A device as a run sees it: where bytes go, and the consumers' streams that read them there, late.

use std::sync::Arc;

use crate::device::{Device, DevicePtr, RawStream, SimDevice, SimFaults};
use crate::error::Result;
use crate::sim::{Clock, Rng};

/// What a read found, once it has happened.
pub(crate) type Found = Box<dyn Fn() -> Option<Vec<u8>>>;

pub(crate) trait Side {
    fn device(&self) -> Device;

    /// Consumers' own.
    fn streams(&self) -> [RawStream; 2];

    /// Puts a read of device memory on one of them.
    fn read(&self, stream: RawStream, source: DevicePtr, bytes: usize) -> Result<Found>;

    /// One misfortune, from some time on. Who `reads_back` waits for a real device as long as its driver does: it must not stall.
    fn strike(&self, rng: &mut Rng, reads_back: bool);

    /// The run has done a turn.
    fn turn(&self) {}

    /// What callers did that hardware would punish, in words.
    fn violations(&self) -> Vec<String>;

    /// Waits until nothing more happens by itself. Real devices are healed for that.
    fn settle(&self);

    /// Of each kind of thing, how much was made by the run and not given back.
    fn left(&self) -> Vec<u64>;
}

/// The simulated device.
pub(super) struct Simulated {
    device: Arc<SimDevice>,
    streams: [RawStream; 2],
}

impl Simulated {
    pub(super) fn draw(rng: &mut Rng, clock: &Clock) -> SimDevice {
        SimDevice::new(rng.next_u64(), clock.clone())
    }

    pub(super) fn side(device: SimDevice) -> Box<dyn Side> {
        let streams = [device.consumer_stream(), device.consumer_stream()];
        Box::new(Simulated { streams, device: Arc::new(device) })
    }
}

impl Side for Simulated {
    fn device(&self) -> Device {
        Device::new(self.device.clone())
    }

    fn streams(&self) -> [RawStream; 2] {
        self.streams
    }

    fn read(&self, stream: RawStream, source: DevicePtr, bytes: usize) -> Result<Found> {
        let read = self.device.consumer_read(stream, source, bytes)?;
        Ok(Box::new(move || read.bytes()))
    }

    fn strike(&self, rng: &mut Rng, _reads_back: bool) {
        let at = Some(1 + rng.below(20));
        let faults = [
            SimFaults { copy_fails: at, ..SimFaults::default() },
            SimFaults { mark_fails: at, ..SimFaults::default() },
            SimFaults { lost: at, ..SimFaults::default() },
            SimFaults { stalls: at, ..SimFaults::default() },
        ];
        self.device.set_faults(faults[rng.below(4) as usize]);
    }

    fn violations(&self) -> Vec<String> {
        self.device.violations()
    }

    fn settle(&self) {
        self.device.settle();
    }

    fn left(&self) -> Vec<u64> {
        let left = [self.device.allocated_bytes(), self.device.pinned_bytes(), self.device.live_fences()];
        left.map(|left| left as u64).into()
    }
}
