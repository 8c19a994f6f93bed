//! Loading checkpoints
//!
//! A load reads each byte once, in file order, and hands tensors over as they finish; they lie dense and aligned in memory of
//! their device. Options first, then `strait_load_builder_start`, then `strait_load_next` until `STRAIT_STATUS_END`.

use std::any::Any;
use std::collections::HashMap;
use std::ffi::{OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strait::Device;
use strait::weights::{Builder, Checkpoint, Load, Manifest, Part, Place, TensorInfo};

use crate::builder::{PATHS, RINGS, one_of, spent};
use crate::call::{c_str, call, free, lock, nth, out, text};
use crate::checkpoint::{Listed, no_tensor, number_of, strait_checkpoint};
use crate::device::{Named, strait_device};
use crate::dlpack::DLDevice;
use crate::error::{Failure, strait_error};
use crate::handle::{Kind, forks, live, null, register};
use crate::held::Held;
use crate::loaded::{Loaded, strait_tensor};
use crate::stats::{Snapshot, strait_stats};
use crate::status::strait_status;

/// The options of a load. Threads: any; calls with one builder take turns.
pub struct strait_load_builder(());

/// A load under way. Threads: any; calls with one load take turns.
pub struct strait_load(());

/// Whether a tensor is wanted: `tensor` is its number in the checkpoint.
pub type strait_filter = Option<unsafe extern "C" fn(context: *mut c_void, tensor: usize) -> bool>;

/// Takes memory back that strait was lent.
pub type strait_release = Option<unsafe extern "C" fn(owner: *mut c_void)>;

pub(crate) struct Loading {
    /// `None` once a load was started, or could not be.
    builder: Option<Builder>,
    checkpoint: Checkpoint,
    devices: Vec<(Device, DLDevice)>,
    chosen: Arc<Mutex<Chosen>>,
}

/// What was said of a tensor and the place of a device.
#[derive(Default)]
struct Chosen {
    parts: HashMap<(Arc<str>, usize), Part>,
    places: HashMap<(Arc<str>, usize), Place>,
}

impl Kind for Mutex<Loading> {
    type Handle = strait_load_builder;
    const NAME: &'static str = "load builder";
    const NUMBER: u8 = 11;
}

pub(crate) struct Underway {
    load: Load,
    dl: Vec<DLDevice>,
}

impl Kind for Mutex<Underway> {
    type Handle = strait_load;
    const NAME: &'static str = "load";
    const NUMBER: u8 = 12;
}

/// Starts the options of a load of this checkpoint, which may be given back at once. Give the builder back with
/// `strait_load_builder_free`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_builder_new(
    checkpoint: *const strait_checkpoint,
    builder: Option<&mut *mut strait_load_builder>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let builder = out(builder, "builder")?;
        let checkpoint = live::<Listed>(checkpoint, "checkpoint")?.checkpoint.clone();
        let chosen = Arc::<Mutex<Chosen>>::default();
        let (parts, places) = (chosen.clone(), chosen.clone());
        let key = |tensor: &TensorInfo, device| (tensor.name.clone(), device);
        let part = move |tensor: &TensorInfo, device| {
            lock(&parts).parts.get(&key(tensor, device)).copied().unwrap_or(Part::Whole)
        };
        let place = move |tensor: &TensorInfo, device, _| lock(&places).places.get(&key(tensor, device)).cloned();
        // SAFETY: who names a place promises what this needs (the header says so), until its owner is dropped.
        let options = unsafe { checkpoint.load().part(part).place(place) };
        let loading = Loading { builder: Some(options), checkpoint, devices: Vec::new(), chosen };
        *builder = register(Mutex::new(loading))?;
        Ok(())
    })
}

/// Gives a builder back, after starting too. NULL is fine; one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_builder_free(builder: *mut strait_load_builder) -> strait_status {
    free::<Mutex<Loading>>(builder)
}

/// Adds a device that gets every tensor, or a slice of it. What several devices want is read once. Default: the first CUDA
/// device if it works, else host memory. The device may be given back at once.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_builder_device(
    builder: *mut strait_load_builder,
    device: *const strait_device,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let named = live::<Named>(device, "device")?;
        let loading = live::<Mutex<Loading>>(builder, "builder")?;
        let mut loading = lock(&loading);
        let options = loading.builder.take().ok_or_else(spent)?;
        loading.devices.push((named.device.clone(), named.dl));
        let devices = loading.devices.iter().map(|(device, _)| device.clone()).collect();
        loading.builder = Some(options.devices(devices));
        Ok(())
    })
}

/// Only the tensor of this name, besides others that are named or fit a pattern. Default: all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_load_builder_name(
    builder: *mut strait_load_builder,
    name: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a C string, as the header's conventions say.
    set(builder, error, || unsafe { text(name, "name") }, |builder, name| builder.names([name]))
}

