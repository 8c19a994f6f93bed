//! Loader options
//!
//! A builder takes options one by one; each has a default. An option that cannot be met is an error of
//! `strait_loader_builder_build`, but for texts that no option has, which are refused at once (`STRAIT_STATUS_CONFIG`).

use std::ffi::c_char;
use std::sync::Mutex;
use std::time::Duration;

use strait::order::{AtEnd, BadSamplePolicy, Bucketing, Budget, Cost, Rank};
use strait::{Builder, DType, Loader, PathChoice, RingChoice, Verify};

use crate::call::{array, call, free, lock, out, text};
use crate::dataset::{Opened, strait_dataset};
use crate::device::{Named, strait_device};
use crate::dlpack::DLDevice;
use crate::error::{Failure, strait_error};
use crate::handle::{Kind, live, register};
use crate::loader::{Running, strait_loader};
use crate::stats::unknown;
use crate::status::strait_status;

/// The options of a loader. Threads: any; calls with one builder take turns.
pub struct strait_loader_builder(());

pub(crate) struct Building {
    /// `None` once a loader was built, or could not be.
    builder: Option<Builder>,
    dl: Option<DLDevice>,
}

impl Kind for Mutex<Building> {
    type Handle = strait_loader_builder;
    const NAME: &'static str = "loader builder";
    const NUMBER: u8 = 7;
}

/// Starts the options of a loader of this dataset, which may be given back at once. Give the builder back with
/// `strait_loader_builder_free`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_new(
    dataset: *const strait_dataset,
    builder: Option<&mut *mut strait_loader_builder>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let builder = out(builder, "builder")?;
        let dataset = live::<Opened>(dataset, "dataset")?.dataset.clone();
        *builder = register(Mutex::new(Building { builder: Some(Loader::builder(dataset)), dl: None }))?;
        Ok(())
    })
}

/// Gives a builder back, after building too. NULL is fine; one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_free(builder: *mut strait_loader_builder) -> strait_status {
    free::<Mutex<Building>>(builder)
}

/// Allocates all memory, starts the engine's thread, and returns once it is ready to read. A builder builds once, whether
/// that succeeds or not; free it afterwards. Give the loader back with `strait_loader_free`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_build(
    builder: *mut strait_loader_builder,
    loader: Option<&mut *mut strait_loader>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let loader = out(loader, "loader")?;
        let building = live::<Mutex<Building>>(builder, "builder")?;
        let mut building = lock(&building);
        let options = building.builder.take().ok_or_else(spent)?;
        *loader = register(Running::new(options.build()?, building.dl))?;
        Ok(())
    })
}

/// Where batches live. Default: the first CUDA device if it works, else host memory. The device may be given back at once.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_device(
    builder: *mut strait_loader_builder,
    device: *const strait_device,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let named = live::<Named>(device, "device")?;
        let building = live::<Mutex<Building>>(builder, "builder")?;
        let mut building = lock(&building);
        let options = building.builder.take().ok_or_else(spent)?;
        (building.builder, building.dl) = (Some(options.device(named.device.clone())), Some(named.dl));
        Ok(())
    })
}

/// Samples per batch, or windows. Default 256.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_batch_size(
    builder: *mut strait_loader_builder,
    batch_size: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(batch_size), |builder, value| builder.batch_size(value))
}

/// What decides the random order. Default 0.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_seed(
    builder: *mut strait_loader_builder,
    seed: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(seed), |builder, value| builder.seed(value))
}

/// Batches read ahead. Default: as many as keep the storage busy.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_prefetch(
    builder: *mut strait_loader_builder,
    prefetch: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(prefetch), |builder, value| builder.prefetch(value))
}

/// Batches that may be held at once while others are read. Default 2.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_hold(
    builder: *mut strait_loader_builder,
    hold: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(hold), |builder, value| builder.hold(value))
}

/// The longest read, and the size of a slab, in bytes: a multiple of 4096. Default 4 MiB.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_block_bytes(
    builder: *mut strait_loader_builder,
    block_bytes: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(block_bytes), |builder, value| builder.block_bytes(value))
}

