//! Sums up files and tensors as they are stored: what a manifest is made from, and compared with.
//!
//! ```text
//!  wanted sums --cut where none goes on--> stretches of files --a thread each--> ring, slabs --in file order--> sums
//! ```
//!
//! Each stretch is read once, whatever sums it has part in. Memory is that of the slabs; nothing stays in the page cache
//! where the file system reads directly.

mod read;
mod stretch;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use self::read::Reader;
use self::stretch::{Sum, stretches};
use super::{Algorithm, Digest, FileDigests, Manifest, Per, TensorDigest};
use crate::config::RingChoice;
use crate::error::{Error, Result};
use crate::file::open_file;
use crate::safetensors;
use crate::storage::ShardFile;

/// How far hashing has come, for another thread to see; and its end, if that thread wants it.
#[derive(Debug, Clone, Default)]
pub struct HashProgress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicU64,
    stop: AtomicBool,
}

impl HashProgress {
    /// Bytes read and summed up so far.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Ends the hashing soon, with [`Error::Stopped`].
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Options of hashing. Everything has a default.
#[derive(Debug, Clone)]
pub struct Hash {
    threads: usize,
    block_bytes: usize,
    pinned_bytes_max: u64,
    ring: RingChoice,
    deadline: Duration,
    progress: HashProgress,
}

impl Default for Hash {
    fn default() -> Hash {
        Hash {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            block_bytes: 4 << 20,
            pinned_bytes_max: 256 << 20,
            ring: RingChoice::Auto,
            deadline: Duration::from_secs(30),
            progress: HashProgress::default(),
        }
    }
}

impl Hash {
    /// With default options.
    pub fn new() -> Hash {
        Hash::default()
    }

    /// Threads that read and sum up; at least 1, and no more than can be had. Default: as many as the process may use
    /// processors.
    pub fn threads(mut self, threads: usize) -> Hash {
        self.threads = threads.max(1);
        self
    }

    /// The length of one read: a multiple of 4096. Default 4 MiB.
    pub fn block_bytes(mut self, bytes: usize) -> Hash {
        self.block_bytes = bytes;
        self
    }

    /// Slabs of all threads together at most, in bytes; two for each thread at least. Default 256 MiB.
    pub fn pinned_bytes_max(mut self, bytes: u64) -> Hash {
        self.pinned_bytes_max = bytes;
        self
    }

    /// Which storage backend. Default: decided by a probe.
    pub fn ring(mut self, ring: RingChoice) -> Hash {
        self.ring = ring;
        self
    }

    /// A read that takes longer than this is an error. Default 30 s.
    pub fn deadline(mut self, deadline: Duration) -> Hash {
        self.deadline = deadline;
        self
    }

    /// Where the progress of what follows can be seen.
    pub fn progress(&self) -> HashProgress {
        self.progress.clone()
    }

    /// The manifest of some files, under the names given here. Tensors are those of safetensors files.
    pub fn manifest(&self, paths: &[impl AsRef<Path>], algorithm: Algorithm, per: Per) -> Result<Manifest> {
        let mut files = Vec::new();
        let mut sums = Vec::new();
        let mut entries = Vec::new();
        for (file, path) in paths.iter().map(AsRef::as_ref).enumerate() {
            let (_, bytes) = open_file(path)?;
            files.push(ShardFile { path: path.into(), bytes });
            let header = if per == Per::File { Default::default() } else { safetensors::read(path)? };
            if per != Per::Tensor {
                sums.push(Sum { file, begin: 0, end: bytes, algorithm });
            }
            sums.extend(header.tensors.iter().map(|t| Sum { file, begin: t.begin, end: t.end, algorithm }));
            entries.push((path, bytes, header.tensors));
        }
        let mut digests = self.sum_up(files, &sums)?.into_iter();
        let mut next = || digests.next().expect("one for each sum");
        let files = entries.into_iter().map(|(path, bytes, tensors)| FileDigests {
            name: Some(path.to_string_lossy().into_owned()),
            bytes: Some(bytes),
            digest: (per != Per::Tensor).then(&mut next),
            tensors: tensors
                .into_iter()
                .map(|t| TensorDigest {
                    dtype: Some(t.dtype),
                    offset: t.begin,
                    bytes: t.bytes(),
                    name: t.name,
                    shape: Some(t.shape),
                    digest: next(),
                })
                .collect(),
        });
        Manifest::new(files.collect()).map_err(|problem| Error::config("paths", problem))
    }

