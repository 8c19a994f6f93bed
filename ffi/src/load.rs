//! Loading checkpoints
//!
//! A load reads each byte once, in file order, and hands tensors over as they finish; they lie dense and aligned in memory of
//! their device. Options first, then `strait_load_builder_start`, then `strait_load_next` until `STRAIT_STATUS_END`.

use std::collections::HashMap;
use std::ffi::{OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strait::Device;
use strait::weights::{Builder, Load, Manifest, Part};

use crate::builder::{PATHS, RINGS, one_of, spent};
use crate::call::{c_str, call, free, lock, out, text};
use crate::checkpoint::{Listed, strait_checkpoint};
use crate::device::{Named, strait_device};
use crate::dlpack::DLDevice;
use crate::error::{Failure, strait_error};
use crate::handle::{Kind, live, register};
use crate::held::Held;
use crate::loaded::{Loaded, strait_tensor};
use crate::stats::{Snapshot, strait_stats};
use crate::status::strait_status;

/// The options of a load. Threads: any; calls with one builder take turns.
pub struct strait_load_builder(());

/// A load under way. Threads: any; calls with one load take turns.
pub struct strait_load(());

pub(crate) struct Loading {
    /// `None` once a load was started, or could not be.
    builder: Option<Builder>,
    devices: Vec<(Device, DLDevice)>,
    /// Dimension and range, by tensor and place of the device.
    slices: HashMap<(String, usize), (usize, u64, u64)>,
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
        let options = live::<Listed>(checkpoint, "checkpoint")?.checkpoint.load();
        let loading = Loading { builder: Some(options), devices: Vec::new(), slices: HashMap::new() };
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
        lock(&loading).devices.push((named.device.clone(), named.dl));
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

/// Of the tensor of that name, device number `device` (in the order in which they were added) gets only elements `from` to
/// `to`, without that, of dimension `dim`: what tensor parallelism wants. Bytes that no device wants are not read.
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
    call(error, || {
        let loading = live::<Mutex<Loading>>(builder, "builder")?;
        // SAFETY: a C string, as the header's conventions say.
        let name = unsafe { text(name, "name") }?;
        lock(&loading).slices.insert((name.to_owned(), device), (dim, from, to));
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

/// Wanted bytes that are nearer to each other than this are read as one. Default 32 KiB.
#[unsafe(no_mangle)]
pub extern "C" fn strait_load_builder_gap_bytes(
    builder: *mut strait_load_builder,
    gap_bytes: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(gap_bytes), Builder::gap_bytes)
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
        let mut options = loading.builder.take().ok_or_else(spent)?;
        if loading.devices.is_empty() {
            let auto = Named::new(Device::auto());
            loading.devices.push((auto.device, auto.dl));
        }
        let slices = std::mem::take(&mut loading.slices);
        if !slices.is_empty() {
            options = options.part(move |tensor, device| match slices.get(&(tensor.name.to_string(), device)) {
                Some(&(dim, from, to)) => Part::Slice { dim, from, to },
                None => Part::Whole,
            });
        }
        let (devices, dl): (Vec<Device>, _) = loading.devices.drain(..).unzip();
        *load = register(Mutex::new(Underway { load: options.devices(devices).start()?, dl }))?;
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
