//! WebDataset: tar files whose consecutive members form samples.
//!
//! ```text
//! a/b.seg.PNG   key "a/b" (up to the first dot of the last part), field "seg.png" (the rest, in lower case)
//! a/b.cls       same key as the member before it: same sample
//! a/c.cls       another key: the next sample
//! ```
//! The rules are those of `webdataset`'s `tariterators.py` (`tar_file_iterator`, `base_plus_ext`, `group_by_keys`),
//! except that what it would pass over in a damaged tar file is an error here.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::Field;
use super::builder::Builder;
use super::format::{Format, Indexed, Look, Reader, Source, Verdict};
use super::merge::{FIELDS_MAX, too_many_fields};
use super::options::Options;
use super::table::Entry;
use super::tar::{Members, shown};
use crate::error::{Error, Result};

/// What a shard's table may take beyond the shard's own size, in bytes: keeps many fields that few samples have from
/// growing the index out of bounds, and never meets a small shard.
const TABLE_SLACK_BYTES: u64 = 512 << 10;

/// Names that WebDataset puts into every sample itself.
const RESERVED: [&str; 2] = ["__key__", "__url__"];

/// Names of tar files, compressed ones too; `.tar.idx` and its like are other programs' indexes.
const ENDINGS: [&str; 8] = [".tar", ".tgz", ".tzst", ".tar.gz", ".tar.zst", ".tar.xz", ".tar.bz2", ".tar.lz4"];

pub(super) const READER: Reader =
    Reader { format: Format::WebDataset, recognise, sources: |path, _| Ok(vec![Source::file(path, index)]) };

fn recognise(look: &Look) -> Verdict {
    (look.ends(&ENDINGS) || look.start.get(257..262) == Some(b"ustar")).into()
}

struct Column {
    name: Arc<str>,
    /// The header of the first member of that name.
    header: u64,
}

fn index(path: &Path, _: &Options) -> Result<Indexed> {
    let mut members = Members::open(path)?;
    let bytes = members.bytes();
    let mut grouping = Grouping::default();
    while let Some(member) = members.next()? {
        let entry = Entry { offset: member.offset, len: member.len };
        grouping.add(member.name, member.header, entry).map_err(|problem| match problem {
            Problem::TooManyFields(name) => Error::format(path, member.header, too_many_fields(&name)),
            Problem::Name(problem) => Error::format(path, member.header, problem),
        })?;
    }
    let Grouping { columns, builder, .. } = grouping;
    if builder.table_bytes().is_none_or(|table| table > bytes + TABLE_SLACK_BYTES) {
        let last = columns.last().expect("a table of some size has a column");
        return Err(Error::format(path, last.header, too_many_fields(&last.name)));
    }
    let field = |(i, column): (usize, &Column)| Field::of_bytes(column.name.clone(), builder.fixed_bytes(i));
    let fields = columns.iter().enumerate().map(field).collect();
    let met_at = columns.iter().map(|column| column.header).collect();
    Ok(Indexed { path: path.into(), bytes, fields, met_at, table: builder.build() })
}

/// Puts consecutive members together.
#[derive(Default)]
struct Grouping {
    key: Vec<u8>,
    column: HashMap<Arc<str>, u16>,
    columns: Vec<Column>,
    /// Per column: the number of samples begun when it was last met, so that a second meeting in one sample shows.
    met: Vec<u64>,
    builder: Builder,
}

enum Problem {
    TooManyFields(String),
    Name(String),
}

impl Grouping {
    fn add(&mut self, name: &[u8], header: u64, entry: Entry) -> Result<(), Problem> {
        let Some((key, ext)) = (!is_meta(name)).then(|| base_plus_ext(name)).flatten() else { return Ok(()) };
        let ext = std::str::from_utf8(ext)
            .map_err(|_| Problem::Name(format!("the field name in {} is not UTF-8", shown(name))))?;
        let lower;
        let ext = if ext.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
            ext
        } else {
            lower = ext.to_lowercase();
            &lower
        };
        if self.builder.samples() == 0 || self.key != key {
            self.key.clear();
            self.key.extend_from_slice(key);
            self.builder.begin_sample();
        }
        let column = self.column(ext, header)?;
        if RESERVED.contains(&ext) || self.met[usize::from(column)] == self.builder.samples() {
            return Err(Problem::Name(format!(
                "{}: the sample {} already has a field {}; give each member of a sample its own extension",
                shown(name),
                shown(key),
                shown(ext.as_bytes())
            )));
        }
        self.met[usize::from(column)] = self.builder.samples();
        self.builder.push(column, entry);
        Ok(())
    }

    fn column(&mut self, name: &str, header: u64) -> Result<u16, Problem> {
        if let Some(&column) = self.column.get(name) {
            return Ok(column);
        }
        if self.columns.len() == FIELDS_MAX {
            return Err(Problem::TooManyFields(name.to_owned()));
        }
        let column = self.columns.len() as u16;
        let name: Arc<str> = name.into();
        self.column.insert(name.clone(), column);
        self.columns.push(Column { name, header });
        self.met.push(0);
        Ok(column)
    }
}

/// Whether a name's first part is `__like_this__`: WebDataset's own notes, not samples.
fn is_meta(name: &[u8]) -> bool {
    let first = name.split(|&b| b == b'/').next().unwrap_or(name);
    first.len() >= 4 && first.starts_with(b"__") && first.ends_with(b"__")
}

/// Splits a name into key and extension at the first dot of its last part, as the pattern
/// `^((?:.*/|)[^.]+)[.]([^/]*)$` does; `None` where that does not match.
fn base_plus_ext(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let base = name.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].iter().position(|&b| b == b'.')?;
    if dot == base {
        // `[^.]+` may match the directory before a leading dot: "d/.x" is the field "x" of the sample "d/".
        let part = name[..base].strip_suffix(b"/")?;
        let part = part.rsplit(|&b| b == b'/').next().unwrap_or(part);
        (!part.contains(&b'.')).then_some(())?;
    }
    Some((&name[..dot], &name[dot + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_as_webdataset_splits_them() {
        // Answers of webdataset 1.0.2's base_plus_ext for these very names.
        let cases: [(&str, Option<(&str, &str)>); 14] = [
            ("a/b.seg.png", Some(("a/b", "seg.png"))),
            ("a.jpg", Some(("a", "jpg"))),
            ("a.b/c.jpg", Some(("a.b/c", "jpg"))),
            ("a", None),
            ("a.b/c", None),
            (".hidden", None),
            ("./.hidden", None),
            ("./a.jpg", Some(("./a", "jpg"))),
            ("d/.hidden", Some(("d/", "hidden"))),
            ("a.b//.x", Some(("a.b//", "x"))),
            ("x/d.e/.hidden", None),
            ("a.", Some(("a", ""))),
            ("a..b", Some(("a", ".b"))),
            ("", None),
        ];
        for (name, want) in cases {
            let want = want.map(|(key, ext)| (key.as_bytes(), ext.as_bytes()));
            assert_eq!(base_plus_ext(name.as_bytes()), want, "{name:?}");
        }
    }

    #[test]
    fn notes_are_told_from_samples() {
        for (name, meta) in
            [("__meta__", true), ("__m.x__", true), ("__d__/a.jpg", true), ("__a.jpg", false), ("d/__x__", false)]
        {
            assert_eq!(is_meta(name.as_bytes()), meta, "{name}");
        }
    }
}
