//! TFRecord files: a record is a sample, and where records are `tf.train.Example`s, their features are its fields.
//!
//! A feature of one byte string is that string; of floats, an `f32` each; of integers, the varints as they are stored,
//! which have no fixed size and which the host decodes ([`varints`]). A feature without values is one that a sample
//! lacks. Records of anything else have the one field `record`.

mod example;
mod frames;
mod source;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::Field;
use super::builder::Builder;
use super::format::{Format, Indexed, Look, Reader, Source as Shard, Verdict};
use super::merge::FIELDS_MAX;
use super::options::Options;
use super::table::Entry;
use super::tar::shown;
use super::window::Window;
use crate::dtype::DType;
use crate::error::{Error, Result};
use example::{Fault, Feature, Kind};
use frames::Frames;
use source::Source;

pub(super) const READER: Reader =
    Reader { format: Format::TfRecord, recognise, sources: |path, _| Ok(vec![Shard::file(path, index)]) };

/// What names end in, besides `.tfrecord-00000-of-00100`.
const ENDINGS: [&str; 6] = [".tfrecord", ".tfrecords", ".tfrec", ".tfrecord.gz", ".tfrecords.gz", ".tfrec.gz"];

/// What a shard's table may take beyond the shard's own size, in bytes: keeps many features that few records have from
/// growing the index out of bounds.
const TABLE_SLACK_BYTES: u64 = 512 << 10;

fn recognise(look: &Look) -> Verdict {
    (look.ends(&ENDINGS) || look.name.contains(".tfrecord-") || frames::is_head(&look.start)).into()
}

fn index(path: &Path, options: &Options) -> Result<Indexed> {
    let mut source = Window::open(path)?;
    let bytes = source.bytes();
    records(&mut source, path, bytes, options)
}

fn records(source: &mut impl Source, path: &Path, bytes: u64, options: &Options) -> Result<Indexed> {
    let mut frames = Frames::new(path, bytes, options.verify);
    let mut columns = Columns::new(path);
    let mut examples = options.examples;
    while let Some(record) = frames.next(source)? {
        columns.builder.begin_sample();
        let examples = match examples {
            Some(examples) => examples,
            None => *examples.insert(is_example(source, record.clone())?),
        };
        match examples {
            true => columns.add_example(source, record)?,
            false => columns.builder.push(0, entry(&record)),
        }
    }
    if examples != Some(true) {
        let fixed_bytes = (columns.builder.samples() > 0).then(|| columns.builder.fixed_bytes(0)).flatten();
        let fields = vec![Field::of_bytes("record", fixed_bytes)];
        return Ok(Indexed { path: path.into(), bytes, fields, met_at: Vec::new(), table: columns.builder.build() });
    }
    columns.check_size(bytes)?;
    let (fields, met_at) = (columns.fields(), columns.named.iter().map(|column| column.met_at).collect());
    Ok(Indexed { path: path.into(), bytes, fields, met_at, table: columns.builder.build() })
}

/// Whether a record is an `Example` with something in it.
fn is_example(source: &mut impl Source, record: Range<u64>) -> Result<bool> {
    let mut any = false;
    let found = example::features(source, record, |_, _| {
        any = true;
        Ok(())
    });
    match found {
        Ok(()) => Ok(any),
        Err(Fault::NoExample(..)) => Ok(false),
        // It is one: indexing says what is wrong with it.
        Err(Fault::Scattered(..)) => Ok(true),
        Err(Fault::Read(e)) => Err(e),
    }
}

fn entry(at: &Range<u64>) -> Entry {
    Entry { offset: at.start, len: at.end - at.start }
}

/// The features that have been met, and where each record's are.
struct Columns<'p> {
    path: &'p Path,
    slot_of: HashMap<Arc<str>, usize>,
    slots: Vec<Slot>,
    /// The slots of the record at hand, in its order.
    order: Vec<usize>,
    /// The features that became fields, by column.
    named: Vec<Named>,
    builder: Builder,
}

/// A name that features have.
struct Slot {
    name: Arc<str>,
    /// Of the record at hand: the last one of that name.
    latest: Option<Feature>,
    /// The number of the record that met it last.
    met: u64,
    column: Option<u16>,
}

struct Named {
    name: Arc<str>,
    kind: Kind,
    met_at: u64,
}

