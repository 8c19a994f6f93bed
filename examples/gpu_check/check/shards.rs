//! Datasets whose every byte is known: slices of one random piece of memory.

use std::ops::Range;
use std::path::{Path, PathBuf};

use strait::Dataset;
use strait::sim::Rng;

use super::Outcome;

/// What shards are cut from.
pub(crate) struct Source(Vec<u8>);

impl Source {
    pub(crate) fn new(bytes: usize) -> Source {
        let mut rng = Rng::new(7);
        Source((0..bytes / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.0[range]
    }
}

/// A dataset on disk, and the bytes of its every field.
pub(crate) struct Shards<'a> {
    source: &'a Source,
    pub(crate) dataset: Dataset,
    samples: Vec<Vec<(&'static str, Range<usize>)>>,
}

impl<'a> Shards<'a> {
    /// A few shards of fixed-size records, together at most `bytes` long.
    pub(crate) fn records(
        source: &'a Source,
        directory: &Path,
        rng: &mut Rng,
        record: usize,
        bytes: usize,
    ) -> Outcome<Shards<'a>> {
        let count = 1 + rng.below(4) as usize;
        let (mut paths, mut samples) = (Vec::new(), Vec::new());
        for shard in 0..count {
            let records = 1 + rng.below((bytes / count / record).clamp(1, 400) as u64) as usize;
            let start = place(source, rng, records * record);
            samples.extend((0..records).map(|i| vec![("record", start + i * record..start + (i + 1) * record)]));
            let path = directory.join(format!("{shard}.bin"));
            std::fs::write(&path, &source.0[start..start + records * record])?;
            paths.push(path);
        }
        Ok(Shards { source, dataset: Dataset::records(&paths, record as u64)?, samples })
    }

    /// A few tar files of samples whose `bin` is up to 12,000 bytes long, or empty, and whose `cls` some lack.
    pub(crate) fn webdataset(source: &'a Source, directory: &Path, rng: &mut Rng) -> Outcome<Shards<'a>> {
        let sizes = |rng: &mut Rng| {
            let bin_bytes = if rng.one_in(6) { 0 } else { rng.below(12_000) as usize };
            let mut sizes = vec![("bin", bin_bytes)];
            sizes.extend((!rng.one_in(5)).then_some(("cls", 3)));
            sizes
        };
        let shards: Vec<Vec<_>> =
            (0..1 + rng.below(3)).map(|_| (0..1 + rng.below(60)).map(|_| sizes(rng)).collect()).collect();
        Shards::tars(source, directory, rng, &shards)
    }

    /// Tar files of samples with these fields, of these lengths.
    pub(crate) fn tars(
        source: &'a Source,
        directory: &Path,
        rng: &mut Rng,
        shards: &[Vec<Vec<(&'static str, usize)>>],
    ) -> Outcome<Shards<'a>> {
        let (mut paths, mut all) = (Vec::<PathBuf>::new(), Vec::new());
        for (shard, samples) in shards.iter().enumerate() {
            let path = directory.join(format!("{shard}.tar"));
            let mut tar = tar::Builder::new(std::fs::File::create(&path)?);
            for (sample, fields) in samples.iter().enumerate() {
                let mut ranges = Vec::new();
                for &(field, bytes) in fields {
                    let start = place(source, rng, bytes);
                    let mut header = tar::Header::new_ustar();
                    header.set_size(bytes as u64);
                    header.set_mode(0o644);
                    let name = format!("{shard}-{sample:04}.{field}");
                    tar.append_data(&mut header, name, &source.0[start..start + bytes])?;
                    ranges.push((field, start..start + bytes));
                }
                all.push(ranges);
            }
            tar.finish()?;
            paths.push(path);
        }
        Ok(Shards { source, dataset: Dataset::webdataset(&paths)?, samples: all })
    }

    pub(crate) fn samples(&self) -> usize {
        self.samples.len()
    }

    /// The bytes of one field of one sample; `None` if it lacks the field.
    pub(crate) fn field(&self, sample: u64, field: &str) -> Option<&'a [u8]> {
        let (_, range) = self.samples[sample as usize].iter().find(|(name, _)| *name == field)?;
        Some(&self.source.0[range.clone()])
    }
}

/// Where in the source a shard begins; on odd offsets too, so that no two shards are alike.
fn place(source: &Source, rng: &mut Rng, bytes: usize) -> usize {
    rng.below((source.len() - bytes) as u64 + 1) as usize
}
