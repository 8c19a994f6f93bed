//! Checkpoints
//!
//! Safetensors files, by their headers: what tensors there are, and where. A checkpoint does not change and holds no file
//! open. Texts and arrays that it gives out live as long as its handle. A name or an entry of `__metadata__` with a NUL in it,
//! which the format allows and C's texts do not, is refused: `STRAIT_STATUS_FORMAT`.

use std::ffi::{CString, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use strait::safetensors::METADATA;
use strait::weights::Checkpoint;

use crate::call::{array, c_str, call, free, give, index, nth, out, text};
use crate::error::{Failure, c_string, strait_error, whole};
use crate::handle::{Kind, live, register};
use crate::status::strait_status;

/// One or more safetensors files whose tensors have distinct names. Threads: any, at once.
pub struct strait_checkpoint(());

pub(crate) struct Listed {
    pub(crate) checkpoint: Checkpoint,
    names: Vec<CString>,
    dtypes: Vec<CString>,
    metadata: Vec<(CString, CString)>,
    paths: Vec<CString>,
}

impl Kind for Listed {
    type Handle = strait_checkpoint;
    const NAME: &'static str = "checkpoint";
    const NUMBER: u8 = 10;
}

impl Listed {
    fn new(checkpoint: Checkpoint) -> Result<Listed, Failure> {
        let files = checkpoint.files();
        let names = checkpoint.tensors().iter().map(|tensor| {
            whole(
                &tensor.name,
                || format!("the name of tensor {:?}", tensor.name),
                Some(&files[tensor.shard as usize].path),
            )
        });
        let names = names.collect::<Result<_, _>>()?;
        let dtypes = checkpoint.tensors().iter().map(|tensor| c_string(tensor.dtype.name())).collect();
        let entries = files.iter().flat_map(|file| file.metadata.iter().map(move |entry| (file, entry)));
        let metadata = entries.map(|(file, (key, value))| {
            let what = || format!("entry {key:?} of {METADATA}");
            Ok((whole(key, what, Some(&file.path))?, whole(value, what, Some(&file.path))?))
        });
        let metadata = metadata.collect::<Result<_, Failure>>()?;
        let paths = files.iter().map(|file| c_string(file.path.as_os_str().as_bytes())).collect();
        Ok(Listed { checkpoint, names, dtypes, metadata, paths })
    }
}

/// Opens a safetensors file, an index (`model.safetensors.index.json`), or a directory with one or the other. Reads headers
/// only. Give it back with `strait_checkpoint_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_checkpoint_open(
    path: *const c_char,
    checkpoint: Option<&mut *mut strait_checkpoint>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let checkpoint = out(checkpoint, "checkpoint")?;
        // SAFETY: a C string, as the header's conventions say.
        let path = OsStr::from_bytes(unsafe { c_str(path, "path") }?.to_bytes());
        *checkpoint = register(Listed::new(Checkpoint::open(path)?)?)?;
        Ok(())
    })
}

/// Opens `count` files as one checkpoint, without an index.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_checkpoint_open_files(
    paths: *const *const c_char,
    count: usize,
    checkpoint: Option<&mut *mut strait_checkpoint>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let checkpoint = out(checkpoint, "checkpoint")?;
        // SAFETY: `count` C strings, as the header's conventions say.
        let paths = unsafe { array(paths, count, "paths") }?.iter().map(|&path| {
            // SAFETY: as above.
            Ok(OsStr::from_bytes(unsafe { c_str(path, "paths") }?.to_bytes()).into())
        });
        let paths: Vec<PathBuf> = paths.collect::<Result<_, Failure>>()?;
        *checkpoint = register(Listed::new(Checkpoint::open_files(&paths)?)?)?;
        Ok(())
    })
}

/// Gives a checkpoint back. Loads of it keep what they need. NULL is fine; one that is not live is
/// `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_checkpoint_free(checkpoint: *mut strait_checkpoint) -> strait_status {
    free::<Listed>(checkpoint)
}

/// The number of tensors, and of the bytes of all of them. Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_checkpoint_tensors(
    checkpoint: *const strait_checkpoint,
    tensors: Option<&mut usize>,
    bytes: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let listed = live::<Listed>(checkpoint, "checkpoint")?;
        give(tensors, listed.names.len());
        give(bytes, listed.checkpoint.bytes());
        Ok(())
    })
}

