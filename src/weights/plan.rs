//! What is read, and where each byte goes: worked out before anything is allocated. Pure, but for the caller's own
//! functions.
//!
//! ```text
//!  shard   |header|  a  |   b   | c |      d       |        a, b, d: chosen; c: not; d: a part, its rows far apart
//!  items           [ a ] [  b  ]     [r]  [r]  [r]          in file order, never overlapping
//!  targets         a->0  b->0 b->1   d->1                   what each device gets of an item
//! ```
//!
//! On the host device an item is *direct* where its bytes may lie in memory as they do in blocks of the file:
//!
//! ```text
//!  file    ...|. . . a|b b b b|b . . .|...     blocks of 4096 bytes
//!  block      |. . . a|b b b b|b . . .|        the same blocks, one after another: nothing is moved, neighbours share
//! ```
//!
//! Every other target is *packed*: its bytes go through a slab, and the copy puts them where they belong.

use std::ops::Range;
use std::path::Path;

use super::builder::{Builder, Place};
use super::rows::{Rows, rows_of};
use super::{Checkpoint, Digest, FileDigests, Manifest, TensorInfo};
use crate::config::PathChoice;
use crate::device::{Device, DeviceKind};
use crate::error::{Error, Result};

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
    /// Where in the block of the host device the blocks of each shard lie.
    pub(super) spans: Vec<Range<u64>>,
}

/// Bytes of one tensor that are read, or bytes of a file that are read to be checked only.
#[derive(Debug)]
pub(super) struct Item {
    /// The tensor, by its place in the checkpoint.
    pub(super) place: Option<usize>,
    /// What is read.
    pub(super) rows: Rows,
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
    /// Works out what `builder` asks for on `devices`.
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
            if let Some(manifest) = &builder.manifest {
                plan.add_checks(checkpoint, manifest, shard, first)?;
            }
            plan.shards.push(first..plan.items.len());
        }
        plan.targets.extend(empty);
        let host = devices.len() == 1 && devices[0].kind() == DeviceKind::Host;
        if host && builder.config.path == PathChoice::Auto {
            plan.mark_direct(checkpoint);
        }
        plan.lay_out(checkpoint, devices.len(), builder.config.align_bytes)?;
        Ok(plan)
    }

    /// The targets of one tensor, and the item that they need.
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
        let targets = first..self.targets.len();
        let Some(rows) = united(self.targets[targets.clone()].iter().map(|target| target.rows)) else { return Ok(()) };
        self.items.push(Item { place: Some(place), rows, direct: false, targets, check: None });
        Ok(())
    }

    /// What has to be read, whole, so that a shard's tensors can be checked.
    fn add_checks(&mut self, checkpoint: &Checkpoint, manifest: &Manifest, shard: usize, first: usize) -> Result<()> {
        let file = &checkpoint.files()[shard];
        if self.items.len() == first {
            return Ok(()); // nothing of it is read
        }
        let known = manifest.file(&file.path);
        if let Some(bytes) = known.and_then(|known| known.bytes).filter(|&bytes| bytes != file.bytes) {
            let problem = format!("the file has {} bytes, and the manifest says {bytes}", file.bytes);
            return Err(Error::Corrupt { path: file.path.clone(), offset: 0, bytes: file.bytes, problem });
        }
        let mut whole_file = false;
        for item in &mut self.items[first..] {
            let place = item.place.expect("no fillers yet");
            let tensor = &checkpoint.tensors()[place];
            item.rows = Rows::whole(tensor.offset, tensor.bytes);
            match digest_of(known, tensor, &file.path)? {
                Some(digest) => {
                    let (offset, bytes) = (tensor.offset, tensor.bytes);
                    item.check = Some(self.checks.len());
                    let targets = item.targets.clone();
                    self.checks.push(Check { digest, shard, place: Some(place), targets, offset, bytes });
                }
                None => whole_file = true,
            }
        }
        if !whole_file {
            return Ok(());
        }
        let digest = known.and_then(|known| known.digest).ok_or_else(|| {
            let unknown = self.items[first..].iter().find(|item| item.check.is_none()).and_then(|item| item.place);
            let name = unknown.map_or("a tensor", |place| &checkpoint.tensors()[place].name);
            let path = file.path.display();
            Error::config("verify", format!("the manifest has no digest of `{name}` in {path}, nor of that file"))
        })?;
        self.file_checks[shard] = Some(self.checks.len());
        let targets = self.items[first].targets.start..self.targets.len();
        self.checks.push(Check { digest, shard, place: None, targets, offset: 0, bytes: file.bytes });
        self.fill(first, file.bytes);
        Ok(())
    }

    /// Items for all bytes of a file that are none's yet.
    fn fill(&mut self, first: usize, file_bytes: u64) {
        let own: Vec<Item> = self.items.drain(first..).collect();
        let (mut end, mut target) = (0, own.first().map_or(self.targets.len(), |item| item.targets.start));
        let filler = |from: u64, to: u64, target: usize| {
            let rows = Rows::whole(from, to - from);
            Item { place: None, rows, direct: false, targets: target..target, check: None }
        };
        for item in own {
            if item.rows.begin > end {
                self.items.push(filler(end, item.rows.begin, target));
            }
            (end, target) = (item.rows.end(), item.targets.end);
            self.items.push(item);
        }
        if end < file_bytes {
            self.items.push(filler(end, file_bytes, target));
        }
    }

    /// Which items may be written by the ring where they are to stay.
    fn mark_direct(&mut self, checkpoint: &Checkpoint) {
        for item in &mut self.items {
            let [target] = &self.targets[item.targets.clone()] else { continue };
            let aligned = item.rows.begin.is_multiple_of(alignment(&checkpoint.tensors()[target.place]));
            let own = matches!(target.memory, Where::Block(_));
            item.direct = own && aligned && item.rows.rows == 1 && item.rows == target.rows;
        }
    }

    /// Gives every target that has none a place in its device's block: first the direct ones, in blocks as in the file,
    /// then the others without holes, which are sorted by alignment for that.
    fn lay_out(&mut self, checkpoint: &Checkpoint, devices: usize, align: u64) -> Result<()> {
        let too_much = || Error::Memory { what: "tensors", bytes: u64::MAX, errno: libc::ENOMEM };
        let mut end = 0u64;
        for shard in &self.shards {
            let begin = end;
            let mut stretches = Stretches::new(align);
            for item in &self.items[shard.clone()] {
                let at = stretches.add(item);
                if item.direct {
                    self.targets[item.targets.start].memory = Where::Block(begin + at);
                }
            }
            end = begin.checked_add(stretches.bytes).ok_or_else(too_much)?;
            self.spans.push(begin..end);
        }
        let direct: Vec<bool> = {
            let mut direct = vec![false; self.targets.len()];
            self.items.iter().filter(|item| item.direct).for_each(|item| direct[item.targets.start] = true);
            direct
        };
        let mut packed: Vec<usize> = (0..self.targets.len())
            .filter(|&i| !direct[i] && matches!(self.targets[i].memory, Where::Block(_)))
            .collect();
        packed.sort_by_key(|&i| std::cmp::Reverse(alignment(&checkpoint.tensors()[self.targets[i].place])));
        let mut ends = vec![end; devices];
        for i in packed {
            let target = &mut self.targets[i];
            let end = &mut ends[target.device];
            target.memory = Where::Block(*end);
            *end = end.checked_add(target.rows.bytes()).ok_or_else(too_much)?;
        }
        self.block_bytes = ends;
        Ok(())
    }
}

