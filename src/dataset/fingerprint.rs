//! What a dataset is, for the cursors of its runs.

use super::{Dataset, Shard};
use crate::order::Fingerprint;

/// See [`Dataset::fingerprint`].
pub(super) fn of(dataset: &Dataset) -> Fingerprint {
    let fields = dataset.fields.iter().map(|field| &*field.name);
    let parts: Vec<Fingerprint> = parts(dataset).into_iter().map(|shards| of_shards(dataset.format, shards)).collect();
    let all = match parts.as_slice() {
        [one] => one.clone(),
        parts => Fingerprint::combine(parts),
    };
    all.with_fields(fields)
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
