//! Tensors
//!
//! Batches as DLPack tensors, without a copy. A tensor keeps its batch: the batch is given back when its handle is freed and
//! the last tensor's deleter has run, whichever comes last. The consumer owns a tensor and calls its deleter once, from any
//! thread; tensors outlive the loader.
//!
//! The consumer names the stream on which it will use the tensor. The tensor is ready on that stream, without blocking the
//! host, and the batch's memory is filled again only behind what is on that stream when the batch is given back; so the
//! stream must live until then. Streams are the numbers that Python's `__dlpack__` takes: a stream's handle, and on CUDA 1
//! for the legacy default stream and 2 for the calling thread's. `STRAIT_STREAM_NONE` is the only one for host memory; on
//! another device it means that the caller has waited itself (`strait_batch_wait`), and that nothing uses the tensor any
//! more when its deleter is called.

use std::any::Any;
use std::ffi::{c_char, c_void};
use std::sync::Arc;

use strait::dataset::Field;
use strait::{Batch, DType, FieldView};

use crate::batch::{Kept, field_of, strait_batch};
use crate::call::{call, index, out, text};
use crate::dlpack::{DLDataType, DLDevice, DLManagedTensor, DLManagedTensorVersioned, DLTensor, VERSION};
use crate::error::{Failure, strait_error};
use crate::handle::live;
use crate::held::{Held, Lent};
use crate::status::strait_status;

/// No stream.
pub const STRAIT_STREAM_NONE: i64 = -1;

/// A flag of tensors: the consumer may not write to it.
pub const STRAIT_TENSOR_READ_ONLY: u32 = 1;

/// A flag of tensors: plain bytes, whatever the type of the field's elements is.
pub const STRAIT_TENSOR_BYTES: u32 = 2;

/// A field of all samples as one array `[samples, ...]`, of the field's type and shape; of windows of tokens, a row for each
/// window. `STRAIT_STATUS_WRONG_ORDER` if the loader makes no array of that field (see `strait_loader_builder_tensors`).
/// `flags` is `STRAIT_TENSOR_READ_ONLY` or 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_batch_field_tensor(
    batch: *const strait_batch,
    field: *const c_char,
    stream: i64,
    flags: u32,
    tensor: Option<&mut *mut DLManagedTensorVersioned>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a C string, as the header's conventions say.
    let place = |batch: &Batch| unsafe { field_place(batch, field) };
    export(batch, stream, flags, tensor, error, place)
}

/// The same as a tensor of DLPack before 1.0, which cannot be read-only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_batch_field_tensor_legacy(
    batch: *const strait_batch,
    field: *const c_char,
    stream: i64,
    flags: u32,
    tensor: Option<&mut *mut DLManagedTensor>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a C string, as the header's conventions say.
    let place = |batch: &Batch| unsafe { field_place(batch, field) };
    export(batch, stream, flags, tensor, error, place)
}

/// One sample's field as a tensor: of the field's type and shape where the format says them, else one dimension of bytes
/// (`u8`). `STRAIT_STATUS_ABSENT` if the sample lacks the field. `STRAIT_STATUS_CONFIG` if the elements do not lie as their
/// type needs it, since samples lie in memory as they lie in the file: take bytes then. `flags` is a sum of
/// `STRAIT_TENSOR_`.. or 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_batch_sample_tensor(
    batch: *const strait_batch,
    field: *const c_char,
    sample: usize,
    stream: i64,
    flags: u32,
    tensor: Option<&mut *mut DLManagedTensorVersioned>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a C string, as the header's conventions say.
    let place = |batch: &Batch| unsafe { sample_place(batch, field, sample, flags) };
    export(batch, stream, flags, tensor, error, place)
}

/// The same as a tensor of DLPack before 1.0, which cannot be read-only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_batch_sample_tensor_legacy(
    batch: *const strait_batch,
    field: *const c_char,
    sample: usize,
    stream: i64,
    flags: u32,
    tensor: Option<&mut *mut DLManagedTensor>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a C string, as the header's conventions say.
    let place = |batch: &Batch| unsafe { sample_place(batch, field, sample, flags) };
    export(batch, stream, flags, tensor, error, place)
}

/// All of a batch's memory as one dimension of bytes (`u8`): what the offsets and lengths of `strait_batch_field` and
/// `strait_batch_window` cut. `flags` is `STRAIT_TENSOR_READ_ONLY` or 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_batch_region_tensor(
    batch: *const strait_batch,
    stream: i64,
    flags: u32,
    tensor: Option<&mut *mut DLManagedTensorVersioned>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    export(batch, stream, flags, tensor, error, region_place)
}

