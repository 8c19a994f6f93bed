//! Datasets
//!
//! What exists on disk: shards, samples, fields. A builder takes paths and options; the dataset it builds does not change
//! and holds no file open. Texts and arrays that a dataset gives out live as long as its handle.

use std::ffi::{CString, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;
use std::sync::{Mutex, OnceLock};

use strait::dataset::{Field, Format, Options};
use strait::{DType, Dataset};

use crate::call::{array, c_str, call, free, give, index, lock, nth, out, text};
use crate::error::{Failure, c_string, strait_error, whole};
use crate::handle::{Kind, live, register};
use crate::stats::unknown;
use crate::status::strait_status;

/// How a dataset is opened. Threads: any; calls with one builder take turns.
pub struct strait_dataset_builder(());

/// Shards, fields and the place of every sample. It does not change. Threads: any, at once.
pub struct strait_dataset(());

#[derive(Default)]
pub(crate) struct Opening {
    paths: Vec<PathBuf>,
    options: Options,
}

type Builder = Mutex<Opening>;

impl Kind for Builder {
    type Handle = strait_dataset_builder;
    const NAME: &'static str = "dataset builder";
    const NUMBER: u8 = 2;
}

pub(crate) struct Opened {
    pub(crate) dataset: Dataset,
    format: CString,
    /// Why a sidecar is not used.
    why: Option<CString>,
    fields: FieldTexts,
    paths: OnceLock<Vec<CString>>,
}

impl Kind for Opened {
    type Handle = strait_dataset;
    const NAME: &'static str = "dataset";
    const NUMBER: u8 = 3;
}

impl Opened {
    fn new(dataset: Dataset) -> Result<Opened, Failure> {
        for field in dataset.fields() {
            whole(&field.name, || format!("the name of field {:?}", field.name), None)?;
        }
        let (format, fields) = (c_string(dataset.format()), FieldTexts::new(dataset.fields()));
        let why = dataset.index_state().why.as_deref().map(c_string);
        Ok(Opened { dataset, format, why, fields, paths: OnceLock::new() })
    }

    fn path(&self, shard: usize) -> *const c_char {
        let all = || self.dataset.shards().iter().map(|shard| c_string(shard.path.as_os_str().as_bytes())).collect();
        self.paths.get_or_init(all)[shard].as_ptr()
    }
}

/// The names of fields and of their types, as C reads them.
pub(crate) struct FieldTexts(Vec<(CString, Option<CString>)>);

impl FieldTexts {
    pub(crate) fn new(fields: &[Field]) -> FieldTexts {
        let texts = |field: &Field| (c_string(field.name.as_bytes()), field.dtype.map(|dtype| c_string(dtype.name())));
        FieldTexts(fields.iter().map(texts).collect())
    }

    pub(crate) fn name(&self, field: usize) -> *const c_char {
        self.0[field].0.as_ptr()
    }

    pub(crate) fn dtype(&self, field: usize) -> *const c_char {
        self.0[field].1.as_ref().map_or(ptr::null(), |name| name.as_ptr())
    }
}

/// Makes a builder without paths, to be given back with `strait_dataset_builder_free`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_builder_new(
    builder: Option<&mut *mut strait_dataset_builder>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let builder = out(builder, "builder")?;
        *builder = register(Builder::default())?;
        Ok(())
    })
}

/// Gives a builder back. NULL is fine; one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_builder_free(builder: *mut strait_dataset_builder) -> strait_status {
    free::<Builder>(builder)
}

/// Adds a shard, or a directory: it stands for the regular files in it, sorted by name, without those below it and those
/// that begin with a dot. Nothing is looked at before `strait_dataset_builder_build`. The path is copied; it is bytes, and
/// need not be UTF-8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_dataset_builder_add_path(
    builder: *mut strait_dataset_builder,
    path: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let builder = live::<Builder>(builder, "builder")?;
        // SAFETY: a C string, as the header's conventions say.
        let path = unsafe { c_str(path, "path") }?;
        lock(&builder).paths.push(OsStr::from_bytes(path.to_bytes()).into());
        Ok(())
    })
}

/// The size in bytes of the records of raw files, which do not say it themselves.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_builder_record_bytes(
    builder: *mut strait_dataset_builder,
    record_bytes: u64,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let builder = live::<Builder>(builder, "builder")?;
        let mut opening = lock(&builder);
        opening.options = opening.options.clone().record_bytes(record_bytes);
        Ok(())
    })
}

/// Reads the files as this format, whatever they look like: `"records"`, `"webdataset"` and others;
/// `STRAIT_STATUS_NOT_FOUND` lists them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_dataset_builder_format(
    builder: *mut strait_dataset_builder,
    format: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let builder = live::<Builder>(builder, "builder")?;
        // SAFETY: a C string, as the header's conventions say.
        let name = unsafe { text(format, "format") }?;
        let format = Format::from_name(name).ok_or_else(|| unknown(name, Format::all().map(Format::name)))?;
        let mut opening = lock(&builder);
        opening.options = opening.options.clone().format(format);
        Ok(())
    })
}

