//! Checkpoints of any make come to each device as they are on disk.

mod checkpoints;
mod common;

use std::sync::Arc;

use checkpoints::{Made, any, write};
use common::disk_directory;
use strait::device::SimDevice;
use strait::sim::{Clock, Rng};
use strait::weights::{Checkpoint, Tensors};
use strait::{Device, PathChoice};

fn check(tensors: &Tensors, made: &[Made]) {
    assert_eq!(tensors.len(), made.len());
    for made in made {
        let tensor = tensors.get(&made.name).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (made.dtype, &made.shape[..]), "{}", made.name);
        assert!(tensor.read_back().unwrap() == made.bytes, "wrong bytes in {}", made.name);
        let align = made.dtype.bytes().unwrap_or(1);
        assert!(made.bytes.is_empty() || tensor.device_ptr().is_multiple_of(align), "{} is not aligned", made.name);
    }
}

#[test]
fn a_checkpoint_comes_to_every_device_as_it_is() {
    let directory = disk_directory();
    let mut rng = Rng::new(1);
    let mut made = Vec::new();
    for shard in 0..3 {
        let own: Vec<Made> = (0..20).map(|i| any(&mut rng, format!("{shard}.{i}"), 100_000)).collect();
        write(directory.path(), &format!("{shard}.safetensors"), &own, shard);
        made.extend(own);
    }
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    check(&checkpoint.load().device(Device::host()).load_all().unwrap(), &made);
    check(&checkpoint.load().device(Device::host()).path(PathChoice::Staged).load_all().unwrap(), &made);
    let sim = Arc::new(SimDevice::new(3, Clock::real()));
    check(&checkpoint.load().device(Device::new(sim.clone())).block_bytes(8192).load_all().unwrap(), &made);
    assert_eq!(sim.violations(), [""; 0]);
}
