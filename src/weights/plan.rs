//! What is read, and where each byte goes: worked out before anything is allocated. Pure, but for the caller's own
//! functions.
//!
//! ```text
//!  shard   |header|  a  |   b   | c |      d       |        a, b, d: chosen; c: not; d: a part, its rows far apart
//!  items           [ a ] [  b  ]     [r]  [r]  [r]          in file order, never overlapping
//!  targets         a->0  b->0 b->1   d->1                   what each device gets of an item
//! ```

mod checks;
mod layout;

use std::ops::Range;

use super::builder::{Builder, Place};
use super::extents::Extents;
use super::rows::{Rows, rows_of};
use super::{Digest, TensorInfo};
use crate::device::Device;
use crate::error::{Error, Result};
use layout::alignment;

/// Everything that a load is to do.
#[derive(Default)]
pub(super) struct Plan {
    /// By shard, then by place in the file.
    pub(super) items: Vec<Item>,
    /// The items of each shard of the checkpoint.
    pub(super) shards: Vec<Range<usize>>,
    /// Item by item; those without bytes behind all others.
    pub(super) targets: Vec<Target>,
    pub(super) checks: Vec<Check>,
    /// The check of each shard as a whole.
    pub(super) file_checks: Vec<Option<usize>>,
    /// How many bytes of block each device needs.
    pub(super) block_bytes: Vec<u64>,
    /// Where in the block of the one device that has direct items the blocks of each shard lie.
    pub(super) spans: Vec<Range<u64>>,
}

/// Bytes of one tensor that are read (of a tensor whose parts lie far apart, one of several), or bytes of a file that are read to be checked only.
#[derive(Debug)]
pub(super) struct Item {
    /// The tensor, by its place in the checkpoint.
    pub(super) place: Option<usize>,
    /// What is read.
    pub(super) extents: Extents,
    /// The ring writes to the target's own memory.
    pub(super) direct: bool,
    /// Those of neighbouring items are neighbours; what is only checked has none.
    pub(super) targets: Range<usize>,
    pub(super) check: Option<usize>,
}

/// What one device gets of one tensor.
pub(super) struct Target {
    pub(super) place: usize,
    pub(super) device: usize,
    pub(super) rows: Rows,
    pub(super) shape: Vec<u64>,
    pub(super) memory: Where,
}

/// Where a target's bytes go.
#[derive(Clone)]
pub(super) enum Where {
    Caller(Place),
    /// So many bytes behind the start of the device's block.
    Block(u64),
}

/// What some bytes must sum up to.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) digest: Digest,
    pub(super) shard: usize,
    /// The tensor that they are; otherwise they are the whole file.
    pub(super) place: Option<usize>,
    /// What is not handed over before they are found to be right.
    pub(super) targets: Range<usize>,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl Plan {
    /// Works out what `builder` asks for on `devices`; where it lies is left to [`lay_out`](Plan::lay_out).
    pub(super) fn new(builder: &Builder, devices: &[Device]) -> Result<Plan> {
        let checkpoint = &builder.checkpoint;
        let places = builder.selection.places(checkpoint)?;
        let mut plan = Plan { file_checks: vec![None; checkpoint.files().len()], ..Plan::default() };
        let mut empty = Vec::new();
        let mut rest = &places[..];
        for shard in 0..checkpoint.files().len() {
            let first = plan.items.len();
            let count = rest.iter().take_while(|&&place| checkpoint.tensors()[place].shard as usize == shard).count();
            let (own, others) = rest.split_at(count);
            rest = others;
            for &place in own {
                plan.add(builder, devices, place, &mut empty)?;
            }
            if let Some(manifest) = builder.manifest.as_ref().filter(|_| !own.is_empty()) {
                plan.add_checks(checkpoint, manifest, shard, own, first)?;
            }
            plan.shards.push(first..plan.items.len());
        }
        plan.targets.extend(empty);
        Ok(plan)
    }

    /// The targets of one tensor, and the items that they need.
    fn add(&mut self, builder: &Builder, devices: &[Device], place: usize, empty: &mut Vec<Target>) -> Result<()> {
        let tensor = &builder.checkpoint.tensors()[place];
        let first = self.targets.len();
        for device in 0..devices.len() {
            let part = builder.part.as_ref().map_or(super::Part::Whole, |part| part(tensor, device));
            let Some((rows, shape)) = rows_of(tensor, part)? else { continue };
            let memory = match builder.place.as_ref().and_then(|place| place(tensor, device, rows.bytes())) {
                Some(own) => Where::Caller(checked(own, tensor, rows.bytes())?),
                None => Where::Block(0),
            };
            let target = Target { place, device, rows, shape, memory };
            if target.rows.rows == 0 { empty.push(target) } else { self.targets.push(target) }
        }
        // In the order of the file, so that those of one item are neighbours.
        self.targets[first..].sort_by_key(|target| target.rows.begin);
        // What is checked is read whole.
        let whole = builder.manifest.as_ref().map(|_| Rows::whole(tensor.offset, tensor.bytes));
        let rows = self.targets[first..].iter().map(|target| whole.unwrap_or(target.rows));
        let mut targets = first..first;
        for (extents, count) in Extents::of(rows, builder.reads.gap_bytes) {
            targets = targets.end..targets.end + count;
            self.items.push(Item { place: Some(place), extents, direct: false, targets: targets.clone(), check: None });
        }
        Ok(())
    }
}

fn checked(place: Place, tensor: &TensorInfo, bytes: u64) -> Result<Place> {
    let (name, align) = (&tensor.name, alignment(tensor));
    if place.bytes < bytes {
        let problem = format!("tensor `{name}` needs {bytes} bytes, and there are {}", place.bytes);
        return Err(Error::config("place", problem));
    }
    if !place.ptr.is_multiple_of(align) {
        let problem = format!("tensor `{name}` is {}, and {:#x} is no multiple of {align}", tensor.dtype, place.ptr);
        return Err(Error::config("place", problem));
    }
    Ok(place)
}