    /// Compares files with what is known of them, and their headers, where types or shapes of tensors are. What differs
    /// comes back as [`Error::Corrupt`], headers first, each in the order given; other errors end it.
    pub fn check(&self, known: &[(&Path, &FileDigests)]) -> Result<Vec<Error>> {
        let mut files = Vec::new();
        let (mut sums, mut expected) = (Vec::new(), Vec::new());
        let mut differing = Vec::new();
        for &(path, known) in known {
            let (_, bytes) = open_file(path)?;
            let corrupt = |offset, len, problem| Error::Corrupt { path: path.into(), offset, bytes: len, problem };
            let (file, last) = (files.len(), known.tensors.iter().map(|t| t.offset + t.bytes).max().unwrap_or(0));
            let wanted = known.bytes.unwrap_or(bytes.max(last));
            if wanted != bytes {
                differing.push(corrupt(0, bytes, format!("the file has {bytes} bytes, and had {wanted}")));
                continue;
            }
            files.push(ShardFile { path: path.into(), bytes });
            let mut want = |begin, end, what: String, digest: Digest| {
                sums.push(Sum { file, begin, end, algorithm: digest.algorithm() });
                expected.push((path, begin, end - begin, what, digest));
            };
            if let Some(digest) = known.digest {
                want(0, bytes, "the file".into(), digest);
            }
            if known.tensors.iter().any(|tensor| tensor.dtype.is_some() || tensor.shape.is_some()) {
                let problems = differing_headers(path, known)?.into_iter();
                differing.extend(problems.map(|(offset, len, problem)| corrupt(offset, len, problem)));
            }
            for tensor in &known.tensors {
                want(tensor.offset, tensor.offset + tensor.bytes, format!("tensor `{}`", tensor.name), tensor.digest);
            }
        }
        for (found, (path, offset, bytes, what, digest)) in self.sum_up(files, &sums)?.into_iter().zip(expected) {
            if found != digest {
                let problem = format!("{what}: {found}, and should be {}", digest.hex());
                differing.push(Error::Corrupt { path: path.into(), offset, bytes, problem });
            }
        }
        Ok(differing)
    }

    /// One digest for each sum, in their order.
    fn sum_up(&self, files: Vec<ShardFile>, sums: &[Sum]) -> Result<Vec<Digest>> {
        if self.block_bytes == 0 || !self.block_bytes.is_multiple_of(4096) || self.block_bytes > 1 << 30 {
            let problem = format!("{} is not a multiple of 4096 up to 1 GiB", self.block_bytes);
            return Err(Error::config("block_bytes", problem));
        }
        let stretches = stretches(sums);
        let (next, files) = (AtomicU64::new(0), Arc::<[ShardFile]>::from(files));
        let threads = self.threads.clamp(1, stretches.len().max(1));
        let work = || -> Result<Vec<(usize, Digest)>> {
            let mut reader = Reader::new(self, files.clone(), threads)?;
            let mut done = Vec::new();
            while let Some(stretch) = stretches.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                done.extend(reader.sum_up(stretch, sums, &self.progress.0)?);
            }
            Ok(done)
        };
        let results: Vec<Result<Vec<(usize, Digest)>>> = std::thread::scope(|scope| {
            let spawn = |_| {
                let builder = std::thread::Builder::new().name("strait-hash".into());
                builder.spawn_scoped(scope, work_with_stop(&work, &self.progress.0))
            };
            // This thread works too, so a machine that gives no more threads only takes longer.
            let started: Vec<_> = (1..threads).map_while(|i| spawn(i).ok()).collect();
            let own = work_with_stop(&work, &self.progress.0)();
            let joined = started.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(panicked())));
            joined.chain([own]).collect()
        });
        let mut digests = vec![None; sums.len()];
        // The error that stopped the others, not that they were stopped.
        let stopped = |result: &Result<_>| matches!(result, Err(Error::Stopped { .. }));
        let (late, first): (Vec<_>, Vec<_>) = results.into_iter().partition(stopped);
        for result in first.into_iter().chain(late) {
            result?.into_iter().for_each(|(sum, digest)| digests[sum] = Some(digest));
        }
        Ok(digests.into_iter().map(|digest| digest.expect("every sum is part of a stretch")).collect())
    }
}

/// What of a file's header is not as it is known to be: offset, bytes, and what is wrong.
fn differing_headers(path: &Path, known: &FileDigests) -> Result<Vec<(u64, u64, String)>> {
    let header = match safetensors::read(path) {
        Ok(header) => header,
        Err(Error::Format { offset, problem, .. }) => return Ok(vec![(offset.unwrap_or(0), 0, problem)]),
        Err(error) => return Err(error),
    };
    let tensors: HashMap<&str, _> = header.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let differs = |known: &TensorDigest| match tensors.get(known.name.as_str()) {
        Some(t) => known.differs(t.dtype, &t.shape, t.begin, t.bytes()),
        None => Some(format!("tensor `{}` is not in the file's header", known.name)),
    };
    Ok(known.tensors.iter().filter_map(|t| Some((t.offset, t.bytes, differs(t)?))).collect())
}

/// The same, which stops the others if it fails.
fn work_with_stop<'a, T>(
    work: &'a (impl Fn() -> Result<T> + Sync),
    shared: &'a Shared,
) -> impl FnOnce() -> Result<T> + Send + 'a {
    move || work().inspect_err(|_| shared.stop.store(true, Ordering::Relaxed))
}

fn panicked() -> Error {
    Error::Stopped { reason: "a thread that hashes has panicked".into() }
}
