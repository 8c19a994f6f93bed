//! Files that the formats' own libraries wrote, compared byte for byte: `tests/interop/run` makes them and runs this.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};
use strait::dataset::{Format, Options};
use strait::{DType, Dataset, Device, Loader};

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn options(said: &Value) -> Options {
    let mut options = Dataset::options();
    for (name, value) in said.as_object().unwrap() {
        options = match name.as_str() {
            "format" => options.format(Format::from_name(value.as_str().unwrap()).unwrap()),
            "dtype" => options.dtype(DType::from_name(value.as_str().unwrap()).unwrap()),
            "examples" => options.examples(value.as_bool().unwrap()),
            "verify" => options.verify(value.as_bool().unwrap()),
            other => panic!("no option {other}"),
        };
    }
    options
}

/// Compares a value with what the manifest says of it: its length and its hash.
fn compare(what: &str, found: Option<&[u8]>, want: &Value) {
    let Some(found) = found else { return assert!(want.is_null(), "{what} is not there") };
    assert_eq!(
        (found.len() as u64, hex(found)),
        (want[0].as_u64().unwrap(), want[1].as_str().unwrap().into()),
        "{what}"
    );
}

fn check(entry: &Value) -> u64 {
    let path = entry["path"].as_str().unwrap();
    let dataset = options(&entry["options"]).open(&[path]).unwrap_or_else(|e| panic!("{path}: {e}"));
    let want = entry["samples"].as_array().unwrap();
    assert_eq!((dataset.format(), dataset.len()), (entry["format"].as_str().unwrap(), want.len() as u64), "{path}");
    for field in dataset.fields() {
        let said = &entry["fields"][&*field.name];
        if let Some(dtype) = said.get("dtype") {
            assert_eq!(field.dtype.map(DType::name), dtype.as_str(), "{path}: {field:?}");
        }
        if let Some(shape) = said.get("shape") {
            let want: Option<Vec<u64>> = serde_json::from_value(shape.clone()).unwrap();
            assert_eq!(field.shape.as_deref(), want.as_deref(), "{path}: {field:?}");
        }
    }
    let names: Vec<&str> = dataset.fields().iter().map(|field| &*field.name).collect();
    let unknown = want.iter().flat_map(|sample| sample.as_object().unwrap().keys());
    assert!({ unknown }.all(|name| names.contains(&&**name)), "{path} has {names:?}");
    let files: BTreeMap<&Path, File> =
        dataset.shards().iter().map(|shard| (&*shard.path, File::open(&shard.path).unwrap())).collect();
    for (id, sample) in want.iter().enumerate() {
        for (number, name) in names.iter().enumerate() {
            let bytes = dataset.extent(id as u64, number).map(|extent| {
                let mut bytes = vec![0; extent.len as usize];
                let file = &files[&*dataset.shards()[extent.shard as usize].path];
                file.read_exact_at(&mut bytes, extent.offset).unwrap();
                bytes
            });
            compare(&format!("{path}, sample {id}, {name}"), bytes.as_deref(), &sample[name]);
        }
    }
    dataset.check().unwrap();
    if !dataset.is_empty() {
        through_a_loader(path, &dataset, want);
    }
    dataset.len()
}

fn through_a_loader(path: &str, dataset: &Dataset, want: &[Value]) {
    let mut loader = Loader::builder(dataset.clone()).device(Device::host()).batch_size(8).build().unwrap();
    for batch in loader.epoch(0) {
        let batch = batch.unwrap();
        for (i, &id) in batch.samples().iter().enumerate() {
            for field in batch.fields() {
                let bytes = batch.field(&field.name).unwrap().host_bytes(i).unwrap();
                compare(&format!("{path}, sample {id}, {}", field.name), bytes, &want[id as usize][&*field.name]);
            }
        }
    }
}

#[test]
fn what_other_libraries_wrote_is_read() {
    let Ok(root) = std::env::var("STRAIT_INTEROP") else {
        return eprintln!("skipped: tests/interop/run sets STRAIT_INTEROP to a directory that the libraries wrote");
    };
    let manifest = std::fs::read(Path::new(&root).join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let mut formats: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for entry in manifest["datasets"].as_array().unwrap() {
        let count = formats.entry(entry["format"].as_str().unwrap()).or_default();
        *count = (count.0 + 1, count.1 + check(entry));
    }
    assert!(!formats.is_empty());
    for (format, (datasets, samples)) in formats {
        println!("{format}: {datasets} datasets, {samples} samples, every byte as it was written");
    }
}
