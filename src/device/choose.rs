//! Which device: the constructors of [`Device`].

use std::sync::Arc;

use super::{Device, HostDevice, SimDevice};
use crate::error::{Error, Result};
use crate::order::Rank;
use crate::sim::Clock;

impl Device {
    /// Host memory: batches lie in huge pages where there are any, and a ring writes into them directly.
    pub fn host() -> Device {
        Device::new(Arc::new(HostDevice::default()))
    }

    /// The CUDA device `ordinal`, counted among the visible ones (`CUDA_VISIBLE_DEVICES`). Uses its primary context,
    /// as PyTorch and the CUDA runtime do.
    ///
    /// Without a driver or a device this is an ordinary [`Error::NoDevice`] that says what is missing.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: u32) -> Result<Device> {
        Ok(Device::new(Arc::new(super::cuda::CudaDevice::new(ordinal)?)))
    }

    /// The CUDA device `ordinal`; this build has no CUDA.
    #[cfg(not(feature = "cuda"))]
    pub fn cuda(ordinal: u32) -> Result<Device> {
        let reason = "this build of strait has no CUDA; build it with the feature `cuda`".into();
        Err(Error::NoDevice { device: format!("cuda:{ordinal}"), reason })
    }

    /// CUDA device 0 if it works, else the host. The log says which, and why.
    pub fn auto() -> Device {
        match Device::cuda(0) {
            Ok(device) => {
                tracing::info!(device = device.name(), "batches go to the first CUDA device");
                device
            }
            Err(reason @ Error::NoDevice { .. }) => {
                tracing::info!(device = "host", %reason, "batches go to host memory");
                Device::host()
            }
            Err(reason) => {
                tracing::warn!(device = "host", %reason, "CUDA is there and does not work: batches go to host memory");
                Device::host()
            }
        }
    }

    /// As [`auto`](Device::auto), for one of several processes on a machine: the CUDA device of its
    /// [local rank](Rank::local_rank), or device 0 where the launcher lets each process see its own alone.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the machine has several devices, and fewer than processes.
    pub fn for_rank(rank: Rank) -> Result<Device> {
        let Some(local) = rank.local_rank().filter(|&local| local > 0) else { return Ok(Device::auto()) };
        match Device::cuda(local) {
            Ok(device) => Ok(device),
            // Where there is no second device, the first is what this process was given, if there is any.
            Err(Error::NoDevice { .. }) if Device::cuda(1).is_err() => Ok(Device::auto()),
            Err(reason) => Err(reason),
        }
    }

    /// A device for tests, whose copies are late, in pieces, and decided by `seed`; see [`SimDevice`].
    pub fn sim(seed: u64, clock: Clock) -> Device {
        Device::new(Arc::new(SimDevice::new(seed, clock)))
    }
}
