//! Finds out what the named paths are.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::{open_file, read_at};
use super::{Dataset, records, tar, webdataset};
use crate::error::{Error, Result};

/// Names of tar files, compressed ones too; `.tar.idx` and its like are other programs' indexes.
const TAR_ENDINGS: [&str; 8] = [".tar", ".tgz", ".tzst", ".tar.gz", ".tar.zst", ".tar.xz", ".tar.bz2", ".tar.lz4"];

/// What a file looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looks {
    /// A tar file, perhaps compressed.
    Tar,
    /// Compressed, of whatever.
    Compressed,
    /// Anything: there is no telling.
    Plain,
}

pub(super) fn open<P: AsRef<Path>>(paths: &[P], record_bytes: Option<u64>) -> Result<Dataset> {
    let mut files = Vec::new();
    for path in paths {
        expand(path.as_ref(), &mut files)?;
    }
    let tar = files.iter().find(|(_, looks)| *looks == Looks::Tar);
    let other = files.iter().find(|(_, looks)| *looks != Looks::Tar);
    if let (Some((tar, _)), Some((other, _))) = (tar, other) {
        let problem = format!(
            "{} is a tar file and {} is none: a dataset is of one format; open them as two",
            tar.display(),
            other.display()
        );
        return Err(Error::config("paths", problem));
    }
    let is_tar = tar.is_some();
    let compressed = files.iter().any(|(_, looks)| *looks == Looks::Compressed);
    let files: Vec<PathBuf> = files.into_iter().map(|(file, _)| file).collect();
    match (record_bytes, files.first()) {
        // A compressed file is taken for a tar file to be told what to do about it.
        _ if is_tar || files.is_empty() => webdataset::open(&files),
        (None, _) if compressed => webdataset::open(&files),
        (Some(record_bytes), _) => records::open(&files, record_bytes),
        (None, first) => Err(Error::config("record_bytes", unknown(first.map(PathBuf::as_path)))),
    }
}

fn unknown(file: Option<&Path>) -> String {
    format!(
        "{} does not tell its format; strait reads WebDataset tar files, which it knows by their content or by a name in \
         .tar, and raw files of records of one size, for which the record size in bytes must be given",
        file.unwrap_or(Path::new("the dataset")).display()
    )
}

/// Adds the file, or the directory's files, with what they look like.
fn expand(path: &Path, files: &mut Vec<(PathBuf, Looks)>) -> Result<()> {
    let open_error = |e| Error::open(path, &e);
    if !fs::metadata(path).map_err(open_error)?.is_dir() {
        files.push((path.to_owned(), looks(path)?));
        return Ok(());
    }
    let mut inside = Vec::new();
    for entry in fs::read_dir(path).map_err(open_error)? {
        let file = entry.map_err(open_error)?;
        let hidden = file.file_name().as_encoded_bytes().starts_with(b".");
        // Through links, as a file that is named outright.
        if !hidden && fs::metadata(file.path()).map_err(|e| Error::open(file.path(), &e))?.is_file() {
            inside.push(file.path());
        }
    }
    if inside.is_empty() {
        let problem = format!("{} is a directory without files (those below it must be named)", path.display());
        return Err(Error::config("paths", problem));
    }
    inside.sort_unstable();
    let inside = inside.into_iter().map(|file| looks(&file).map(|looks| (file, looks))).collect::<Result<Vec<_>>>()?;
    // Makers of tar shards put tables and notes beside them.
    let tar = inside.iter().any(|(_, looks)| *looks == Looks::Tar);
    files.extend(inside.into_iter().filter(|(_, looks)| !tar || *looks == Looks::Tar));
    Ok(())
}

fn looks(path: &Path) -> Result<Looks> {
    let (file, _) = open_file(path)?;
    let name = path.file_name().unwrap_or_default().as_encoded_bytes().to_ascii_lowercase();
    if TAR_ENDINGS.iter().any(|end| name.ends_with(end.as_bytes())) {
        return Ok(Looks::Tar);
    }
    let mut start = [0; 262];
    let got = read_at(&file, path, 0, &mut start)?;
    Ok(match &start[..got] {
        start if start.get(257..) == Some(b"ustar") => Looks::Tar,
        start if tar::compression(start).is_some() => Looks::Compressed,
        _ => Looks::Plain,
    })
}
