//! Devices
//!
//! Where batches live: host memory, a CUDA device, or a vendor's own (see the device plug-in). A device does not change.
//! Loaders keep what they need of it, so a device may be given back at once.

use std::ffi::{CString, c_char};

use strait::Device;
use strait::device::DeviceKind;

use crate::call::{call, free, out};
use crate::dlpack::DLDevice;
use crate::error::{Failure, c_string, strait_error};
use crate::handle::{Kind, live, register};
use crate::status::strait_status;

/// A device that batches can live on. Threads: any, at once.
pub struct strait_device(());

/// A device, and what DLPack calls it.
pub(crate) struct Named {
    pub(crate) device: Device,
    pub(crate) dl: DLDevice,
    name: CString,
}

impl Kind for Named {
    type Handle = strait_device;
    const NAME: &'static str = "device";
    const NUMBER: u8 = 4;
}

impl Named {
    pub(crate) fn new(device: Device) -> Named {
        let (device_type, device_id) = match device.kind() {
            DeviceKind::Cuda(ordinal) => (DLDevice::CUDA, ordinal as i32),
            DeviceKind::Other { dlpack_type, ordinal } => (dlpack_type, ordinal),
            _ => (DLDevice::CPU, 0),
        };
        Named { name: c_string(device.name()), device, dl: DLDevice { device_type, device_id } }
    }

    /// The same, where DLPack has another name for it.
    pub(crate) fn called(self, dl: DLDevice) -> Named {
        Named { dl, ..self }
    }
}

/// Host memory: the storage writes into batches directly, and nothing is copied.
#[unsafe(no_mangle)]
pub extern "C" fn strait_device_host(
    device: Option<&mut *mut strait_device>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    give(device, error, || Ok(Named::new(Device::host())))
}

/// The CUDA device `ordinal`, counted among the visible ones, with its primary context, as PyTorch and the CUDA runtime
/// use it. Without a driver or a device: `STRAIT_STATUS_NO_DEVICE`, which says what is missing.
#[unsafe(no_mangle)]
pub extern "C" fn strait_device_cuda(
    ordinal: u32,
    device: Option<&mut *mut strait_device>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    give(device, error, || Ok(Named::new(Device::cuda(ordinal)?)))
}

/// CUDA device 0 if it works, else the host.
#[unsafe(no_mangle)]
pub extern "C" fn strait_device_auto(
    device: Option<&mut *mut strait_device>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    give(device, error, || Ok(Named::new(Device::auto())))
}

/// Gives a device back. NULL is fine; one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_device_free(device: *mut strait_device) -> strait_status {
    free::<Named>(device)
}

/// A name for people: `"cuda:0 (NVIDIA H200)"`. It lives as long as the device's handle.
#[unsafe(no_mangle)]
pub extern "C" fn strait_device_name(
    device: *const strait_device,
    name: Option<&mut *const c_char>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let name = out(name, "name")?;
        *name = live::<Named>(device, "device")?.name.as_ptr();
        Ok(())
    })
}

/// What DLPack calls this device: `DLDeviceType` (1 the host, 2 CUDA, 3 host memory that CUDA has pinned) and `device_id`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_device_dlpack(
    device: *const strait_device,
    device_type: Option<&mut i32>,
    device_id: Option<&mut i32>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let (device_type, device_id) = (out(device_type, "device_type")?, out(device_id, "device_id")?);
        let dl = live::<Named>(device, "device")?.dl;
        (*device_type, *device_id) = (dl.device_type, dl.device_id);
        Ok(())
    })
}

/// Registers a new device.
pub(crate) fn give(
    device: Option<&mut *mut strait_device>,
    error: Option<&mut *mut strait_error>,
    make: impl FnOnce() -> Result<Named, Failure>,
) -> strait_status {
    call(error, || {
        let device = out(device, "device")?;
        *device = register(make()?)?;
        Ok(())
    })
}

/// The device behind a handle, for programs in Rust that were given one.
pub fn device_of(device: *const strait_device) -> Option<Device> {
    live::<Named>(device, "device").ok().map(|named| named.device.clone())
}
