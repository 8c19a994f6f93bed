//! Batches
//!
//! Samples that lie in device memory, one field after another as they lie in the files: pointer, offsets, lengths. The
//! bytes are there once `strait_batch_wait` says so, or, without blocking the host, on a stream that `strait_batch_wait_on`
//! has made wait; in host memory they are there at once. A loader hands out as many batches at a time as its `hold` says, so
//! give them back. A batch outlives its loader. Arrays that a batch gives out live as long as its handle.

use std::ffi::{c_char, c_void};
use std::sync::{Arc, OnceLock};

use strait::dataset::Field;
use strait::{Batch, FieldView};

use crate::call::{call, free, give, index, nth, out, text};
use crate::cursor::{Taken, strait_cursor};
use crate::dataset::FieldTexts;
use crate::error::{Failure, strait_error};
use crate::handle::{Kind, live, null, register};
use crate::held::{self, Held, Holds};
use crate::status::strait_status;

/// A batch of samples on a device. Threads: any, at once; `strait_batch_release_on` and `strait_batch_free` end it.
pub struct strait_batch(());

/// What the handle stands for.
pub(crate) struct Kept {
    pub(crate) held: Arc<Held<Batch>>,
    /// The loader's batches share them.
    texts: Arc<OnceLock<FieldTexts>>,
}

impl Kind for Kept {
    type Handle = strait_batch;
    const NAME: &'static str = "batch";
    const NUMBER: u8 = 9;
}

impl Holds for Kept {
    type Lent = Batch;

    fn held(&self) -> &Arc<Held<Batch>> {
        &self.held
    }
}

impl Kept {
    pub(crate) fn new(held: Held<Batch>, texts: Arc<OnceLock<FieldTexts>>) -> Kept {
        Kept { held: Arc::new(held), texts }
    }

    fn texts(&self) -> &FieldTexts {
        self.texts.get_or_init(|| FieldTexts::new(self.held.get().fields()))
    }
}

/// The number of samples. It is 0 only where each of them was skipped.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_len(
    batch: *const strait_batch,
    len: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    get(batch, len, "len", error, Batch::len)
}

/// The epoch that the batch belongs to.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_epoch(
    batch: *const strait_batch,
    epoch: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    get(batch, epoch, "epoch", error, Batch::epoch)
}

/// The batch's place among those that `strait_loader_begin` or `strait_loader_begin_rest` delivers, from 0.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_step(
    batch: *const strait_batch,
    step: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    get(batch, step, "step", error, Batch::step)
}

/// The ids of the samples, in the order in which they stand in the batch: `count` of them at `samples`. Where samples are
/// windows of tokens, the windows' numbers in the epoch.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_samples(
    batch: *const strait_batch,
    samples: Option<&mut *const u64>,
    count: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let (samples, count) = (out(samples, "samples")?, out(count, "count")?);
        let kept = live::<Kept>(batch, "batch")?;
        let ids = kept.held.get().samples();
        (*samples, *count) = (ids.as_ptr(), ids.len());
        Ok(())
    })
}

/// How many samples at the end are padding: repeated, to be masked.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_padded(
    batch: *const strait_batch,
    padded: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    get(batch, padded, "padded", error, Batch::padded)
}

/// Where the run stands once every rank has used its batch of this step: what to save then. Batches read ahead are not in
/// it. Give it back with `strait_cursor_free`. Takes a few microseconds.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_cursor(
    batch: *const strait_batch,
    cursor: Option<&mut *mut strait_cursor>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let cursor = out(cursor, "cursor")?;
        *cursor = register(Taken::new(live::<Kept>(batch, "batch")?.held.get().cursor()))?;
        Ok(())
    })
}

/// The dataset that a sample comes from, by its place among those that `strait_dataset_concat` joined, and its id there.
/// `STRAIT_STATUS_WRONG_ORDER` where samples are windows of tokens.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_origin(
    batch: *const strait_batch,
    sample: usize,
    dataset: Option<&mut usize>,
    id: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let (dataset, id) = (out(dataset, "dataset")?, out(id, "id")?);
        let kept = live::<Kept>(batch, "batch")?;
        let sample = index(sample as u64, kept.held.get().len(), "sample")?;
        if kept.held.get().window(sample).is_some() {
            let message = "samples are windows of tokens, whose pieces tell where they come from";
            return Err(Failure::new(strait_status::WrongOrder, message));
        }
        (*dataset, *id) = kept.held.get().origin(sample);
        Ok(())
    })
}

/// How far a dataset of a mixture is once every rank has used its batch of this step: its own epoch, and how many of its
/// samples are consumed there. `dataset` counts as in `strait_dataset_concat`; `STRAIT_STATUS_OUT_OF_RANGE` behind the last,
/// and where there is no mixture. Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_dataset(
    batch: *const strait_batch,
    dataset: usize,
    epoch: Option<&mut u64>,
    consumed: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let datasets = live::<Kept>(batch, "batch")?.held.get().datasets();
        let own = nth(&datasets, dataset, "dataset")?;
        give(epoch, own.epoch);
        give(consumed, own.consumed);
        Ok(())
    })
}

