//! The files of a dataset: opening them, and going through many side by side.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// Opens a regular file that this process may read, and says its size; anything else is an error that says what it is.
pub(super) fn open_file(path: &Path) -> Result<(File, u64)> {
    let open_error = |e| Error::open(path, &e);
    // Asked before opening: opening a pipe would wait for its writer.
    let meta = std::fs::metadata(path).map_err(open_error)?;
    if meta.is_dir() {
        return Err(Error::Open { path: path.into(), errno: libc::EISDIR });
    }
    if !meta.is_file() {
        return Err(Error::format(path, 0, "not a regular file: name a file on a file system"));
    }
    let file = File::open(path).map_err(open_error)?;
    let bytes = file.metadata().map_err(open_error)?.len();
    Ok((file, bytes))
}

/// Fills `buffer` from `offset` on; how many bytes there were, which is less only at the end of the file.
pub(super) fn read_at(file: &File, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                let errno = e.raw_os_error().unwrap_or(libc::EIO);
                return Err(Error::Io { path: path.into(), offset, bytes: buffer.len() as u64, errno });
            }
        }
    }
    Ok(got)
}

/// All of a file of at most `bytes_max`.
pub(super) fn read_whole(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let (file, bytes) = open_file(path)?;
    if bytes > bytes_max {
        let problem = format!("{bytes} bytes; at most {bytes_max} are read: is this the right file?");
        return Err(Error::format(path, 0, problem));
    }
    let mut whole = vec![0; bytes as usize];
    match read_at(&file, path, 0, &mut whole)? as u64 {
        got if got == bytes => Ok(whole),
        got => Err(Error::Truncated { path: path.into(), offset: 0, want: bytes, got }),
    }
}

/// How many shards are looked at at a time: it waits for storage more than it computes, so this is not the number of
/// processors, and it bounds the open files.
const THREADS_MAX: usize = 16;

/// Does the same for each of `all`, side by side. The first that fails, in their order, is the error.
pub(super) fn side_by_side<S: Sync, T: Send>(all: &[S], each: impl Fn(&S) -> Result<T> + Sync) -> Result<Vec<T>> {
    side_by_side_with(0, all, each)
}

/// As [`side_by_side`], by at most so many threads; 0: as many as wait for storage well.
pub(super) fn side_by_side_with<S: Sync, T: Send>(
    threads: usize,
    all: &[S],
    each: impl Fn(&S) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let threads = if threads == 0 { THREADS_MAX } else { threads };
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    // They are begun in order and always finished, so nothing before the first failure is left undone.
    let work = || {
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(one) = all.get(i) else { break };
            let result = each(one);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.push((i, result));
        }
        done
    };
    let mut results = std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().name("strait-index".into()).spawn_scoped(scope, work);
        // This thread works too, so a machine that gives no more threads only takes longer.
        let others: Vec<_> = (1..all.len().min(threads)).map_while(|i| spawn(i).ok()).collect();
        let mut results = work();
        for other in others {
            results.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    });
    results.sort_unstable_by_key(|&(i, _)| i);
    results.into_iter().map(|(_, result)| result).collect()
}
