//! What error numbers are called, and what a person can do about them, as the tail of a sentence.

use std::io;
use std::path::Path;

/// `"Permission denied (errno 13)"`.
pub(crate) fn errno_text(errno: i32) -> String {
    if errno > CUFILE_CODES {
        return format!("{} (cuFile {errno})", cufile_name(errno));
    }
    let text = io::Error::from_raw_os_error(errno).to_string();
    let name = text.split(" (os error").next().unwrap_or(&text);
    format!("{name} (errno {errno})")
}

/// Codes of cuFile stand in the place of an errno, and begin behind this; no errno comes near.
const CUFILE_CODES: i32 = 5000;

fn cufile_name(code: i32) -> &'static str {
    match code {
        5001 => "CU_FILE_DRIVER_NOT_INITIALIZED",
        5004 => "CU_FILE_DRIVER_VERSION_MISMATCH",
        5007 => "CU_FILE_PLATFORM_NOT_SUPPORTED",
        5008 => "CU_FILE_IO_NOT_SUPPORTED",
        5009 => "CU_FILE_DEVICE_NOT_SUPPORTED",
        5010 => "CU_FILE_NVFS_DRIVER_ERROR",
        5011 => "CU_FILE_CUDA_DRIVER_ERROR",
        5012 => "CU_FILE_CUDA_POINTER_INVALID",
        5016 => "CU_FILE_INVALID_MAPPING_SIZE",
        5018 => "CU_FILE_INVALID_FILE_TYPE",
        5020 => "CU_FILE_DIO_NOT_SET",
        5022 => "CU_FILE_INVALID_VALUE",
        5025 => "CU_FILE_PERMISSION_DENIED",
        5030 => "CU_FILE_INTERNAL_ERROR",
        5033 => "CU_FILE_NVFS_SETUP_ERROR",
        5034 => "CU_FILE_IO_DISABLED",
        5035 => "CU_FILE_BATCH_SUBMIT_FAILED",
        5036 => "CU_FILE_GPU_MEMORY_PINNING_FAILED",
        5037 => "CU_FILE_BATCH_FULL",
        _ => "unknown CUfileOpError",
    }
}

/// What a person can do about an errno, as the tail of a sentence.
pub(super) fn hint(errno: i32) -> &'static str {
    match errno {
        libc::EACCES | libc::EPERM => "; check the permissions of the file and of the directories above it",
        libc::ENOENT => "; check the path",
        libc::EISDIR => "; this is a directory: name the files in it",
        libc::EMFILE | libc::ENFILE => "; too many open files: raise `ulimit -n` or lower open_files_max",
        libc::EIO | libc::ENODATA | libc::EREMOTEIO | libc::EILSEQ => {
            "; the storage reports a media error: see `dmesg`, restore the shard"
        }
        libc::ENOMEM => "; raise the memory limit (`ulimit -l`, cgroup memory.max) or lower pinned_bytes_max",
        CUFILE_CODES.. => "; see cufile.log in the working directory, or set the path to staged",
        libc::ESTALE | libc::ECONNABORTED | libc::ENOTCONN => "; the file system's server went away: mount it again",
        _ => "",
    }
}

/// What memory for tensors is for, in [`Error::Memory`](crate::Error::Memory): no limit on pinned memory has to do with it.
pub(crate) const TENSORS: &str = "tensors";
/// What to do where no thread is to be had.
pub(crate) const NO_THREAD: &str = "raise `ulimit -u` (or `ulimit -v`, if it is low), or pids.max of the cgroup";

pub(super) fn at(offset: Option<u64>) -> String {
    offset.map_or(String::new(), |offset| format!("at byte {offset}: "))
}

pub(super) fn amount(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!("{bytes} bytes: ") }
}

/// The same for a path that is to be opened: what other tools take for one is no file here.
pub(super) fn open_hint(path: &Path, errno: i32) -> &'static str {
    let text = path.to_string_lossy();
    match errno {
        libc::ENOENT if text.contains("://") => {
            "; strait reads files: copy them to a disk of this machine first, or mount the store"
        }
        libc::ENOENT if text.contains(['*', '?', '[', '{']) => {
            "; patterns are for the shell to expand, or for the program: name the files, or their directory"
        }
        libc::ENOENT if text.starts_with('~') => "; `~` is for the shell to expand, or for the program",
        errno => hint(errno),
    }
}

/// The same for memory, or a thread.
pub(super) fn memory_hint(what: &str, bytes: u64, errno: i32) -> String {
    match (what, errno) {
        (_, libc::EAGAIN) if bytes == 0 => format!("; {NO_THREAD}"),
        (TENSORS, libc::ENOMEM) => {
            "; load fewer of them, or raise `ulimit -v`, or what `vm.overcommit_memory` lets a process have".into()
        }
        _ => hint(errno).into(),
    }
}

/// The same for a file that is written.
pub(super) fn write_hint(errno: i32) -> &'static str {
    match errno {
        libc::ENOSPC => "; free some space on this file system, or save elsewhere",
        libc::EDQUOT => "; this user's quota of disk space is used up: free some, or have it raised",
        libc::EFBIG => "; files may not be that long here: raise `ulimit -f`, or save in shards",
        libc::EROFS => "; this file system is mounted read-only",
        libc::EIO | libc::ENODATA | libc::EREMOTEIO | libc::EILSEQ => "; the storage reports an error: see `dmesg`",
        errno => hint(errno),
    }
}

/// The same for the errno of a ring, which no file has to do with.
pub(super) fn ring_hint(errno: i32) -> &'static str {
    match errno {
        libc::EPERM | libc::EACCES => {
            "; allow it (`sysctl kernel.io_uring_disabled=0`, `--security-opt seccomp=unconfined`), or use another ring"
        }
        libc::ENOSYS => "; use a newer kernel, a container runtime that passes it through, or another ring",
        errno => match hint(errno) {
            "" => "; `strait doctor` says which rings work here: use another one",
            hint => hint,
        },
    }
}
