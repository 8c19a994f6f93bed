//! Raw shards that strait made of compressed ones: what they are called, and how they come to be there.
//!
//! ```text
//! shard.00000.mds.zstd  --->  .shard.00000.mds.<which shard>-<made of what>.mds    beside it; in INDEX_DIR; or in the
//!                                                                                   cache directory where it is denied
//! ```
//! The second hash is of the compressed file's size and time and of what the index says of both, so that another
//! compressed shard becomes another raw one; the one before goes then. A raw shard appears whole or not at all, and never
//! in place of a file that is there: an index may name any file, but no name of strait's own.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, fallocate, linkat, open, renameat_with};
use rustix::io::Errno;
use xxhash_rust::xxh3::xxh3_64;

use super::compressed::Zip;
use crate::dataset::options::Options;
use crate::dataset::sidecar::cache;
use crate::error::{Error, Result};

/// A directory, and what a shard's raw form is called there but for what it is made of.
pub(super) struct Place {
    directory: PathBuf,
    name: String,
}

/// Where the raw form of a shard may be, the likeliest first.
pub(super) fn places(zip: &Zip, options: &Options) -> Result<Vec<Place>> {
    let basename = zip.raw.basename.as_str();
    let own = Path::new(basename).file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A name has 255 bytes at most; which shard it is of says the hash.
    let own: String = own.chars().take(40).collect();
    let parent = zip.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let place =
        |directory: PathBuf, which: &[u8]| Place { directory, name: format!(".{own}.{:016x}-", xxh3_64(which)) };
    let full = fs::canonicalize(zip.path).map_err(|e| Error::open(zip.path, &e))?;
    // Shards of all datasets are called alike.
    let apart = |directory: &Path| {
        place(directory.to_owned(), &[full.as_os_str().as_bytes(), b"\0", basename.as_bytes()].concat())
    };
    Ok(match &options.index_dir {
        Some(directory) => vec![apart(directory)],
        // A dataset that moves takes these along.
        None => [Some(place(parent.to_owned(), basename.as_bytes())), cache().map(|cache| apart(&cache))]
            .into_iter()
            .flatten()
            .collect(),
    })
}

/// A number for all that decides what the raw shard is.
pub(super) fn made_of(file: &File, zip: &Zip) -> Result<u64> {
    let meta = file.metadata().map_err(|e| Error::open(zip.path, &e))?;
    let when = (meta.len(), meta.mtime(), meta.mtime_nsec());
    Ok(xxh3_64(format!("{:?}", (when, zip.compression, zip.stored, zip.raw)).as_bytes()))
}

/// Whether writing there is not allowed, which another directory may be the answer to.
pub(super) fn is_denied(error: &Error) -> bool {
    matches!(error, Error::Write { errno: libc::EACCES | libc::EPERM | libc::EROFS, .. })
}

impl Place {
    fn path(&self, made_of: u64) -> PathBuf {
        self.directory.join(format!("{}{made_of:016x}.mds", self.name))
    }

    /// The raw shard, if it is there.
    pub(super) fn there(&self, made_of: u64, bytes: u64) -> Result<Option<PathBuf>> {
        let path = self.path(made_of);
        // Not what a link leads to: strait makes none.
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() && meta.len() == bytes => Ok(Some(path)),
            Ok(_) => {
                let problem = format!("this is not the raw shard of {bytes} bytes that strait makes: remove it");
                Err(Error::format(path, None, problem))
            }
            Err(_) => Ok(None),
        }
    }

    /// A new file of so many bytes, which has this name once it is whole.
    pub(super) fn begin(&self, made_of: u64, bytes: u64) -> Result<New> {
        let target = self.path(made_of);
        let failed = |e: io::Error| failed(&target, &e);
        fs::create_dir_all(&self.directory).map_err(failed)?;
        // Without a name until it is whole, where the file system can do that, a killed process leaves nothing behind.
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let (file, named) = match open(&self.directory, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => (File::from(file), None),
            Err(_) => {
                let name = new_name(&self.directory, &self.name);
                (File::create_new(&name).map_err(failed)?, Some(name))
            }
        };
        let new = New { file, target, named };
        reserve(&new.file, bytes).map_err(|e| new.failed(&e))?;
        Ok(new)
    }

    /// Removes what was made of the same shard when it was another.
    pub(super) fn remove_others(&self, made_of: u64) {
        let now = format!("{:016x}", made_of);
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let rest = name.to_str().and_then(|name| name.strip_prefix(&self.name));
            let other = rest.and_then(|rest| Some((rest.get(..16)?, rest.get(16..)?)));
            let hex = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            if other.is_some_and(|(of, end)| hex(of) && of != now && [".mds", ".mds.strait"].contains(&end)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// A raw shard that is being written; gone if it is not finished.
pub(super) struct New {
    pub(super) file: File,
    target: PathBuf,
    /// What it is called meanwhile, where it has to have a name.
    named: Option<PathBuf>,
}

impl New {
    /// Gives it its name, unless someone else has made the same meanwhile.
    pub(super) fn finish(self, bytes: u64) -> Result<PathBuf> {
        let given = match &self.named {
            None => linkat(
                CWD,
                format!("/proc/self/fd/{}", self.file.as_raw_fd()),
                CWD,
                &self.target,
                AtFlags::SYMLINK_FOLLOW,
            ),
            Some(name) => match renameat_with(CWD, name, CWD, &self.target, RenameFlags::NOREPLACE) {
                // Not every file system can.
                Err(Errno::INVAL | Errno::NOSYS) => linkat(CWD, name, CWD, &self.target, AtFlags::empty()),
                renamed => renamed,
            },
        };
        match given {
            Ok(()) => Ok(self.target.clone()),
            Err(Errno::EXIST) if fs::symlink_metadata(&self.target).is_ok_and(|m| m.is_file() && m.len() == bytes) => {
                Ok(self.target.clone())
            }
            Err(e) => Err(self.failed(&e.into())),
        }
    }

    pub(super) fn failed(&self, e: &io::Error) -> Error {
        failed(&self.target, e)
    }
}

impl Drop for New {
    fn drop(&mut self) {
        self.named.iter().for_each(|name| drop(fs::remove_file(name)));
    }
}

fn failed(target: &Path, e: &io::Error) -> Error {
    Error::Write {
        path: target.into(),
        offset: 0,
        doing: "decompressing a shard into it, for which --index-dir names another place,".into(),
        errno: e.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// A name that no one else has: several processes, and several threads of one, may decompress the same shard.
fn new_name(directory: &Path, name: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    directory.join(format!("{name}{}-{}.strait", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
}

fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes.max(1)) {
        // Not every file system can; then a full disk shows later.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) | Ok(()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
