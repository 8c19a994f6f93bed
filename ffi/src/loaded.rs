//! Loaded tensors
//!
//! A tensor of a checkpoint, or one device's slice of it, in device memory: dense, in C order. Its bytes are there once
//! `strait_tensor_wait` says so, or on a stream that `strait_tensor_wait_on` has made wait. It outlives its load. Tensors of one
//! load and device share one allocation, which is freed with the last of them. Texts and arrays live as long as the handle.
//! The child of a fork has no handles, but host memory of tensors whose load was over before the fork is there for it to read;
//! that of batches is not.

use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;

use strait::weights::Tensor;

use crate::call::{call, free, give, out};
use crate::dlpack::{DLManagedTensor, DLManagedTensorVersioned};
use crate::error::{Failure, c_string, strait_error};
use crate::handle::{Kind, live, null};
use crate::held::{self, Held, Holds};
use crate::status::strait_status;
use crate::tensor::{Managed, Place, STRAIT_TENSOR_BYTES, dl_of, lend};

/// A tensor in device memory. Threads: any, at once; `strait_tensor_release_on` and `strait_tensor_free` end it.
pub struct strait_tensor(());

pub(crate) struct Loaded {
    pub(crate) held: Arc<Held<Tensor>>,
    name: CString,
    dtype: CString,
}

impl Kind for Loaded {
    type Handle = strait_tensor;
    const NAME: &'static str = "tensor";
    const NUMBER: u8 = 13;
}

impl Holds for Loaded {
    type Lent = Tensor;

    fn held(&self) -> &Arc<Held<Tensor>> {
        &self.held
    }
}

impl Loaded {
    pub(crate) fn new(held: Arc<Held<Tensor>>) -> Loaded {
        let tensor = held.get();
        let (name, dtype) = (c_string(tensor.name()), c_string(tensor.dtype().name()));
        Loaded { held, name, dtype }
    }
}

/// Gives a tensor back; nothing but DLPack tensors of it may use it any more, and the last one to go decides. NULL is fine;
/// one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_tensor_free(tensor: *mut strait_tensor) -> strait_status {
    free::<Loaded>(tensor)
}

/// Its name, the type of its elements (`"bf16"`), and the number of the device it is on, in the order in which the load was
/// given them. Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_tensor_name(
    tensor: *const strait_tensor,
    name: Option<&mut *const c_char>,
    dtype: Option<&mut *const c_char>,
    device: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let loaded = live::<Loaded>(tensor, "tensor")?;
        give(name, loaded.name.as_ptr());
        give(dtype, loaded.dtype.as_ptr());
        give(device, loaded.held.get().device_index());
        Ok(())
    })
}

/// The shape of what is here: `ndim` lengths at `shape`, the first dimension outermost; 0 of them for a single element.
#[unsafe(no_mangle)]
pub extern "C" fn strait_tensor_shape(
    tensor: *const strait_tensor,
    shape: Option<&mut *const u64>,
    ndim: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let (shape, ndim) = (out(shape, "shape")?, out(ndim, "ndim")?);
        let loaded = live::<Loaded>(tensor, "tensor")?;
        let own = loaded.held.get().shape();
        (*shape, *ndim) = (own.as_ptr(), own.len());
        Ok(())
    })
}

/// Its first byte in the device's address space, and how many there are. Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_tensor_device_ptr(
    tensor: *const strait_tensor,
    device_ptr: Option<&mut u64>,
    bytes: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let loaded = live::<Loaded>(tensor, "tensor")?;
        give(device_ptr, loaded.held.get().device_ptr());
        give(bytes, loaded.held.get().bytes());
        Ok(())
    })
}

/// Waits, on the host, until its bytes are there; `STRAIT_STATUS_TIMEOUT` after the load's deadline.
#[unsafe(no_mangle)]
pub extern "C" fn strait_tensor_wait(
    tensor: *const strait_tensor,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    held::wait::<Loaded>(tensor, error)
}

