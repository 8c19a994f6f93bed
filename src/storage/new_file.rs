//! A file that appears whole or not at all.

use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{WriteFile, dio_align};
use crate::error::{Error, Result};
use crate::stats::Fallback;

/// What names begin and end with that belong to a save under way, or to one that was killed.
const PREFIX: &str = ".strait-save-";
const SUFFIX: &str = ".tmp";
/// Offsets and lengths of direct writes are multiples of this: the largest sector in use.
pub(crate) const DIRECT_ALIGN: u64 = 4096;

/// The file to be. Dropped before [`NewFile::publish`], it is gone.
pub(crate) struct NewFile {
    file: Arc<WriteFile>,
    path: PathBuf,
    directory: PathBuf,
    /// Its name until it has the one that it is to have; none as long as it has no name at all.
    temporary: Option<PathBuf>,
    /// Whether the file system says that it writes directly: else a ring would hand every write to a kernel worker.
    takes_ring: bool,
    fallback: Option<Fallback>,
}

impl NewFile {
    /// A new file in the directory of `path`, of this mode or the usual one. What killed saves have left there is removed.
    pub(crate) fn create(path: &Path, mode: Option<u32>) -> Result<NewFile> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if path.file_name().is_none() || path.is_dir() {
            return Err(Error::Open { path: path.into(), errno: libc::EISDIR });
        }
        remove_leftovers(&directory);
        let failed = |e: io::Error| Error::open(path, &e);
        let mut direct = true;
        let mut opened = open(&directory, libc::O_DIRECT);
        if opened.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL)) {
            direct = false;
            opened = open(&directory, 0);
        }
        let (file, temporary) = opened.map_err(failed)?;
        let set = mode.map(|mode| file.set_permissions(Permissions::from_mode(mode)));
        if let Some(Err(error)) = set {
            let _ = temporary.map(std::fs::remove_file);
            return Err(failed(error));
        }
        let align = if direct { dio_align(&file) } else { Some(0) };
        let usable = align.is_none_or(|align| align > 0 && align <= DIRECT_ALIGN);
        let file = WriteFile::new(path.into(), file, align.unwrap_or(DIRECT_ALIGN), direct);
        if direct && !usable {
            file.demote();
        }
        let takes_ring = file.is_direct() && align.is_some();
        let fallback = (!file.is_direct()).then(|| buffered(path, if direct { "statx" } else { "open" }));
        Ok(NewFile { file: Arc::new(file), path: path.to_owned(), directory, temporary, takes_ring, fallback })
    }

    /// A small file, ready to be published.
    pub(crate) fn small(path: &Path, bytes: &[u8], mode: Option<u32>) -> Result<NewFile> {
        let new = NewFile::create(path, mode)?;
        if new.is_direct() {
            new.file.demote();
        }
        let mut file = new.file.file();
        io::Write::write_all(&mut file, bytes)
            .map_err(|e| new.failure(format!("write of {} bytes", bytes.len()), &e))?;
        new.seal(bytes.len() as u64)?;
        Ok(new)
    }

    pub(crate) fn file(&self) -> &Arc<WriteFile> {
        &self.file
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.file.is_direct()
    }

    pub(crate) fn takes_ring(&self) -> bool {
        self.takes_ring
    }

    pub(crate) fn fallback(&self) -> Option<Fallback> {
        self.fallback.clone()
    }

    /// Gives the file its length, and the space for it where the file system can: running out of it shows before the
    /// first write then, and writes need not extend the file one after another.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<()> {
        let padded = bytes.next_multiple_of(DIRECT_ALIGN) as libc::off_t;
        // SAFETY: an open file and numbers; no memory is involved.
        let reserved = retried(|| unsafe { libc::fallocate(self.file.file().as_raw_fd(), 0, 0, padded) });
        match reserved.map_err(|e| e.raw_os_error().unwrap_or(libc::EIO)) {
            Ok(()) => Ok(()),
            Err(libc::EOPNOTSUPP | libc::ENOSYS) => {
                let set = self.file.file().set_len(padded as u64);
                set.map_err(|e| self.failure(format!("setting the length to {padded} bytes"), &e))
            }
            Err(errno) => Err(self.explain(self.file.failure(format!("reserving {padded} bytes"), 0, errno), bytes)),
        }
    }

    /// Says how much is missing where space ran out.
    pub(crate) fn explain(&self, error: Error, bytes: u64) -> Error {
        match error {
            Error::Write { path, offset, doing, errno: errno @ libc::ENOSPC } => {
                let held = allocated_bytes(self.file.file());
                let free = free_bytes(&self.directory).unwrap_or(0).saturating_add(held);
                let missing = bytes.next_multiple_of(DIRECT_ALIGN).saturating_sub(free).max(1);
                let doing = format!("{doing} of {bytes} in all, with room for {free}, {missing} bytes too few,");
                Error::Write { path, offset, doing, errno }
            }
            other => other,
        }
    }

    /// Cuts off what the last write had to write beyond the end, and has everything on stable storage when it returns.
    pub(crate) fn seal(&self, bytes: u64) -> Result<()> {
        let file = self.file.file();
        file.set_len(bytes).map_err(|e| self.failure(format!("cutting to {bytes} bytes"), &e))?;
        file.sync_all().map_err(|e| self.failure("fsync", &e))
    }

    /// Gives the file its name, in place of what has it now. The directory is not on stable storage yet.
    pub(crate) fn publish(mut self) -> Result<()> {
        if self.temporary.is_none() {
            self.temporary = Some(self.link().map_err(|e| self.failure("giving it a name", &e))?);
        }
        let temporary = self.temporary.as_ref().expect("just given");
        std::fs::rename(temporary, &self.path).map_err(|e| self.failure("renaming it", &e))?;
        self.temporary = None;
        Ok(())
    }

    /// A temporary name for a file without one: a rename needs one, and a link cannot replace what is there.
    fn link(&self) -> io::Result<PathBuf> {
        let own = CString::new(own_name(self.file.file())).expect("no zero in it");
        named(&self.directory, |name| {
            let name =
                CString::new(name.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
            let here = libc::AT_FDCWD;
            // SAFETY: both names are C strings that outlive the call.
            match unsafe { libc::linkat(here, own.as_ptr(), here, name.as_ptr(), libc::AT_SYMLINK_FOLLOW) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
        .map(|((), name)| name)
    }

    fn failure(&self, doing: impl Into<String>, error: &io::Error) -> Error {
        self.file.failure(doing, 0, error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = std::fs::remove_file(temporary); // else the next save removes it
        }
    }
}

/// Has the names in the directory of `path` on stable storage.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.or_else(|e| match e.raw_os_error() {
        Some(libc::EINVAL | libc::EROFS) => Ok(()), // a file system that has nothing to do for a directory
        errno => {
            let (doing, errno) = ("fsync of its directory".into(), errno.unwrap_or(libc::EIO));
            Err(Error::Write { path: path.into(), offset: 0, doing, errno })
        }
    })
}