/// Parts of a batch that are nearer to each other than this, in bytes, are read as one. Default 16 KiB; at most the
/// longest read, or 1 MiB if that is more.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_gap_bytes(
    builder: *mut strait_loader_builder,
    gap_bytes: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(gap_bytes), |builder, value| builder.gap_bytes(value))
}

/// Alignment of direct reads in bytes: a power of two, at least 4096. Default 4096.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_align_bytes(
    builder: *mut strait_loader_builder,
    align_bytes: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(align_bytes), |builder, value| builder.align_bytes(value))
}

/// Reads in flight at most. Default 128.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_reads_in_flight(
    builder: *mut strait_loader_builder,
    reads_in_flight: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(reads_in_flight), |builder, value| builder.reads_in_flight(value))
}

/// Bytes in flight at most. Default 32 MiB.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_bytes_in_flight(
    builder: *mut strait_loader_builder,
    bytes_in_flight: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(bytes_in_flight), |builder, value| builder.bytes_in_flight(value))
}

/// Pinned or registered host memory at most, in bytes. Default 256 MiB.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_pinned_bytes_max(
    builder: *mut strait_loader_builder,
    pinned_bytes_max: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(pinned_bytes_max), |builder, value| builder.pinned_bytes_max(value))
}

/// Memory for batches on a device other than the host at most, in bytes. Default 1 GiB.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_region_bytes_max(
    builder: *mut strait_loader_builder,
    region_bytes_max: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(region_bytes_max), |builder, value| builder.region_bytes_max(value))
}

/// Memory for batches, in bytes. Default: room for the batches read ahead and held.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_region_bytes(
    builder: *mut strait_loader_builder,
    region_bytes: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(region_bytes), |builder, value| builder.region_bytes(value))
}

/// Files open at most. Default 256.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_open_files_max(
    builder: *mut strait_loader_builder,
    open_files_max: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(open_files_max), |builder, value| builder.open_files_max(value))
}

/// Whatever takes longer than this many milliseconds is an error that names it. Default 30,000. While the loader reads,
/// streams that batches were released on have sixty times as long: collectives on them wait for other ranks. Once it is
/// freed they have this long, then the memory is leaked.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_deadline_ms(
    builder: *mut strait_loader_builder,
    deadline_ms: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(deadline_ms), |builder, value| builder.deadline(Duration::from_millis(value)))
}

/// The order of samples, anew in every epoch: `"sequential"` (default), `"full"`, or `"block:64x16"` (blocks of 64 neighbours,
/// mixed inside windows of 16 blocks).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_loader_builder_shuffle(
    builder: *mut strait_loader_builder,
    shuffle: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(
        builder,
        error,
        || {
            // SAFETY: a C string, as the header's conventions say.
            let shuffle = unsafe { text(shuffle, "shuffle") }?;
            Ok(shuffle.parse()?)
        },
        Builder::shuffle,
    )
}

/// What happens behind the last whole global batch: `"drop"` (default of several ranks), `"pad"`, `"wrap"`, `"short"` (default of a
/// single one).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_loader_builder_policy(
    builder: *mut strait_loader_builder,
    policy: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(
        builder,
        error,
        || {
            // SAFETY: a C string, as the header's conventions say.
            let policy = unsafe { text(policy, "policy") }?;
            Ok(policy.parse()?)
        },
        Builder::policy,
    )
}

/// The storage backend: `"auto"` (default: decided by a probe), `"uring"`, `"pread"`, `"cufile"`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_loader_builder_ring(
    builder: *mut strait_loader_builder,
    ring: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(
        builder,
        error,
        || {
            // SAFETY: a C string, as the header's conventions say.
            let ring = unsafe { text(ring, "ring") }?;
            one_of("ring", ring, &RINGS)
        },
        Builder::ring,
    )
}

/// Which way bytes take: `"auto"` (default: direct where possible), `"staged"` (through slabs and a copy stream).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_loader_builder_path(
    builder: *mut strait_loader_builder,
    path: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(
        builder,
        error,
        || {
            // SAFETY: a C string, as the header's conventions say.
            let path = unsafe { text(path, "path") }?;
            one_of("path", path, &PATHS)
        },
        Builder::path,
    )
}

