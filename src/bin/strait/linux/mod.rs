//! What the command asks the kernel directly: page cache residency, resource usage, file system facts.

pub(crate) mod cache;
pub(crate) mod file;
pub(crate) mod pages;
pub(crate) mod usage;

use std::io;
use std::path::Path;

/// A one-line file under `/proc` or `/sys`, without its newline; `None` where it does not exist.
pub(crate) fn line(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// A number in such a file.
pub(crate) fn number(path: impl AsRef<Path>) -> Option<u64> {
    line(path)?.parse().ok()
}

/// The value after `key` in a file of `key: value` lines (`/proc/self/status`, `/proc/meminfo`).
pub(crate) fn entry(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim().to_owned()))
}

/// A `1234 kB` entry, in bytes.
pub(crate) fn entry_bytes(path: &str, key: &str) -> Option<u64> {
    entry(path, key)?.strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The errno of a failed call; 0 where the error has none.
pub(crate) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// `EPERM` for 1: people search for the name.
pub(crate) fn errno_name(errno: i32) -> String {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EIO => "EIO",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::EMFILE => "EMFILE",
        libc::EROFS => "EROFS",
        libc::ENOSYS => "ENOSYS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        _ => return format!("errno {errno}"),
    };
    format!("{name} (errno {errno})")
}

/// The running kernel as `(6, 18)`, for facts that depend on its age. Text: [`kernel_release`].
pub(crate) fn kernel_version() -> Option<(u32, u32)> {
    let release = kernel_release();
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// `6.18.44-generic`.
pub(crate) fn kernel_release() -> String {
    line("/proc/sys/kernel/osrelease").unwrap_or_default()
}
