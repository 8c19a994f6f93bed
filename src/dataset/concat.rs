//! Several datasets as one, their fields united by name.

use super::{Dataset, Field, IndexState};
use crate::error::{Error, Result};

/// More fields than this do not occur; tables number them with 16 bits.
const FIELDS_MAX: usize = 4096;

pub(super) fn concat(datasets: Vec<Dataset>) -> Result<Dataset> {
    let fields = unite(&datasets)?;
    let formats: Vec<&str> = datasets.iter().map(|dataset| dataset.format).collect();
    let format = match datasets.as_slice() {
        [] => return Err(Error::config("datasets", "none is given; give 1 or more")),
        [first, ..] if formats.iter().all(|format| *format == first.format) => first.format,
        _ => "mixed",
    };
    let index = datasets.iter().fold(IndexState::default(), |all, one| all.joined(&one.index));
    let parts = datasets.iter().map(Dataset::len).collect();
    let mut shards = Vec::with_capacity(datasets.iter().map(|dataset| dataset.shards.len()).sum());
    let fallbacks = datasets.iter().flat_map(|dataset| dataset.fallbacks.clone()).collect();
    for dataset in datasets {
        // The united fields hold every dataset's own.
        let number = |field: &Field| fields.iter().position(|other| other.name == field.name).unwrap_or(0) as u16;
        let numbers: Vec<u16> = dataset.fields.iter().map(number).collect();
        shards.extend(dataset.shards.into_iter().map(|mut shard| {
            shard.table.renumber_fields(&numbers, fields.len());
            shard
        }));
    }
    Ok(Dataset { parts, index, fallbacks, ..Dataset::new(format, shards, fields) })
}

/// Every name once, in the order of appearance; of fixed size, type and shape where every dataset has it and they agree.
fn unite(datasets: &[Dataset]) -> Result<Vec<Field>> {
    let mut fields: Vec<Field> = Vec::new();
    for field in datasets.iter().flat_map(|dataset| &dataset.fields) {
        if fields.iter().any(|other| other.name == field.name) {
            continue;
        }
        if fields.len() == FIELDS_MAX {
            let problem = format!("more than {FIELDS_MAX} fields with different names");
            return Err(Error::config("datasets", problem));
        }
        let own = |dataset: &'_ Dataset| dataset.fields.iter().find(|own| own.name == field.name).cloned();
        let all = |same: &dyn Fn(Field) -> bool| datasets.iter().all(|d| d.is_empty() || own(d).is_some_and(same));
        if datasets.iter().filter_map(own).any(|own| own.varints != field.varints) {
            let problem = format!("{} is integers of a tf.train.Example in one and not in another", field.name);
            return Err(Error::config("datasets", problem));
        }
        fields.push(Field {
            varints: field.varints,
            name: field.name.clone(),
            fixed_bytes: field.fixed_bytes.filter(|_| all(&|own| own.fixed_bytes == field.fixed_bytes)),
            // Lacking samples have no elements of another type.
            dtype: field.dtype.filter(|_| datasets.iter().filter_map(own).all(|own| own.dtype == field.dtype)),
            shape: field.shape.clone().filter(|_| all(&|own| own.dtype == field.dtype && own.shape == field.shape)),
            text: datasets.iter().filter_map(own).all(|own| own.text),
        });
    }
    Ok(fields)
}