/// Direct items of one shard, as blocks one after another.
struct Stretches {
    align: u64,
    bytes: u64,
    /// Where the last one ends in the file, if the item before was direct.
    end: Option<u64>,
}

impl Stretches {
    fn new(align: u64) -> Stretches {
        Stretches { align, bytes: 0, end: None }
    }

    /// Where the item's first byte comes to lie. The [cursor](super::cursor) reads the same blocks in the same order.
    fn add(&mut self, item: &Item) -> u64 {
        if !item.direct {
            self.end = None;
            return 0;
        }
        let (begin, end) = (item.rows.begin, item.rows.end().next_multiple_of(self.align));
        let first = begin & !(self.align - 1);
        let from = match self.end {
            Some(before) if first <= before => before,
            _ => first,
        };
        // The place of the block that starts at `from` is `bytes`; the item may start in the block before it.
        let at = (self.bytes + begin).wrapping_sub(from);
        self.bytes += end.saturating_sub(from);
        self.end = Some(end.max(from));
        at
    }
}

/// What a tensor's address is a multiple of.
pub(super) fn alignment(tensor: &TensorInfo) -> u64 {
    tensor.dtype.bytes().unwrap_or(1)
}

/// The rows that have all of these in them.
fn united(mut all: impl Iterator<Item = Rows>) -> Option<Rows> {
    let first = all.next()?;
    Some(all.fold(first, |united, rows| {
        let begin = united.begin.min(rows.begin);
        if united == rows { united } else { Rows::whole(begin, united.end().max(rows.end()) - begin) }
    }))
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

/// The digest of a tensor, if the manifest has one and means the same bytes.
fn digest_of(known: Option<&FileDigests>, tensor: &TensorInfo, path: &Path) -> Result<Option<Digest>> {
    let Some(entry) = known.and_then(|known| known.tensor(&tensor.name)) else { return Ok(None) };
    if (entry.offset, entry.bytes) == (tensor.offset, tensor.bytes) {
        return Ok(Some(entry.digest));
    }
    let problem = format!(
        "tensor `{}` is here by the file's header; the manifest has {} bytes of it at byte {}",
        tensor.name, entry.bytes, entry.offset
    );
    Err(Error::Corrupt { path: path.into(), offset: tensor.offset, bytes: tensor.bytes, problem })
}