/// Makes `stream` wait until its bytes are there, without blocking the host. `stream` is a live stream of its device, as a
/// number (see Tensors).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_tensor_wait_on(
    tensor: *const strait_tensor,
    stream: i64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a live stream of the tensor's device, as the header says of this argument.
    unsafe { held::wait_on::<Loaded>(tensor, stream, error) }
}

/// Gives the tensor back once `stream` has done what is on it now: its memory is freed behind that, or leaked if the stream
/// cannot be asked, which is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_tensor_release_on(
    tensor: *mut strait_tensor,
    stream: i64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a live stream of the tensor's device, as the header says of this argument.
    unsafe { held::release_on::<Loaded>(tensor, stream, error) }
}

/// Its bytes, where the host can address them, as long as the tensor's handle lives; waits until they are there.
/// `STRAIT_STATUS_CONFIG` if the memory is not the host's.
#[unsafe(no_mangle)]
pub extern "C" fn strait_tensor_host_bytes(
    tensor: *const strait_tensor,
    data: Option<&mut *const u8>,
    len: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let (data, len) = (out(data, "data")?, out(len, "len")?);
        let loaded = live::<Loaded>(tensor, "tensor")?;
        let bytes = loaded.held.get().host_bytes()?;
        (*data, *len) = (bytes.as_ptr(), bytes.len());
        Ok(())
    })
}

/// Copies its bytes to `target`, from whatever device they are on, and waits for it: for checks. `capacity` bytes may be
/// written there, and `len` says how many were; `STRAIT_STATUS_OUT_OF_RANGE` if it has more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_tensor_read_back(
    tensor: *const strait_tensor,
    target: *mut c_void,
    capacity: usize,
    len: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let len = out(len, "len")?;
        let loaded = live::<Loaded>(tensor, "tensor")?;
        let bytes = loaded.held.get().bytes();
        if bytes > capacity as u64 {
            let message = format!("capacity is {capacity}; the tensor has {bytes} bytes");
            return Err(Failure::new(strait_status::OutOfRange, message));
        }
        if target.is_null() && bytes > 0 {
            return Err(null("target"));
        }
        let copy = loaded.held.get().read_back()?;
        // SAFETY: `capacity` bytes at `target`, as the header says, and the copy has no more (checked above).
        unsafe { std::ptr::copy_nonoverlapping(copy.as_ptr(), target.cast(), copy.len()) };
        *len = copy.len();
        Ok(())
    })
}

/// The tensor as a DLPack tensor, without a copy; it keeps the memory as those of batches do (see Tensors). `flags` is a sum
/// of `STRAIT_TENSOR_`.. or 0; as bytes it has one dimension.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_tensor_dlpack(
    tensor: *const strait_tensor,
    stream: i64,
    flags: u32,
    dlpack: Option<&mut *mut DLManagedTensorVersioned>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    export(tensor, stream, flags, dlpack, error)
}

/// The same as a tensor of DLPack before 1.0, which cannot be read-only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_tensor_dlpack_legacy(
    tensor: *const strait_tensor,
    stream: i64,
    flags: u32,
    dlpack: Option<&mut *mut DLManagedTensor>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    export(tensor, stream, flags, dlpack, error)
}

fn export<M: Managed>(
    tensor: *const strait_tensor,
    stream: i64,
    flags: u32,
    dlpack: Option<&mut *mut M>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let dlpack = out(dlpack, "dlpack")?;
        let loaded = live::<Loaded>(tensor, "tensor")?;
        let own = loaded.held.get();
        let (dtype, shape) = match flags & STRAIT_TENSOR_BYTES {
            0 => (dl_of(own.dtype())?, own.shape().iter().map(|&len| len as i64).collect()),
            _ => (crate::dlpack::DLDataType::U8, vec![own.bytes() as i64]),
        };
        let place = Place { data: own.device_ptr(), byte_offset: 0, dtype, shape };
        *dlpack = lend(&loaded.held, place, stream, flags)?;
        Ok(())
    })
}
