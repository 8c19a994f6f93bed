//! What a dataset is, for the cursors of its runs.

use super::{Dataset, Shard};
use crate::order::Fingerprint;

/// Places that are looked at. Of an index in a mapped file each may be a page that has to be read.
const PLACES: u64 = 1024;

/// See [`Dataset::fingerprint`].
pub(super) fn of(dataset: &Dataset) -> Fingerprint {
    let fields = dataset.fields.iter().map(|field| &*field.name);
    let parts: Vec<Fingerprint> = parts(dataset).into_iter().map(|shards| of_shards(dataset.format, shards)).collect();
    let all = match parts.as_slice() {
        [one] => one.clone(),
        parts => Fingerprint::combine(parts),
    };
    let all = all.with_fields(fields);
    match places(dataset) {
        Some(places) => all.with_places(places),
        None => all,
    }
}

/// Where samples lie, spread over all of them. `None` where the index is damaged: whoever needs the damaged part is told so,
/// and others are not.
fn places(dataset: &Dataset) -> Option<Vec<(u32, u64, u64)>> {
    let fields = dataset.fields.len();
    if dataset.is_empty() {
        return None;
    }
    let (len, looks) = (dataset.len(), (PLACES / fields as u64).max(16).min(dataset.len()));
    let mut places = Vec::with_capacity(looks as usize * fields);
    for look in 0..looks {
        let sample = (u128::from(look) * u128::from(len - 1) / u128::from((looks - 1).max(1))) as u64;
        let (shard, row) = dataset.place(sample, 0);
        for field in 0..fields {
            let Shard { table, bytes, .. } = &dataset.shards[shard];
            let entry = table.get(row, field, *bytes).ok()?;
            // Where a field is not there, no place is that.
            places.push(entry.map_or((u32::MAX, 0, 0), |entry| (shard as u32, entry.offset, entry.len)));
        }
    }
    Some(places)
}

fn of_shards(format: &str, shards: &[Shard]) -> Fingerprint {
    let name = |shard: &Shard| shard.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names: Vec<String> = shards.iter().map(name).collect();
    Fingerprint::new(format, names.iter().zip(shards).map(|(name, shard)| (&**name, shard.bytes, shard.samples())))
}

/// The shards of each dataset that was joined. Those without samples belong to whichever comes next, or to the last.
fn parts(dataset: &Dataset) -> Vec<&[Shard]> {
    let mut rest = dataset.shards.as_slice();
    let mut parts = Vec::with_capacity(dataset.parts.len());
    for (part, &samples) in dataset.parts.iter().enumerate() {
        let (mut end, mut seen) = (0, 0);
        while seen < samples && end < rest.len() {
            seen += rest[end].samples();
            end += 1;
        }
        let last = part + 1 == dataset.parts.len();
        let (own, others) = rest.split_at(if last { rest.len() } else { end });
        parts.push(own);
        rest = others;
    }
    parts
}
