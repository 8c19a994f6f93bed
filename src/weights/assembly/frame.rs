//! What is to be done, and the memory that tensors lie in; nothing is started.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::channel::{self, Receiver};

use super::{Parts, direct};
use crate::config::Way;
use crate::device::{Device, DeviceKind};
use crate::error::{Error, Result};
use crate::sim::Clock;
use crate::storage::ShardFile;
use crate::weights::Builder;
use crate::weights::builder::Place;
use crate::weights::load::{Handed, Output, Shared};
use crate::weights::memory::Spot;
use crate::weights::plan::{Plan, Where};

pub(in crate::weights) fn block_sizes(builder: &Builder) -> Result<Vec<u64>> {
    builder.reads.check()?;
    let (plan, ..) = direct::plan(builder, &devices(builder))?;
    Ok(plan.block_bytes)
}

fn devices(builder: &Builder) -> Vec<Device> {
    match &builder.devices[..] {
        [] => vec![Device::auto()],
        devices => devices.to_vec(),
    }
}

/// Plans, and allocates what tensors lie in.
pub(in crate::weights) fn frame(builder: &Builder, clock: Clock) -> Result<(Parts, Receiver<Output>, Arc<Shared>)> {
    builder.reads.check()?;
    let devices = devices(builder);
    let (mut plan, mut way, mut refusal) = direct::plan(builder, &devices)?;
    if let (Way::Cufile { compat: false }, Some(problem)) = (way, direct::tight(&plan, &builder.blocks)) {
        plan.unmark();
        plan.lay_out(&builder.checkpoint, devices.len(), builder.reads.align_bytes)?;
        (way, refusal) = (Way::Staged, Some(problem));
    }
    let reads = builder.reads.clone().bounded(builder.checkpoint.files().len());
    let blocks = blocks(&plan, &devices, &builder.blocks, reads.deadline)?;
    let tensors = builder.checkpoint.shared_tensors();
    let targets = plan.targets.iter().map(|target| Handed {
        place: target.place,
        device: target.device,
        shape: target.shape.clone(),
        bytes: target.rows.bytes(),
        memory: match (&target.memory, &blocks[target.device]) {
            _ if target.rows.rows == 0 => Spot::nowhere(),
            (Where::Caller(place), _) => spot(place, &devices[target.device]),
            (Where::Block(at), Some(block)) => block.at(*at),
            (Where::Block(_), None) => unreachable!("a device with bytes has a block"),
        },
    });
    let shared = Arc::new(Shared {
        targets: targets.collect(),
        tensors,
        homes: OnceLock::new(),
        counters: Arc::default(),
        deadline: reads.deadline,
        stop: AtomicBool::new(false),
        waker: OnceLock::new(),
        stopped: Arc::default(),
        paths: builder.checkpoint.files().iter().map(|file| file.path.clone()).collect(),
    });
    refusal.into_iter().for_each(|refusal| shared.counters.fall_back(refusal));
    // Every target, and one failure.
    let (output, inbox) = channel::bounded(plan.targets.len() + 1);
    let files = builder.checkpoint.files().iter();
    let files = files.map(|file| ShardFile { path: file.path.clone(), bytes: file.bytes }).collect();
    let parts = Parts { plan, way, reads, devices, blocks, files, shared: shared.clone(), output, clock };
    Ok((parts, inbox, shared))
}

/// A place of the caller's. Memory of the host device is the host's.
fn spot(place: &Place, device: &Device) -> Spot {
    Spot::of_caller(place.ptr, device.kind() == DeviceKind::Host, place.owner.clone())
}

/// The block of each device that needs one: the caller's, or one that is allocated.
fn blocks(plan: &Plan, devices: &[Device], own: &[(usize, Place)], deadline: Duration) -> Result<Vec<Option<Spot>>> {
    if let Some((device, _)) = own.iter().find(|(device, _)| *device >= devices.len()) {
        return Err(Error::config("block", format!("there is no device {device} among {}", devices.len())));
    }
    let block = |(index, device): (usize, &Device)| {
        let bytes = plan.block_bytes[index];
        match own.iter().find(|(device, _)| *device == index) {
            _ if bytes == 0 => Ok(None),
            Some((_, place)) if place.bytes < bytes || !place.ptr.is_multiple_of(4096) => {
                let (ptr, there) = (place.ptr, place.bytes);
                let problem =
                    format!("{bytes} bytes from a multiple of 4096 are needed; these are {there} at {ptr:#x}");
                Err(Error::config("block", problem))
            }
            Some((_, place)) => Ok(Some(spot(place, device))),
            None => Spot::allocate(device, bytes, deadline).map(Some),
        }
    };
    devices.iter().enumerate().map(block).collect()
}
