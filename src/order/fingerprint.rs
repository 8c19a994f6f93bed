//! What a dataset is, as far as its order is concerned.

use super::key::{fold, mix};
use crate::error::{Error, Result};

/// What must not change while a cursor is to be continued. Directories are not in it: a dataset may move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// The format's name: `"webdataset"`; for a mixture the formats joined by `+`.
    pub format: String,
    /// Number of shards.
    pub shards: u64,
    /// Number of samples.
    pub samples: u64,
    /// Bytes of all shards.
    pub bytes: u64,
    /// A hash of each shard's file name, size and number of samples, and of the fields' names, in order.
    pub layout: u64,
    /// A hash of where some samples lie, spread evenly over all: every sample of up to 1,024, so many of more (fewer where
    /// they have many fields). What it does not meet goes unnoticed: a few neighbours that changed places in a large
    /// dataset. `None` in cursors that are older than this field: then it is not compared.
    pub places: Option<u64>,
}

impl Fingerprint {
    /// From each shard's file name (without its directory), size in bytes, and number of samples.
    pub fn new<'a>(format: &str, shards: impl IntoIterator<Item = (&'a str, u64, u64)>) -> Fingerprint {
        let mut all = Fingerprint::empty(format);
        for (name, bytes, samples) in shards {
            all.add(1, samples, bytes, fold(fold(hash(name.as_bytes()), bytes), samples));
        }
        all
    }

    /// With the names of the fields that samples have, in order.
    pub fn with_fields<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Fingerprint {
        for name in names {
            self.layout = fold(self.layout, hash(name.as_bytes()));
        }
        self
    }

    /// With where samples lie: shard, offset and length of each that was looked at.
    pub fn with_places(mut self, places: impl IntoIterator<Item = (u32, u64, u64)>) -> Fingerprint {
        let place = |hash, (shard, offset, len): (u32, u64, u64)| fold(fold(fold(hash, shard.into()), offset), len);
        self.places = Some(places.into_iter().fold(0, place));
        self
    }

    /// Of several datasets in the order of their mixture.
    pub fn combine<'a>(datasets: impl IntoIterator<Item = &'a Fingerprint>) -> Fingerprint {
        let mut all = Fingerprint::empty("");
        let mut formats: Vec<&str> = Vec::new();
        for one in datasets {
            if !formats.contains(&one.format.as_str()) {
                formats.push(&one.format);
            }
            all.add(one.shards, one.samples, one.bytes, fold(hash(one.format.as_bytes()), one.layout));
            all.places = one.places.map(|places| fold(all.places.unwrap_or(0), places)).or(all.places);
        }
        all.format = formats.join("+");
        all
    }

    /// That `now` is the same dataset as this one.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field that differs, with both values.
    pub fn check(&self, now: &Fingerprint) -> Result<()> {
        let changed = |field: &str, was: &dyn std::fmt::Display, is: &dyn std::fmt::Display| {
            let problem = format!(
                "the dataset changed: {field} was {was} and is {is}; give the dataset the cursor was taken from, \
                 or allow the change to go on at the same position of the new one"
            );
            Err(Error::config("cursor", problem))
        };
        if self.format != now.format {
            return changed("format", &self.format, &now.format);
        }
        for (field, was, is) in [
            ("shards", self.shards, now.shards),
            ("samples", self.samples, now.samples),
            ("bytes", self.bytes, now.bytes),
        ] {
            if was != is {
                return changed(field, &was, &is);
            }
        }
        let hex = |hash| format!("{hash:016x}");
        if self.layout != now.layout {
            return changed("layout (shard names, sizes, order; fields)", &hex(self.layout), &hex(now.layout));
        }
        if let (Some(was), Some(is)) = (self.places, now.places)
            && was != is
        {
            return changed("places (where samples lie in their shards, and their lengths)", &hex(was), &hex(is));
        }
        Ok(())
    }

    fn empty(format: &str) -> Fingerprint {
        Fingerprint { format: format.into(), shards: 0, samples: 0, bytes: 0, layout: 0, places: None }
    }

    fn add(&mut self, shards: u64, samples: u64, bytes: u64, layout: u64) {
        self.shards += shards;
        self.samples = self.samples.saturating_add(samples);
        self.bytes = self.bytes.saturating_add(bytes);
        self.layout = fold(self.layout, layout);
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let word = |piece: &[u8]| piece.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
    bytes.chunks(8).fold(mix(bytes.len() as u64), |hash, piece| fold(hash, word(piece)))
}