/// Only tensors whose names fit `pattern`, in which `*` stands for any characters and `?` for one, besides others that are
/// named or fit other patterns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_load_builder_matching(
    builder: *mut strait_load_builder,
    pattern: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a C string, as the header's conventions say.
    set(builder, error, || unsafe { text(pattern, "pattern") }, Builder::matching)
}

/// Of the tensors that names and patterns choose, only those that `wanted` wants. It is called with `context` and each one's
/// number, by the threads that call `strait_load_builder_start` and `strait_load_builder_block_size`, before these return. It
/// may call functions of the checkpoint, and none of this builder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_load_builder_filter(
    builder: *mut strait_load_builder,
    wanted: strait_filter,
    context: *mut c_void,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let loading = live::<Mutex<Loading>>(builder, "builder")?;
        let wanted = wanted.ok_or_else(|| null("wanted"))?;
        let mut loading = lock(&loading);
        let options = loading.builder.take().ok_or_else(spent)?;
        let (checkpoint, context) = (loading.checkpoint.clone(), Context(context));
        let filter = move |tensor: &TensorInfo| {
            let Context(context) = &context;
            // SAFETY: the header says how it is called; it and its context are there until the calls that ask it return.
            number_of(&checkpoint, &tensor.name).is_some_and(|number| unsafe { wanted(*context, number) })
        };
        loading.builder = Some(options.filter(filter));
        Ok(())
    })
}

/// Of the tensor of that name, device number `device` (in the order in which they were added) gets only elements `from` to
/// `to`, without that, of dimension `dim`: what tensor parallelism wants. Bytes that no device wants are not read.
/// `STRAIT_STATUS_NOT_FOUND` if there is no such tensor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_load_builder_slice(
    builder: *mut strait_load_builder,
    name: *const c_char,
    device: usize,
    dim: usize,
    from: u64,
    to: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a C string, as the header's conventions say.
    let name = || unsafe { text(name, "name") };
    choose(builder, name, device, error, |chosen, key| {
        chosen.parts.insert(key, Part::Slice { dim, from, to });
    })
}

/// Device number `device` gets nothing of the tensor of that name: what pipeline parallelism wants.
/// `STRAIT_STATUS_NOT_FOUND` if there is no such tensor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_load_builder_skip(
    builder: *mut strait_load_builder,
    name: *const c_char,
    device: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a C string, as the header's conventions say.
    let name = || unsafe { text(name, "name") };
    choose(builder, name, device, error, |chosen, key| {
        chosen.parts.insert(key, Part::Skip);
    })
}

/// Puts what device number `device` gets of the tensor of that name into memory of the caller's: `bytes` bytes from
/// `device_ptr` on, a multiple of the elements' size, in that device's memory. Too few are an error of starting.
/// `STRAIT_STATUS_NOT_FOUND` if there is no such tensor. Bytes go through slabs then, on the host too.
///
/// Nobody else reads or writes the memory until the tensor is handed over, nor does anything that was put on a stream before:
/// that has ended when the load starts. Once this has succeeded, `release` is called
/// with `owner`, once, when strait uses the memory no more: the builder, the load and the tensor in it are gone, and all
/// writes have ended. It is called in whatever thread that happens, and must not throw; after a failed load it says when
/// the memory may be used again. `release` may be NULL: then the memory is there for ever.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_load_builder_place(
    builder: *mut strait_load_builder,
    name: *const c_char,
    device: usize,
    device_ptr: u64,
    bytes: u64,
    release: strait_release,
    owner: *mut c_void,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a C string, as the header's conventions say.
    let name = || unsafe { text(name, "name") };
    let mut before = None; // let go outside of all locks
    choose(builder, name, device, error, |chosen, key| {
        before = chosen.places.insert(key, Place { ptr: device_ptr, bytes, owner: lent(release, owner) });
    })
}

/// Puts all tensors of device number `device` that have no place of their own into one block of the caller's, in place of
/// memory that is allocated: `strait_load_builder_block_size` says how long it has to be. It starts at a multiple
/// of 4096. `release`, which may be NULL, and `owner` are as for `strait_load_builder_place`; of several blocks for one device
/// the first is used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_load_builder_block(
    builder: *mut strait_load_builder,
    device: usize,
    device_ptr: u64,
    bytes: u64,
    release: strait_release,
    owner: *mut c_void,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // Lent only once nothing can fail any more: until then the memory is not released.
    let lend = || Place { ptr: device_ptr, bytes, owner: lent(release, owner) };
    // SAFETY: the caller's promise, as the header says of this memory, until its owner is dropped.
    set(builder, error, || Ok(()), |options, ()| unsafe { options.block(device, lend()) })
}

