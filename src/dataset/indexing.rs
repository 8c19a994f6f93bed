//! Makes sidecars, and compares them with their shards.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::format::{Format, Indexed, Source};
use super::options::Options;
use super::side_by_side::side_by_side_with;
use super::sidecar::{self, Found, Stamp};
use super::{checksums, open, whole};
use crate::error::{Error, Result};

/// What is asked of [`Options::index`].
#[derive(Debug, Clone, Default)]
pub struct Indexing {
    /// Read the payload, too, and keep the CRC32C of each field of each sample. Also done for shards whose sidecar is not
    /// theirs any more, and had them.
    pub checksums: bool,
    /// Write nothing; compare the sidecars that there are with the shards, byte by byte where they have checksums.
    pub check: bool,
    /// A list of whole files' hashes as `sha256sum` and its like write them: every shard is compared with its line.
    pub sums: Option<PathBuf>,
    /// Shards at a time; 0: as many as wait for storage well, 16.
    pub threads: usize,
}

/// How far indexing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IndexProgress {
    /// Shards in all.
    pub shards: u64,
    /// Shards that are done, one way or another.
    pub done: u64,
    /// Samples of these.
    pub samples: u64,
    /// Payload bytes read for checksums.
    pub bytes: u64,
}

/// What became of one shard's index.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShardIndex {
    /// The shard.
    pub shard: PathBuf,
    /// Its sidecar, once there is one.
    pub sidecar: Option<PathBuf>,
    /// How many samples it has, if that is known.
    pub samples: u64,
    /// What was done.
    pub outcome: IndexOutcome,
}

/// What was done about one shard's index.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum IndexOutcome {
    /// It was written.
    Written,
    /// It was there already, and is the shard's.
    Kept,
    /// It agrees with the shard.
    Right,
    /// It could not be made, or does not agree with the shard. The other shards go on.
    Failed(Error),
}

impl Options {
    /// Makes a sidecar for each shard of a dataset, or checks those that there are. Shards whose sidecar is theirs
    /// already are left alone, so what was stopped goes on where it was.
    ///
    /// `watch` is called every now and then, from several threads, with what was reached; `false` from it ends the run.
    ///
    /// # Errors
    /// As [`Dataset::open`](crate::Dataset::open) where it is not even known which shards there are, and
    /// [`Error::Stopped`] if `watch` said so. What befalls a single shard is in its [`IndexOutcome`].
    pub fn index<P: AsRef<Path>>(
        &self,
        paths: &[P],
        how: &Indexing,
        watch: &(dyn Fn(IndexProgress) -> bool + Sync),
    ) -> Result<Vec<ShardIndex>> {
        let (reader, mut sources) = open::sources(paths, self)?;
        if let Some(list) = &how.sums {
            whole::add_sums(list, &mut sources)?;
        }
        let run = Run {
            options: self,
            how,
            format: reader.format,
            watch,
            shards: sources.len() as u64,
            done: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        };
        side_by_side_with(how.threads, &sources, |source| run.shard(source))
    }
}

/// One call of [`Options::index`].
struct Run<'a> {
    options: &'a Options,
    how: &'a Indexing,
    format: Format,
    watch: &'a (dyn Fn(IndexProgress) -> bool + Sync),
    shards: u64,
    done: AtomicU64,
    samples: AtomicU64,
    bytes: AtomicU64,
    stopped: AtomicBool,
}