/// The number of the tensor of that name; `STRAIT_STATUS_NOT_FOUND` if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strait_checkpoint_find(
    checkpoint: *const strait_checkpoint,
    name: *const c_char,
    tensor: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let tensor = out(tensor, "tensor")?;
        let listed = live::<Listed>(checkpoint, "checkpoint")?;
        // SAFETY: a C string, as the header's conventions say.
        let name = unsafe { text(name, "name") }?;
        *tensor = number_of(&listed.checkpoint, name).ok_or_else(|| no_tensor(name))?;
        Ok(())
    })
}

/// A tensor by its number: name, type of its elements (`"bf16"`), bytes. Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_checkpoint_tensor(
    checkpoint: *const strait_checkpoint,
    tensor: usize,
    name: Option<&mut *const c_char>,
    dtype: Option<&mut *const c_char>,
    bytes: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let listed = live::<Listed>(checkpoint, "checkpoint")?;
        let tensor = index(tensor as u64, listed.names.len(), "tensor")?;
        give(name, listed.names[tensor].as_ptr());
        give(dtype, listed.dtypes[tensor].as_ptr());
        give(bytes, listed.checkpoint.tensors()[tensor].bytes);
        Ok(())
    })
}

/// A tensor's shape: `ndim` lengths at `shape`, the first dimension outermost; 0 of them for a single element.
#[unsafe(no_mangle)]
pub extern "C" fn strait_checkpoint_shape(
    checkpoint: *const strait_checkpoint,
    tensor: usize,
    shape: Option<&mut *const u64>,
    ndim: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let (shape, ndim) = (out(shape, "shape")?, out(ndim, "ndim")?);
        let listed = live::<Listed>(checkpoint, "checkpoint")?;
        let tensor = index(tensor as u64, listed.names.len(), "tensor")?;
        let own = &listed.checkpoint.tensors()[tensor].shape;
        (*shape, *ndim) = (own.as_ptr(), own.len());
        Ok(())
    })
}

/// Where a tensor's bytes lie: the number of the file, and the first byte in it. Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_checkpoint_extent(
    checkpoint: *const strait_checkpoint,
    tensor: usize,
    file: Option<&mut usize>,
    offset: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let listed = live::<Listed>(checkpoint, "checkpoint")?;
        let own = &listed.checkpoint.tensors()[index(tensor as u64, listed.names.len(), "tensor")?];
        give(file, own.shard as usize);
        give(offset, own.offset);
        Ok(())
    })
}

/// The number of files.
#[unsafe(no_mangle)]
pub extern "C" fn strait_checkpoint_files(
    checkpoint: *const strait_checkpoint,
    files: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let files = out(files, "files")?;
        *files = live::<Listed>(checkpoint, "checkpoint")?.paths.len();
        Ok(())
    })
}

/// A file's path, and its size in bytes. Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_checkpoint_file(
    checkpoint: *const strait_checkpoint,
    file: usize,
    path: Option<&mut *const c_char>,
    bytes: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let listed = live::<Listed>(checkpoint, "checkpoint")?;
        let file = index(file as u64, listed.paths.len(), "file")?;
        give(path, listed.paths[file].as_ptr());
        give(bytes, listed.checkpoint.files()[file].bytes);
        Ok(())
    })
}

/// An entry of what the files' writers had to say (`__metadata__`), by its number from 0, file by file;
/// `STRAIT_STATUS_OUT_OF_RANGE` behind the last.
#[unsafe(no_mangle)]
pub extern "C" fn strait_checkpoint_metadata(
    checkpoint: *const strait_checkpoint,
    entry: usize,
    key: Option<&mut *const c_char>,
    value: Option<&mut *const c_char>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let (key, value) = (out(key, "key")?, out(value, "value")?);
        let listed = live::<Listed>(checkpoint, "checkpoint")?;
        let own = nth(&listed.metadata, entry, "entry")?;
        (*key, *value) = (own.0.as_ptr(), own.1.as_ptr());
        Ok(())
    })
}

/// The number of the tensor of that name.
pub(crate) fn number_of(checkpoint: &Checkpoint, name: &str) -> Option<usize> {
    let found = checkpoint.tensor(name)?;
    // The tensor is an element of that very array.
    let first = checkpoint.tensors().as_ptr();
    Some((std::ptr::from_ref(found).addr() - first.addr()) / size_of_val(found))
}

pub(crate) fn no_tensor(name: &str) -> Failure {
    Failure::new(strait_status::NotFound, format!("name: there is no tensor {name:?}"))
}