/// How many bytes `strait_load_builder_block` needs on device number `device`, with the options as they are now: those of
/// the tensors, and where they are read straight to their place (on the host; by cuFile, which is tried for the answer) what is
/// left of the blocks of the file at both ends of each stretch that is read. A block in a CUDA device's memory that has room
/// for the tensors alone is filled through slabs, unless cuFile was asked for.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_builder_block_size(
    builder: *mut strait_load_builder,
    device: usize,
    bytes: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let bytes = out(bytes, "bytes")?;
        let loading = live::<Mutex<Loading>>(builder, "builder")?;
        let sizes = lock(&loading).builder.as_ref().ok_or_else(spent)?.block_sizes()?;
        *bytes = *nth(&sizes, device, "device")?;
        Ok(())
    })
}

/// Checks the bytes of every tensor against a manifest file before it is handed over: strait's own, `sha256sum`'s, and
/// others.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_load_builder_verify(
    builder: *mut strait_load_builder,
    manifest: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    let value = || {
        // SAFETY: a C string, as the header's conventions say.
        let path = OsStr::from_bytes(unsafe { c_str(manifest, "manifest") }?.to_bytes());
        Ok(Manifest::open(path)?)
    };
    set(builder, error, value, Builder::verify)
}

/// The storage backend: `"auto"` (default: decided by a probe), `"uring"`, `"pread"`, `"cufile"` (one CUDA device, nothing
/// verified; what is shorter than a MiB, or lies in its file where its elements cannot, goes through slabs all the same).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_load_builder_ring(
    builder: *mut strait_load_builder,
    ring: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a C string, as the header's conventions say.
    set(builder, error, || one_of("ring", unsafe { text(ring, "ring") }?, &RINGS), Builder::ring)
}

/// Which way bytes take: `"auto"` (default: direct where possible), `"staged"`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_load_builder_path(
    builder: *mut strait_load_builder,
    path: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: a C string, as the header's conventions say.
    set(builder, error, || one_of("path", unsafe { text(path, "path") }?, &PATHS), Builder::path)
}

/// Whatever takes longer than this many milliseconds is an error that names it. Default 30,000.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_builder_deadline_ms(
    builder: *mut strait_load_builder,
    deadline_ms: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(Duration::from_millis(deadline_ms)), Builder::deadline)
}

/// The longest read, and the size of a slab, in bytes: a multiple of 4096. Default 4 MiB.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_builder_block_bytes(
    builder: *mut strait_load_builder,
    block_bytes: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(block_bytes), Builder::block_bytes)
}

/// Wanted bytes that are nearer to each other than this are read as one. Default 32 KiB; at most the longest read, or
/// 1 MiB if that is more.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_builder_gap_bytes(
    builder: *mut strait_load_builder,
    gap_bytes: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(gap_bytes), Builder::gap_bytes)
}

/// Alignment of direct reads in bytes: a power of two, at least 4096. Default 4096.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_builder_align_bytes(
    builder: *mut strait_load_builder,
    align_bytes: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(align_bytes), Builder::align_bytes)
}

/// Reads in flight at most. Default 128.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_builder_reads_in_flight(
    builder: *mut strait_load_builder,
    reads_in_flight: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(reads_in_flight), Builder::reads_in_flight)
}

/// Bytes in flight at most. Default 32 MiB.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_builder_bytes_in_flight(
    builder: *mut strait_load_builder,
    bytes_in_flight: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(bytes_in_flight), Builder::bytes_in_flight)
}

/// Slabs at most, in bytes, whatever the checkpoint's size. Default 256 MiB.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_builder_pinned_bytes_max(
    builder: *mut strait_load_builder,
    pinned_bytes_max: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(pinned_bytes_max), Builder::pinned_bytes_max)
}

/// Files open at most. Default 256.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_builder_open_files_max(
    builder: *mut strait_load_builder,
    open_files_max: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(open_files_max), Builder::open_files_max)
}

/// Allocates all memory, starts reading, and returns. A builder starts one load; free it afterwards. Give the load back with
/// `strait_load_free`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_builder_start(
    builder: *mut strait_load_builder,
    load: Option<&mut *mut strait_load>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let load = out(load, "load")?;
        let loading = live::<Mutex<Loading>>(builder, "builder")?;
        let mut loading = lock(&loading);
        let options = loading.builder.take().ok_or_else(spent)?;
        if loading.devices.is_empty() {
            let auto = Named::new(Device::auto());
            loading.devices.push((auto.device, auto.dl));
        }
        let (devices, dl): (Vec<Device>, _) = loading.devices.drain(..).unzip();
        let chosen = loading.chosen.clone();
        // What was lent may be let go here, and whoever takes it back may call functions of this builder: no lock is held.
        drop(loading);
        let started = options.devices(devices).start();
        // The load has its own shares of it.
        let chosen = std::mem::take(&mut *lock(&chosen));
        drop(chosen);
        *load = register(Mutex::new(Underway { load: started?, dl }))?;
        Ok(())
    })
}

