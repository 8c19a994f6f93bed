//! Saving checkpoints
//!
//! Writes safetensors files from host or device memory. A crash at any point leaves either the old file or the new one. Make
//! a save, set options, add tensors, and write. A tensor that cannot be saved is refused when it is added, with
//! `STRAIT_STATUS_CONFIG`: a name that is there already or that the format keeps for itself (`__metadata__`), a type that it
//! does not have, a length that is not that of the shape.

use std::collections::HashSet;
use std::ffi::{OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strait::DType;
use strait::device::RawStream;
use strait::weights::{Algorithm, Per, Save, SaveTensor, Tensor};

use crate::builder::{RINGS, one_of};
use crate::call::{array, c_str, call, free, lock, out, text};
use crate::device::{Named, strait_device};
use crate::error::{Failure, strait_error};
use crate::handle::{Kind, live, null, register};
use crate::held::Held;
use crate::loaded::{Loaded, strait_tensor};
use crate::saved::{Written, strait_saved};
use crate::stats::unknown;
use crate::status::strait_status;

/// Options and tensors of a checkpoint that is to be written. Threads: any; calls with one save take turns.
pub struct strait_save(());

pub(crate) struct Saving {
    /// Only in between `None`.
    save: Option<Save>,
    tensors: Vec<Given>,
    names: HashSet<String>,
}

impl Saving {
    /// Takes a tensor that can be saved beside those that are there.
    fn add(&mut self, given: Given) -> Result<(), Failure> {
        given.tensor()?.check()?;
        if !self.names.insert(given.name.clone()) {
            return Err(Failure::new(
                strait_status::Config,
                format!("name: there is a tensor {:?} already", given.name),
            ));
        }
        self.tensors.push(given);
        Ok(())
    }
}

struct Given {
    name: String,
    dtype: DType,
    shape: Vec<u64>,
    source: Source,
}

enum Source {
    Host(*const u8, usize),
    Device(u64),
    Loaded(Arc<Held<Tensor>>),
}

impl Given {
    fn tensor(&self) -> Result<SaveTensor<'_>, Failure> {
        let Given { name, dtype, shape, source } = self;
        Ok(match source {
            &Source::Host(data, len) => {
                // SAFETY: the caller keeps these bytes as they are until the save is freed, as the header says.
                let bytes = unsafe { std::slice::from_raw_parts(data, len) };
                SaveTensor::new(name, *dtype, shape, bytes)
            }
            // SAFETY: the same in the device's memory.
            &Source::Device(base) => unsafe { SaveTensor::on_device(name, *dtype, shape, base) },
            Source::Loaded(held) => SaveTensor::loaded(held.get())?,
        })
    }
}

// SAFETY: host addresses that the caller keeps valid until the save is freed, for whatever thread writes.
unsafe impl Send for Source {}

impl Kind for Mutex<Saving> {
    type Handle = strait_save;
    const NAME: &'static str = "save";
    const NUMBER: u8 = 14;
}

/// Makes a save of tensors that live on `device`, or in host memory. Give it back with `strait_save_free`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_save_new(
    device: *const strait_device,
    save: Option<&mut *mut strait_save>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let save = out(save, "save")?;
        let own = Save::new(&live::<Named>(device, "device")?.device);
        *save = register(Mutex::new(Saving { save: Some(own), tensors: Vec::new(), names: HashSet::new() }))?;
        Ok(())
    })
}

/// Gives a save back. NULL is fine; one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_save_free(save: *mut strait_save) -> strait_status {
    free::<Mutex<Saving>>(save)
}