/// Which slice of every global batch is this process's: rank `rank` of `world`. Default: 0 of 1.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_rank(
    builder: *mut strait_loader_builder,
    rank: u32,
    world: u32,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(Rank::new(rank, world)?), Builder::rank)
}

/// Takes the rank from the launcher's environment variables: torchrun, Slurm, Open MPI, PMI. The local rank then chooses the
/// device, unless one is given. Launchers that contradict each other are an error of building.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_rank_from_env(
    builder: *mut strait_loader_builder,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(()), |builder, ()| builder.rank_from_env())
}

/// A sample that cannot be read is an error. The default.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_bad_samples_raise(
    builder: *mut strait_loader_builder,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(()), |builder, ()| builder.bad_samples(BadSamplePolicy::Raise))
}

/// Samples that cannot be read are left out, and their batches shorter: at most `budget` in the whole run, and at most
/// `consecutive` one after another.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_bad_samples_skip(
    builder: *mut strait_loader_builder,
    budget: u32,
    consecutive: u32,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(BadSamplePolicy::Skip { budget, consecutive }), Builder::bad_samples)
}

/// Other samples stand in for those that cannot be read.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_bad_samples_replace(
    builder: *mut strait_loader_builder,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(()), |builder, ()| builder.bad_samples(BadSamplePolicy::Replace))
}

/// Mixes the `count` datasets that `strait_dataset_concat` joined by weight, without drift. The epoch ends where a dataset
/// would have to start over, if `repeat_positions` is 0; else that dataset starts over, and an epoch has so many positions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_loader_builder_mixture(
    builder: *mut strait_loader_builder,
    weights: *const u32,
    count: usize,
    repeat_positions: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(
        builder,
        error,
        || {
            // SAFETY: `count` weights, as the header's conventions say.
            let weights = unsafe { array(weights, count, "weights") }?.to_vec();
            let at_end = match repeat_positions {
                0 => AtEnd::Stop,
                positions => AtEnd::Repeat { positions },
            };
            Ok((weights, at_end))
        },
        |builder, (weights, at_end)| builder.mixture(&weights, at_end),
    )
}

/// Whether samples are compared with their checksums as they are read: `"off"` (default), or `"checksums"`, those that their
/// shard's index has (`strait index --checksums`).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_loader_builder_verify(
    builder: *mut strait_loader_builder,
    verify: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    let value = || {
        // SAFETY: a C string, as the header's conventions say.
        let verify = unsafe { text(verify, "verify") }?;
        one_of("verify", verify, &[("off", Verify::Off), ("checksums", Verify::Checksums)])
    };
    set(builder, error, value, Builder::verify)
}

/// Shuffles blocks of neighbours of about `block_bytes` bytes, mixed inside windows of `window` blocks: tiny samples are
/// read in large pieces.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_shuffle_blocks(
    builder: *mut strait_loader_builder,
    block_bytes: u64,
    window: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok((block_bytes, window)), |builder, (bytes, window)| builder.shuffle_blocks(bytes, window))
}