/// Gives a load back; what is in flight ends first. Tensors that were handed over stay. NULL is fine; one that is not live is
/// `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_free(load: *mut strait_load) -> strait_status {
    free::<Mutex<Underway>>(load)
}

/// The next tensor that finishes, to be given back with `strait_tensor_free` or `strait_tensor_release_on`.
///
/// `STRAIT_STATUS_END` once all were handed over. `STRAIT_STATUS_PENDING` if none finishes within `timeout_ms`
/// milliseconds: it may be asked for again. A negative time is without end; no tensor within the load's deadline is an
/// error all the same, after which the load is over.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_next(
    load: *mut strait_load,
    timeout_ms: i64,
    tensor: Option<&mut *mut strait_tensor>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let tensor = out(tensor, "tensor")?;
        let underway = live::<Mutex<Underway>>(load, "load")?;
        let mut underway = lock(&underway);
        let patience = u64::try_from(timeout_ms).map_or(Duration::MAX, Duration::from_millis);
        let Some(next) = underway.load.next_within(patience)? else {
            return Ok(if underway.load.remaining() == 0 { strait_status::End } else { strait_status::Pending });
        };
        let (device, dl) = (next.device().clone(), underway.dl[next.device_index()]);
        *tensor = register(Loaded::new(Arc::new(Held::new(next, device, dl))))?;
        Ok(strait_status::Ok)
    })
}

/// How many tensors are still to come; one counts once for each device that gets a part of it.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_remaining(
    load: *const strait_load,
    remaining: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let remaining = out(remaining, "remaining")?;
        let underway = live::<Mutex<Underway>>(load, "load")?;
        *remaining = lock(&underway).load.remaining();
        Ok(())
    })
}

/// What the load has done so far, to be given back with `strait_stats_free`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_stats(
    load: *const strait_load,
    stats: Option<&mut *mut strait_stats>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let stats = out(stats, "stats")?;
        let underway = live::<Mutex<Underway>>(load, "load")?;
        let snapshot = lock(&underway).load.stats();
        *stats = register(Snapshot::from(snapshot))?;
        Ok(())
    })
}

/// Sets an option: `value` checks what C gives, `apply` takes it over.
fn set<T>(
    builder: *mut strait_load_builder,
    error: Option<&mut *mut strait_error>,
    value: impl FnOnce() -> Result<T, Failure>,
    apply: impl FnOnce(Builder, T) -> Builder,
) -> strait_status {
    call(error, || {
        let loading = live::<Mutex<Loading>>(builder, "builder")?;
        let value = value()?;
        let mut loading = lock(&loading);
        let options = loading.builder.take().ok_or_else(spent)?;
        loading.builder = Some(apply(options, value));
        Ok(())
    })
}

/// Says something of a tensor and the place of a device.
fn choose<'a>(
    builder: *mut strait_load_builder,
    name: impl FnOnce() -> Result<&'a str, Failure>,
    device: usize,
    error: Option<&mut *mut strait_error>,
    apply: impl FnOnce(&mut Chosen, (Arc<str>, usize)),
) -> strait_status {
    call(error, || {
        let loading = live::<Mutex<Loading>>(builder, "builder")?;
        let name = name()?;
        let loading = lock(&loading);
        loading.builder.as_ref().ok_or_else(spent)?;
        let tensor = loading.checkpoint.tensor(name).ok_or_else(|| no_tensor(name))?;
        apply(&mut lock(&loading.chosen), (tensor.name.clone(), device));
        Ok(())
    })
}

/// What a filter is called with.
struct Context(*mut c_void);

// SAFETY: passed on to the caller's function, in the threads that the header names.
unsafe impl Send for Context {}

/// Memory of the caller's, and how it is given back.
struct Owner {
    owner: *mut c_void,
    release: strait_release,
    forks: u8,
}

// SAFETY: passed on to the caller's function, which the header says is called in any thread.
unsafe impl Send for Owner {}
// SAFETY: as above; nothing is shared but the number.
unsafe impl Sync for Owner {}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(release) = self.release.filter(|_| self.forks == forks()) {
            // SAFETY: the header says how it is called: once, with its owner, and nothing writes to the memory any more.
            unsafe { release(self.owner) };
        }
    }
}

fn lent(release: strait_release, owner: *mut c_void) -> Arc<dyn Any + Send + Sync> {
    Arc::new(Owner { owner, release, forks: forks() })
}