/// Adds a tensor in host memory: `len` bytes at `data`, which stay as they are until the save is freed. `dtype` is `"f32"`,
/// `"bf16"` ..; `ndim` lengths at `shape`, the first dimension outermost.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_save_add_host(
    save: *mut strait_save,
    name: *const c_char,
    dtype: *const c_char,
    shape: *const u64,
    ndim: usize,
    data: *const c_void,
    len: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let saving = live::<Mutex<Saving>>(save, "save")?;
        // SAFETY: `len` bytes, as the header says of this argument.
        let data = unsafe { array(data.cast::<u8>(), len, "data") }?;
        // SAFETY: two C strings and `ndim` lengths, as the header's conventions say.
        let given = unsafe { given(name, dtype, shape, ndim, Source::Host(data.as_ptr(), data.len())) }?;
        lock(&saving).add(given)
    })
}

/// Adds a tensor in the memory of the save's device, whose bytes stay as they are until the save is freed. What is still on
/// its way to them is on the stream of `strait_save_after`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_save_add_device(
    save: *mut strait_save,
    name: *const c_char,
    dtype: *const c_char,
    shape: *const u64,
    ndim: usize,
    device_ptr: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let saving = live::<Mutex<Saving>>(save, "save")?;
        // SAFETY: two C strings and `ndim` lengths, as the header's conventions say.
        let given = unsafe { given(name, dtype, shape, ndim, Source::Device(device_ptr)) }?;
        if device_ptr == 0 && !given.shape.contains(&0) {
            return Err(null("device_ptr"));
        }
        lock(&saving).add(given)
    })
}

/// Adds a tensor as it was loaded, under its own name. It lives on the save's device, and may be given back at once.
#[unsafe(no_mangle)]
pub extern "C" fn strait_save_add_loaded(
    save: *mut strait_save,
    tensor: *const strait_tensor,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let saving = live::<Mutex<Saving>>(save, "save")?;
        let held = live::<Loaded>(tensor, "tensor")?.held.clone();
        let (name, dtype, shape) = (held.get().name().to_owned(), held.get().dtype(), held.get().shape().to_vec());
        lock(&saving).add(Given { name, dtype, shape, source: Source::Loaded(held) })
    })
}

/// Adds an entry of `__metadata__`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_save_metadata(
    save: *mut strait_save,
    key: *const c_char,
    value: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: C strings, as the header's conventions say.
    let texts = || Ok(unsafe { (text(key, "key")?.to_owned(), text(value, "value")?.to_owned()) });
    set(save, error, texts, |save, (key, value)| save.metadata(key, value))
}

/// Several files where one would be longer than this many bytes, with an index. Default: one file.
#[unsafe(no_mangle)]
pub extern "C" fn strait_save_shard_bytes_max(
    save: *mut strait_save,
    shard_bytes_max: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(save, error, || Ok(shard_bytes_max), Save::shard_bytes_max)
}

/// Sums up what is written, on the way, for `strait_saved_manifest`: `algorithm` is `"crc32c"`, `"xxh3-64"` or `"sha256"`; `per`
/// is `"file"`, `"tensor"` or `"both"`. Default: nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_save_digests(
    save: *mut strait_save,
    algorithm: *const c_char,
    per: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    let value = || {
        // SAFETY: C strings, as the header's conventions say.
        let (algorithm, per) = unsafe { (text(algorithm, "algorithm")?, text(per, "per")?) };
        let names = || Algorithm::all().map(Algorithm::name);
        let algorithm = Algorithm::from_name(algorithm).ok_or_else(|| unknown(algorithm, names()))?;
        Ok((algorithm, one_of("per", per, &[("file", Per::File), ("tensor", Per::Tensor), ("both", Per::Both)])?))
    };
    set(save, error, value, |save, (algorithm, per)| save.digests(algorithm, per))
}

/// The length of one write, and of one slab, in bytes: a multiple of 4096. Default 4 MiB.
#[unsafe(no_mangle)]
pub extern "C" fn strait_save_block_bytes(
    save: *mut strait_save,
    block_bytes: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(save, error, || Ok(block_bytes), Save::block_bytes)
}

/// Writes in flight at most. Default 8.
#[unsafe(no_mangle)]
pub extern "C" fn strait_save_writes_in_flight(
    save: *mut strait_save,
    writes_in_flight: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(save, error, || Ok(writes_in_flight), Save::writes_in_flight)
}