/// Reads only these `count` fields of each sample. Default: all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_loader_builder_fields(
    builder: *mut strait_loader_builder,
    names: *const *const c_char,
    count: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: `count` C strings, as the header's conventions say.
    let value = || unsafe { texts(names, count) };
    set(builder, error, value, |builder, names| builder.fields(&names.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// The `count` fields that come out as one array a batch too (`strait_batch_field_tensor`). Default: all whose type and shape
/// are known, and the tokens of windows; none if `count` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_loader_builder_tensors(
    builder: *mut strait_loader_builder,
    names: *const *const c_char,
    count: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: `count` C strings, as the header's conventions say.
    let value = || unsafe { texts(names, count) };
    set(builder, error, value, |builder, names| builder.tensors(&names.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// The `count` small fields whose bytes are on the host too, whatever device batches live on. Default: those of a fixed size
/// of at most 8 bytes, and those called `cls`, `json`, `txt` and the like.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_loader_builder_on_host(
    builder: *mut strait_loader_builder,
    names: *const *const c_char,
    count: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: `count` C strings, as the header's conventions say.
    let value = || unsafe { texts(names, count) };
    set(builder, error, value, |builder, names| builder.on_host(&names.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// Says what the elements of `field` are, where the format does not: `"u16"`, `"bf16"` .., in samples of the shape of `ndim`
/// lengths at `shape`, the first dimension outermost. The field then comes out as one array a batch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_loader_builder_array(
    builder: *mut strait_loader_builder,
    field: *const c_char,
    dtype: *const c_char,
    shape: *const u64,
    ndim: usize,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    let value = || {
        // SAFETY: two C strings and `ndim` lengths, as the header's conventions say.
        let ((field, dtype), shape) = unsafe { (field_and_dtype(field, dtype)?, array(shape, ndim, "shape")?) };
        Ok((field, dtype, shape.to_vec()))
    };
    set(builder, error, value, |builder, (field, dtype, shape)| builder.array(&field, dtype, &shape))
}

/// Makes the elements of `field`'s array wider, which keeps every value: `"i32"` and `"i64"` of `u16`, `"i64"` of `i32` and `u32`,
/// `"f16"`, `"bf16"` and `"f32"` of `u8`. Single samples stay as they are stored. Where the device cannot, building says why.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_loader_builder_widen(
    builder: *mut strait_loader_builder,
    field: *const c_char,
    dtype: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: two C strings, as the header's conventions say.
    let value = || unsafe { field_and_dtype(field, dtype) };
    set(builder, error, value, |builder, (field, dtype)| builder.widen(&field, dtype))
}

/// Makes `byte * factor + bias` of every `u8` of `field`'s array, as `"f16"`, `"bf16"` or `"f32"`: pictures from 0 to 1 are those
/// with a factor of `1.0f / 255.0f`. Product, sum and result are rounded to the nearest each, ties to even. Single samples stay
/// as they are stored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_loader_builder_scale(
    builder: *mut strait_loader_builder,
    field: *const c_char,
    dtype: *const c_char,
    factor: f32,
    bias: f32,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    // SAFETY: two C strings, as the header's conventions say.
    let value = || unsafe { field_and_dtype(field, dtype) };
    set(builder, error, value, |builder, (field, dtype)| builder.scale(&field, dtype, factor, bias))
}

/// # Safety
/// Each is NULL or a C string.
unsafe fn field_and_dtype(field: *const c_char, dtype: *const c_char) -> Result<(String, DType), Failure> {
    // SAFETY: the caller's promise.
    let (field, dtype) = unsafe { (text(field, "field")?, text(dtype, "dtype")?) };
    let dtype = DType::from_name(dtype).ok_or_else(|| unknown(dtype, DType::all().map(DType::name)))?;
    Ok((field.to_owned(), dtype))
}

/// Measures samples in tokens: items of `item_bytes` bytes in `field`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_loader_builder_tokens(
    builder: *mut strait_loader_builder,
    field: *const c_char,
    item_bytes: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(
        builder,
        error,
        || {
            // SAFETY: a C string, as the header's conventions say.
            let field = unsafe { text(field, "field") }?;
            Ok((field.to_owned(), item_bytes))
        },
        |builder, (field, item_bytes)| builder.tokens(&field, item_bytes),
    )
}

/// Makes batches of windows of `window_tokens` tokens, each starting `stride_tokens` after the one before, over the
/// documents as they are stored. See `strait_batch_window`; needs `strait_loader_builder_tokens`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_windows(
    builder: *mut strait_loader_builder,
    window_tokens: u64,
    stride_tokens: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(
        builder,
        error,
        || Ok((window_tokens, stride_tokens)),
        |builder, (window, stride)| builder.windows(window, stride),
    )
}

/// Makes batches of windows of `window_tokens` tokens over the documents in shuffled order, one after another, none padded.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_pack(
    builder: *mut strait_loader_builder,
    window_tokens: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(builder, error, || Ok(window_tokens), Builder::pack)
}

