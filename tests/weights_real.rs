//! A real model, named by STRAIT_REAL_MODEL: loaded as the safetensors crate reads it, and saved as it was.

mod common;

use std::path::PathBuf;

use common::disk_directory;
use safetensors::SafeTensors;
use strait::Device;
use strait::weights::{Checkpoint, SaveTensor, save};

#[test]
fn a_real_model_is_loaded_as_it_is_and_saved_as_it_was() {
    let Some(model) = std::env::var_os("STRAIT_REAL_MODEL").map(PathBuf::from) else {
        return eprintln!("SKIPPED: STRAIT_REAL_MODEL names no model");
    };
    let file = std::fs::read(&model).unwrap();
    let theirs = SafeTensors::deserialize(&file).unwrap();
    let loaded = Checkpoint::open(&model).unwrap().load().device(Device::host()).load_all().unwrap();
    assert_eq!(loaded.len(), theirs.len());
    for tensor in loaded.iter() {
        let view = theirs.tensor(tensor.name()).unwrap();
        let shape: Vec<u64> = view.shape().iter().map(|&length| length as u64).collect();
        assert_eq!(tensor.shape(), shape, "{}", tensor.name());
        assert!(tensor.host_bytes().unwrap() == view.data(), "{}", tensor.name());
    }
    let directory = disk_directory();
    let copy = directory.path().join("copy.safetensors");
    let views: Vec<SaveTensor<'_>> = loaded.iter().map(|tensor| SaveTensor::loaded(tensor).unwrap()).collect();
    save(&copy, &views).unwrap();
    let copied = std::fs::read(&copy).unwrap();
    let copied = SafeTensors::deserialize(&copied).unwrap();
    for (name, view) in theirs.tensors() {
        let ours = copied.tensor(&name).unwrap();
        assert!(ours.data() == view.data() && ours.shape() == view.shape() && ours.dtype() == view.dtype(), "{name}");
    }
}
