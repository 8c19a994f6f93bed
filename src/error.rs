//! Every way strait can fail, each naming where it happened and what to do about it.

mod quoted;
mod remedy;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use quoted::{bare, position, short, short_shape};
pub(crate) use remedy::{NO_THREAD, TENSORS, errno_text};
use remedy::{amount, at, hint, memory_hint, open_hint, ring_hint, write_hint};

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what to do.
///
/// [`Error::code`] gives each variant a number that never changes, for languages without enums.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option that cannot be met; nothing was started.
    #[error("{option}: {problem}")]
    Config {
        /// The builder method or command line option.
        option: &'static str,
        /// What is wrong with its value, and which value would do.
        problem: String,
    },
    /// A file or directory could not be opened or examined.
    #[error("{}: cannot open: {}{}", .path.display(), errno_text(*.errno), open_hint(path, *.errno))]
    Open {
        /// The file.
        path: Arc<Path>,
        /// The operating system's error number (`errno.h`).
        errno: i32,
    },
    /// A shard or an index is not what its format demands.
    #[error("{}: {}{problem}", .path.display(), at(*.offset))]
    Format {
        /// The shard or index.
        path: Arc<Path>,
        /// Where in the file, in bytes from its start; `None` where it is the file as a whole, or a directory.
        offset: Option<u64>,
        /// What was found, what was expected, and what to do.
        problem: String,
    },
    /// A shard is no longer the file that was indexed.
    #[error("{}: changed since it was indexed: {what}; index the dataset again", .path.display())]
    Changed {
        /// The shard.
        path: Arc<Path>,
        /// What differs.
        what: String,
    },
    /// A shard ended inside an extent that its index promises.
    #[error("{}: truncated: {got} of {want} bytes at byte {offset}; restore the file or index the dataset again", .path.display())]
    Truncated {
        /// The shard.
        path: Arc<Path>,
        /// Start of the extent, in bytes from the start of the file.
        offset: u64,
        /// Bytes asked for.
        want: u64,
        /// Bytes the file still had.
        got: u64,
    },
    /// The storage failed to read an extent.
    #[error("{}: read of {bytes} bytes at byte {offset} failed: {}{}", .path.display(), errno_text(*.errno), hint(*.errno))]
    Io {
        /// The shard.
        path: Arc<Path>,
        /// Start of the failed read, in bytes from the start of the file.
        offset: u64,
        /// Length of the failed read.
        bytes: u64,
        /// The operating system's error number (`errno.h`).
        errno: i32,
    },
    /// Something did not happen in time. What was waited for may still happen; its memory stays reserved until then.
    #[error("waited {waited:.1?} for {what}")]
    Timeout {
        /// What was waited for, and what can be done.
        what: String,
        /// How long.
        waited: Duration,
    },
    /// Host memory, or a thread, could not be had.
    #[error("{what}: {}{}{}", amount(*.bytes), errno_text(*.errno), memory_hint(what, *.bytes, *.errno))]
    Memory {
        /// What the memory was for, or which thread.
        what: &'static str,
        /// How much was asked for; 0 for a thread.
        bytes: u64,
        /// The operating system's error number (`errno.h`).
        errno: i32,
    },
    /// A batch needs more bytes than the whole region pool has.
    #[error(
        "batch of {batch_bytes} bytes does not fit {pool_bytes} bytes of regions; lower batch_size or raise region_bytes"
    )]
    BatchTooLarge {
        /// What the batch needs.
        batch_bytes: u64,
        /// What there is.
        pool_bytes: u64,
    },
    /// A ring refused to work at all.
    #[error("{ring}: {problem}: {}{}", errno_text(*.errno), ring_hint(*.errno))]
    Ring {
        /// Which storage backend.
        ring: &'static str,
        /// What it was doing.
        problem: String,
        /// The operating system's error number (`errno.h`).
        errno: i32,
    },
    /// A device, or its driver, failed a call.
    #[error("{device}: {call} failed: {name} ({code}){remedy}")]
    Device {
        /// Which device (`cuda:0`).
        device: String,
        /// The driver function.
        call: &'static str,
        /// The driver's result code (for CUDA a `CUresult`).
        code: i32,
        /// The driver's name for that code.
        name: String,
        /// What to do, starting with `"; "`, or empty.
        remedy: String,
    },
    /// There is no such device here. An ordinary answer on a machine without a GPU.
    #[error("{device}: not available: {reason}")]
    NoDevice {
        /// Which device (`cuda:0`).
        device: String,
        /// Why it is not available, and what would change that.
        reason: String,
    },
    /// A sample cannot be read, and the policy for bad samples does not forgive it.
    #[error("sample {sample} cannot be read: {why}{}", .cause.as_ref().map_or(String::new(), |cause| format!(": {cause}")))]
    BadSample {
        /// The sample's id; where samples are windows, that of a token, counted through all documents as they are stored.
        sample: u64,
        /// Why it was not left out or replaced.
        why: String,
        /// What its read met; `None` if the sample was known to be bad and not read again.
        cause: Option<Box<Error>>,
    },
    /// Bytes that were read are not those that their checksum was made of.
    #[error("{}: {bytes} bytes at byte {offset} are damaged: {problem}; restore the file, or hash it anew if it was meant to change", .path.display())]
    Corrupt {
        /// The file.
        path: Arc<Path>,
        /// First of the bytes that the checksum covers, from the start of the file.
        offset: u64,
        /// How many it covers.
        bytes: u64,
        /// What they belong to, which checksum, what it is and what it should be.
        problem: String,
    },
    /// A file could not be written. What was there before under its name is still there.
    #[error("{}: {doing} failed: {}{}", .path.display(), errno_text(*.errno), write_hint(*.errno))]
    Write {
        /// The file that was to be.
        path: Arc<Path>,
        /// The part that was being written, from the start of the file; 0 where it was no part.
        offset: u64,
        /// What failed: `"write of 4194304 bytes at byte 0"`, `"fsync"`.
        doing: String,
        /// The operating system's error number (`errno.h`).
        errno: i32,
    },
    /// A tensor cannot be read.
    #[error("tensor `{tensor}`: {cause}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What its read met.
        cause: Box<Error>,
    },
    /// The engine is gone; the loader must be built anew.
    #[error("the engine has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