/// The number of fields that the batch has.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_fields(
    batch: *const strait_batch,
    fields: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    get(batch, fields, "fields", error, |batch| batch.fields().len())
}

/// The name of a field, and the type of its elements or NULL. Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_field_name(
    batch: *const strait_batch,
    field: usize,
    name: Option<&mut *const c_char>,
    dtype: Option<&mut *const c_char>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let kept = live::<Kept>(batch, "batch")?;
        let field = index(field as u64, kept.held.get().fields().len(), "field")?;
        give(name, kept.texts().name(field));
        give(dtype, kept.texts().dtype(field));
        Ok(())
    })
}

/// One field of all samples: sample `i` has `lengths[i]` bytes at `strait_batch_device_ptr` plus `offsets[i]`, or lacks the
/// field if `lengths[i]` is `STRAIT_UNKNOWN`. There are as many as samples.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_batch_field(
    batch: *const strait_batch,
    field: *const c_char,
    offsets: Option<&mut *const u64>,
    lengths: Option<&mut *const u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let (offsets, lengths) = (out(offsets, "offsets")?, out(lengths, "lengths")?);
        let kept = live::<Kept>(batch, "batch")?;
        // SAFETY: a C string, as the header's conventions say.
        let (_, view) = field_of(kept.held.get(), unsafe { text(field, "field") }?)?;
        (*offsets, *lengths) = (view.offsets().as_ptr(), view.lengths().as_ptr());
        Ok(())
    })
}

/// A window of tokens, where samples are such: `pieces` pieces of one document each. Piece `i` is `tokens[i+1] - tokens[i]`
/// tokens (`tokens` has one element more than pieces and starts at 0: what attention kernels call `cu_seqlens`), and its
/// `lengths[i]` bytes are at `strait_batch_device_ptr` plus `offsets[i]`. Each output may be NULL.
/// `STRAIT_STATUS_WRONG_ORDER` where samples are no windows.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_window(
    batch: *const strait_batch,
    window: usize,
    pieces: Option<&mut usize>,
    tokens: Option<&mut *const u32>,
    offsets: Option<&mut *const u64>,
    lengths: Option<&mut *const u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let kept = live::<Kept>(batch, "batch")?;
        let window = index(window as u64, kept.held.get().len(), "window")?;
        let view = kept.held.get().window(window).ok_or_else(no_windows)?;
        give(pieces, view.pieces.len());
        give(tokens, view.cu_seqlens.as_ptr());
        give(offsets, view.bytes.offsets().as_ptr());
        give(lengths, view.bytes.lengths().as_ptr());
        Ok(())
    })
}

/// Which document a piece of a window is of, and its first token there. Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_window_piece(
    batch: *const strait_batch,
    window: usize,
    piece: usize,
    document: Option<&mut u64>,
    token: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let kept = live::<Kept>(batch, "batch")?;
        let window = index(window as u64, kept.held.get().len(), "window")?;
        let view = kept.held.get().window(window).ok_or_else(no_windows)?;
        let own = nth(view.pieces, piece, "piece")?;
        give(document, own.document);
        give(token, own.start);
        Ok(())
    })
}

/// First byte of the batch's memory, in the device's address space; 0 if no sample has a byte.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_device_ptr(
    batch: *const strait_batch,
    device_ptr: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    get(batch, device_ptr, "device_ptr", error, Batch::device_ptr)
}

/// The length of that memory in bytes: all views lie inside.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_region_bytes(
    batch: *const strait_batch,
    region_bytes: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    get(batch, region_bytes, "region_bytes", error, Batch::region_bytes)
}

/// The sum of the lengths of all views, in bytes.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_bytes(
    batch: *const strait_batch,
    bytes: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    get(batch, bytes, "bytes", error, Batch::bytes)
}

/// Waits, on the host, until the bytes are there; `STRAIT_STATUS_TIMEOUT` if for the loader's deadline neither they come nor
/// anything else that it reads; where, as long as there is the loader, copies wait for a stream that an earlier batch was
/// released on, after sixty times as long.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_wait(
    batch: *const strait_batch,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    held::wait::<Kept>(batch, error)
}

/// Makes `stream` wait until the bytes are there, without blocking the host. `stream` is a live stream of the loader's
/// device, as a number (see Tensors).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_batch_wait_on(
    batch: *const strait_batch,
    stream: i64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a live stream of the batch's device, as the header says of this argument.
    unsafe { held::wait_on::<Kept>(batch, stream, error) }
}

/// Gives the batch back, once `stream` has done what is on it now, without blocking the host; tensors of it must have been
/// given back too, and the last one to go decides. On success, and if the driver fails, the handle is not live any more; in
/// the latter case the memory is leaked rather than filled again under its reader.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_batch_release_on(
    batch: *mut strait_batch,
    stream: i64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a live stream of the batch's device, as the header says of this argument.
    unsafe { held::release_on::<Kept>(batch, stream, error) }
}