/// A file without a name, where there is such a thing and it can be given one later; else one with a temporary name.
/// It is locked as long as it is open: that is how a save under way differs from one that was killed.
fn open(directory: &Path, flags: i32) -> io::Result<(File, Option<PathBuf>)> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o666);
    let unnamed = options.clone().custom_flags(flags | libc::O_TMPFILE).open(directory);
    match unnamed {
        Ok(file) if Path::new(&own_name(&file)).exists() => {
            keep(&file)?;
            return Ok((file, None));
        }
        // EISDIR, EOPNOTSUPP, EINVAL: the kernel or the file system has no such files.
        Err(e) if !matches!(e.raw_os_error(), Some(libc::EISDIR | libc::EOPNOTSUPP | libc::EINVAL)) => return Err(e),
        _ => {}
    }
    loop {
        let create = |name: &Path| options.clone().create_new(true).custom_flags(flags).open(name);
        let (file, name) = named(directory, create)?;
        keep(&file).inspect_err(|_| drop(std::fs::remove_file(&name)))?;
        // Between its creation and the lock another save may have taken it for a leftover.
        if name.exists() {
            return Ok((file, Some(name)));
        }
    }
}

/// Tries temporary names until `make` takes one that is free.
fn named<T>(directory: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = directory.join(format!("{PREFIX}{}-{number}{SUFFIX}", std::process::id()));
        match make(&name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|made| (made, name)),
        }
    }
}

/// Under which the kernel knows an open file.
fn own_name(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn lock(file: &File, how: i32) -> io::Result<()> {
    // SAFETY: an open file and a number; no memory is involved.
    retried(|| unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | how) })
}

/// Locks an own file; who looks for leftovers holds the lock for a moment only. Where the file system has no locks, nobody
/// gets one, and nothing is removed.
fn keep(file: &File) -> io::Result<()> {
    lock(file, 0).or_else(|e| match e.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => Ok(()),
        _ => Err(e),
    })
}

/// Removes temporary files that no living process has locked.
fn remove_leftovers(directory: &Path) {
    let is_ours = |name: &OsStr| {
        let name = name.to_string_lossy();
        name.starts_with(PREFIX) && name.ends_with(SUFFIX)
    };
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten().filter(|e| is_ours(&e.file_name())) {
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else { continue };
        if lock(&file, libc::LOCK_NB).is_ok() && std::fs::remove_file(entry.path()).is_ok() {
            tracing::info!(path = %entry.path().display(), "removed what a save that was killed had left");
        }
    }
}

/// Calls again after EINTR.
fn retried(mut call: impl FnMut() -> i32) -> io::Result<()> {
    loop {
        if call() == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// How many more files this process may open, but for a few that others need, and its limit.
pub(crate) fn open_files_room() -> Option<(u64, u64)> {
    const OTHERS: u64 = 16;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit outlives the call.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    (answer == 0).then(|| (limit.rlim_cur.saturating_sub(open + OTHERS), limit.rlim_cur))
}

/// What an ordinary user may still take up on the file system of a directory.
fn free_bytes(directory: &Path) -> Option<u64> {
    let path = CString::new(directory.as_os_str().as_bytes()).ok()?;
    // SAFETY: an all-zero statvfs is a valid value of that plain C struct.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string, the result outlives the call.
    let answer = unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) };
    (answer == 0).then(|| (stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}

fn allocated_bytes(file: &File) -> u64 {
    use std::os::unix::fs::MetadataExt;
    file.metadata().map_or(0, |meta| meta.blocks().saturating_mul(512))
}

fn buffered(path: &Path, call: &str) -> Fallback {
    Fallback {
        instead: "buffered writes by threads instead of direct writes".into(),
        reason: format!("{}: {call} says that this file system has none", path.display()),
        errno: None,
        remedy: "save to a file system with O_DIRECT (ext4, XFS) to keep the page cache out of it",
    }
}