impl<'p> Columns<'p> {
    fn new(path: &'p Path) -> Columns<'p> {
        let (slot_of, slots, order, named) = Default::default();
        Columns { path, slot_of, slots, order, named, builder: Builder::default() }
    }

    fn add_example(&mut self, source: &mut impl Source, record: Range<u64>) -> Result<()> {
        let (path, start, number) = (self.path, record.start, self.builder.samples());
        self.order.clear();
        let found = example::features(source, record, |name, feature| {
            let slot = self.slot(name, start)?;
            if self.slots[slot].met != number {
                self.slots[slot].met = number;
                self.order.push(slot);
            }
            self.slots[slot].latest = feature;
            Ok(())
        });
        let remedy = "open it with examples(false), which gives whole records";
        found.map_err(|fault| match fault {
            Fault::NoExample(at, why) => Error::format(path, at, format!("no tf.train.Example: {why}; {remedy}")),
            Fault::Scattered(at, name) => {
                let problem =
                    format!("the feature {name:?} has several values, which lie apart: a field is one piece; {remedy}");
                Error::format(path, at, problem)
            }
            Fault::Read(e) => e,
        })?;
        for i in 0..self.order.len() {
            let slot = self.order[i];
            if let Some(feature) = self.slots[slot].latest.take() {
                let column = self.column(slot, &feature, start)?;
                self.builder.push(column, entry(&feature.at));
            }
        }
        Ok(())
    }

    fn slot(&mut self, name: &[u8], at: u64) -> Result<usize> {
        let name = std::str::from_utf8(name)
            .map_err(|_| Error::format(self.path, at, format!("the feature name {} is not UTF-8", shown(name))))?;
        if let Some(&slot) = self.slot_of.get(name) {
            return Ok(slot);
        }
        if self.slots.len() == FIELDS_MAX {
            return Err(self.too_many(at));
        }
        let name: Arc<str> = name.into();
        self.slot_of.insert(name.clone(), self.slots.len());
        self.slots.push(Slot { name, latest: None, met: 0, column: None });
        Ok(self.slots.len() - 1)
    }

    fn column(&mut self, slot: usize, feature: &Feature, at: u64) -> Result<u16> {
        let Slot { name, column, .. } = &mut self.slots[slot];
        let next = self.named.len() as u16;
        let column = *column.get_or_insert(next);
        if column == next {
            self.named.push(Named { name: name.clone(), kind: feature.kind, met_at: at });
        }
        let before = self.named[usize::from(column)].kind;
        if before != feature.kind {
            let problem = format!(
                "the feature {name:?} is {:?} here and {before:?} in the records before; open it with examples(false)",
                feature.kind
            );
            return Err(Error::format(self.path, at, problem));
        }
        Ok(column)
    }

    fn check_size(&self, bytes: u64) -> Result<()> {
        match self.builder.table_bytes() {
            Some(table) if table <= bytes + TABLE_SLACK_BYTES => Ok(()),
            _ => Err(self.too_many(self.named.last().map_or(0, |last| last.met_at))),
        }
    }

    fn too_many(&self, at: u64) -> Error {
        let problem = "too many features for an index: its records have too many different ones; open it with \
                       examples(false), which gives whole records";
        Error::format(self.path, at, problem)
    }

    fn fields(&self) -> Vec<Field> {
        let field = |(column, named): (usize, &Named)| {
            let fixed_bytes = self.builder.fixed_bytes(column);
            let dtype = (named.kind == Kind::Floats).then_some(DType::F32);
            let shape = dtype.and(fixed_bytes).map(|bytes| [bytes / 4].into());
            Field {
                name: named.name.clone(),
                fixed_bytes,
                dtype,
                shape,
                text: false,
                varints: named.kind == Kind::Ints,
            }
        };
        self.named.iter().enumerate().map(field).collect()
    }
}

/// The integers of a feature of a `tf.train.Example`, from the bytes of its field; `None` if these are not what such a
/// field has.
pub fn varints(bytes: &[u8]) -> Option<Vec<i64>> {
    let mut numbers = Vec::new();
    let (mut value, mut shift) = (0u64, 0);
    for &byte in bytes {
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        shift += 7;
        if byte < 0x80 {
            numbers.push(value as i64);
            (value, shift) = (0, 0);
        }
    }
    (shift == 0).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_integers_of_64_bits() {
        assert_eq!(varints(&[1, 0xac, 2]), Some(vec![1, 300]));
        assert_eq!(varints(&[]), Some(vec![]));
        let minus_one = [[0xff; 9].as_slice(), &[1]].concat();
        assert_eq!(varints(&minus_one), Some(vec![-1]));
        assert_eq!(varints(&[0x80]), None);
        assert_eq!(varints(&[0xff; 20]), None);
    }
}
