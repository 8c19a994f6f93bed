//! The shards of one format as a dataset, their fields numbered in order of first appearance.

use std::collections::HashMap;
use std::sync::Arc;

use super::format::{Format, Indexed};
use super::table::numbering;
use super::{Dataset, Field, Shard};
use crate::error::{Error, Result};

/// The most fields a dataset may have. More come of names with stray dots, not of data.
pub(super) const FIELDS_MAX: usize = 1024;

pub(super) fn merge(format: Format, indexed: Vec<Indexed>) -> Result<Dataset> {
    let mut fields: Vec<Field> = Vec::new();
    let mut number: HashMap<Arc<str>, u16> = HashMap::new();
    let mut numbers: Vec<Vec<u16>> = Vec::with_capacity(indexed.len());
    for shard in &indexed {
        let mut field_of = Vec::with_capacity(shard.fields.len());
        for (i, field) in shard.fields.iter().enumerate() {
            let next = fields.len();
            let own = *number.entry(field.name.clone()).or_insert(next as u16);
            if usize::from(own) == next {
                if next == FIELDS_MAX {
                    let at = shard.met_at.get(i).copied().unwrap_or(0);
                    return Err(Error::format(&*shard.path, at, too_many_fields(&field.name)));
                }
                fields.push(field.clone());
            }
            field_of.push(own);
        }
        numbers.push(field_of);
    }
    if format == Format::TfRecord {
        same_kinds(&indexed)?;
    }
    agree(&mut fields, &indexed, &numbers);
    // Shards alike share one numbering.
    let mut numberings: HashMap<Vec<u16>, Arc<[u16]>> = HashMap::new();
    let shards = indexed.into_iter().zip(numbers).map(|(mut shard, field_of)| {
        let column_of = match numberings.get(&field_of) {
            Some(known) => known.clone(),
            None => numberings.entry(field_of.clone()).or_insert(numbering(&field_of, fields.len())).clone(),
        };
        shard.table.number_fields(column_of);
        let number = |fields: &[Field]| matches!(fields, [Field { shape: Some(shape), .. }] if shape.is_empty());
        let one_document = format == Format::Records || (format == Format::Npy && number(&shard.fields));
        Shard { one_document, path: shard.path, bytes: shard.bytes, table: shard.table }
    });
    let shards = shards.collect();
    Ok(Dataset::new(format.name(), shards, fields))
}

/// That records are whole in all shards or in none, and that features of one name are of one kind.
///
/// # Errors
/// [`Error::Format`] for the first shard that differs from those before.
fn same_kinds(indexed: &[Indexed]) -> Result<()> {
    let mut kinds: HashMap<&str, (&Indexed, &Field)> = HashMap::new();
    let is_whole = |shard: &Indexed| matches!(&shard.fields[..], [only] if &*only.name == "record");
    let mut first: Option<&Indexed> = None;
    for shard in indexed.iter().filter(|shard| shard.table.rows() > 0) {
        let differs = |field: usize, from: &Indexed, what: String| {
            let at = shard.met_at.get(field).copied().unwrap_or(0);
            let from = from.path.display();
            Err(Error::format(&*shard.path, at, format!("{what} in {from}; open both with examples(false)")))
        };
        let first = *first.get_or_insert(shard);
        if is_whole(first) != is_whole(shard) {
            let kind = |shard| if is_whole(shard) { "whole records" } else { "tf.train.Examples" };
            return differs(0, first, format!("it has {}, and there are {}", kind(shard), kind(first)));
        }
        for (i, field) in shard.fields.iter().enumerate() {
            let (from, before) = *kinds.entry(&field.name).or_insert((shard, field));
            if (before.dtype, before.varints) != (field.dtype, field.varints) {
                return differs(i, from, format!("the feature {:?} is of another kind than", field.name));
            }
        }
    }
    Ok(())
}

/// Leaves size, type and shape to a field only where every shard with samples has them, and the same.
fn agree(fields: &mut [Field], indexed: &[Indexed], numbers: &[Vec<u16>]) {
    let mut met = vec![0u64; fields.len()];
    let with_samples = || indexed.iter().zip(numbers).filter(|(shard, _)| shard.table.rows() > 0);
    for (shard, field_of) in with_samples() {
        for (own, &number) in shard.fields.iter().zip(field_of) {
            let number = usize::from(number);
            let field = &mut fields[number];
            if met[number] == 0 {
                *field = own.clone();
            }
            met[number] += 1;
            field.fixed_bytes = field.fixed_bytes.filter(|_| field.fixed_bytes == own.fixed_bytes);
            if field.dtype != own.dtype {
                (field.dtype, field.shape) = (None, None);
            }
            field.text &= own.text;
            if field.shape != own.shape {
                field.shape = None;
            }
        }
    }
    let all = with_samples().count() as u64;
    for (field, _) in fields.iter_mut().zip(&met).filter(|(_, met)| **met < all || all == 0) {
        (field.fixed_bytes, field.shape) =
            (field.fixed_bytes.filter(|_| all == 0), field.shape.take().filter(|_| all == 0));
    }
}

pub(super) fn too_many_fields(name: &str) -> String {
    format!(
        "one field too many, {}: its samples have too many different ones for an index. A field's name is all that \
         follows the first dot of a member's name; put no other dots before it",
        super::tar::shown(name.as_bytes())
    )
}
