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

    /// Standard output did not take what was to be written.
    pub(crate) fn unwritten(error: &io::Error) -> Failure {
        Failure::new("the result cannot be written to standard output", error.to_string(), "")
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
        Failure::new(as_options(&error), "", "")
    }
}

/// What the library calls otherwise than a command line does.
const OPTIONS: [(&str, &str); 6] = [
    ("record_bytes", "--record-bytes"),
    ("block_bytes", "--block-bytes"),
    ("batch_size", "--batch"),
    ("reads_in_flight", "--depth"),
    ("index_dir", "--index-dir"),
    ("dtype", "--dtype"),
];

/// An error's text, where options are named as they are written here. Paths stay as they are, unless
/// one is such a word.
fn as_options(error: &strait::Error) -> String {
    let strait::Error::Config { option, problem } = error else { return error.to_string() };
    // Paths are no option here, and name themselves.
    let text = if *option == "paths" { problem.clone() } else { error.to_string() };
    let words = text.split(' ').map(|word| {
        let bare = word.trim_matches(['(', ')', ',', ';', ':', '.']);
        match OPTIONS.iter().find(|(name, _)| *name == bare) {
            Some((name, option)) => word.replace(name, option),
            None => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_library_are_named_as_they_are_written_here() {
        let config = |option, problem: &str| as_options(&strait::Error::Config { option, problem: problem.into() });
        let text =
            config("record_bytes", "/x/record_bytes/a b is raw; give its size (record_bytes), or its type (dtype)");
        assert_eq!(
            text,
            "--record-bytes: /x/record_bytes/a b is raw; give its size (--record-bytes), or its type (--dtype)"
        );
        assert_eq!(config("policy", "lower batch_size, or use pad"), "policy: lower --batch, or use pad");
        assert_eq!(config("paths", "x is empty"), "x is empty");
    }
}
