//! Where sidecars are: beside their shards, or in a directory of their own where that cannot be written.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};

use crate::dataset::options::Options;
use crate::error::{Error, Result};

/// What the names of sidecars end in.
pub(crate) const ENDING: &str = ".strait";

/// Where a shard's sidecar may be, the likeliest first.
pub(in crate::dataset) fn place_for_reading(shard: &Path, options: &Options) -> Vec<PathBuf> {
    match &options.index_dir {
        Some(directory) => vec![apart(directory, shard)],
        None => [Some(beside(shard)), cache().map(|cache| apart(&cache, shard))].into_iter().flatten().collect(),
    }
}

/// Writes a shard's sidecar: beside it, or, where that is not allowed, in the cache directory. Where it is now.
///
/// # Errors
/// [`Error::Open`] if there is no place for it.
pub(in crate::dataset) fn write(shard: &Path, bytes: &[u8], options: &Options) -> Result<PathBuf> {
    let into = |directory: &Path| {
        fs::create_dir_all(directory).map_err(|e| Error::open(directory, &e))?;
        write_at(apart(directory, shard), bytes)
    };
    if let Some(directory) = &options.index_dir {
        return into(directory);
    }
    match (write_at(beside(shard), bytes), cache()) {
        (Err(Error::Open { errno: libc::EACCES | libc::EPERM | libc::EROFS, .. }), Some(cache)) => into(&cache),
        (written, _) => written,
    }
}

fn beside(shard: &Path) -> PathBuf {
    let mut name = OsString::from(shard);
    name.push(ENDING);
    name.into()
}

/// Shards of the same name in different directories have different sidecars.
fn apart(directory: &Path, shard: &Path) -> PathBuf {
    let full = fs::canonicalize(shard).unwrap_or_else(|_| shard.to_owned());
    let hash = xxhash_rust::xxh3::xxh3_64(full.as_os_str().as_bytes());
    let mut name = OsString::from(format!("{hash:016x}-"));
    // A name has 255 bytes at most.
    let own = full.file_name().unwrap_or_default().as_bytes();
    name.push(std::ffi::OsStr::from_bytes(&own[..own.len().min(200)]));
    name.push(ENDING);
    directory.join(name)
}

/// `$XDG_CACHE_HOME/strait`, or `~/.cache/strait`.
pub(in crate::dataset) fn cache() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    cache.map(|cache| cache.join("strait"))
}

/// Writes a sidecar so that there is the old one, or none, or the whole new one, whatever happens meanwhile. The new
/// file has no name until it is whole, so a killed process leaves none behind, where the file system can do that.
///
/// # Errors
/// [`Error::Open`] for the file that could not be written.
fn write_at(sidecar: PathBuf, bytes: &[u8]) -> Result<PathBuf> {
    let directory = sidecar.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = new_name(directory);
    let written = nameless(directory, &new, bytes).unwrap_or_else(|| named(&new, bytes));
    if let Err(e) = written.and_then(|()| fs::rename(&new, &sidecar)) {
        let _ = fs::remove_file(&new);
        return Err(Error::open(sidecar, &e));
    }
    // The name, too, is to outlast a power cut; a file system that cannot promise it has the file all the same.
    let _ = fs::File::open(directory).and_then(|directory| directory.sync_all());
    Ok(sidecar)
}

/// A name that no shard has, and no other process takes.
fn new_name(directory: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    directory.join(format!(".{}-{count}-{since:x}{ENDING}", std::process::id()))
}

/// Writes a file and then gives it a name; `None` where the file system wants names first.
fn nameless(directory: &Path, new: &Path, bytes: &[u8]) -> Option<io::Result<()>> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = fs::File::from(open(directory, flags, Mode::from_raw_mode(0o666)).ok()?);
    let whole = file.write_all(bytes).and_then(|()| file.sync_all());
    if whole.is_err() {
        return Some(whole);
    }
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, own, CWD, new, AtFlags::SYMLINK_FOLLOW).ok().map(Ok)
}

fn named(new: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create_new(new)?;
    file.write_all(bytes)?;
    file.sync_all()
}
