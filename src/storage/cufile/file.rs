//! A file as cuFile knows it.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::library::{Answer, Description, File, Handle, KIND_FD, Library};

/// A file that is registered with cuFile. It has a descriptor of its own: the one it was made from may be closed, and its
/// number used again, while cuFile still has this.
pub(super) struct OpenFile {
    library: &'static Library,
    handle: Handle,
    /// Closed after the registration was taken back.
    _file: OwnedFd,
}

impl OpenFile {
    /// Registers the file; else gives an errno, or cuFile's code.
    pub(super) fn new(library: &'static Library, fd: RawFd) -> Result<OpenFile, i32> {
        let errno = || std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EBADF);
        // SAFETY: duplicating takes no pointer.
        let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
        if own < 0 {
            return Err(errno());
        }
        // SAFETY: the descriptor is fresh and has no other owner.
        let file = unsafe { OwnedFd::from_raw_fd(own) };
        // SAFETY: an all-zero stat is a valid value of that plain C struct.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the struct outlives the call.
        if unsafe { libc::fstat(file.as_raw_fd(), &raw mut stat) } != 0 {
            return Err(errno());
        }
        if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            return Err(libc::EISDIR);
        }
        let mut handle = std::ptr::null_mut();
        let mut description =
            Description { kind: KIND_FD, file: File { handle: std::ptr::null_mut() }, operations: std::ptr::null() };
        description.file.fd = file.as_raw_fd();
        // SAFETY: both structs outlive the call, and the descriptor outlives the registration.
        match unsafe { (library.handle_register)(&mut handle, &mut description) } {
            Answer { code: 0, .. } => Ok(OpenFile { library, handle, _file: file }),
            Answer { code, .. } => Err(code),
        }
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // SAFETY: registered in `new`; reads of it have ended, or it is forgotten instead of dropped.
        unsafe { (self.library.handle_deregister)(self.handle) };
    }
}
