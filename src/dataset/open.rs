//! Finds out what the named paths are, and opens them as one dataset.

use std::fs;
use std::path::{Path, PathBuf};

use super::format::{Format, Indexed, Look, Reader, Source, Verdict, reader};
use super::options::Options;
use super::side_by_side::side_by_side;
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
    if let Some((what, remedy)) = refused::directory(path) {
        return Err(Error::format(&**path, None, format!("this is {what}; {remedy}")));
    }
    // A manifest stands for its directory.
    let manifest = path.join("index.json");
    if manifest.is_file()
        && let Some((reader, Verdict::Yes)) = Look::at(&manifest)?.reader()
        && matches!(reader.format, Format::Mds | Format::LitData)
        && options.format.is_none_or(|format| format == reader.format)
    {
        return Ok(vec![(manifest, reader)]);
    }
    let mut inside = Vec::new();
    for entry in fs::read_dir(path).map_err(open_error)? {
        let file = entry.map_err(open_error)?;
        let name = file.file_name();
        let hidden =
            name.as_encoded_bytes().starts_with(b".") || name.as_encoded_bytes().ends_with(sidecar::ENDING.as_bytes());
        if !hidden && is_file(&file.path())? {
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

/// Whether it is a regular file, through links, as a file that is named outright. A link to nothing may be a shard that
/// is missing, and so is not passed over.
fn is_file(path: &Path) -> Result<bool> {
    fs::metadata(path).map(|meta| meta.is_file()).map_err(|e| match path.is_symlink() {
        true => {
            let problem = format!(
                "{} is a link that leads nowhere ({e}): mend or remove it, or name the files that are meant",
                path.display()
            );
            Error::config("paths", problem)
        }
        false => Error::open(path, &e),
    })
}

/// The files of a directory that are its shards.
///
/// ```text
/// recognised                    they are, and makers of shards put tables and notes beside them: what else is there is
///                               left out, unless an option says that raw files are meant, too
/// belongs to an index           an error: the index would have been recognised
/// known, and not read           an error, since it may be all the data there is
/// a note: README, sources ..    left out
/// raw: everything else          all of them are, if an option says how to read them
/// ```
fn choose(inside: Vec<PathBuf>, options: &Options) -> Result<Vec<(PathBuf, &'static Reader)>> {
    let looks = side_by_side(&inside, |path| Look::at(path))?;
    let forced = options.format.map(reader).transpose()?;
    let (mut known, mut beside, mut refused, mut raw) = (Vec::new(), None, None, Vec::new());
    for look in &looks {
        let verdict = match forced {
            Some(reader) => Some((reader, (reader.recognise)(look))).filter(|(_, verdict)| *verdict != Verdict::No),
            None => look.reader(),
        };
        match verdict {
            Some((reader, Verdict::Yes)) => known.push((look.path.clone(), reader)),
            Some((reader, _)) => beside = beside.or(Some((look, reader))),
            None if look.is_note() => {}
            None => match refused::recognise(look) {
                Some(what) => refused = refused.or(Some((look, what))),
                None => raw.push(look.path.clone()),
            },
        }
    }
    let raw_asked_for = options.record_bytes.is_some() || options.dtype.is_some();
    match (known.first(), raw.first()) {
        (Some((path, reader)), Some(raw)) if forced.is_none() && raw_asked_for => Err(mixed(path, reader.format, raw)),
        (Some(_), _) => Ok(known),
        (None, first) => match (beside, refused) {
            (Some((look, reader)), _) => Err(without_index(look, reader.format)),
            (None, Some((look, (what, remedy)))) => {
                let or = if first.is_some() {
                    "; if it only lies beside the data, name the files that are meant"
                } else {
                    ""
                };
                Err(Error::format(&*look.path, None, format!("this is {what}; {remedy}{or}")))
            }
            (None, None) if first.is_none() => Err(only_notes(&looks[0])),
            (None, None) => raw.into_iter().map(|path| Ok((path.clone(), reader_of(&path, options)?))).collect(),
        },
    }
}

fn mixed(known: &Path, format: Format, raw: &Path) -> Error {
    let problem = format!(
        "{} is {format} and {} tells no format, and options for raw files are given (record_bytes, dtype): name the files \
         that are meant, or give the format ({format}) to leave the others out",
        known.display(),
        raw.display()
    );
    Error::config("paths", problem)
}

fn without_index(look: &Look, format: Format) -> Error {
    let (index, of) = match format {
        Format::Tokens => ("a .ds file", "tokens"),
        Format::Megatron => ("an .idx file", "Megatron"),
        _ => ("an index.json", format.name()),
    };
    let problem = format!("this belongs to {index} ({of}) that is not beside it: copy it there, too, and whole");
    Error::format(&*look.path, None, problem)
}

fn only_notes(look: &Look) -> Error {
    let problem = format!(
        "{} and what lies beside it are notes by their names, and no shards; if it is data all the same, name it",
        look.path.display()
    );
    Error::config("paths", problem)
}

/// Who reads a file that was named outright.
fn reader_of(path: &Path, options: &Options) -> Result<&'static Reader> {
    if let Some(format) = options.format {
        return reader(format);
    }
    let look = Look::at(path)?;
    match (look.reader(), options.record_bytes, options.dtype) {
        // Others are found from any of their files.
        (Some((Reader { format: format @ (Format::Mds | Format::LitData), .. }, Verdict::Beside)), ..) => {
            let problem = format!(
                "by its name this belongs to an index.json ({format}): name that, or the directory; or force a format"
            );
            Err(Error::format(path, None, problem))
        }
        (Some((reader, _)), ..) => Ok(reader),
        (None, Some(_), _) => reader(Format::Records),
        (None, None, Some(_)) => reader(Format::Tokens),
        (None, None, None) => Err(unknown(&look)),
    }
}

fn unknown(look: &Look) -> Error {
    if let Some((what, remedy)) = refused::recognise(look) {
        return Error::format(&*look.path, None, format!("this is {what}; {remedy}"));
    }
    let problem = format!(
        "{} does not tell its format. strait knows WebDataset tar files and others by their content or their name; for raw \
         files of records give the record size in bytes (record_bytes), for tokens without a header their type (dtype)",
        look.path.display()
    );
    Error::config("record_bytes", problem)
}
