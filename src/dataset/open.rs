//! Finds out what the named paths are, and opens them as one dataset.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::side_by_side;
use super::format::{Format, Indexed, Look, Reader, Source, Verdict, reader};
use super::options::Options;
use super::sidecar::{self, Found, Stamp};
use super::{Dataset, megatron, merge, refused};
use crate::error::{Error, Result};
use crate::stats::Fallback;

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
    let found = side_by_side(sources, |source| shard(reader.format, source, options))?;
    let mut state = IndexState::default();
    let mut shards = Vec::with_capacity(found.len());
    for (indexed, sidecar) in found {
        state.add(&indexed, sidecar);
        shards.push(indexed);
    }
    if let Some(why) = &state.why {
        tracing::warn!("{} of {} sidecar indexes are not used: {why}", state.unusable, sources.len());
    }
    let mut fallbacks: Vec<Fallback> = Vec::new();
    for fallback in sources.iter().filter_map(|source| source.fallback.as_ref()) {
        if fallbacks.iter().all(|known| known.instead != fallback.instead) {
            fallbacks.push(fallback.clone());
        }
    }
    Ok(Dataset { index: state, fallbacks, ..merge::merge(reader.format, shards)? })
}

/// Whether a shard's index came from its sidecar, or why not, if there is one.
enum Sidecar {
    Used,
    None,
    Unusable(String),
}

fn shard(format: Format, source: &Source, options: &Options) -> Result<(Indexed, Sidecar)> {
    let mut unusable = Sidecar::None;
    let stamp = Stamp::of(source, format, options)?;
    if options.verify {
        return Ok(((source.index)(&source.path, options)?, unusable));
    }
    for sidecar in sidecar::place_for_reading(&source.path, options) {
        match sidecar::find(&sidecar, &source.path, format, &stamp) {
            Found::Index(found) => return Ok((found.indexed, Sidecar::Used)),
            Found::Unusable(why) => unusable = Sidecar::Unusable(format!("{}: {why}", sidecar.display())),
            Found::Nothing => {}
        }
    }
    Ok(((source.index)(&source.path, options)?, unusable))
}

/// Which shards' indexes came from sidecars.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IndexState {
    /// Shards whose sidecar is used.
    pub sidecars: u64,
    /// Of these, shards with checksums.
    pub checksums: u64,
    /// Shards with a sidecar that is stale or damaged, and was not used.
    pub unusable: u64,
    /// Why the first of those was not; `strait index` makes it anew.
    pub why: Option<String>,
}

impl IndexState {
    fn add(&mut self, indexed: &Indexed, sidecar: Sidecar) {
        match sidecar {
            Sidecar::Used => {
                self.sidecars += 1;
                self.checksums += u64::from(indexed.table.has_crcs());
            }
            Sidecar::None => {}
            Sidecar::Unusable(why) => {
                self.unusable += 1;
                self.why.get_or_insert(why);
            }
        }
    }

    /// Of both together.
    pub(super) fn joined(mut self, other: &IndexState) -> IndexState {
        self.sidecars += other.sidecars;
        self.checksums += other.checksums;
        self.unusable += other.unusable;
        self.why = self.why.or_else(|| other.why.clone());
        self
    }
}

/// The shards named, and who reads them.
pub(super) fn sources<P: AsRef<Path>>(paths: &[P], options: &Options) -> Result<(&'static Reader, Vec<Source>)> {
    if paths.is_empty() {
        return Err(Error::config("paths", "no file was named"));
    }
    let mut files: Vec<(PathBuf, &'static Reader)> = Vec::new();
    let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
    for expanded in side_by_side(&paths, |path| expand(path, options))? {
        files.extend(expanded);
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

/// The file, or the directory's files, with who reads them.
fn expand(path: &Path, options: &Options) -> Result<Vec<(PathBuf, &'static Reader)>> {
    let open_error = |e| Error::open(path, &e);
    let path = &megatron::index_of(path).unwrap_or_else(|| path.to_owned());
    if !fs::metadata(path).map_err(open_error)?.is_dir() {
        return Ok(vec![(path.to_owned(), reader_of(path, options)?)]);
    }
    // A manifest stands for its directory.
    let manifest = path.join("index.json");
    let manifests = options.format.is_none_or(|format| matches!(format, Format::Mds | Format::LitData));
    if manifests
        && manifest.is_file()
        && let Some((reader, Verdict::Yes)) = Look::at(&manifest)?.reader()
    {
        return Ok(vec![(manifest, reader)]);
    }
    let mut inside = Vec::new();
    for entry in fs::read_dir(path).map_err(open_error)? {
        let file = entry.map_err(open_error)?;
        let name = file.file_name();
        let hidden =
            name.as_encoded_bytes().starts_with(b".") || name.as_encoded_bytes().ends_with(sidecar::ENDING.as_bytes());
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
    choose(inside, options)
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
