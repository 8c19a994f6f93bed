//! An index (`model.safetensors.index.json`): which file has which tensor. It is checked against the files.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Component, Path};
use std::sync::Arc;

use serde::de::{Deserialize, Error as _, IgnoredAny, MapAccess, Visitor};

use super::{Checkpoint, inside};
use crate::error::{Error, Result, bare, position};
use crate::file;
use crate::safetensors::HEADER_BYTES_MAX;

pub(super) fn open_index(path: &Path) -> Result<Checkpoint> {
    let text = file::read_whole(path, HEADER_BYTES_MAX)?;
    let Index(map) = serde_json::from_slice(&text).map_err(|error| {
        let offset = position(&text, &error) as u64;
        let problem = format!("{}; the index is damaged or badly written: fetch it again", bare(&error));
        Error::format(path, offset, problem)
    })?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let names: BTreeSet<&str> = map.values().map(|name| &**name).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let paths = names.iter().map(|name| {
        plain(name)
            .map_err(|what| Error::format(path, None, format!("it names the file `{name}`, {what}; refused")))?;
        inside(directory, Path::new(name))
    });
    let paths = paths.collect::<Result<Vec<_>>>()?;
    let checkpoint = Checkpoint::open_files(&paths)?;
    agree(path, &map, &names, &checkpoint)?;
    Ok(checkpoint)
}

/// The index says the same as the files.
fn agree(index: &Path, map: &HashMap<String, Arc<str>>, names: &[&str], checkpoint: &Checkpoint) -> Result<()> {
    for (name, file) in map {
        let found = checkpoint.tensor(name).map(|tensor| names[tensor.shard as usize]);
        if found != Some(&**file) {
            let place = found.map_or("in none of its files".into(), |found| format!("in `{found}`"));
            let problem = format!("tensor `{name}` should be in `{file}` and is {place}; fetch index and files again");
            return Err(Error::format(index, None, problem));
        }
    }
    let missing = checkpoint.tensors().iter().find(|tensor| !map.contains_key(&*tensor.name));
    missing.map_or(Ok(()), |tensor| {
        let file = names[tensor.shard as usize];
        let problem =
            format!("tensor `{}` of `{file}` is not in it; open the files themselves to have it too", tensor.name);
        Err(Error::format(index, None, problem))
    })
}

/// A relative path that goes down only.
fn plain(name: &str) -> Result<(), &'static str> {
    let path = Path::new(name);
    match path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        true if name.contains('\0') || path.file_name().is_none() => Err("which is no name of a file"),
        true => Ok(()),
        false => Err("which is outside its directory"),
    }
}

/// The index's `weight_map`: for each tensor its file.
struct Index(HashMap<String, Arc<str>>);

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Index, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Index;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object with a `weight_map`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Index, A::Error> {
                let mut found = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key != "weight_map" {
                        map.next_value::<IgnoredAny>()?;
                    } else if found.replace(map.next_value::<WeightMap>()?.0).is_some() {
                        return Err(A::Error::custom("`weight_map` is there twice"));
                    }
                }
                found.map(Index).ok_or_else(|| A::Error::custom("there is no `weight_map`"))
            }
        }
        deserializer.deserialize_map(Whole)
    }
}

struct WeightMap(HashMap<String, Arc<str>>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<WeightMap, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of names of files")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut pairs = HashMap::new();
                while let Some((name, file)) = map.next_entry::<String, String>()? {
                    if pairs.insert(name.clone(), file.into()).is_some() {
                        return Err(A::Error::custom(format!("tensor `{name}` is there twice")));
                    }
                }
                Ok(WeightMap(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}