impl Error {
    /// A number for this kind of error; numbers are never reused or changed.
    pub fn code(&self) -> u32 {
        match self {
            Error::Config { .. } => 1,
            Error::Open { .. } => 2,
            Error::Format { .. } => 3,
            Error::Changed { .. } => 4,
            Error::Truncated { .. } => 5,
            Error::Io { .. } => 6,
            Error::Timeout { .. } => 7,
            Error::Memory { .. } => 8,
            Error::BatchTooLarge { .. } => 9,
            Error::Ring { .. } => 10,
            Error::Device { .. } => 11,
            Error::NoDevice { .. } => 12,
            Error::Stopped { .. } => 13,
            Error::BadSample { .. } => 14,
            Error::Corrupt { .. } => 15,
            Error::Write { .. } => 16,
            Error::Tensor { .. } => 17,
        }
    }

    /// The file this error is about, if it is about one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Error::Open { path, .. }
            | Error::Format { path, .. }
            | Error::Changed { path, .. }
            | Error::Truncated { path, .. }
            | Error::Corrupt { path, .. }
            | Error::Write { path, .. }
            | Error::Io { path, .. } => Some(path),
            Error::BadSample { cause: Some(cause), .. } | Error::Tensor { cause, .. } => cause.path(),
            _ => None,
        }
    }

    /// The byte of that file, if one is known.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Error::Format { offset, .. } => *offset,
            Error::Truncated { offset, .. }
            | Error::Corrupt { offset, .. }
            | Error::Write { offset, .. }
            | Error::Io { offset, .. } => Some(*offset),
            Error::BadSample { cause: Some(cause), .. } | Error::Tensor { cause, .. } => cause.offset(),
            _ => None,
        }
    }

    /// The operating system's error number, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Open { errno, .. }
            | Error::Io { errno, .. }
            | Error::Memory { errno, .. }
            | Error::Write { errno, .. }
            | Error::Ring { errno, .. } => Some(*errno),
            Error::BadSample { cause: Some(cause), .. } | Error::Tensor { cause, .. } => cause.errno(),
            _ => None,
        }
    }

    pub(crate) fn config(option: &'static str, problem: impl Into<String>) -> Error {
        Error::Config { option, problem: problem.into() }
    }

    /// `offset`: a byte, or none where it is the file as a whole.
    pub(crate) fn format(
        path: impl Into<PathBuf>,
        offset: impl Into<Option<u64>>,
        problem: impl Into<String>,
    ) -> Error {
        Error::Format { path: path.into().into(), offset: offset.into(), problem: problem.into() }
    }

    /// A thread that could not be started: there is no memory, or no number, for one more.
    pub(crate) fn thread(what: &'static str, source: &io::Error) -> Error {
        Error::Memory { what, bytes: 0, errno: source.raw_os_error().unwrap_or(libc::EAGAIN) }
    }

    pub(crate) fn open(path: impl Into<PathBuf>, source: &io::Error) -> Error {
        Error::Open { path: path.into().into(), errno: source.raw_os_error().unwrap_or(libc::EIO) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_place_and_the_remedy() {
        let e = Error::open("/data/a.tar", &io::Error::from_raw_os_error(libc::EACCES));
        let text = e.to_string();
        assert!(text.contains("/data/a.tar") && text.contains("errno 13") && text.contains("permissions"), "{text}");
        let e = Error::Io { path: Path::new("/d/b").into(), offset: 4096, bytes: 512, errno: libc::EIO };
        assert!(e.to_string().contains("512 bytes at byte 4096"), "{e}");
        assert_eq!((e.code(), e.offset(), e.errno()), (6, Some(4096), Some(libc::EIO)));
        let at = |offset: Option<u64>| Error::format("/d/b", offset, "no magic").to_string();
        assert_eq!([at(None), at(Some(512))], ["/d/b: no magic", "/d/b: at byte 512: no magic"]);
    }

    #[test]
    fn what_is_no_path_is_said_to_be_none() {
        let text = |path: &str, errno| Error::Open { path: Path::new(path).into(), errno }.to_string();
        let says = [("s3://bucket/a.tar", "files"), ("a-{00..99}.tar", "patterns"), ("d/*.tar", "patterns")];
        for (path, says) in says.into_iter().chain([("~/a.tar", "shell"), ("a.tar", "check the path")]) {
            let text = text(path, libc::ENOENT);
            assert!(text.contains(&format!("{path}: ")) && text.contains(says), "{text}");
        }
        let denied = text("d/*.tar", libc::EACCES);
        assert!(denied.contains("permissions") && !denied.contains("patterns"), "{denied}");
    }

    /// Mutant that this catches: no remedy for what has none of its own.
    #[test]
    fn every_error_of_a_ring_has_a_remedy() {
        for errno in [libc::EPERM, libc::ENOSYS, libc::EINVAL, libc::EAGAIN, libc::EMFILE, libc::ENXIO] {
            let error = Error::Ring { ring: "uring", problem: "io_uring_enter".into(), errno }.to_string();
            assert!(error.contains("(errno ") && error.split("); ").nth(1).is_some(), "{error}");
        }
    }

    /// Mutant that this catches: one remedy for all memory.
    #[test]
    fn memory_has_the_remedy_of_what_it_was_for() {
        let text = |what, bytes| Error::Memory { what, bytes, errno: libc::ENOMEM }.to_string();
        let (slabs, tensors) = (text("host memory", 8192), text(TENSORS, 1 << 36));
        assert!(slabs.contains(": 8192 bytes: ") && slabs.contains("pinned_bytes_max"), "{slabs}");
        assert!(tensors.contains("ulimit -v") && tensors.contains("fewer"), "{tensors}");
        assert!(!tensors.contains("pinned") && !tensors.contains("ulimit -l"), "{tensors}");
        let text = Error::thread("the engine's thread", &io::Error::from_raw_os_error(libc::EAGAIN)).to_string();
        assert!(text.contains("ulimit -u") && text.contains("pids.max") && !text.contains("bytes"), "{text}");
    }

    /// The golden list: a number that has been given out means the same for ever. Add at the end only.
    #[test]
    fn numbers_are_for_ever() {
        let path: Arc<Path> = Path::new("p").into();
        let (p, what) = (|| path.clone(), || "w".to_string());
        let all = [
            (1, Error::Config { option: "o", problem: what() }),
            (2, Error::Open { path: p(), errno: 2 }),
            (3, Error::Format { path: p(), offset: Some(0), problem: what() }),
            (4, Error::Changed { path: p(), what: what() }),
            (5, Error::Truncated { path: p(), offset: 0, want: 2, got: 1 }),
            (6, Error::Io { path: p(), offset: 0, bytes: 1, errno: 5 }),
            (7, Error::Timeout { what: what(), waited: Duration::ZERO }),
            (8, Error::Memory { what: "w", bytes: 1, errno: 12 }),
            (9, Error::BatchTooLarge { batch_bytes: 2, pool_bytes: 1 }),
            (10, Error::Ring { ring: "r", problem: what(), errno: 1 }),
            (11, Error::Device { device: what(), call: "c", code: 1, name: what(), remedy: what() }),
            (12, Error::NoDevice { device: what(), reason: what() }),
            (13, Error::Stopped { reason: what() }),
            (14, Error::BadSample { sample: 1, why: what(), cause: None }),
            (15, Error::Corrupt { path: p(), offset: 0, bytes: 1, problem: what() }),
            (16, Error::Write { path: p(), offset: 0, doing: what(), errno: 28 }),
            (17, Error::Tensor { tensor: what(), cause: Box::new(Error::Stopped { reason: what() }) }),
        ];
        for (number, error) in all {
            assert_eq!(error.code(), number, "{error:?}");
        }
    }

    #[test]
    fn an_error_stays_small_enough_to_return_by_value() {
        assert!(size_of::<Error>() <= 128, "{}", size_of::<Error>());
    }
}