impl Run<'_> {
    fn shard(&self, source: &Source) -> Result<ShardIndex> {
        let mut answer =
            ShardIndex { shard: source.path.clone(), sidecar: None, samples: 0, outcome: IndexOutcome::Right };
        let done = match self.how.check {
            true => self.check(source, &mut answer),
            false => self.make(source, &mut answer),
        };
        // Asked to stop is no fault of the shard.
        if self.stopped.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        answer.outcome = done.unwrap_or_else(IndexOutcome::Failed);
        self.done.fetch_add(1, Ordering::Relaxed);
        self.samples.fetch_add(answer.samples, Ordering::Relaxed);
        self.go_on(0)?;
        Ok(answer)
    }

    /// Tells of `bytes` more that were read; an error where the run is to end.
    fn go_on(&self, bytes: u64) -> Result<()> {
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let (done, samples) = (self.done.load(Ordering::Relaxed), self.samples.load(Ordering::Relaxed));
        if !(self.watch)(IndexProgress { shards: self.shards, done, samples, bytes }) {
            self.stopped.store(true, Ordering::Relaxed);
        }
        if self.stopped.load(Ordering::Relaxed) { Err(stopped()) } else { Ok(()) }
    }

    fn make(&self, source: &Source, answer: &mut ShardIndex) -> Result<IndexOutcome> {
        let stamp = Stamp::of(source, self.format, self.options)?;
        let fingerprint = sidecar::fingerprint(&source.path)?;
        // Asked for, and so for shards too that are indexed already.
        if self.how.sums.is_some() {
            whole::check(source, &mut |bytes| self.go_on(bytes))?;
        }
        // A shard that had checksums keeps having them.
        let mut checksums = self.how.checksums;
        for sidecar in sidecar::place_for_reading(&source.path, self.options) {
            checksums = checksums || sidecar::had_checksums(&sidecar);
            let Found::Index(found) = sidecar::find(&sidecar, &source.path, self.format, &stamp) else { continue };
            let enough = found.checksums || !self.how.checksums || found.indexed.fields.is_empty();
            if enough && found.fingerprint == fingerprint && found.indexed.table.check_body().is_ok() {
                (answer.samples, answer.sidecar) = (found.indexed.table.rows(), Some(sidecar));
                return Ok(IndexOutcome::Kept);
            }
        }
        let indexed = self.read(source, checksums)?;
        if checksums && self.how.sums.is_none() {
            whole::check(source, &mut |bytes| self.go_on(bytes))?;
        }
        let crcs = match checksums {
            true => Some(checksums::of(&indexed, &mut |bytes| self.go_on(bytes))?),
            false => None,
        };
        let bytes = sidecar::encode(&indexed, self.format, stamp, fingerprint, crcs.as_deref())?;
        if Stamp::of(source, self.format, self.options)? != stamp {
            let what = "it was written to while it was indexed".into();
            return Err(Error::Changed { path: source.path.as_path().into(), what });
        }
        let sidecar = sidecar::write(&source.path, &bytes, self.options)?;
        (answer.samples, answer.sidecar) = (indexed.table.rows(), Some(sidecar));
        Ok(IndexOutcome::Written)
    }

    /// Indexes a shard; where all of it is read anyway, by its format's own checksums, too.
    fn read(&self, source: &Source, all: bool) -> Result<Indexed> {
        let options = self.options.clone();
        (source.index)(&source.path, &if all { options.verify(true) } else { options })
    }

    fn check(&self, source: &Source, answer: &mut ShardIndex) -> Result<IndexOutcome> {
        let stamp = Stamp::of(source, self.format, self.options)?;
        let places = sidecar::place_for_reading(&source.path, self.options);
        let mut problem = "it has no index; make one with `strait index`".to_owned();
        let find = |sidecar: PathBuf| match sidecar::find(&sidecar, &source.path, self.format, &stamp) {
            Found::Index(found) => Some((sidecar, found)),
            Found::Unusable(why) => {
                problem = format!("{} cannot be used: {why}; make it anew with `strait index`", sidecar.display());
                None
            }
            Found::Nothing => None,
        };
        let Some((path, found)) = places.into_iter().find_map(find) else {
            return Err(Error::format(&*source.path, None, problem));
        };
        (answer.samples, answer.sidecar) = (found.indexed.table.rows(), Some(path.clone()));
        found.indexed.table.check_body()?;
        same(&path, &found.indexed, &self.read(source, true)?)?;
        whole::check(source, &mut |bytes| self.go_on(bytes))?;
        if found.checksums {
            checksums::compare(&found.indexed, &mut |bytes| self.go_on(bytes))?;
        }
        if found.fingerprint != sidecar::fingerprint(&source.path)? {
            let what = "its content is another, though size and time are the same".into();
            return Err(Error::Changed { path: source.path.as_path().into(), what });
        }
        Ok(IndexOutcome::Right)
    }
}

fn stopped() -> Error {
    Error::Stopped { reason: "indexing was asked to end".into() }
}

/// That an index says of every sample what the shard says.
fn same(sidecar: &Path, index: &Indexed, shard: &Indexed) -> Result<()> {
    let differs = |what: String| Error::format(sidecar, None, format!("{what}; make it anew with `strait index`"));
    if index.fields != shard.fields || index.table.rows() != shard.table.rows() {
        return Err(differs("the shard has other fields, or another number of samples".into()));
    }
    for row in 0..shard.table.rows() {
        for column in 0..shard.fields.len() {
            let of = |indexed: &Indexed| indexed.table.cell(row, column, indexed.bytes);
            if of(index)? != of(shard)? {
                let field = &shard.fields[column].name;
                return Err(differs(format!("field {field} of sample {row} lies elsewhere in the shard")));
            }
        }
    }
    Ok(())
}
