//! Parts of views that the CPU looks at, each within one window.
//!
//! ```text
//!  windows   |       0       |       1       |       2       |
//!  views        [a]  [b              ]   [c]                        a, b: to be checked
//!  parts        [a]  [b 0    |b 1    ]
//! ```

use std::sync::atomic::{AtomicU32, Ordering};

use super::{Limits, Plan};

/// What the CPU does with a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Use {
    /// Its checksum is worked out.
    pub check: bool,
    /// Its bytes are kept on the host.
    pub keep: bool,
}

/// A part of a view.
#[derive(Debug)]
pub struct Part {
    /// Number of the view.
    pub view: u32,
    /// Where it is among what is read, as [`Read::at`](super::Read::at).
    pub at: u64,
    /// Where it is in the view.
    pub from: u64,
    /// Length; not 0.
    pub bytes: u64,
    /// What for.
    pub purpose: Use,
    /// Its CRC32C, once it has been worked out.
    crc: AtomicU32,
}

impl Part {
    pub(crate) fn set_crc(&self, crc: u32) {
        self.crc.store(crc, Ordering::Relaxed);
    }

    pub(crate) fn crc(&self) -> u32 {
        self.crc.load(Ordering::Relaxed)
    }
}

impl Plan {
    /// The same with room for the parts of `views` views, cut at `cuts` windows.
    pub fn with_parts(mut self, views: usize, cuts: usize) -> Plan {
        self.parts.reserve_exact(if views > 0 { 2 * views + cuts } else { 0 });
        self
    }

    /// Cuts the views that the CPU has a use for at the borders of windows. Before the arrays.
    pub fn part(&mut self, purpose: impl Fn(usize) -> Use, limits: &Limits) {
        let window = limits.window_bytes;
        for &(extent, view) in &self.sorted {
            let purpose = purpose(view as usize);
            if purpose == Use::default() {
                continue;
            }
            let (mut at, mut from) = (self.offsets[view as usize], 0);
            while from < extent.len {
                let bytes = (extent.len - from).min(window - at % window);
                self.parts.push(Part { view, at, from, bytes, purpose, crc: AtomicU32::new(0) });
                (at, from) = (at + bytes, from + bytes);
            }
        }
        self.parts.sort_unstable_by_key(|part| (part.at, part.view));
    }

    /// All parts, in the order of what is read; those of one view in the order of its bytes.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Those in the window that starts at `at`.
    pub fn parts_in(&self, at: u64, limits: &Limits) -> &[Part] {
        let before = |end: u64| self.parts.partition_point(|part| part.at < end);
        &self.parts[before(at)..before(at.saturating_add(limits.window_bytes))]
    }
}
