//! Elements that change on the way within device memory: in the order of the stream, all of them, to the bit.

use strait::plan::{Cast, Move};
use strait::sim::Rng;

use super::*;

const SLAB: usize = 128 << 10;

/// A region: what slabs bring, and behind it room for what casts make of that, eight bytes for each.
struct Casting {
    slabs: Arc<Slabs>,
    region: Region,
    queue: CopyQueue<Lease>,
}

/// Each kind, and what it scales by.
fn kinds() -> Vec<(Cast, Option<(f32, f32)>)> {
    let (factor, bias) = (-1.0 / 255.0, 0.25);
    let widen = |from, to| (Cast::widen(from, to).unwrap(), None);
    let scale = |to| (Cast::scale(DType::U8, to, factor, bias).unwrap(), Some((factor, bias)));
    vec![
        widen(DType::U16, DType::I32),
        widen(DType::U16, DType::I64),
        widen(DType::U32, DType::I64),
        widen(DType::I32, DType::I64),
        widen(DType::U8, DType::F16),
        scale(DType::F32),
        scale(DType::F16),
        scale(DType::BF16),
    ]
}

impl Casting {
    fn new(bed: &Bed, slabs: usize) -> Casting {
        let (slabs, region) = (Slabs::new(&bed.device, slabs, SLAB), Region::new(&bed.device, 9 * SLAB));
        let mut queue = queue(bed, 64);
        kinds().iter().for_each(|(cast, _)| queue.ready_to_cast(*cast).unwrap());
        Casting { slabs, region, queue }
    }

    /// Copies slab `index`: every `u16` from `first` on.
    fn bring(&mut self, index: usize, first: u16) -> Vec<u8> {
        let mut lease = self.slabs.lease(index);
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(|number| number.wrapping_add(first).to_le_bytes()).collect();
        lease.write(&bytes);
        copy(&mut self.queue, lease, self.region.at(0)).unwrap();
        bytes
    }

    /// Casts as a loader does: again and again, as there is room.
    fn cast(&mut self, slabs: &Arc<Slabs>, cast: Cast, moves: &[Move]) -> strait::Result<Seq> {
        let (mut started, mut seq) = (0, Seq(0));
        while started < moves.len() {
            let base = self.region.at(0);
            // SAFETY: tests keep the region until the queue is empty, or leak it; the moves lie in it, apart from each other,
            // and targets are aligned.
            let cast = unsafe { self.queue.cast(slabs.lease(0), base, cast, &moves[started..]) }?;
            let Some((point, more)) = cast else {
                self.queue.wait_oldest(WAIT)?;
                self.queue.reap(drop)?;
                continue;
            };
            assert!(more > 0 && point > seq);
            (started, seq) = (started + more, point);
        }
        Ok(seq)
    }
}

/// Pieces of the slab, whole elements at any byte, to behind it, one after the other; of the last one the end.
fn pieces(rng: &mut Rng, cast: Cast) -> (Vec<Move>, usize) {
    let item = cast.from().bytes().unwrap();
    let (mut target, mut moves) = (SLAB as u64, Vec::new());
    for _ in 0..40 {
        let bytes = item * (1 + rng.below(600));
        moves.push(Move { source: rng.below(SLAB as u64 - bytes), target, bytes });
        target += cast.bytes_of(bytes);
    }
    (moves, target as usize)
}

fn check(region: &Region, (cast, scale): (Cast, Option<(f32, f32)>), moves: &[Move], bytes: &[u8]) {
    for Move { source, target, bytes: len } in moves {
        let stored = &bytes[*source as usize..(source + len) as usize];
        let want = nearest::cast(cast.from(), cast.to(), scale, stored);
        assert!(region.read(*target as usize, want.len()) == want, "{cast:?}: {len} bytes at {source}");
    }
}

