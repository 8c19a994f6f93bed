//! What a worker does with a landing: checksums of its parts, and the gathers and casts of a whole batch.

use std::sync::Arc;

use super::Hold;
use super::ranges::range;
use crate::plan::{Cast, Caster, Limits, Move, Part, Plan};
use crate::storage::Memory;
use crate::workers;

/// Work on one landing.
pub(crate) struct Job {
    pub(super) slot: u32,
    /// Where the landing starts among what is read.
    pub(super) at: u64,
    pub(super) limits: Limits,
    pub(super) hold: Hold,
    /// What the work is; nobody changes it meanwhile.
    pub(super) plan: Arc<Plan>,
}

impl workers::Job for Job {
    type Kept = ();

    fn work(&mut self, (): &mut ()) {
        self.check();
        if let Hold::Region(_) = self.hold {
            self.gather();
            self.cast();
        }
    }
}

impl Job {
    fn check(&self) {
        let parts = self.plan.parts_in(self.at, &self.limits).iter();
        let mut parts = parts.filter(|part| part.purpose.check).peekable();
        let _range = parts.peek().map(|_| range(c"strait: checksums"));
        parts.for_each(|part| part.set_crc(crc32c::crc32c(self.bytes(part))));
    }

    fn gather(&self) {
        let moves = self.plan.gather();
        let _range = moves.first().map(|_| range(c"strait: gather"));
        moves.iter().for_each(|&one| self.carry_out(one));
    }

    fn cast(&self) {
        for (cast, moves) in (0..).map_while(|number| self.plan.cast_moves(number)) {
            let _range = range(c"strait: cast");
            let caster = cast.caster();
            moves.iter().for_each(|&one| self.change(cast, &caster, one));
        }
    }

    fn bytes(&self, part: &Part) -> &[u8] {
        let from = part.at - self.at;
        assert!(from + part.bytes <= self.hold.bytes() as u64, "a part outside its landing");
        // SAFETY: inside the lease, by the check above. It is this job's alone, and hardware has done with it.
        unsafe { std::slice::from_raw_parts(self.hold.base().add(from as usize).as_ptr(), part.bytes as usize) }
    }

    fn carry_out(&self, Move { source, target, bytes }: Move) {
        let (base, end) = (self.hold.base(), self.hold.bytes() as u64);
        assert!(source + bytes <= end && target + bytes <= end, "a move out of its region");
        // SAFETY: both ranges are inside the lease, which is this job's alone, and hardware has done with it; a plan's
        // targets lie behind all that was read, so they do not overlap.
        unsafe {
            let (source, target) = (base.add(source as usize), base.add(target as usize));
            source.copy_to_nonoverlapping(target, bytes as usize);
        }
    }

    fn change(&self, cast: Cast, caster: &Caster, Move { source, target, bytes }: Move) {
        let (base, end, target_bytes) = (self.hold.base(), self.hold.bytes() as u64, cast.bytes_of(bytes));
        assert!(
            source + bytes <= target && target + target_bytes <= end,
            "a cast out of its region, or into its source"
        );
        // SAFETY: both ranges are inside the lease, which is this job's alone, and hardware has done with it; by the check
        // above they do not overlap.
        let (source, target) = unsafe {
            let (source, target) = (base.add(source as usize).as_ptr(), base.add(target as usize).as_ptr());
            let source = std::slice::from_raw_parts(source, bytes as usize);
            (source, std::slice::from_raw_parts_mut(target, target_bytes as usize))
        };
        caster.cast(source, target);
    }
}