/// The bytes of one sample's field, where the host can address them: `len` bytes at `data`, as long as the batch's handle
/// lives. Those of `strait_loader_builder_on_host` are there on every device; of others it waits until they are there.
/// `STRAIT_STATUS_ABSENT` if the sample lacks the field, `STRAIT_STATUS_CONFIG` if the memory is not the host's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_batch_host_bytes(
    batch: *const strait_batch,
    field: *const c_char,
    sample: usize,
    data: Option<&mut *const u8>,
    len: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let (data, len) = (out(data, "data")?, out(len, "len")?);
        let kept = live::<Kept>(batch, "batch")?;
        // SAFETY: a C string, as the header's conventions say.
        let (_, view) = field_of(kept.held.get(), unsafe { text(field, "field") }?)?;
        let sample = index(sample as u64, view.lengths().len(), "sample")?;
        let Some(bytes) = view.host_bytes(sample)? else { return Ok(strait_status::Absent) };
        (*data, *len) = (bytes.as_ptr(), bytes.len());
        Ok(strait_status::Ok)
    })
}

/// The same as a whole number: of the field's own type where that is known, the one integer of a
/// `tf.train.Example`'s feature, else as decimal text, as WebDataset writes `cls`. `STRAIT_STATUS_CONFIG` where it is
/// none, or several.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_batch_integer(
    batch: *const strait_batch,
    field: *const c_char,
    sample: usize,
    value: Option<&mut i64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let value = out(value, "value")?;
        let kept = live::<Kept>(batch, "batch")?;
        // SAFETY: a C string, as the header's conventions say.
        let (_, view) = field_of(kept.held.get(), unsafe { text(field, "field") }?)?;
        let sample = index(sample as u64, view.lengths().len(), "sample")?;
        let Some(number) = view.integer(sample)? else { return Ok(strait_status::Absent) };
        *value = number;
        Ok(strait_status::Ok)
    })
}

/// Copies one sample's field to `target`, from whatever device it is on, and waits for it: for checks and small values, not
/// for the data path. `capacity` bytes may be written there, and `len` says how many were. `STRAIT_STATUS_ABSENT` if the
/// sample lacks the field, `STRAIT_STATUS_OUT_OF_RANGE` if it is longer than `capacity`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_batch_read_back(
    batch: *const strait_batch,
    field: *const c_char,
    sample: usize,
    target: *mut c_void,
    capacity: usize,
    len: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let len = out(len, "len")?;
        let kept = live::<Kept>(batch, "batch")?;
        // SAFETY: a C string, as the header's conventions say.
        let (_, view) = field_of(kept.held.get(), unsafe { text(field, "field") }?)?;
        let sample = index(sample as u64, view.lengths().len(), "sample")?;
        let bytes = view.lengths()[sample];
        if bytes == FieldView::ABSENT {
            return Ok(strait_status::Absent);
        }
        if bytes > capacity as u64 {
            let message = format!("capacity is {capacity}; the sample has {bytes} bytes");
            return Err(Failure::new(strait_status::OutOfRange, message));
        }
        if target.is_null() && bytes > 0 {
            return Err(null("target"));
        }
        let mut copy = Vec::new();
        view.read_back(sample, &mut copy)?;
        // SAFETY: `capacity` bytes at `target`, as the header says, and the copy has no more (checked above).
        unsafe { std::ptr::copy_nonoverlapping(copy.as_ptr(), target.cast(), copy.len()) };
        *len = copy.len();
        Ok(strait_status::Ok)
    })
}

/// Gives a batch back. Its memory is filled again once the last tensor's deleter has run, behind every stream that was
/// named for a tensor; without tensors, at once: nothing may use it any more. NULL is fine; one that is not live is
/// `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_batch_free(batch: *mut strait_batch) -> strait_status {
    free::<Kept>(batch)
}

/// A field, and its view.
pub(crate) fn field_of<'a>(batch: &'a Batch, name: &str) -> Result<(&'a Field, FieldView<'a>), Failure> {
    let field = batch.fields().iter().find(|field| &*field.name == name).ok_or_else(|| {
        let names: Vec<&str> = batch.fields().iter().map(|field| &*field.name).collect();
        Failure::new(strait_status::NotFound, format!("field: {name:?} is none of {}", names.join(", ")))
    })?;
    let windows =
        || Failure::new(strait_status::WrongOrder, "samples are windows of tokens: ask for a window, not for a field");
    Ok((field, batch.field(name).ok_or_else(windows)?))
}

fn no_windows() -> Failure {
    let message = "samples are no windows of tokens: give the loader the option `windows` or `pack`";
    Failure::new(strait_status::WrongOrder, message)
}

/// What a function that gives out one number does.
fn get<T>(
    batch: *const strait_batch,
    value: Option<&mut T>,
    argument: &str,
    error: Option<&mut *mut strait_error>,
    read: impl FnOnce(&Batch) -> T,
) -> strait_status {
    call(error, || {
        let value = out(value, argument)?;
        *value = read(live::<Kept>(batch, "batch")?.held.get());
        Ok(())
    })
}
