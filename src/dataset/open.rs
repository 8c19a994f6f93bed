//! Finds out what the named paths are, and opens them as one dataset.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::side_by_side;
use super::format::{Format, Look, Reader, Source, Verdict, reader};
use super::options::Options;
use super::{Dataset, megatron, merge, refused};
use crate::error::{Error, Result};

/// What the names of sidecar indexes end in.
const SIDECAR_ENDING: &[u8] = b".strait";

pub(super) fn open<P: AsRef<Path>>(paths: &[P], options: &Options) -> Result<Dataset> {
    let (reader, sources) = sources(paths, options)?;
    index(reader, &sources, options)
}

/// As [`open`], of files of the format that is given; directories are none.
pub(super) fn files<P: AsRef<Path>>(paths: &[P], options: &Options) -> Result<Dataset> {
    if paths.is_empty() {
        return Err(Error::config("paths", "no file was named"));
    }
    let reader = reader(options.format.expect("said by the caller"))?;
    let sources = paths.iter().map(|path| (reader.sources)(path.as_ref(), options)).collect::<Result<Vec<_>>>()?;
    index(reader, &sources.into_iter().flatten().collect::<Vec<_>>(), options)
}

fn index(reader: &Reader, sources: &[Source], options: &Options) -> Result<Dataset> {
    let shards = side_by_side(sources, |source| (source.index)(&source.path, options))?;
    merge::merge(reader.format, shards)
}

/// The shards named, and who reads them.
pub(super) fn sources<P: AsRef<Path>>(paths: &[P], options: &Options) -> Result<(&'static Reader, Vec<Source>)> {
    if paths.is_empty() {
        return Err(Error::config("paths", "no file was named"));
    }
    let mut files: Vec<(PathBuf, &'static Reader)> = Vec::new();
    for path in paths {
        expand(path.as_ref(), options, &mut files)?;
    }
    let (first, reader) = (&files[0].0, files[0].1);
    if let Some((other, theirs)) = files.iter().find(|(_, theirs)| theirs.format != reader.format) {
        let problem = format!(
            "{} is {} and {} is {}: a dataset is of one format; open them as two",
            first.display(),
            reader.format,
            other.display(),
            theirs.format
        );
        return Err(Error::config("paths", problem));
    }
    let mut sources = Vec::with_capacity(files.len());
    for (file, reader) in &files {
        sources.extend((reader.sources)(file, options)?);
    }
    Ok((reader, sources))
}

/// Adds the file, or the directory's files, with who reads them.
fn expand(path: &Path, options: &Options, files: &mut Vec<(PathBuf, &'static Reader)>) -> Result<()> {
    let open_error = |e| Error::open(path, &e);
    let path = &megatron::index_of(path).unwrap_or_else(|| path.to_owned());
    if !fs::metadata(path).map_err(open_error)?.is_dir() {
        files.push((path.to_owned(), reader_of(path, options)?));
        return Ok(());
    }
    // A manifest stands for its directory.
    let manifest = path.join("index.json");
    let manifests = options.format.is_none_or(|format| matches!(format, Format::Mds | Format::LitData));
    if manifests
        && manifest.is_file()
        && let Some((reader, Verdict::Yes)) = Look::at(&manifest)?.reader()
    {
        files.push((manifest, reader));
        return Ok(());
    }
    let mut inside = Vec::new();
    for entry in fs::read_dir(path).map_err(open_error)? {
        let file = entry.map_err(open_error)?;
        let name = file.file_name();
        let hidden = name.as_encoded_bytes().starts_with(b".") || name.as_encoded_bytes().ends_with(SIDECAR_ENDING);
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
    files.extend(choose(inside, options)?);
    Ok(())
}

/// The files of a directory that are its shards: those of the one format that is recognised, since makers of shards put
/// tables and notes beside them; where none is, all.
fn choose(inside: Vec<PathBuf>, options: &Options) -> Result<Vec<(PathBuf, &'static Reader)>> {
    let looks = side_by_side(&inside, |path| Look::at(path))?;
    let forced = options.format.map(reader).transpose()?;
    let verdict = |look: &Look| match forced {
        Some(reader) => Some((reader, (reader.recognise)(look))).filter(|(_, verdict)| *verdict != Verdict::No),
        None => look.reader(),
    };
    let verdicts: Vec<_> = looks.iter().map(verdict).collect();
    let known = inside.iter().zip(&verdicts).filter_map(|(path, verdict)| match verdict {
        Some((reader, Verdict::Yes)) => Some((path.clone(), *reader)),
        _ => None,
    });
    let known: Vec<_> = known.collect();
    if !known.is_empty() {
        return Ok(known);
    }
    let rest = inside.into_iter().zip(verdicts).filter(|(_, verdict)| verdict.is_none());
    rest.map(|(path, _)| Ok((path.clone(), reader_of(&path, options)?))).collect()
}

/// Who reads a file that was named outright.
fn reader_of(path: &Path, options: &Options) -> Result<&'static Reader> {
    if let Some(format) = options.format {
        return reader(format);
    }
    let look = Look::at(path)?;
    match (look.reader(), options.record_bytes, options.dtype) {
        (Some((reader, _)), ..) => Ok(reader),
        (None, Some(_), _) => reader(Format::Records),
        (None, None, Some(_)) => reader(Format::Tokens),
        (None, None, None) => Err(unknown(&look)),
    }
}

fn unknown(look: &Look) -> Error {
    if let Some((what, remedy)) = refused::recognise(look) {
        return Error::format(&*look.path, 0, format!("this is {what}; {remedy}"));
    }
    let problem = format!(
        "{} does not tell its format. strait knows WebDataset tar files and others by their content or their name; for raw \
         files of records give the record size in bytes (record_bytes), for tokens without a header their type (dtype)",
        look.path.display()
    );
    Error::config("record_bytes", problem)
}
