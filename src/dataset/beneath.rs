//! Names that an index gives for files: they may lead nowhere but into the dataset's own directory.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// The file that `index` names `name`, in `root` or below it.
///
/// Refused are absolute names, names with `..`, and symbolic links that lead out of `root` (absolute links always).
///
/// # Errors
/// [`Error::Format`] for a name that leads out, or none at all; [`Error::Open`] for one that leads nowhere.
pub(crate) fn beneath(root: &Path, name: &str, index: &Path) -> Result<PathBuf> {
    let refused = |why: &str| {
        Error::format(index, None, format!("it names the file {name:?}, {why}; name files in {}", root.display()))
    };
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if name.is_empty() || name.contains('\0') {
        return Err(refused("which is no name"));
    }
    if !Path::new(name).components().all(plain) {
        return Err(refused("which leads out of its directory"));
    }
    let path = root.join(name);
    match by_kernel(root, name).unwrap_or_else(|| by_hand(root, &path)) {
        Ok(true) => Ok(path),
        Ok(false) => Err(refused("a link that leads out of its directory")),
        Err(e) => Err(Error::open(path, &e)),
    }
}

/// Whether the kernel finds the name without leaving `root`; `None` if this kernel, or what stands before it, does not
/// know how to (before Linux 5.6).
fn by_kernel(root: &Path, name: &str) -> Option<io::Result<bool>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = match open(root, flags | OFlags::DIRECTORY, Mode::empty()) {
        Ok(root) => root,
        Err(e) => return Some(Err(e.into())),
    };
    loop {
        return match openat2(&root, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
            Ok(_) => Some(Ok(true)),
            Err(Errno::XDEV) => Some(Ok(false)),
            // Something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => None,
            Err(e) => Some(Err(e.into())),
        };
    }
}

/// The same by asking where all links lead.
fn by_hand(root: &Path, path: &Path) -> io::Result<bool> {
    Ok(fs::canonicalize(path)?.starts_with(fs::canonicalize(root)?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn names_lead_into_the_directory_or_nowhere() {
        let all = tempfile::tempdir().unwrap();
        let root = all.path().join("root");
        fs::create_dir_all(root.join("d")).unwrap();
        for file in ["outside", "root/a", "root/d/b"] {
            fs::write(all.path().join(file), b"x").unwrap();
        }
        symlink("d/b", root.join("inside")).unwrap();
        symlink("../a", root.join("d/up")).unwrap();
        symlink("../outside", root.join("out")).unwrap();
        symlink(all.path(), root.join("dirout")).unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for good in ["a", "./a", "d/b", "inside", "d/up"] {
            assert_eq!(beneath(&root, good, &root).unwrap(), root.join(good));
            assert!(by_hand(&root, &root.join(good)).unwrap());
            assert!(by_kernel(&root, good).is_none_or(|answer| answer.unwrap()));
        }
        for bad in ["../outside", "d/../a", "..", "/etc/passwd", "", "a\0b", "out", "dirout/outside", "absolute"] {
            let error = beneath(&root, bad, Path::new("index.json")).unwrap_err();
            assert_eq!((error.code(), error.path()), (3, Some(Path::new("index.json"))), "{bad:?}: {error}");
        }
        for bad in ["out", "dirout/outside", "absolute"] {
            assert!(!by_hand(&root, &root.join(bad)).unwrap(), "{bad}");
            assert!(by_kernel(&root, bad).is_none_or(|answer| !answer.unwrap()), "{bad}");
        }
        assert_eq!(beneath(&root, "none", &root).unwrap_err().errno(), Some(libc::ENOENT));
        assert_eq!(beneath(&root, "loop", &root).unwrap_err().errno(), Some(libc::ELOOP));
        if by_kernel(&root, "a").is_none() {
            eprintln!("skipped: this kernel has no openat2");
        }
    }
}
