//! Status
//!
//! Every function that can fail returns one. Numbers below 100 are those of strait's own errors and the same in every
//! language; a number never changes its meaning and is never used again.

/// What a function returns.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum strait_status {
    /// It was done; outputs are written.
    Ok = 0,
    /// An option that cannot be met; nothing was started.
    Config = 1,
    /// A file or directory could not be opened or examined.
    Open = 2,
    /// A shard or an index is not what its format demands.
    Format = 3,
    /// A shard is no longer the file that was indexed.
    Changed = 4,
    /// A shard ended inside an extent that its index promises.
    Truncated = 5,
    /// The storage failed.
    Io = 6,
    /// Something did not happen in time; the message says what.
    Timeout = 7,
    /// Memory could not be had.
    Memory = 8,
    /// A batch needs more bytes than there is room for.
    BatchTooLarge = 9,
    /// A storage backend refused to work at all.
    Ring = 10,
    /// A device, or its driver, failed a call.
    Device = 11,
    /// There is no such device here: an ordinary answer.
    NoDevice = 12,
    /// The engine is gone; the loader must be built anew.
    Stopped = 13,
    /// A sample cannot be read, and the policy for bad samples does not forgive it.
    BadSample = 14,
    /// Bytes that were read are not those that their checksum was made of.
    Corrupt = 15,
    /// A file could not be written. What was there before under its name is still there.
    Write = 16,
    /// A tensor cannot be read.
    Tensor = 17,
    /// The end of the epoch. Not an error; no output is written.
    End = 100,
    /// Not yet: ask again. Not an error; no output is written.
    Pending = 101,
    /// This sample does not have that field. Not an error; no output is written.
    Absent = 102,
    /// A pointer that must not be NULL is; the message names the argument.
    NullArgument = 200,
    /// Not a live handle of that kind: freed, never made, of another kind, or made before a fork.
    BadHandle = 201,
    /// An earlier call with this handle panicked; it can only be freed.
    Poisoned = 202,
    /// This call panicked: a bug in strait. Its handles are poisoned.
    Panic = 203,
    /// Too early or too late for this call; the message says what comes first.
    WrongOrder = 204,
    /// A text is not UTF-8.
    BadText = 205,
    /// An index or length beyond the end.
    OutOfRange = 206,
    /// No field, counter or option of that name; the message lists what there is.
    NotFound = 207,
    /// An error of a kind that this build of the C ABI has no number for; the message says all.
    Other = 299,
}

impl strait_status {
    /// The status of an error of strait's, by its number.
    pub(crate) fn of_error(code: u32) -> strait_status {
        use strait_status::*;
        const ERRORS: [strait_status; 17] = [
            Config,
            Open,
            Format,
            Changed,
            Truncated,
            Io,
            Timeout,
            Memory,
            BatchTooLarge,
            Ring,
            Device,
            NoDevice,
            Stopped,
            BadSample,
            Corrupt,
            Write,
            Tensor,
        ];
        ERRORS.into_iter().find(|status| *status as u32 == code).unwrap_or(Other)
    }
}

#[cfg(test)]
mod tests {
    use super::strait_status::{self, *};

    /// The golden list. Add at the end of each block only.
    #[test]
    fn numbers_are_for_ever() {
        let all = [
            (0, Ok),
            (1, Config),
            (2, Open),
            (3, Format),
            (4, Changed),
            (5, Truncated),
            (6, Io),
            (7, Timeout),
            (8, Memory),
            (9, BatchTooLarge),
            (10, Ring),
            (11, Device),
            (12, NoDevice),
            (13, Stopped),
            (14, BadSample),
            (15, Corrupt),
            (16, Write),
            (17, Tensor),
            (100, End),
            (101, Pending),
            (102, Absent),
            (200, NullArgument),
            (201, BadHandle),
            (202, Poisoned),
            (203, Panic),
            (204, WrongOrder),
            (205, BadText),
            (206, OutOfRange),
            (207, NotFound),
            (299, Other),
        ];
        for (number, status) in all {
            assert_eq!(status as u32, number, "{status:?}");
        }
    }

    /// Mutant that this catches: an error added to strait that C would see as `Other`.
    #[test]
    fn every_error_of_strait_has_a_status() {
        let source = include_str!("../../src/error.rs");
        let codes: Vec<u32> = source
            .lines()
            .filter_map(|line| {
                line.trim().strip_prefix("Error::")?.split_once(" { .. } => ")?.1.strip_suffix(',')?.parse().ok()
            })
            .collect();
        assert!(codes.len() >= 15, "{codes:?}");
        for code in codes {
            assert_eq!(strait_status::of_error(code) as u32, code);
        }
    }
}
