//! What simulated shards hold: slices of one piece of chance, so that a sample's bytes are known without reading them.

use std::ops::Range;
use std::path::PathBuf;

use crate::dataset::{Dataset, Format, Indexing, Options};
use crate::sim::Rng;
use crate::sims::draw::Shards;

/// The fields of the tar shards that are written.
const FIELDS: [&str; 5] = ["bin", "row", "cls", "json", "big"];

/// A dataset, and where in `base` each field of each sample is.
pub(super) struct Contents {
    pub(super) dataset: Dataset,
    pub(super) fields: Vec<&'static str>,
    pub(super) samples: Vec<Vec<Option<Range<usize>>>>,
    /// Of the field `row`, or of a record.
    pub(super) row_bytes: u64,
    /// Of the field `big`, which is worth a copy of its own.
    pub(super) big_bytes: u64,
    /// The samples of each shard.
    pub(super) shards: Vec<u64>,
    /// Indexed with checksums.
    pub(super) summed: bool,
}

/// Opens shards, as one dataset or each as one, with their checksums or without.
fn open(paths: &[PathBuf], options: &Options, mixed: bool, summed: bool) -> Dataset {
    if summed {
        let indexing = Indexing { checksums: true, threads: 1, ..Indexing::default() };
        options.index(paths, &indexing, &|_| true).unwrap();
    }
    match mixed {
        true => Dataset::concat(paths.iter().map(|path| options.open(&[path]).unwrap()).collect()).unwrap(),
        false => options.open(paths).unwrap(),
    }
}

impl Contents {
    /// Records, in four shards of one dataset or, if they are mixed, in as many datasets.
    pub(super) fn records(shards: &Shards, rng: &mut Rng, mixed: bool) -> Contents {
        let summed = rng.one_in(3);
        let record = [1 + rng.below(600), 512, 4096, 1 + rng.below(20_000)][rng.below(4) as usize];
        let (paths, places) = shards.write(rng, record);
        let dataset = open(&paths, &Dataset::options().format(Format::Records).record_bytes(record), mixed, summed);
        let row = |(start, i): (usize, u64)| {
            let at = start + (i * record) as usize;
            vec![Some(at..at + record as usize)]
        };
        let rows = places.iter().flat_map(|&(start, records)| (0..records).map(move |i| (start, i)));
        let samples = rows.map(row).collect();
        let shards = places.iter().map(|(_, records)| *records).collect();
        Contents { dataset, fields: vec!["record"], samples, row_bytes: record, big_bytes: 0, shards, summed }
    }

    /// Tar files of samples with [`FIELDS`]: one of any size, one of a fixed size, small ones, one that some lack.
    pub(super) fn tars(shards: &Shards, rng: &mut Rng, mixed: bool) -> Contents {
        let summed = rng.one_in(3);
        let row_bytes = [4, 12, 512, 4 * (1 + rng.below(3000))][rng.below(4) as usize];
        let big_bytes = (64 << 10) + 16 * rng.below(512);
        let mut samples = Vec::new();
        let mut counts = Vec::new();
        let mut paths = Vec::new();
        for number in 0..1 + rng.below(3) {
            let path = shards.directory.path().join(format!("{number}.tar"));
            let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
            counts.push(3 + rng.below(12));
            for sample in 0..counts[number as usize] {
                // The first sample of a shard has every field, so that all shards number them alike.
                let lens = [1 + rng.below(20_000), row_bytes, 1 + rng.below(3), rng.below(300), big_bytes];
                let lacks = [false, false, false, sample > 0 && rng.one_in(3), false];
                let fields = lens.iter().zip(lacks).map(|(&len, lacks)| {
                    let start = rng.below((shards.base.len() as u64) - len) as usize;
                    (!lacks).then_some(start..start + len as usize)
                });
                let fields: Vec<Option<Range<usize>>> = fields.collect();
                for (name, range) in FIELDS.iter().zip(&fields) {
                    let Some(range) = range else { continue };
                    let mut header = tar::Header::new_ustar();
                    header.set_size(range.len() as u64);
                    header.set_mode(0o644);
                    tar.append_data(&mut header, format!("{number}-{sample:04}.{name}"), &shards.base[range.clone()])
                        .unwrap();
                }
                samples.push(fields);
            }
            tar.finish().unwrap();
            paths.push(path);
        }
        let dataset = open(&paths, &Dataset::options().format(Format::WebDataset), mixed, summed);
        let fields = dataset.fields().iter().map(|field| FIELDS.into_iter().find(|own| *own == &*field.name).unwrap());
        let fields: Vec<&'static str> = fields.collect();
        assert_eq!(fields, FIELDS);
        Contents { dataset, fields, samples, row_bytes, big_bytes, shards: counts, summed }
    }

    /// Where the bytes of a field of a sample are, if it has it.
    pub(super) fn of(&self, sample: u64, field: &str) -> Option<Range<usize>> {
        let field = self.fields.iter().position(|own| *own == field).unwrap();
        self.samples[sample as usize][field].clone()
    }

    /// Where the bytes of a document are: a sample's, or a whole shard of records.
    pub(super) fn document(&self, document: u64, field: &str) -> Range<usize> {
        if self.dataset.format() != "records" {
            return self.of(document, field).unwrap_or(0..0);
        }
        let first: u64 = self.shards[..document as usize].iter().sum();
        let last = first + self.shards[document as usize] - 1;
        self.of(first, field).unwrap().start..self.of(last, field).unwrap().end
    }
}
