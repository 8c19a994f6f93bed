//! A real read before cuFile is trusted: 4 KiB and 1 MiB of a shard, compared with what pread gives.

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::time::Duration;

use super::disk::other_than_nvme;
use super::driver::{Driver, Enter, check, refusal};
use super::file::OpenFile;
use super::{Cufile, library::Library};
use crate::error::{Result, errno_text};
use crate::machine;
use crate::stats::Fallback;

/// `statfs` numbers of the file systems that nvidia-fs and PCI peer-to-peer DMA read directly when they lie on NVMe
/// drives (linux/magic.h). All else is read in cuFile's compatibility mode where that is allowed, and nothing tells.
const DIRECT_FILE_SYSTEMS: [(i64, &str); 2] = [(0xEF53, "ext4"), (0x5846_5342, "XFS")];

impl Cufile {
    /// What [`trial`](Cufile::trial) needs of memory that cuFile can write to.
    pub const TRIAL_BYTES: usize = 1 << 20;

    /// Reads the start of `shard` into `target` by cuFile, and compares what `read_back` finds there with what pread gives.
    /// May take as long as a driver that does not answer: call it on a thread that can be left behind.
    ///
    /// # Safety
    /// `target` is [`TRIAL_BYTES`](Cufile::TRIAL_BYTES) of memory that nobody else uses, and that is never freed if this
    /// does not return.
    pub unsafe fn trial(
        shard: &Path,
        target: NonNull<u8>,
        read_back: &mut dyn FnMut(&mut [u8]) -> Result<()>,
        compat: bool,
        enter: &Enter,
        deadline: Duration,
    ) -> Result<(), Fallback> {
        let plain = File::open(shard).map_err(|error| cannot_open(shard, &error))?;
        // Before the driver is opened, which takes most of a second, and leaves a cufile.log in the working directory.
        if !compat {
            reads_directly(shard, &plain)?;
        }
        let Driver { library, .. } = Driver::open(enter, compat, deadline)?;
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(shard);
        let direct = match opened {
            Ok(file) => file,
            Err(_) if compat => plain.try_clone().map_err(|error| cannot_open(shard, &error))?,
            Err(error) => return Err(cannot_open(shard, &error)),
        };
        let file = OpenFile::new(library, direct.as_raw_fd()).map_err(|code| {
            let reason = format!("{}: {}", shard.display(), errno_text(code));
            refusal(reason, "see cufile.log in the working directory; run `strait doctor`", Some(code))
        })?;
        let registered = Buffer::new(library, target)?;
        for bytes in [4096, Cufile::TRIAL_BYTES] {
            let mut expected = vec![0; bytes];
            let want = read_up_to(&plain, &mut expected).map_err(|error| cannot_open(shard, &error))?;
            // SAFETY: the caller's promise; the buffer is registered and lives until the call has returned.
            let got = unsafe { (library.read)(file.handle(), target.as_ptr().cast(), bytes, 0, 0) };
            if got != want as isize {
                let errno = (got < 0).then(|| if got == -1 { last_errno() } else { -got as i32 });
                let reason = format!("{}: a trial read gave {got} in place of {want}", shard.display());
                return Err(refusal(reason, "see cufile.log in the working directory", errno));
            }
            let mut found = vec![0; want];
            read_back(&mut found).map_err(|error| refusal(error.to_string(), "", None))?;
            if found != expected[..want] {
                let reason = format!("{}: cuFile read other bytes than pread", shard.display());
                return Err(refusal(reason, "do not use cuFile on this machine; report it to NVIDIA", None));
            }
        }
        drop(registered);
        Ok(())
    }
}

fn reads_directly(shard: &Path, file: &File) -> Result<(), Fallback> {
    // SAFETY: an all-zero statfs is a valid value of that plain C struct.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the struct outlives the call.
    let answer = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) };
    let what = if answer == 0 && DIRECT_FILE_SYSTEMS.iter().any(|&(number, _)| number == stat.f_type as i64) {
        let device = file.metadata().map_err(|error| cannot_open(shard, &error))?.dev();
        let Some(other) = other_than_nvme(machine::root(), device) else { return Ok(()) };
        format!("on {other}")
    } else {
        format!("neither {}", DIRECT_FILE_SYSTEMS.map(|(_, name)| name).join(" nor "))
    };
    let reason = format!("{}: {what}: cuFile may read it in compatibility mode, and not say so", shard.display());
    Err(refusal(reason, "keep the shards on ext4 or XFS on a local NVMe drive, or ask for the ring `cufile`", None))
}

fn cannot_open(shard: &Path, error: &std::io::Error) -> Fallback {
    refusal(format!("{}: a trial read: {error}", shard.display()), "check the file", error.raw_os_error())
}

fn read_up_to(file: &File, target: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while got < target.len() {
        match file.read_at(&mut target[got..], got as u64)? {
            0 => break,
            bytes => got += bytes,
        }
    }
    Ok(got)
}

fn last_errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Memory that is registered with cuFile.
struct Buffer(&'static Library, NonNull<u8>);

impl Buffer {
    fn new(library: &'static Library, target: NonNull<u8>) -> Result<Buffer, Fallback> {
        // SAFETY: the memory outlives the registration, by the promise of `trial`'s caller.
        check("cuFileBufRegister", unsafe {
            (library.buffer_register)(target.as_ptr().cast(), Cufile::TRIAL_BYTES, 0)
        })?;
        Ok(Buffer(library, target))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: registered in `new`; the read has returned.
        unsafe { (self.0.buffer_deregister)(self.1.as_ptr().cast()) };
    }
}