/// Slabs at most, in bytes. Default 256 MiB.
#[unsafe(no_mangle)]
pub extern "C" fn strait_save_pinned_bytes_max(
    save: *mut strait_save,
    pinned_bytes_max: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(save, error, || Ok(pinned_bytes_max), Save::pinned_bytes_max)
}

/// The storage backend: `"auto"`, `"uring"`, `"pread"` (threads).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_save_ring(
    save: *mut strait_save,
    ring: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a C string, as the header's conventions say.
    set(save, error, || one_of("ring", unsafe { text(ring, "ring") }?, &RINGS), Save::ring)
}

/// Whatever takes longer than this many milliseconds is an error that names it; the stream of `strait_save_after` has sixty
/// times as long, since it may wait for other ranks. Default 30,000.
#[unsafe(no_mangle)]
pub extern "C" fn strait_save_deadline_ms(
    save: *mut strait_save,
    deadline_ms: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(save, error, || Ok(Duration::from_millis(deadline_ms)), Save::deadline)
}

/// Reads tensors behind everything that is on `stream` when this is called: a live stream of the save's device until it is
/// written, as a number (see Tensors).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_save_after(
    save: *mut strait_save,
    stream: i64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    let raw = || Ok(RawStream(std::ptr::with_exposed_provenance_mut(stream as usize)));
    // SAFETY: a live stream of the device, as the header says of this argument.
    set(save, error, raw, |save, stream| unsafe { save.after(stream) })
}

/// Writes the tensors to `path`, in place of what is there. On an error nothing has changed under that name. A save may be
/// written several times. What was written is told by `saved`, which is given back with `strait_saved_free`; it may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_save_write(
    save: *mut strait_save,
    path: *const c_char,
    saved: Option<&mut *mut strait_saved>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let saving = live::<Mutex<Saving>>(save, "save")?;
        // SAFETY: a C string, as the header's conventions say.
        let path = OsStr::from_bytes(unsafe { c_str(path, "path") }?.to_bytes());
        let saving = lock(&saving);
        let Saving { save: Some(save), tensors, .. } = &*saving else { return Err(interrupted()) };
        let tensors = tensors.iter().map(Given::tensor).collect::<Result<Vec<_>, Failure>>()?;
        let written = save.save(path, &tensors)?;
        if let Some(saved) = saved {
            *saved = register(Written::from(written))?;
        }
        Ok(())
    })
}

/// # Safety
/// NULL or C strings, and NULL or `ndim` lengths.
unsafe fn given(
    name: *const c_char,
    dtype: *const c_char,
    shape: *const u64,
    ndim: usize,
    source: Source,
) -> Result<Given, Failure> {
    // SAFETY: the caller's promise.
    let (name, dtype, shape) = unsafe { (text(name, "name")?, text(dtype, "dtype")?, array(shape, ndim, "shape")?) };
    let dtype = DType::from_name(dtype).ok_or_else(|| unknown(dtype, DType::all().map(DType::name)))?;
    Ok(Given { name: name.to_owned(), dtype, shape: shape.to_vec(), source })
}

/// Sets an option: `value` checks what C gives, `apply` takes it over.
fn set<T>(
    save: *mut strait_save,
    error: Option<&mut *mut strait_error>,
    value: impl FnOnce() -> Result<T, Failure>,
    apply: impl FnOnce(Save, T) -> Save,
) -> strait_status {
    call(error, || {
        let saving = live::<Mutex<Saving>>(save, "save")?;
        let value = value()?;
        let mut saving = lock(&saving);
        let own = saving.save.take().ok_or_else(interrupted)?;
        saving.save = Some(apply(own, value));
        Ok(())
    })
}

fn interrupted() -> Failure {
    Failure::new(strait_status::WrongOrder, "setting an option of this save panicked; make a new one")
}