/// The same as a tensor of DLPack before 1.0, which cannot be read-only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_batch_region_tensor_legacy(
    batch: *const strait_batch,
    stream: i64,
    flags: u32,
    tensor: Option<&mut *mut DLManagedTensor>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    export(batch, stream, flags, tensor, error, region_place)
}

/// Where a tensor is, and what.
pub(crate) struct Place {
    pub(crate) data: u64,
    pub(crate) byte_offset: u64,
    pub(crate) dtype: DLDataType,
    pub(crate) shape: Vec<i64>,
}

/// # Safety
/// `field` is NULL or a C string.
unsafe fn sample_place(
    batch: &Batch,
    field: *const c_char,
    sample: usize,
    flags: u32,
) -> Result<Option<Place>, Failure> {
    // SAFETY: the caller's promise.
    let (field, view) = field_of(batch, unsafe { text(field, "field") }?)?;
    let sample = index(sample as u64, view.lengths().len(), "sample")?;
    let (byte_offset, bytes) = (view.offsets()[sample], view.lengths()[sample]);
    if bytes == FieldView::ABSENT {
        return Ok(None);
    }
    let (dtype, shape) = match flags & STRAIT_TENSOR_BYTES {
        0 => elements(field, view.device_ptr() + byte_offset, bytes)?,
        _ => (DLDataType::U8, vec![bytes as i64]),
    };
    Ok(Some(Place { data: batch.device_ptr(), byte_offset, dtype, shape }))
}

/// # Safety
/// `field` is NULL or a C string.
unsafe fn field_place(batch: &Batch, field: *const c_char) -> Result<Option<Place>, Failure> {
    // SAFETY: the caller's promise.
    let name = unsafe { text(field, "field") }?;
    if !batch.fields().iter().any(|field| &*field.name == name) {
        field_of(batch, name)?;
    }
    let array = batch.tensor(name).ok_or_else(|| {
        let message = format!("{name}: not one array per batch: see the options `array` and `tensors` of the loader");
        Failure::new(strait_status::WrongOrder, message)
    })?;
    let data = batch.device_ptr();
    let shape = array.shape().iter().map(|&len| len as i64).collect();
    Ok(Some(Place { data, byte_offset: array.device_ptr().saturating_sub(data), dtype: dl_of(array.dtype())?, shape }))
}

pub(crate) fn dl_of(dtype: DType) -> Result<DLDataType, Failure> {
    let unknown = || Failure::new(strait_status::Config, format!("DLPack has no type {dtype}; take bytes"));
    DLDataType::of(dtype).ok_or_else(unknown)
}

fn region_place(batch: &Batch) -> Result<Option<Place>, Failure> {
    let shape = vec![batch.region_bytes() as i64];
    Ok(Some(Place { data: batch.device_ptr(), byte_offset: 0, dtype: DLDataType::U8, shape }))
}

/// The type and shape of the `bytes` at `address`.
fn elements(field: &Field, address: u64, bytes: u64) -> Result<(DLDataType, Vec<i64>), Failure> {
    let refuse = |problem: String| {
        let message = format!("{}: {problem}; take it as bytes", field.name);
        Err(Failure::new(strait_status::Config, message))
    };
    let Some(dtype) = field.dtype else { return Ok((DLDataType::U8, vec![bytes as i64])) };
    let dl = dl_of(dtype)?;
    let align = dtype.bytes().unwrap_or(1);
    if !address.is_multiple_of(align) {
        return refuse(format!("lies at {address:#x}, and {dtype} needs a multiple of {align}"));
    }
    if let Some(shape) = field.shape.as_deref().filter(|shape| dtype.array_bytes(shape) == Some(bytes)) {
        return Ok((dl, shape.iter().map(|&len| len as i64).collect()));
    }
    let bits = u128::from(bytes) * 8;
    if !bits.is_multiple_of(dtype.bits().into()) {
        return refuse(format!("{bytes} bytes are no whole number of {dtype}"));
    }
    Ok((dl, vec![(bits / u128::from(dtype.bits())) as i64]))
}

/// A kind of managed tensor.
pub(crate) trait Managed: Sized {
    fn make(tensor: DLTensor, own: *mut c_void, flags: u32) -> Result<Self, Failure>;
}

impl Managed for DLManagedTensorVersioned {
    fn make(dl_tensor: DLTensor, manager_ctx: *mut c_void, flags: u32) -> Result<Self, Failure> {
        let flags = u64::from(flags & STRAIT_TENSOR_READ_ONLY);
        Ok(DLManagedTensorVersioned {
            version: VERSION,
            manager_ctx,
            deleter: Some(delete_versioned),
            flags,
            dl_tensor,
        })
    }
}

