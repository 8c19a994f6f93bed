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

use super::table::{Builder, Entry, Table};
use super::tar::{Members, shown};
use super::{Dataset, Field, Layout, Shard};
use crate::error::{Error, Result};

/// The most fields a dataset may have. More come of names with stray dots, not of data.
const FIELDS_MAX: usize = 1024;

/// What a shard's table may take beyond the shard's own size, in bytes: keeps many fields that few samples have from
/// growing the index out of bounds, and never meets a small shard.
const TABLE_SLACK_BYTES: u64 = 512 << 10;

/// Names that WebDataset puts into every sample itself.
const RESERVED: [&str; 2] = ["__key__", "__url__"];

pub(super) fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Dataset> {
    merge(super::files::index_shards(paths, index)?)
}

/// A shard's table, and what its columns are.
struct Indexed {
    path: Arc<Path>,
    bytes: u64,
    columns: Vec<Column>,
    table: Table,
}

struct Column {
    name: Arc<str>,
    /// The header of the first member of that name.
    header: u64,
    fixed_bytes: Option<u64>,
}

/// Numbers the fields of all shards in order of first appearance.
fn merge(mut indexed: Vec<Indexed>) -> Result<Dataset> {
    let mut fields: Vec<Field> = Vec::new();
    let mut number = HashMap::new();
    let mut numbers = Vec::with_capacity(indexed.len());
    for shard in &indexed {
        let mut field_of = Vec::with_capacity(shard.columns.len());
        for column in &shard.columns {
            let next = fields.len();
            let field = *number.entry(column.name.clone()).or_insert(next as u16);
            if usize::from(field) == next {
                if next == FIELDS_MAX {
                    return Err(too_many_fields(&shard.path, column.header, &column.name));
                }
                fields.push(Field::of_bytes(column.name.clone(), None));
            }
            field_of.push(field);
        }
        numbers.push(field_of);
    }
    for (shard, field_of) in indexed.iter_mut().zip(&numbers) {
        shard.table.number_fields(field_of, fields.len());
    }
    for (i, field) in fields.iter_mut().enumerate() {
        let with_samples = indexed.iter().filter(|shard| shard.table.rows() > 0);
        let mut sizes = with_samples.map(|shard| shard.columns[shard.table.column(i)?].fixed_bytes);
        let first = sizes.next().flatten();
        field.fixed_bytes = first.filter(|_| sizes.all(|size| size == first));
    }
    let shard = |one: Indexed| Shard { path: one.path, bytes: one.bytes, layout: Layout::Table(one.table) };
    Ok(Dataset::new("webdataset", indexed.into_iter().map(shard).collect(), fields))
}

fn index(path: &Path) -> Result<Indexed> {
    let mut members = Members::open(path)?;
    let bytes = members.bytes();
    let mut grouping = Grouping::default();
    while let Some(member) = members.next()? {
        let entry = Entry { offset: member.offset, len: member.len };
        grouping.add(member.name, member.header, entry).map_err(|problem| match problem {
            Problem::TooManyFields(name) => too_many_fields(path, member.header, &name),
            Problem::Name(problem) => Error::format(path, member.header, problem),
        })?;
    }
    let Grouping { columns, builder, .. } = grouping;
    if builder.table_bytes().is_none_or(|table| table > bytes + TABLE_SLACK_BYTES) {
        let last = columns.last().expect("a table of some size has a column");
        return Err(too_many_fields(path, last.header, &last.name));
    }
    let fixed = |(i, column)| Column { fixed_bytes: builder.fixed_bytes(i), ..column };
    let columns = columns.into_iter().enumerate().map(fixed).collect();
    Ok(Indexed { path: path.into(), bytes, columns, table: builder.build() })
}

fn too_many_fields(path: &Path, header: u64, name: &str) -> Error {
    Error::format(
        path,
        header,
        format!(
            "one field too many, {}: its samples have too many different ones for an index. A field's name is all that \
             follows the first dot of a member's name; put no other dots before it",
            shown(name.as_bytes())
        ),
    )
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
        self.columns.push(Column { name, header, fixed_bytes: None });
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