/// Cuts batches by length: at most `samples_max` samples, and at most `cost_max` bytes (or tokens, if those are set): the sum
/// of the lengths, or, if `padded`, the longest times the samples. `window` samples are sorted by length together, and `run`
/// neighbours by length stay together; 1 and 1 for the order as it is.
#[unsafe(no_mangle)]
pub extern "C" fn strait_loader_builder_budget(
    builder: *mut strait_loader_builder,
    samples_max: u64,
    cost_max: u64,
    padded: bool,
    window: u64,
    run: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    set(
        builder,
        error,
        || {
            let cost = if padded { Cost::Padded } else { Cost::Sum };
            Ok((Budget { samples_max, cost_max, cost }, Bucketing { window, run }))
        },
        |builder, (budget, bucketing)| builder.budget(budget, bucketing),
    )
}

/// The storage backends by name.
pub(crate) const RINGS: [(&str, RingChoice); 4] = [
    ("auto", RingChoice::Auto),
    ("uring", RingChoice::Uring),
    ("pread", RingChoice::Pread),
    ("cufile", RingChoice::Cufile),
];

/// The ways of bytes by name.
pub(crate) const PATHS: [(&str, PathChoice); 2] = [("auto", PathChoice::Auto), ("staged", PathChoice::Staged)];

/// Sets an option: `value` checks what C gives, `apply` takes it over.
fn set<T>(
    builder: *mut strait_loader_builder,
    error: Option<&mut *mut strait_error>,
    value: impl FnOnce() -> Result<T, Failure>,
    apply: impl FnOnce(Builder, T) -> Builder,
) -> strait_status {
    call(error, || {
        let building = live::<Mutex<Building>>(builder, "builder")?;
        let value = value()?;
        let mut building = lock(&building);
        let options = building.builder.take().ok_or_else(spent)?;
        building.builder = Some(apply(options, value));
        Ok(())
    })
}

/// Names.
///
/// # Safety
/// NULL, or `count` C strings that stay as they are during the call.
pub(crate) unsafe fn texts(names: *const *const c_char, count: usize) -> Result<Vec<String>, Failure> {
    // SAFETY: the caller's promise.
    let names = unsafe { array(names, count, "names") }?;
    // SAFETY: the caller's promise.
    names.iter().map(|&name| Ok(unsafe { text(name, "names") }?.to_owned())).collect()
}

pub(crate) fn one_of<T: Copy>(option: &str, value: &str, all: &[(&str, T)]) -> Result<T, Failure> {
    all.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        Failure::new(strait_status::Config, format!("{option}: {value:?} is none of {}", names.join(", ")))
    })
}

pub(crate) fn spent() -> Failure {
    Failure::new(strait_status::WrongOrder, "the builder has built already; make a new one")
}

#[cfg(test)]
mod tests {
    /// Mutant that this catches: an option of a loader that C cannot set.
    #[test]
    fn every_option_has_a_function() {
        // In Rust only: a storage backend of one's own, and what is no option.
        const RUST: [&str; 2] = ["custom_ring", "build"];
        let own = include_str!("builder.rs");
        let (options, reads) = (include_str!("../../src/builder.rs"), include_str!("../../src/config/reads.rs"));
        let methods = options.lines().filter_map(|line| line.strip_prefix("    pub fn ")?.split('(').next());
        // Those of reads are a macro's, which loads of weights have too.
        let fields = options.lines().chain(reads.lines()).filter_map(|line| {
            let (name, rest) = line.trim_start().split_once(": ")?;
            (rest.contains(" => ") && rest.ends_with(';')).then_some(name)
        });
        let names: Vec<&str> = methods.chain(fields).collect();
        assert!(names.len() > 30, "{names:?}");
        for name in names.iter().filter(|name| !name.contains('$') && !RUST.contains(name)) {
            assert!(own.contains(&format!("fn strait_loader_builder_{name}")), "{name}");
        }
    }
}
