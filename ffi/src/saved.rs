//! Saved checkpoints
//!
//! What a save has written, and how. It does not change. Texts live as long as its handle.

use std::ffi::{CString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use strait::weights::{Manifest, Saved};

use crate::call::{call, free, give, nth, out};
use crate::error::{c_string, strait_error};
use crate::handle::{Kind, live};
use crate::status::strait_status;

/// What was saved. Threads: any, at once.
pub struct strait_saved(());

pub(crate) struct Written {
    files: Vec<CString>,
    index: Option<CString>,
    manifest: Option<CString>,
    ring: CString,
    fallbacks: Vec<CString>,
    bytes: u64,
    direct: bool,
    pinned_bytes: u64,
}

impl Kind for Written {
    type Handle = strait_saved;
    const NAME: &'static str = "saved";
    const NUMBER: u8 = 15;
}

impl From<Saved> for Written {
    fn from(saved: Saved) -> Written {
        let path = |path: &PathBuf| c_string(path.as_os_str().as_bytes());
        Written {
            files: saved.files.iter().map(path).collect(),
            index: saved.index.as_ref().map(path),
            manifest: saved.manifest.as_ref().map(Manifest::to_json).map(c_string),
            ring: c_string(saved.ring),
            fallbacks: saved.fallbacks.iter().map(|fallback| c_string(fallback.to_string())).collect(),
            bytes: saved.bytes,
            direct: saved.direct,
            pinned_bytes: saved.pinned_bytes,
        }
    }
}

/// Gives it back; the files stay. NULL is fine; one that is not live is `STRAIT_STATUS_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn strait_saved_free(saved: *mut strait_saved) -> strait_status {
    free::<Written>(saved)
}

/// The number of files, and of the bytes of all of them, headers included. Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_saved_files(
    saved: *const strait_saved,
    files: Option<&mut usize>,
    bytes: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let written = live::<Written>(saved, "saved")?;
        give(files, written.files.len());
        give(bytes, written.bytes);
        Ok(())
    })
}

/// A file's path, by its number from 0.
#[unsafe(no_mangle)]
pub extern "C" fn strait_saved_file(
    saved: *const strait_saved,
    file: usize,
    path: Option<&mut *const c_char>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let path = out(path, "path")?;
        let written = live::<Written>(saved, "saved")?;
        *path = nth(&written.files, file, "file")?.as_ptr();
        Ok(())
    })
}

/// The path of the index (`model.safetensors.index.json`); `STRAIT_STATUS_ABSENT` where there is one file.
#[unsafe(no_mangle)]
pub extern "C" fn strait_saved_index(
    saved: *const strait_saved,
    path: Option<&mut *const c_char>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let path = out(path, "path")?;
        let written = live::<Written>(saved, "saved")?;
        let Some(index) = &written.index else { return Ok(strait_status::Absent) };
        *path = index.as_ptr();
        Ok(strait_status::Ok)
    })
}

/// The digests that `strait_save_digests` asked for, as a manifest that `strait_load_builder_verify` reads once it is in a
/// file: `len` bytes of JSON and a NUL. Names in it are relative to the files' directory. `STRAIT_STATUS_ABSENT` where none
/// were asked for. `len` may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_saved_manifest(
    saved: *const strait_saved,
    json: Option<&mut *const c_char>,
    len: Option<&mut usize>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let json = out(json, "json")?;
        let written = live::<Written>(saved, "saved")?;
        let Some(manifest) = &written.manifest else { return Ok(strait_status::Absent) };
        *json = manifest.as_ptr();
        give(len, manifest.as_bytes().len());
        Ok(strait_status::Ok)
    })
}

/// Which way the bytes took: the storage backend (`"uring"`, `"pread"`), whether the writes bypassed the page cache, and how
/// many bytes of host memory were pinned. Each output may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strait_saved_way(
    saved: *const strait_saved,
    ring: Option<&mut *const c_char>,
    direct: Option<&mut bool>,
    pinned_bytes: Option<&mut u64>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let written = live::<Written>(saved, "saved")?;
        give(ring, written.ring.as_ptr());
        give(direct, written.direct);
        give(pinned_bytes, written.pinned_bytes);
        Ok(())
    })
}

/// Something that was wanted and could not be had, by its number from 0: what was done instead, why, and what would change
/// it. `STRAIT_STATUS_OUT_OF_RANGE` behind the last.
#[unsafe(no_mangle)]
pub extern "C" fn strait_saved_fallback(
    saved: *const strait_saved,
    fallback: usize,
    value: Option<&mut *const c_char>,
    error: Option<&mut *mut strait_error>,
) -> strait_status {
    call(error, || {
        let value = out(value, "value")?;
        let written = live::<Written>(saved, "saved")?;
        *value = nth(&written.fallbacks, fallback, "fallback")?.as_ptr();
        Ok(())
    })
}
