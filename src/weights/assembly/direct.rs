//! Which items are direct, and what reads them where that is a device's memory.

use super::Parts;
use crate::assembly::way::{self, Wishes};
use crate::config::{PathChoice, ReadOptions, RingChoice, Way};
use crate::device::{Device, DeviceKind};
use crate::error::{Error, Result};
use crate::region::address;
use crate::stats::Fallback;
use crate::storage::{Cufile, Registered, Ring};
use crate::weights::builder::{Builder, Place};
use crate::weights::plan::Plan;

/// cuFile reads stretches of this length and more: less than 1 % more memory, and reads that are worth a start of their own.
const CUFILE_STRETCH_MIN: u64 = 1 << 20;

/// What is to be done, the way that direct items take, and why there is no better one.
pub(super) fn plan(builder: &Builder, devices: &[Device]) -> Result<(Plan, Way, Option<Fallback>)> {
    let mut plan = Plan::new(builder, devices)?;
    let (way, refusal) = choose_way(builder, devices, &mut plan)?;
    if !way.is_direct() {
        plan.unmark();
    }
    plan.lay_out(&builder.checkpoint, devices.len(), builder.reads.align_bytes)?;
    Ok((plan, way, refusal))
}

/// Marks what could be direct, and tries whether it can be.
fn choose_way(builder: &Builder, devices: &[Device], plan: &mut Plan) -> Result<(Way, Option<Fallback>)> {
    let ReadOptions { ring, path, deadline, align_bytes, .. } = builder.reads;
    let [device] = devices else {
        return match ring {
            RingChoice::Cufile => {
                let problem =
                    "cuFile reads for one device, and what several want is read once; leave the ring to be chosen";
                Err(Error::config("ring", problem))
            }
            _ => Ok((Way::Staged, None)),
        };
    };
    // The host can address its blocks: nothing is too short.
    let stretch_min = if device.kind() == DeviceKind::Host { 0 } else { CUFILE_STRETCH_MIN };
    plan.mark_direct(&builder.checkpoint, stretch_min, align_bytes);
    if ring == RingChoice::Auto && plan.direct_shards().next().is_none() {
        return Ok((Way::Staged, None)); // nothing to be tried for
    }
    let wishes = Wishes {
        // Of a ring of the caller's own nothing is known but that it reads into host memory.
        ring: if builder.make_ring.is_some() { RingChoice::Pread } else { ring },
        path,
        on_the_way: builder.manifest.as_ref().map(|_| "verify"),
        deadline,
    };
    // Where cuFile is asked for it has to work, also if no more than it cannot read is wanted.
    let asked = |shard: &usize| ring == RingChoice::Cufile && !plan.shards[*shard].is_empty();
    let files = plan.direct_shards().chain((0..plan.shards.len()).filter(asked));
    way::choose(device, files.map(|shard| &builder.checkpoint.files()[shard].path), &wishes)
}

/// A block of the caller's that is long enough for its tensors, and not for tensors that lie as in their files.
pub(super) fn tight(plan: &Plan, own: &[(usize, Place)]) -> Option<Fallback> {
    let wanted = *plan.block_bytes.first()?;
    let (_, place) = own.iter().find(|(device, place)| *device == 0 && place.bytes < wanted)?;
    let reason = format!("the block given for the tensors has {} bytes, and {wanted} are needed", place.bytes);
    Some(way::refusal(reason, "ask block_sizes of a load with the same options how long a block has to be"))
}

impl Parts {
    /// The ring that reads into the device's memory, where cuFile is to; its memory is registered. Where that turns out not
    /// to work after all, nothing is direct any more, unless cuFile was asked for.
    pub(super) fn device_ring(&mut self) -> Result<Option<Box<dyn Ring>>> {
        let bytes = self.plan.spans.last().map_or(0, |span| span.end);
        let (Way::Cufile { compat }, true) = (self.way, bytes > 0) else { return Ok(None) };
        let device = &self.devices[0];
        device.raw().make_current()?;
        // It is open by now: a read has been tried.
        let ring = Cufile::new(self.reads.reads_in_flight, compat, &way::enter(device), self.reads.deadline);
        let refusal = match ring {
            Ok(mut ring) => {
                let base = address(self.blocks[0].as_ref().expect("there is something in it").ptr);
                // SAFETY: the block is longer than its spans, which come first in it; the engine's `owners` keep it until
                // the queue with this ring is gone (field order of `Engine`), or it is leaked with it.
                match unsafe { ring.register_memory(base, bytes as usize) } {
                    Registered::No(code) if compat => {
                        self.shared.counters.fall_back(way::unregistered(bytes as usize, code));
                        return Ok(Some(Box::new(ring)));
                    }
                    Registered::No(code) => way::slabs_instead(bytes as usize, code),
                    _ => return Ok(Some(Box::new(ring))),
                }
            }
            Err(refusal) if compat => return Err(way::broken(refusal)),
            Err(refusal) => refusal,
        };
        self.shared.counters.fall_back(refusal);
        self.plan.unmark();
        self.way = Way::Staged;
        Ok(None)
    }

    /// The path that is taken, and why.
    pub(super) fn path(&self) -> (&'static str, String) {
        let items = self.plan.items.len();
        let direct = self.plan.items.iter().filter(|item| item.direct).count();
        let reason = self.way.reason("the tensors'");
        let staged = match (self.reads.path, self.way) {
            _ if items == 0 => return ("direct", "there is nothing to read".into()),
            _ if direct == items => return ("direct", reason),
            _ if direct > 0 => {
                let short = if self.way == Way::Host { "" } else { ", or they are short" };
                let reason = format!(
                    "{reason}, but for {} of {items} that are copied: where they lie in their file is no place for their \
                     elements, or only a part of them is wanted{short}",
                    items - direct,
                );
                return ("direct", reason);
            }
            (PathChoice::Staged, _) => "asked for",
            _ if self.devices.len() > 1 => "what several devices want is read once, and copied to each",
            (_, Way::Cufile { .. }) => "nothing is long enough, or lies where cuFile could write it to its own place",
            _ => "the ring cannot write where the tensors are to be",
        };
        ("staged", staged.into())
    }
}