/// All 65,536 words, hence all bytes, and double words of them.
pub(super) fn every_value_of_every_kind(bed: &Bed) {
    let whole = [Move { source: 0, target: SLAB as u64, bytes: SLAB as u64 }];
    for kind in kinds() {
        let mut one = Casting::new(bed, 1);
        let leases = Slabs::new(&bed.device, 1, 4096);
        let end = SLAB + kind.0.bytes_of(SLAB as u64) as usize;
        let behind = one.region.read(end, 9 * SLAB - end);
        let bytes = one.bring(0, 0);
        one.cast(&leases, kind.0, &whole).unwrap();
        one.queue.drain(WAIT, drop).unwrap();
        check(&one.region, kind, &whole, &bytes);
        assert!(one.region.read(end, 9 * SLAB - end) == behind, "{:?}: a byte behind its target", kind.0);
    }
}

/// Mutants that this catches: a cast that does not wait for the copies before it; rows whose targets are counted in bytes of
/// the source.
pub(super) fn between_the_copies_before_and_behind_it(bed: &Bed) {
    let mut rng = Rng::new(5);
    for (round, kind) in kinds().into_iter().enumerate() {
        let mut one = Casting::new(bed, 3);
        let leases = Slabs::new(&bed.device, 1, 4096);
        let (moves, end) = pieces(&mut rng, kind.0);
        one.bring(0, 1);
        let bytes = one.bring(1, 7 * round as u16);
        one.cast(&leases, kind.0, &moves).unwrap();
        let later = one.bring(2, 777);
        one.queue.drain(WAIT, drop).unwrap();
        assert_eq!(one.slabs.back(), 3, "leases come back");
        check(&one.region, kind, &moves, &bytes);
        assert!(end <= 9 * SLAB && one.region.read(0, SLAB) == later);
    }
}

/// Mutant that this catches: a seq from before the cast.
pub(super) fn a_consumer_waits_for_its_seq(bed: &Bed) {
    let mut rng = Rng::new(6);
    let (mut one, kind) = (Casting::new(bed, 1), kinds()[1]);
    let leases = Slabs::new(&bed.device, 1, 4096);
    let (moves, _) = pieces(&mut rng, kind.0);
    let bytes = one.bring(0, 9);
    let seq = one.cast(&leases, kind.0, &moves).unwrap();
    let last = moves.last().unwrap();
    let stored = &bytes[last.source as usize..(last.source + last.bytes) as usize];
    let want = nearest::cast(kind.0.from(), kind.0.to(), None, stored);
    match &bed.consumer {
        Some(consumer) => {
            // SAFETY: the consumer's stream lives as long as the bed.
            unsafe { one.queue.timeline().wait_on(seq, consumer.stream()) }.unwrap();
            let read = consumer.read(one.region.at(last.target as usize), want.len(), 1);
            assert!(read() == want, "the consumer's stream ran ahead");
        }
        None => assert!(one.queue.timeline().wait(seq, WAIT).unwrap()),
    }
    check(&one.region, kind, &moves, &bytes);
    one.queue.drain(WAIT, drop).unwrap();
}

pub(super) fn one_that_fails_gives_its_lease_back(bed: &Bed) {
    let Some(inject) = &bed.inject else { return };
    let mut rng = Rng::new(7);
    for fault in [Fault::GatherFails, Fault::MarkFails] {
        let (mut one, kind) = (Casting::new(bed, 2), kinds()[0]);
        let leases = Slabs::new(&bed.device, 1, 4096);
        let (moves, _) = pieces(&mut rng, kind.0);
        one.bring(0, 1);
        one.queue.drain(WAIT, drop).unwrap();
        inject(fault);
        assert!(one.cast(&leases, kind.0, &moves).is_err(), "{fault:?}");
        inject(Fault::None);
        assert_eq!(one.queue.in_flight() + leases.back(), 1, "it may have begun");
        let bytes = one.bring(1, 3);
        one.cast(&leases, kind.0, &moves).unwrap();
        one.queue.drain(WAIT, drop).unwrap();
        assert_eq!(one.slabs.back(), 2);
        assert!(leases.back() >= 2);
        check(&one.region, kind, &moves, &bytes);
    }
}
