//! Files that the CPU reads: indexes, headers, manifests.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Result};

/// Opens a regular file that this process may read, and says its size; anything else is an error that says what it is.
pub(crate) fn open_file(path: &Path) -> Result<(File, u64)> {
    let open_error = |e| Error::open(path, &e);
    // Asked before opening: opening a pipe would wait for its writer.
    let meta = std::fs::metadata(path).map_err(open_error)?;
    if meta.is_dir() {
        return Err(Error::Open { path: path.into(), errno: libc::EISDIR });
    }
    if !meta.is_file() {
        let problem = "a pipe, socket or device, and no regular file: store in one what it gives, and name that";
        return Err(Error::format(path, None, problem));
    }
    let file = File::open(path).map_err(open_error)?;
    let bytes = file.metadata().map_err(open_error)?.len();
    Ok((file, bytes))
}

/// Fills `buffer` from `offset` on; how many bytes there were, which is less only at the end of the file.
pub(crate) fn read_at(file: &File, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize> {
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
pub(crate) fn read_whole(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let (file, bytes) = open_file(path)?;
    if bytes > bytes_max {
        let problem = format!("{bytes} bytes; at most {bytes_max} are read: is this the right file?");
        return Err(Error::format(path, None, problem));
    }
    let mut whole = vec![0; bytes as usize];
    match read_at(&file, path, 0, &mut whole)? as u64 {
        got if got == bytes => Ok(whole),
        got => Err(Error::Truncated { path: path.into(), offset: 0, want: bytes, got }),
    }
}
