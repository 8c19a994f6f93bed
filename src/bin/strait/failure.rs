//! An error as a person at a terminal needs it: what happened, why, what to do.

use std::fmt;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a command ends early.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) exit_code: u8,
    pub(crate) what: String,
    pub(crate) why: String,
    pub(crate) remedy: String,
}

impl Failure {
    /// The command could not do its job (exit code 1).
    pub(crate) fn new(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Failure {
        Failure { exit_code: 1, what: what.into(), why: why.into(), remedy: remedy.into() }
    }

    /// An option that clap accepted and that makes no sense together with the others (exit code 2).
    pub(crate) fn usage(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Failure {
        Failure { exit_code: 2, ..Failure::new(what, why, remedy) }
    }

    /// Ctrl-C and its relatives (exit code 130).
    pub(crate) fn interrupted() -> Failure {
        Failure { exit_code: 130, ..Failure::new("interrupted", "a signal asked the command to stop", "") }
    }

    /// A failed system call on a file.
    pub(crate) fn file(doing: &str, path: &Path, error: &io::Error) -> Failure {
        let remedy = match error.raw_os_error() {
            Some(libc::ENOENT) => "check the path",
            Some(libc::EACCES | libc::EPERM) => "check the permissions of the file and of the directories above it",
            Some(libc::EISDIR) => "name the files in the directory",
            Some(libc::ENOSPC | libc::EDQUOT) => {
                "free some space, or choose another place with --dir or less with --size"
            }
            Some(libc::EIO | libc::ENODATA) => "the storage reports a media error: see `dmesg`",
            _ => "",
        };
        Failure::new(format!("cannot {doing} {}", path.display()), error.to_string(), remedy)
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "error": {
            "what": self.what, "why": self.why, "remedy": self.remedy, "exit_code": self.exit_code,
        }})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "strait: {}", self.what)?;
        for (label, text) in [("why", &self.why), ("do", &self.remedy)] {
            if !text.is_empty() {
                write!(f, "\n  {label}: {text}")?;
            }
        }
        Ok(())
    }
}

impl From<strait::Error> for Failure {
    /// The library's errors already name place, reason and remedy in one line.
    fn from(error: strait::Error) -> Failure {
        Failure::new(error.to_string(), "", "")
    }
}
