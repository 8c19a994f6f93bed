//! Facts about a file: its file system, its rules for direct reads, its disk.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::pages::Pages;

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// What statfs(2) says.
pub(crate) struct FileSystem {
    pub(crate) name: String,
    pub(crate) free_bytes: u64,
}

pub(crate) fn file_system(path: &Path) -> io::Result<FileSystem> {
    let path = c_path(path)?;
    // SAFETY: statfs is plain data for which all-zero is a valid value; path and structure outlive the call.
    let stat = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        if libc::statfs(path.as_ptr(), &mut stat) != 0 {
            return Err(io::Error::last_os_error());
        }
        stat
    };
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_bsize as u64);
    Ok(FileSystem { name: type_name(stat.f_type as u64 & 0xffff_ffff), free_bytes })
}

/// Names of `linux/magic.h` and of file systems outside the kernel that shards are kept on.
fn type_name(magic: u64) -> String {
    let name = match magic {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlayfs",
        0x6969 => "nfs",
        0x6573_5546 => "fuse",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0x0bd0_0bd0 => "lustre",
        0x4750_4653 => "gpfs",
        0x1983_0326 => "beegfs",
        0x00c3_6400 => "ceph",
        0xff53_4d42 | 0xfe53_4d42 => "cifs",
        0x0102_1997 => "9p",
        0x7371_7368 => "squashfs",
        0xe0f5_e1e2 => "erofs",
        0x7461_636f => "ocfs2",
        0xca45_1a4e => "bcachefs",
        0x5346_544e => "ntfs",
        0x2011_bab0 => "exfat",
        _ => return format!("type 0x{magic:x}"),
    };
    name.to_owned()
}

/// What `statx` promises for direct reads, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DirectAlign {
    pub(crate) memory: u32,
    pub(crate) offset: u32,
}

/// `None` where the file system does not say (then only a real read can tell); zeros mean that it refuses.
pub(crate) fn direct_align(file: &File) -> io::Result<Option<DirectAlign>> {
    // SAFETY: statx is plain data for which all-zero is a valid value; it and the empty path outlive the call.
    let stat = unsafe {
        let mut stat: libc::statx = std::mem::zeroed();
        let flags = libc::AT_EMPTY_PATH;
        if libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_DIOALIGN, &mut stat) != 0 {
            return Err(io::Error::last_os_error());
        }
        stat
    };
    let told = stat.stx_mask & libc::STATX_DIOALIGN != 0;
    Ok(told.then_some(DirectAlign { memory: stat.stx_dio_mem_align, offset: stat.stx_dio_offset_align }))
}

pub(crate) fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)
}

/// One read at `offset` with `RWF_*` flags.
pub(crate) fn read_at(file: &File, target: &mut Pages, offset: u64, rw_flags: i32) -> io::Result<usize> {
    let part = libc::iovec { iov_base: target.bytes_mut().as_mut_ptr().cast(), iov_len: target.len() };
    // SAFETY: the one iovec covers `target`, borrowed mutably for the whole of this synchronous call.
    let got = unsafe { libc::preadv2(file.as_raw_fd(), &part, 1, offset as libc::off_t, rw_flags) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(got as usize) }
}

/// `/sys` directory of the block device that holds a file; `None` for file systems without one of their own.
pub(crate) fn block_device(device_id: u64) -> Option<PathBuf> {
    let link = format!("/sys/dev/block/{}:{}", libc::major(device_id), libc::minor(device_id));
    std::fs::canonicalize(link).ok()
}
