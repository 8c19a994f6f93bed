//! A directory in memory to measure from: one that is there, else one of our own. Containers often have 64 MiB in /dev/shm and no
//! other.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Less is not worth measuring from.
const BYTES_MIN: u64 = 512 << 20;

/// Where a tmpfs is mounted for all to write to, by `/proc/mounts`, the usual places first.
pub(crate) fn mounted(mounts: &str) -> Vec<PathBuf> {
    const USUAL: [&str; 3] = ["/dev/shm", "/tmp", "/run"];
    let is_memory = |line: &&str| {
        let mut fields = line.split(' ').skip(2);
        fields.next() == Some("tmpfs") && fields.next().is_some_and(|options| options.split(',').any(|one| one == "rw"))
    };
    let is_the_systems = |place: &str| {
        place != "/dev/shm" && ["/dev", "/proc", "/sys"].iter().any(|system| Path::new(place).starts_with(system))
    };
    let places = mounts.lines().filter(is_memory).filter_map(|line| line.split(' ').nth(1));
    let mut places: Vec<&str> = places.filter(|place| !is_the_systems(place)).collect();
    places.sort_by_key(|place| USUAL.iter().position(|usual| usual == place).unwrap_or(USUAL.len()));
    places.into_iter().map(PathBuf::from).collect()
}

/// The first of those in the text of `/proc/mounts` that has room.
pub(crate) fn found(mounts: &str) -> Option<PathBuf> {
    mounted(mounts).into_iter().find(|place| has_room(place))
}

/// Whether it is a tmpfs with [`BYTES_MIN`] to spare, which we may write to.
pub(crate) fn has_room(place: &Path) -> bool {
    let Ok(path) = CString::new(place.as_os_str().as_bytes()) else { return false };
    // SAFETY: statfs is plain data for which all-zero is valid; path and place outlive the calls.
    let (status, may_write) = unsafe {
        let mut status: libc::statfs = std::mem::zeroed();
        let known = libc::statfs(path.as_ptr(), &mut status) == 0;
        (known.then_some(status), libc::access(path.as_ptr(), libc::W_OK) == 0)
    };
    status.is_some_and(|status| {
        let room = status.f_bavail * status.f_bsize as u64;
        may_write && status.f_type as u64 == libc::TMPFS_MAGIC as u64 && room >= BYTES_MIN
    })
}

/// A tmpfs that this thread, and what it starts from now on, alone sees mounted.
pub(crate) struct Own(TempDir);

impl Own {
    /// For those who may mount something, as root of most virtual machines may.
    pub(crate) fn mount(beneath: &Path) -> io::Result<Own> {
        let directory = tempfile::Builder::new().prefix("memory-").tempdir_in(beneath)?;
        let place = CString::new(directory.path().as_os_str().as_bytes())?;
        // SAFETY: plain system calls, on strings that outlive them. In the mount namespace that the first makes, which the second
        // parts from that around it, nobody else is disturbed.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            check(mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE))?;
            check(mount(c"tmpfs", &place, libc::MS_NOSUID | libc::MS_NODEV))?;
        }
        Ok(Own(directory))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// # Safety
/// As `mount(2)`.
unsafe fn mount(kind: &CStr, place: &CStr, flags: libc::c_ulong) -> i32 {
    // SAFETY: the caller's promise; there are no options.
    unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) }
}

fn check(code: i32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Ok(place) = CString::new(self.0.path().as_os_str().as_bytes()) {
            // SAFETY: a plain system call; what is still open there stays readable.
            unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
        }
    }
}