impl Managed for DLManagedTensor {
    fn make(dl_tensor: DLTensor, manager_ctx: *mut c_void, flags: u32) -> Result<Self, Failure> {
        if flags & STRAIT_TENSOR_READ_ONLY != 0 {
            let message = "flags: tensors before DLPack 1.0 cannot be read-only; take a versioned one";
            return Err(Failure::new(strait_status::Config, message));
        }
        Ok(DLManagedTensor { dl_tensor, manager_ctx, deleter: Some(delete_legacy) })
    }
}

/// What a managed tensor owns. `manager_ctx` points to it.
struct Own<M> {
    managed: Option<M>,
    /// The shape, then the strides.
    numbers: Vec<i64>,
    /// Keeps the memory.
    _held: Arc<dyn Any + Send + Sync>,
}

/// Makes a tensor of a place in a batch.
fn export<M: Managed>(
    batch: *const strait_batch,
    stream: i64,
    flags: u32,
    tensor: Option<&mut *mut M>,
    error: Option<&mut *mut strait_error>,
    place: impl FnOnce(&Batch) -> Result<Option<Place>, Failure>,
) -> strait_status {
    call(error, || {
        let tensor = out(tensor, "tensor")?;
        let kept = live::<Kept>(batch, "batch")?;
        let Some(place) = place(kept.held.get())? else { return Ok(strait_status::Absent) };
        *tensor = lend(&kept.held, place, stream, flags)?;
        Ok(strait_status::Ok)
    })
}

/// A tensor that keeps what it is a part of.
pub(crate) fn lend<T: Lent, M: Managed>(
    held: &Arc<Held<T>>,
    place: Place,
    stream: i64,
    flags: u32,
) -> Result<*mut M, Failure> {
    if flags & !(STRAIT_TENSOR_READ_ONLY | STRAIT_TENSOR_BYTES) != 0 {
        return Err(Failure::new(strait_status::Config, format!("flags: {flags:#x} is none of STRAIT_TENSOR_..")));
    }
    let own = managed(held.clone(), held.dl, place, flags)?;
    // Last, since a stream that is named counts.
    if let Err(failure) = held.ready_on(stream) {
        // SAFETY: made above and given to nobody.
        drop(unsafe { Box::from_raw(own) });
        return Err(failure);
    }
    // SAFETY: made above; `managed` fills it in.
    Ok(unsafe { &mut *own }.managed.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut))
}

fn managed<M: Managed>(
    held: Arc<dyn Any + Send + Sync>,
    device: DLDevice,
    place: Place,
    flags: u32,
) -> Result<*mut Own<M>, Failure> {
    let Place { data, byte_offset, dtype, shape } = place;
    let ndim = shape.len();
    let mut numbers = shape;
    // C order, in elements.
    let next = |stride: &mut i64, &len: &i64| Some(std::mem::replace(stride, *stride * len.max(1)));
    let mut strides: Vec<i64> = numbers.iter().rev().scan(1, next).collect();
    strides.reverse();
    numbers.extend(strides);
    let mut own = Box::new(Own { managed: None, numbers, _held: held });
    let numbers = own.numbers.as_mut_ptr();
    let own = Box::into_raw(own);
    let dl_tensor = DLTensor {
        data: std::ptr::with_exposed_provenance_mut(data as usize),
        device,
        ndim: ndim as i32,
        dtype,
        shape: numbers,
        strides: numbers.wrapping_add(ndim),
        byte_offset,
    };
    match M::make(dl_tensor, own.cast(), flags) {
        Ok(made) => {
            // SAFETY: made above and given to nobody yet.
            unsafe { (*own).managed = Some(made) };
            Ok(own)
        }
        Err(failure) => {
            // SAFETY: as above.
            drop(unsafe { Box::from_raw(own) });
            Err(failure)
        }
    }
}

extern "C" fn delete_versioned(tensor: *mut DLManagedTensorVersioned) {
    if !tensor.is_null() {
        // SAFETY: DLPack has the consumer call this once, with the tensor that it was given.
        delete::<DLManagedTensorVersioned>(unsafe { (*tensor).manager_ctx });
    }
}

extern "C" fn delete_legacy(tensor: *mut DLManagedTensor) {
    if !tensor.is_null() {
        // SAFETY: as above.
        delete::<DLManagedTensor>(unsafe { (*tensor).manager_ctx });
    }
}

fn delete<M: Managed>(own: *mut c_void) {
    call(None, || {
        // SAFETY: `managed` put it there, and this is the only call with it.
        drop(unsafe { Box::from_raw(own.cast::<Own<M>>()) });
        Ok(())
    });
}

/// What a consumer does when it is through with a tensor, for programs in Rust.
pub fn delete_tensor(tensor: *mut DLManagedTensorVersioned) {
    delete_versioned(tensor);
}