/// The type of the elements, in files that do not say it (headerless tokens): `"u16"`, `"i32"`, `"bf16"` ..
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_dataset_builder_dtype(
    builder: *mut strait_dataset_builder,
    dtype: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let builder = live::<Builder>(builder, "builder")?;
        // SAFETY: a C string, as the header's conventions say.
        let name = unsafe { text(dtype, "dtype") }?;
        let dtype = DType::from_name(name).ok_or_else(|| unknown(name, DType::all().map(DType::name)))?;
        let mut opening = lock(&builder);
        opening.options = opening.options.clone().dtype(dtype);
        Ok(())
    })
}

/// The directory that sidecar indexes are in, if they are not beside their shards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_dataset_builder_index_dir(
    builder: *mut strait_dataset_builder,
    index_dir: *const c_char,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let builder = live::<Builder>(builder, "builder")?;
        // SAFETY: a C string, as the header's conventions say.
        let index_dir = OsStr::from_bytes(unsafe { c_str(index_dir, "index_dir") }?.to_bytes());
        let mut opening = lock(&builder);
        opening.options = opening.options.clone().index_dir(index_dir);
        Ok(())
    })
}

/// Whether the records of a TFRecord file are `tf.train.Example`s, whose features become fields. Default: what the first
/// record is.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_builder_examples(
    builder: *mut strait_dataset_builder,
    examples: bool,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let builder = live::<Builder>(builder, "builder")?;
        let mut opening = lock(&builder);
        opening.options = opening.options.clone().examples(examples);
        Ok(())
    })
}

/// Reads the shards whole as they are indexed, and compares the checksums that their format has (TFRecord). Default: no.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_builder_verify(
    builder: *mut strait_dataset_builder,
    verify: bool,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let builder = live::<Builder>(builder, "builder")?;
        let mut opening = lock(&builder);
        opening.options = opening.options.clone().verify(verify);
        Ok(())
    })
}

/// Opens the dataset: reads headers and indexes, never payload. Takes as long as the storage does. The builder stays as it
/// is and may build again. The dataset is given back with `strait_dataset_free`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_builder_build(
    builder: *const strait_dataset_builder,
    dataset: Option<&mut *mut strait_dataset>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let dataset = out(dataset, "dataset")?;
        let builder = live::<Builder>(builder, "builder")?;
        let Opening { paths, options } = &*lock(&builder);
        *dataset = register(Opened::new(options.open(paths)?)?)?;
        Ok(())
    })
}

/// Joins `count` datasets to one, whose sample ids count through them in the order given: what
/// `strait_loader_builder_mixture` mixes. Fields are united by name. The datasets stay as they are, and stay the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_dataset_concat(
    datasets: *const *const strait_dataset,
    count: usize,
    dataset: Option<&mut *mut strait_dataset>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let dataset = out(dataset, "dataset")?;
        // SAFETY: `count` handles, as the header's conventions say.
        let handles = unsafe { array(datasets, count, "datasets") }?;
        let parts = handles.iter().map(|&handle| Ok(live::<Opened>(handle, "datasets")?.dataset.clone()));
        let joined = Dataset::concat(parts.collect::<Result<_, Failure>>()?)?;
        *dataset = register(Opened::new(joined)?)?;
        Ok(())
    })
}

/// Gives a dataset back. Loaders built from it keep what they need. NULL is fine; one that is not live is
/// `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_free(dataset: *mut strait_dataset) -> strait_status {
    free::<Opened>(dataset)
}

/// The number of samples. Their ids are 0 to that number less 1, shard by shard in the order given.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_len(
    dataset: *const strait_dataset,
    len: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let len = out(len, "len")?;
        *len = live::<Opened>(dataset, "dataset")?.dataset.len();
        Ok(())
    })
}

/// How many samples the dataset number `part` of those that were joined has, by which `strait_batch_origin` counts; of one
/// that was not, its own. `STRAIT_STATUS_OUT_OF_RANGE` behind the last.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_part(
    dataset: *const strait_dataset,
    part: usize,
    samples: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let samples = out(samples, "samples")?;
        let opened = live::<Opened>(dataset, "dataset")?;
        let parts = opened.dataset.parts();
        *samples = *nth(parts, part, "part")?;
        Ok(())
    })
}

/// The bytes of the largest sample, all fields together: what a batch may need per sample. Takes a pass over the index,
/// unless sidecars say it.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_largest_sample(
    dataset: *const strait_dataset,
    bytes: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let bytes = out(bytes, "bytes")?;
        let opened = live::<Opened>(dataset, "dataset")?;
        let largest = opened.dataset.largest_sample();
        opened.dataset.check()?;
        *bytes = largest;
        Ok(())
    })
}

/// Which shards' indexes came from sidecars (`strait index`): of how many a sidecar is used, how many of these have
/// checksums, and how many sidecars are stale or damaged, with the reason of the first of them (NULL if there is none). Each
/// output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_sidecars(
    dataset: *const strait_dataset,
    used: Option<&mut u64>,
    checksums: Option<&mut u64>,
    unusable: Option<&mut u64>,
    why: Option<&mut *const c_char>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let opened = live::<Opened>(dataset, "dataset")?;
        let state = opened.dataset.index_state();
        give(used, state.sidecars);
        give(checksums, state.checksums);
        give(unusable, state.unusable);
        give(why, opened.why.as_ref().map_or(ptr::null(), |why| why.as_ptr()));
        Ok(())
    })
}

