//! A device as a run sees it: where batches go, and the consumer's streams that read them there, late.

use std::sync::Arc;

use crate::device::{Device, DevicePtr, RawStream, SimDevice};
use crate::error::Result;

/// What a read found, once it has happened.
pub(super) type Found = Box<dyn Fn() -> Option<Vec<u8>>>;

pub(super) trait Side {
    fn device(&self) -> Device;

    /// The consumer's own; a batch uses one of them.
    fn streams(&self) -> Vec<RawStream>;

    /// Puts a read of device memory on a stream.
    fn read(&self, stream: RawStream, source: DevicePtr, bytes: usize) -> Result<Found>;

    /// What callers did that hardware would punish, in words.
    fn violations(&self) -> Vec<String>;

    /// Waits until nothing more happens by itself.
    fn settle(&self);

    /// How much was made by the run and not given back.
    fn left(&self) -> usize;
}

/// The simulated device.
pub(super) struct Simulated {
    pub(super) device: Arc<SimDevice>,
    streams: [RawStream; 2],
}

impl Simulated {
    pub(super) fn new(device: SimDevice) -> Simulated {
        Simulated { streams: [device.consumer_stream(), device.consumer_stream()], device: Arc::new(device) }
    }
}

impl Side for Simulated {
    fn device(&self) -> Device {
        Device::new(self.device.clone())
    }

    fn streams(&self) -> Vec<RawStream> {
        self.streams.into()
    }

    fn read(&self, stream: RawStream, source: DevicePtr, bytes: usize) -> Result<Found> {
        let read = self.device.consumer_read(stream, source, bytes)?;
        Ok(Box::new(move || read.bytes()))
    }

    fn violations(&self) -> Vec<String> {
        self.device.violations()
    }

    fn settle(&self) {
        self.device.settle();
    }

    fn left(&self) -> usize {
        self.device.allocated_bytes() + self.device.live_fences()
    }
}