/// The format's name: `"records"`, `"webdataset"`; `"mixed"` where datasets of different formats are joined.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_format(
    dataset: *const strait_dataset,
    format: Option<&mut *const c_char>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let format = out(format, "format")?;
        *format = live::<Opened>(dataset, "dataset")?.format.as_ptr();
        Ok(())
    })
}

/// The number of shards.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_shards(
    dataset: *const strait_dataset,
    shards: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let shards = out(shards, "shards")?;
        *shards = live::<Opened>(dataset, "dataset")?.dataset.shards().len();
        Ok(())
    })
}

/// A shard's path, its size in bytes, and how many samples it holds. Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_shard(
    dataset: *const strait_dataset,
    shard: usize,
    path: Option<&mut *const c_char>,
    bytes: Option<&mut u64>,
    samples: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let opened = live::<Opened>(dataset, "dataset")?;
        let shard = index(shard as u64, opened.dataset.shards().len(), "shard")?;
        let own = &opened.dataset.shards()[shard];
        give(path, opened.path(shard));
        give(bytes, own.bytes);
        give(samples, own.samples());
        Ok(())
    })
}

/// The number of fields that samples may have.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_fields(
    dataset: *const strait_dataset,
    fields: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let fields = out(fields, "fields")?;
        *fields = live::<Opened>(dataset, "dataset")?.dataset.fields().len();
        Ok(())
    })
}

/// A field's name (`"jpg"`), the type of its elements (`"u16"`, `"bf16"`; NULL where the format does not say it), and the
/// size in bytes that every sample's has (`STRAIT_UNKNOWN` where they differ). Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_field(
    dataset: *const strait_dataset,
    field: usize,
    name: Option<&mut *const c_char>,
    dtype: Option<&mut *const c_char>,
    fixed_bytes: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let opened = live::<Opened>(dataset, "dataset")?;
        let field = index(field as u64, opened.dataset.fields().len(), "field")?;
        give(name, opened.fields.name(field));
        give(dtype, opened.fields.dtype(field));
        give(fixed_bytes, opened.dataset.fields()[field].fixed_bytes.unwrap_or(STRAIT_UNKNOWN));
        Ok(())
    })
}

/// How a field's bytes are to be read, where the format says so: `text`: UTF-8; `varints`: whole numbers as a
/// `tf.train.Example` has them, one behind another, each 7 bits a byte, the lowest first, with the top bit set in all but its
/// last byte, and negative ones as 64 bits. Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_field_encoding(
    dataset: *const strait_dataset,
    field: usize,
    text: Option<&mut bool>,
    varints: Option<&mut bool>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let opened = live::<Opened>(dataset, "dataset")?;
        let own = nth(opened.dataset.fields(), field, "field")?;
        give(text, own.text);
        give(varints, own.varints);
        Ok(())
    })
}

/// The shape of a field where every sample's is the same and the format says so, the first dimension outermost: `ndim`
/// lengths at `shape`. `STRAIT_STATUS_ABSENT` where there is none.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_field_shape(
    dataset: *const strait_dataset,
    field: usize,
    shape: Option<&mut *const u64>,
    ndim: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let (shape, ndim) = (out(shape, "shape")?, out(ndim, "ndim")?);
        let opened = live::<Opened>(dataset, "dataset")?;
        let field = index(field as u64, opened.dataset.fields().len(), "field")?;
        let Some(own) = &opened.dataset.fields()[field].shape else { return Ok(strait_status::Absent) };
        (*shape, *ndim) = (own.as_ptr(), own.len());
        Ok(strait_status::Ok)
    })
}

/// Where field number `field` of a sample lies: the number of the shard, and first byte and length in it.
/// `STRAIT_STATUS_ABSENT` if the sample lacks that field, `STRAIT_STATUS_FORMAT` if the shard's index turns out to be damaged.
#[unsafe(no_mangle)]
pub extern "C" fn strait_dataset_extent(
    dataset: *const strait_dataset,
    sample: u64,
    field: usize,
    shard: Option<&mut usize>,
    offset: Option<&mut u64>,
    len: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let (shard, offset, len) = (out(shard, "shard")?, out(offset, "offset")?, out(len, "len")?);
        let opened = live::<Opened>(dataset, "dataset")?;
        let field = index(field as u64, opened.dataset.fields().len(), "field")?;
        let sample = index(sample, opened.dataset.len() as usize, "sample")? as u64;
        let Some(extent) = opened.dataset.extent(sample, field) else {
            opened.dataset.check()?; // a damaged index knows of nothing
            return Ok(strait_status::Absent);
        };
        (*shard, *offset, *len) = (extent.shard as usize, extent.offset, extent.len);
        Ok(strait_status::Ok)
    })
}

/// What is not known, or not the same for all; the length of a field that a sample does not have.
pub const STRAIT_UNKNOWN: u64 = u64::MAX;
